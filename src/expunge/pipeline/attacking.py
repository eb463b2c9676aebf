"""Attacking a model: the same attacks on it, on the original and on a model that never saw the data, side by side."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from expunge.attacks.base import ORIGINAL, REFERENCE, UNLEARNED, Attack, Found, Site
from expunge.attacks.outcome import Durability, Estimate, Levels, Outcome, durability, outcome, still_known
from expunge.attacks.relearn import area_under, steps_to_half
from expunge.attacks.table import QUICK, attacks_named
from expunge.attacks.weights import NONE
from expunge.benchmarks.base import AnswerLimit, Benchmark
from expunge.data.rows import rows_hash
from expunge.errors import DataError, ModelError, UserError
from expunge.models.load import load_model, pick_device, source_fingerprint
from expunge.parallel import process_number
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.environment import environment
from expunge.pipeline.folder import ATTACKS, MANIFEST, claim_folder, open_folder, refuse_inside, write_json
from expunge.pipeline.loading import load_data
from expunge.pipeline.stages import StageStore
from expunge.progress import say
from expunge.recipe import AttackPart, Recipe
from expunge.reporting.content import plain
from expunge.scopes import make_scope
from expunge.training.trainer import memory_errors

RESULT = "attacks.json"
SCORES = "scores.json"


@dataclass(frozen=True)
class Attacked:
    """One attack and what it did."""

    attack: Attack
    outcome: Outcome | None = None
    means: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Mean score under the attack, by model."""
    steps_to_half: float = math.nan
    """Of an attack that takes steps: after how many half of what was lost is back."""
    area: float = math.nan
    """Of such an attack: mean height of the unlearned model's curve."""
    curves: Mapping[str, Mapping[int, float]] = dataclasses.field(default_factory=dict)
    """Of such an attack: mean score by steps, of each model."""
    skipped: str = ""
    """Why it was not tried."""


@dataclass(frozen=True)
class Audit:
    """All attacks in the order they were named, the one figure, and whether the model is of use at all."""

    folder: Path
    attacked: tuple[Attacked, ...]
    durability: Durability
    kept: Estimate
    """Knowledge of the retain rows, as a share of the original's."""
    notes: tuple[str, ...] = ()


def attack_model(
    model: str | Path,
    recipe: Recipe,
    part: AttackPart,
    out: Path,
    *,
    original: str | Path | None = None,
    reference: str | Path | None = None,
    benchmark: Benchmark | None = None,
    store: StageStore | None = None,
    data_root: str | None = None,
) -> Audit:
    """Try every attack on every model (kept by content: the same call does nothing twice), and judge.

    Args:
        model: the unlearned model.
        recipe: its ``model``, ``data`` and ``seed`` parts say how models are loaded and which rows are asked.
        part: by what to attack, and how hard.
        out: folder for the result.
        original: the model before unlearning.
        reference: a model that never saw the forget rows: the control for attacks that tell the answer.
        benchmark: the rows, where they are loaded already.
        store: of the stages; below ``out`` by default.
        data_root: folder with published benchmark files.

    Raises:
        UserError: anything in the input that is wrong.
    """
    attacks = attacks_named(part.attacks or QUICK)
    check_recipe(recipe)
    make_scope(part.scope)
    claim_folder(out, ATTACKS)
    site = _site(benchmark or load_data(recipe, data_root), part, recipe.seed)
    given = {UNLEARNED: model, ORIGINAL: original, REFERENCE: reference}
    sources = {role: str(source) for role, source in given.items() if source is not None}
    refuse_inside(out, sources)
    pick_device(recipe.model.device)
    prints = {role: source_fingerprint(source) for role, source in sources.items()}
    notes = _notes(sources, prints)
    for note in notes:
        say(f"note: {note}")
    store = store or StageStore(out / "stages")
    with open_folder(out, ATTACKS, stages=store.root):
        found = {attack.key: _everywhere(attack, sources, prints, site, recipe, store) for attack in attacks}
        audit = _judge(out, attacks, found, site, notes)
        if process_number() > 0:
            return audit
        write_json(out / RESULT, plain(as_dict(audit)))
        manifest = {
            "kind": ATTACKS,
            "status": "done",
            "models": prints,
            "forget": rows_hash(site.forget),
            "settings": dataclasses.asdict(part),
            "seed": recipe.seed,
            "environment": environment(),
        }
        write_json(out / MANIFEST, plain(manifest))
        return audit


