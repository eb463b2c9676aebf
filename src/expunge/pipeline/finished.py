"""Finished runs as they lie on disk: the values of every model they measured, and the rows behind them."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from expunge.errors import UserError
from expunge.evaluation.logs import read_peer_log
from expunge.evaluation.paired import RowValues
from expunge.evaluation.samples import read_scores, read_texts, redacted_sets, set_digest
from expunge.pipeline.folder import BEFORE, IMPORTED_LOG, RETAIN_MODEL, SAMPLES, exists, read_manifest

Role = Literal["run", "before", "retain"]


@dataclass(frozen=True, eq=False)
class Finished:
    """One model that a finished run measured."""

    label: str
    folder: Path
    values: Mapping[str, Mapping[str, Any]]
    """``metrics.json``: a value with its evidence, by key."""
    samples: Path
    """Where its per-row values lie, if they were kept."""
    role: Role = "run"
    recipe: Mapping[str, Any] | None = None
    """What the run's folder says it is; None where it does not."""
    imported: bool = False
    """Whether it is another tool's log."""
    suites: tuple[str, ...] | None = None
    """Suites of metrics it was measured with; None where its folder does not say."""

    @functools.cached_property
    def rows(self) -> RowValues | None:
        """Its per-row values; None where they were not kept."""
        return read_row_values(self.samples) if self.samples.is_file() else None

    @functools.cached_property
    def reference(self) -> RowValues | None:
        """The retain model's per-row values that the run was measured against; None where they are not there."""
        if self.role == "retain":
            return self.rows
        path = self.folder / SAMPLES[0]
        if path.is_file():
            return read_row_values(path)
        named = (self.recipe or {}).get("retain_reference")
        return reference_rows(named) if isinstance(named, str) and named not in ("train", "none") else None


def read_row_values(path: Path) -> RowValues:
    """Per-row values with the rows they belong to, from ``samples.parquet``."""
    texts = read_texts(path)
    ids = {name: tuple(record["id"] for record in records) for name, records in texts.items()}
    digests = redacted_sets(path)
    if digests is not None:
        return RowValues(read_scores(path), ids, digests=digests)
    answers = {name: tuple(record["answer"] for record in records) for name, records in texts.items()}
    # A log of another tool knows the answers of some rows only.
    whole = {name: zip(ids[name], found, strict=True) for name, found in answers.items() if all(found)}
    return RowValues(read_scores(path), ids, answers, {name: set_digest(rows) for name, rows in whole.items()})


def reference_rows(source: str | Path) -> RowValues | None:
    """The retain model's per-row values from a run or an open-unlearning log; None if it names neither."""
    path = Path(source).expanduser()
    for name in SAMPLES:
        if exists(path / name):
            return read_row_values(path / name)
    if (path.suffix == ".json" and path.is_file()) or (path.is_dir() and any(path.glob("*_EVAL.json"))):
        log = read_peer_log(path)
        return RowValues(log.scores, {name: tuple(f"{name}/{i}" for i in ids) for name, ids in log.ids.items()})
    return None


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """The last part of each path; the whole path where that does not tell them apart. Repeats are dropped."""
    unique = list(dict.fromkeys(map(str, paths)))
    # A link goes by the name that its owner gave it; "." and ".." have none of their own.
    names = [name if (name := Path(path).name) not in ("", "..") else Path(path).resolve().name for path in unique]
    return [name if names.count(name) == 1 else path for name, path in zip(names, unique, strict=True)]


def read_finished(folders: Sequence[str | Path]) -> list[Finished]:
    """Every model that finished runs measured: each run's own, and the first before and retain model there are.

    Raises:
        UserError: if a folder is no finished run.
    """
    names = dict(zip(short_names(folders), dict.fromkeys(map(str, folders)), strict=True))
    found: dict[str, Finished] = {}
    for run, source in names.items():
        models = _models(run, Path(source))
        for special in ("before", "retain"):
            first = next((model for model in models if model.role == special), None)
            if first and first.label not in found:
                found[first.label] = first
        found |= {model.label: model for model in models if model.role == "run"}
    return list(found.values())


def _models(run: str, folder: Path) -> list[Finished]:
    """All models of one folder: a run's with what it started from, or those of an evaluation."""
    content = read_metrics(folder / "metrics.json")
    manifest = read_manifest(folder) or {}
    recipe = _recipe(folder, manifest)
    facts: dict[str, Any] = {
        "recipe": recipe,
        "imported": manifest.get("kind") == IMPORTED_LOG,
        "suites": _suites(recipe, manifest),
    }
    found = []
    specials: list[tuple[str, Role]] = [(BEFORE, "before"), (RETAIN_MODEL, "retain")]
    for label, role in specials:
        ending = label.replace(" ", "_")
        if (folder / f"metrics_{ending}.json").is_file():
            values = read_metrics(folder / f"metrics_{ending}.json")
            found.append(Finished(label, folder, values, folder / f"samples_{ending}.parquet", role, **facts))
    if not all("value" not in entry for entry in content.values()):
        return [*found, Finished(run, folder, content, folder / "samples.parquet", **facts)]
    lone = sum(label != RETAIN_MODEL for label in content) == 1
    for label, values in content.items():
        own = folder / f"samples_{label.replace(' ', '_').replace('/', '_')}.parquet"
        samples = folder / "samples.parquet" if lone else own
        if label == RETAIN_MODEL:
            found.append(Finished(RETAIN_MODEL, folder, values, own, "retain", **facts))
        else:
            name = f"{run}/{label}" if len(content) > 1 else run
            found.append(Finished(name, folder, values, samples, **facts))
    return found


def _recipe(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was run, from ``recipe.yaml``, else from the manifest."""
    try:
        content = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        content = manifest.get("recipe")
    return content if isinstance(content, dict) else None


def _suites(recipe: Mapping[str, Any] | None, manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The suites a recipe names, else those that the manifest says were taken."""
    part = (recipe or {}).get("evaluate")
    named = (part.get("suites") if isinstance(part, dict) else None) or manifest.get("suites")
    return tuple(map(str, named)) if isinstance(named, list) else None


def read_metrics(path: Path) -> dict[str, Any]:
    """A file of metric values, by key or by model and key.

    Raises:
        UserError: if it is not there, cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no finished run with metrics here ({path.name} is missing)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if not (isinstance(content, dict) and content and all(map(_is_cell_or_model, content.values()))):
        raise UserError(f"{path}: not the metrics of a run of ours")
    return content


def _is_cell_or_model(entry: Any) -> bool:
    """A metric's value with its evidence, or a model's metrics by key."""
    needed = {"value", "ci_low", "ci_high", "n", "note", "higher_is_better"}
    if not isinstance(entry, dict):
        return False
    return needed <= set(entry) if "value" in entry else all(map(_is_cell_or_model, entry.values()))
