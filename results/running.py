"""Carrying out a part's runs, one after the other; what has been found already is not run again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import cores, processor
from expunge.errors import ModelError, NonFiniteLossError, ResourceError, UserError, unknown
from expunge.evaluation.samples import read_texts
from expunge.pipeline.attacking import Audit, attack_model
from expunge.pipeline.folder import weights_folder
from expunge.pipeline.run import RunResult, run_recipe
from expunge.pipeline.stages import StageStore
from expunge.progress import say
from expunge.recipe import Recipe, expand, read_recipe
from results.records import BEFORE, COST, RETAIN_MODEL, Record, Records, kept_metrics, recipe_digest, rounded

AFTER = "after"
RETRAINED = "retrained"
"""The control of an audit: the model that never saw the rows, attacked as if it had been unlearned."""
ANSWERS = 3
"""How many answers of each run are kept to be read."""


def runs_of(recipe: Path, only: Collection[str] = ()) -> dict[str, Recipe]:
    """A recipe's runs by name; of some methods or names alone, if these are given.

    Raises:
        UserError: for a name that is neither a method's nor a run's.
    """
    found = expand(read_recipe(recipe))
    known = {name for run, part in found.items() for name in (run, method_of(part))}
    for name in only:
        if name not in known:
            raise UserError(unknown("run or method", name, known))
    return {name: run for name, run in found.items() if not only or {name, method_of(run)} & set(only)}


def missing(runs: dict[str, Recipe], records: Records) -> dict[str, Recipe]:
    """Those without a record, or with one of another recipe."""
    kept = {name: record.digest for name, record in records.runs.items()}
    return {name: run for name, run in runs.items() if kept.get(name) != recipe_digest(run)}


@dataclass(frozen=True)
class Place:
    """Where runs lie, and the files that they read."""

    out: Path
    """Their folders."""
    store: Path
    """Their stages; parts that share it share their target and retain model."""
    data_root: str | None = None
    """Folder with published benchmark files."""


def carry_out(runs: dict[str, Recipe], records: Records, place: Place) -> None:
    """Run what is missing, and write each one's record down as soon as it is there."""
    machine = f"{processor()}, {cores()} cores"
    todo = missing(runs, records)
    for number, (name, recipe) in enumerate(todo.items(), start=1):
        say(f"-- {name} ({number} of {len(todo)})")
        try:
            result = run_recipe(recipe, place.out / name, store=place.store, data_root=place.data_root, alone=False)
        except (NonFiniteLossError, ResourceError, ModelError) as error:
            say(f"{name}: {error}")
            records.runs[name] = _record(recipe, failed=str(error))
        else:
            for model in (BEFORE, RETAIN_MODEL):
                records.models[model] = kept_metrics(result.metrics[model])
            records.runs[name] = _found(recipe, result, machine)
        records.save()


def attack_retrained(recipe: Recipe, records: Records, place: Place) -> None:
    """Attack the retain model as if it had been unlearned, with the attacks of a run that there is already."""
    if RETRAINED in records.runs and records.runs[RETRAINED].digest == recipe_digest(recipe):
        return
    assert recipe.attack is not None
    say(f"-- {RETRAINED}")
    run = run_recipe(recipe, place.out / recipe.name, store=place.store, data_root=place.data_root, alone=False)
    target, retrained = (weights_folder(run.stages[name].path) for name in ("target", "retain_model"))
    audit = attack_model(
        retrained, recipe, recipe.attack, place.out / RETRAINED, original=target, reference=retrained,
        store=StageStore(place.store), data_root=place.data_root,
    )  # fmt: skip
    metrics = kept_metrics(run.metrics[RETAIN_MODEL])
    settings = {"method": RETRAINED}
    made = {"metrics": metrics, "settings": settings, "machine": f"{processor()}, {cores()} cores", **_attacked(audit)}
    records.runs[RETRAINED] = Record(digest=recipe_digest(recipe), method=RETRAINED, **made)
    records.save()


def _found(recipe: Recipe, result: RunResult, machine: str) -> Record:
    facts = result.stages["unlearn"].facts
    # Only our own fiction is shown; other people's rows stay where they are.
    ours = recipe.data.benchmark == "almanac"
    texts = read_texts(result.folder / "samples.parquet").get("forget", []) if ours else []
    return _record(
        recipe,
        metrics=kept_metrics(result.metrics[AFTER]),
        cost={name: facts[name] for name in COST if name in facts},
        **(_attacked(result.audit) if result.audit else {}),
        answers=[
            {"prompt": row["prompt"], "truth": row["answer"], "answer": row["generation"]} for row in texts[:ANSWERS]
        ],
        machine=machine,
    )


def _attacked(audit: Audit) -> dict[str, Any]:
    """What the attacks of a run came to."""
    found = {
        item.attack.key: {
            **{model: rounded(mean) for model, mean in item.means.items()},
            **{what: rounded(getattr(item.outcome, what).value) for what in ("rise", "recovery", "residual")},
        }
        for item in audit.attacked
        if item.outcome
    }
    estimate = audit.durability.estimate
    low, high = map(rounded, estimate.interval or (None, None))
    kept = rounded(audit.kept.value)
    worst = audit.durability.worst
    return {
        "attacks": found,
        "durability": {"value": rounded(estimate.value), "low": low, "high": high, "worst": worst, "kept": kept},
    }


def _record(recipe: Recipe, **found: object) -> Record:
    content = recipe.as_dict()["unlearn"]
    settings = {name: value for name, value in content.items() if value not in (None, {}, False)}
    return Record(digest=recipe_digest(recipe), method=method_of(recipe), settings=settings, **found)  # type: ignore[arg-type]


def method_of(recipe: Recipe) -> str:
    """The preset that a run unlearns by."""
    assert recipe.unlearn is not None
    return recipe.unlearn.method