def _site(benchmark: Benchmark, part: AttackPart, seed: int) -> Site:
    forget = benchmark.probes.get("forget", benchmark.forget)
    if not forget:
        raise UserError(f"attack: {benchmark.name} has no rows to forget, so there is nothing to look for")
    benign = next((benchmark.probes[name] for name in benchmark.utility_sets if name in benchmark.probes), ())
    kept = benchmark.probes.get("retain", benchmark.retain)
    limit = benchmark.limits.get("forget", AnswerLimit())
    return Site(forget, benchmark.retain, kept, benchmark.holdout, benign, part, seed, limit)


def _notes(sources: Mapping[str, str], prints: Mapping[str, str]) -> tuple[str, ...]:
    notes = []
    if ORIGINAL not in sources:
        notes.append("no --original: what was lost is unknown, so there is no recovery, residual or durability")
    if REFERENCE not in sources:
        notes.append("no --reference: an attack that tells the answer cannot be told from one that finds it")
    if prints.get(ORIGINAL) == prints[UNLEARNED]:
        notes.append("the model and the original are the same weights: nothing was unlearned")
    return tuple(notes)


Everywhere = Mapping[str, Found] | str
"""What each model gave, or why the attack was not tried."""


def _everywhere(
    attack: Attack, sources: Mapping[str, str], prints: Mapping[str, str], site: Site, recipe: Recipe, store: StageStore
) -> Everywhere:
    lacking = [name for name in attack.needs if not getattr(site, name)]
    if lacking:
        return f"needs {' and '.join(lacking)} rows, and there are none"
    if missing := [role for role in attack.models if role not in sources]:
        return f"needs the {' and the '.join(missing)} model"
    try:
        return {role: _one(attack, role, sources, prints, site, recipe, store) for role in sources}
    except (DataError, ModelError) as error:
        if attack.key == NONE.key:
            raise
        # One attack that does not fit a model or its rows must not cost the others.
        say(f"note: {attack.key} was not tried: {error}")
        return str(error)


def _one(
    attack: Attack, role: str, sources: Mapping[str, str], prints: Mapping[str, str], site: Site, recipe: Recipe,
    store: StageStore,
) -> Found:  # fmt: skip
    """What one model gives under one attack, made once."""
    options = dataclasses.asdict(recipe.model)
    options.pop("path")
    openers = {name: partial(load_model, source, **options) for name, source in sources.items()}
    # Only what this attack reads: another learning rate must not quantise anew.
    read = ("forget", *attack.needs, *(("kept",) if attack.key == NONE.key else ()))
    sets = {name: rows_hash(getattr(site, name)) for name in read}
    settings = {name: getattr(site.part, name) for name in ("pack_tokens", *attack.settings)}
    others = {"role": role, **{name: prints[name] for name in attack.models}} if attack.models else {}
    parts = {
        "subject": prints[role], "model": options, "attack": attack.key, "rows": sets, "part": settings,
        "seed": site.seed, "others": others,
    }  # fmt: skip

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        title = f"{role}: {attack.key}"
        place = dataclasses.replace(site, work=work, title=title, role=role, others=openers)
        with memory_errors(f"under {attack.key}; lower pack_tokens or micro_batch_tokens"):
            found = attack.run(openers[role], place)
        curve = {str(step): _numbers(scores) for step, scores in found.curve.items()}
        content = {"scores": _numbers(found.scores), "curve": curve, "kept": _numbers(found.kept)}
        (folder / SCORES).write_text(json.dumps(content), encoding="utf-8")
        return {}

    stage = store.run("attack", parts, build, label=f"{role}: {attack.key}")
    kept = json.loads((stage.path / SCORES).read_text(encoding="utf-8"))
    curve = {int(step): _array(values) for step, values in kept["curve"].items()}
    return Found(_array(kept["scores"]), curve, _array(kept["kept"]))


def _numbers(scores: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in scores]


