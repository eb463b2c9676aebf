"""What `expunge attack` does with what the user said: which rows, which attacks, how deep; then the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.attacks.table import QUICK
from expunge.benchmarks.base import Benchmark
from expunge.errors import RecipeError, UserError, unknown
from expunge.models.load import pick_device
from expunge.parallel import process_number
from expunge.pipeline.attack_report import attack_report
from expunge.pipeline.attacking import Audit, attack_model
from expunge.pipeline.folder import read_manifest
from expunge.pipeline.known import may_be_model
from expunge.pipeline.run_models import RunModels, run_models
from expunge.pipeline.stages import StageStore
from expunge.recipe import AttackPart, Recipe, parse_attack, parse_recipe
from expunge.reporting.content import Report
from expunge.reporting.html import write_report

DEPTHS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "quick": (QUICK, {"steps": [5, 10, 20], "samples": 8}),
    "full": (("all",), {"steps": [20, 50, 100], "samples": 64}),
}
"""Attacks, and how hard each is tried."""
MORE_STEPS = [200, 500]
"""Further steps of relearning in a full audit on an accelerator."""
BELOW = "attacks"
"""Where the attacks of a run lie, below its folder."""


def audit(
    model: str | Path,
    out: Path,
    *,
    attacks: Sequence[str],
    original: str | Path | None,
    reference: str | Path | None,
    benchmark: str | None,
    options: Mapping[str, Any],
    files: Mapping[str, str],
    depth: str | None,
    settings: Mapping[str, Any],
    model_settings: Mapping[str, Any],
    data_root: str | None,
    seed: int,
) -> tuple[Audit, Report]:
    """Attack, and write the page; see :func:`expunge.api.attack`.

    Raises:
        UserError: anything in the input that is wrong.
    """
    if depth is not None and depth not in DEPTHS:
        raise RecipeError(unknown("depth", depth, DEPTHS))
    usual, effort = DEPTHS[depth or "quick"]
    names = tuple(attacks) or (usual if depth else ())
    if not names:
        raise UserError("attack: name attacks with --with, or give --quick or --full; see `expunge list attacks`")
    run = run_models(model)
    known = dataclasses.asdict(run.recipe.model) if run else {}
    recipe = parse_recipe(
        {
            "name": "attack",
            "seed": seed,
            "model": {**known, "path": str(model), **model_settings},
            "data": _data(benchmark, options, files, run),
            "evaluate": {},
        },
        "attack",
    )
    if depth == "full" and pick_device(recipe.model.device).type != "cpu":
        effort = {**effort, "steps": [*effort["steps"], *MORE_STEPS]}
    part = parse_attack({"attacks": list(names), **(effort if depth else {}), **settings})
    if run:
        original, reference = original or run.original, reference or run.reference
    found = attack_model(model, recipe, part, out, original=original, reference=reference, data_root=data_root)
    return found, _page(found)


def audit_run(
    recipe: Recipe, benchmark: Benchmark, store: StageStore, model: Path, *, original: Path | None,
    reference: Path | None, out: Path,
) -> Audit:  # fmt: skip
    """Attack what a run made, as its recipe says, and write the page; all below the run's ``attacks``.

    Args:
        recipe: with an attack part.
        benchmark: its rows.
        store: the run's: what other runs attacked is kept.
        model: weights of the unlearned model.
        original: of the target; None if the run started from the recipe's model.
        reference: of the retain model; None where the recipe may name one.
        out: the run's folder.
    """
    part = recipe.attack or AttackPart()
    control: str | Path | None = reference
    if recipe.retain_reference not in ("train", "none") and may_be_model(Path(recipe.retain_reference).expanduser()):
        control = recipe.retain_reference
    audit = attack_model(
        model, recipe, part, out / BELOW, original=original or recipe.model.path, reference=control,
        benchmark=benchmark, store=store,
    )  # fmt: skip
    if process_number() == 0:
        _page(audit)
    return audit


def _page(found: Audit) -> Report:
    page = attack_report(found, read_manifest(found.folder) or {})
    write_report(page, found.folder / "report.html")
    return page


def _data(
    benchmark: str | None, options: Mapping[str, Any], files: Mapping[str, str], run: RunModels | None
) -> dict[str, Any]:
    """The ``data`` part of the recipe: what the user names, else what the run was about."""
    if benchmark and files:
        raise UserError(
            f"attack: --benchmark and --{next(iter(files))} both say which rows are asked; give one of them"
        )
    if benchmark:
        return {"benchmark": benchmark, "options": dict(options)}
    if files and "forget" not in files:
        raise UserError(f"attack: --{next(iter(files))} alone does not say what was to be forgotten; add --forget")
    if files:
        return {"benchmark": "custom", "options": {**options, **files}}
    if run is None:
        raise UserError("attack: say what was to be forgotten, with --forget FILE or --benchmark NAME")
    data = run.recipe.data
    return {"benchmark": data.benchmark, "options": {**data.options, **options}}
