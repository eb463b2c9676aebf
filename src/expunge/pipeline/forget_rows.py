"""The rows that unlearning is given, where the model itself must write them, or other answers to them, first."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.data.rows import Row, rows_hash
from expunge.data.sources import read_rows, read_written, write_rows
from expunge.data.views import VIEWS
from expunge.evaluation.alternates import ALTERNATES, add_alternates
from expunge.evaluation.writing import write_texts
from expunge.methods.table import Composition
from expunge.models.load import let_go
from expunge.parallel import from_first, process_number
from expunge.pipeline.stages import Stage
from expunge.recipe import EvaluatePart, UnlearnPart

if TYPE_CHECKING:
    from expunge.pipeline.run import Plan


def forget_rows(plan: Plan, target: Stage | None, part: UnlearnPart, composition: Composition) -> Sequence[Row]:
    """The forget rows, or those that were written for them beforehand; where the view wants answers that the model made
    up, with those that it now makes up."""
    rows = read_written(part.written) if part.written else plan.benchmark.forget
    rows = rows or _written(plan, target, composition)
    if composition.view != "model" or all(row.alternate is not None for row in rows):
        return rows
    settings = {"count": part.alternates or ALTERNATES, "seed": plan.recipe.seed}

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = plan.load(target, guarded=False)
        made = add_alternates(loaded, rows, batch_size=_batch_size(plan), **settings)
        let_go(loaded)
        write_rows(folder / "alternates.jsonl", made)
        return {"rows": len(made)}

    parts = _writer(plan, target) | {"rows": rows_hash(rows)}
    return _made(plan, "alternates", parts | settings, build)


def _made(plan: Plan, name: str, parts: Mapping[str, Any], build: Any, *, label: str = "") -> tuple[Row, ...]:
    """What the model wrote in a stage of this name; written once more where redaction took it away."""
    # A run that is to be redacted keeps rows of its own: it must not take away another's.
    parts = {**parts, "redact": True} if plan.recipe.redact else parts
    stage = plan.stage(name, parts, build, label=label)
    file = stage.path / f"{name}.jsonl"
    if not from_first(file.is_file()):
        if process_number() == 0:
            shutil.rmtree(stage.path)
        stage = plan.stage(name, parts, build, label=label)
    return read_rows(file, set_name="forget")


def _written(plan: Plan, target: Stage | None, composition: Composition) -> tuple[Row, ...]:
    """Forget rows that the model writes itself, where the benchmark asks for that."""
    writing, seed = plan.benchmark.writing, plan.recipe.seed
    if writing is None:
        return ()

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = plan.load(target, guarded=False)
        made = write_texts(loaded, writing, seed=seed, batch_size=_batch_size(plan))
        let_go(loaded)
        write_rows(folder / "written.jsonl", made)
        return {"rows": len(made)}

    parts = _writer(plan, target) | {"writing": dataclasses.asdict(writing), "seed": seed}
    rows = _made(plan, "written", parts, build, label="forget text: written by the model")
    if check := VIEWS[composition.view].check:
        check(rows)
    return rows


def _writer(plan: Plan, target: Stage | None) -> dict[str, Any]:
    """All that tells one writing model from another."""
    model = plan.recipe.model
    return {
        "origin": target.key if target else plan.base_print,
        "model": {"format": model.format, "max_length": model.max_length, "dtype": model.dtype},
    }


def _batch_size(plan: Plan) -> int:
    return (plan.recipe.evaluate or EvaluatePart()).generation_batch
