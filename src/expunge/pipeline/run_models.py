"""The models behind a finished run: what it started from, and what it was held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.pipeline.folder import RUN, read_manifest, weights_folder
from expunge.pipeline.known import may_be_model
from expunge.pipeline.stages import is_finished, stage_folder
from expunge.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class RunModels:
    """A run's recipe, and where its other models lie."""

    recipe: Recipe
    original: str | None
    """The model before unlearning; None if its weights are no longer there."""
    reference: str | None
    """The retain model; None if there was none, or its weights are no longer there."""


def run_models(source: str | Path) -> RunModels | None:
    """What a run knows of itself; None if ``source`` is no finished run of ours."""
    folder = Path(source).expanduser()
    manifest = read_manifest(folder)
    if not manifest or manifest.get("kind") != RUN or "recipe" not in manifest:
        return None
    try:
        recipe = parse_recipe(manifest["recipe"], str(folder))
    except UserError:
        # A run of another version: its weights are as good as any.
        return None
    stages = manifest.get("stages", {})
    original = _made(folder, stages, "target") if recipe.finetune else recipe.model.path
    reference = _made(folder, stages, "retain_model")
    named = recipe.retain_reference
    if named not in ("train", "none") and may_be_model(Path(named).expanduser()):  # a log has no weights to attack
        reference = named
    return RunModels(recipe, original, reference)


def _made(folder: Path, stages: Mapping[str, Any], name: str) -> str | None:
    """A stage's weights: the run's own, or that of the runs it shares its stages with."""
    key = stages.get(name, {}).get("key")
    for root in (folder / "stages", folder.parent / "stages"):
        if key and is_finished(stage := stage_folder(root, name, key)):
            return str(weights_folder(stage))
    return None