def _array(values: list[float | None]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _judge(
    out: Path, attacks: Sequence[Attack], found: Mapping[str, Everywhere], site: Site, notes: tuple[str, ...]
) -> Audit:
    base = found[NONE.key]
    assert not isinstance(base, str)
    under = {key: _levels(of) for key, of in found.items() if not isinstance(of, str)}
    judged = []
    for attack in attacks:
        of = found[attack.key]
        if isinstance(of, str):
            judged.append(Attacked(attack, skipped=of))
        elif np.isnan(of[UNLEARNED].scores).all():
            judged.append(Attacked(attack, skipped="no forget row can be asked so"))
        else:
            before = _levels(base) if attack.comparable else None
            judged.append(_attacked(attack, of, base, before, site))
    counted = {a.attack.key: under[a.attack.key] for a in judged if a.outcome and a.attack.counts}
    figure = durability(counted, num_resamples=site.part.num_resamples, seed=site.seed)
    return Audit(out, tuple(judged), figure, _kept(base, site), notes)


def _kept(base: Mapping[str, Found], site: Site) -> Estimate:
    if not site.kept or ORIGINAL not in base:
        lacking = "no original model was given" if site.kept else "there are no retain rows"
        return Estimate(math.nan, None, lacking)
    kept = (base[role].kept for role in (UNLEARNED, ORIGINAL))
    return still_known(*kept, num_resamples=site.part.num_resamples, seed=site.seed)


def _levels(found: Mapping[str, Found]) -> Levels:
    original, reference = (found[role].scores if role in found else None for role in (ORIGINAL, REFERENCE))
    return Levels(found[UNLEARNED].scores, original, reference)


def _attacked(
    attack: Attack, found: Mapping[str, Found], base: Mapping[str, Found], before: Levels | None, site: Site
) -> Attacked:
    curves = {role: _mean_curve(of, base[role]) for role, of in found.items() if of.curve}
    half = area = math.nan
    if curves:
        start = curves[UNLEARNED][0]
        points = sorted(curves[UNLEARNED].items())
        area = area_under(points)
        if ORIGINAL in curves:
            half = steps_to_half(points, start, curves[ORIGINAL][0])
    # What is recited without a question must come back further to count as recovered.
    kind = "knowledge" if any(row.prompt for row in site.forget) else "verbatim"
    return Attacked(
        attack,
        outcome(before, _levels(found), kind=kind, num_resamples=site.part.num_resamples, seed=site.seed),
        {role: float(np.nanmean(of.scores)) for role, of in found.items()},
        half,
        area,
        curves,
    )


def _mean_curve(found: Found, base: Found) -> dict[int, float]:
    """Mean score by steps over the rows that are looked at, from the unattacked model on."""
    there = ~np.isnan(found.scores)
    points = {0: base.scores, **found.curve}
    return {step: float(np.nanmean(scores[there])) for step, scores in points.items()}


def as_dict(audit: Audit) -> dict[str, Any]:
    """The audit as plain values, for JSON: NaN is null, an infinite number of steps is text."""

    def number(value: float) -> float | str | None:
        return None if math.isnan(value) else "never" if math.isinf(value) else value

    def estimate(of: Estimate) -> dict[str, Any]:
        return {"value": number(of.value), "interval": list(of.interval) if of.interval else None, "note": of.note}

    def one(of: Attacked) -> dict[str, Any]:
        found: dict[str, Any] = {"attack": of.attack.key, "about": of.attack.about}
        if of.outcome is None:
            return {**found, "skipped": of.skipped}
        found |= {"means": dict(of.means), "recovered": of.outcome.recovered}
        found |= {name: estimate(getattr(of.outcome, name)) for name in ("rise", "recovery", "residual")}
        if of.curves:
            curves = {role: {str(step): mean for step, mean in curve.items()} for role, curve in of.curves.items()}
            found |= {"curves": curves, "steps_to_half": number(of.steps_to_half), "area": number(of.area)}
        return found

    figure = audit.durability
    return {
        "durability": {**estimate(figure.estimate), "worst": figure.worst, "counted": list(figure.counted)},
        "kept": estimate(audit.kept),
        "attacks": [one(of) for of in audit.attacked],
        "notes": list(audit.notes),
    }
