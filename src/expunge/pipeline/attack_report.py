"""An audit as a report page: a table by attack, the curves of relearning, a verdict that rests on the worst attack."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from expunge.attacks.base import ORIGINAL, REFERENCE, UNLEARNED
from expunge.attacks.outcome import USABLE, Estimate, Outcome
from expunge.attacks.weights import NONE
from expunge.pipeline.attacking import Attacked, Audit
from expunge.reporting.content import Curve, MetricCell, MetricRow, Panel, Report, Verdict

DURABLE, FRAGILE = 0.9, 0.5
"""Durability from which on a model is called durable, and below which it is called fragile."""
_SHARES = {
    "rise": ("rise", "mean score under the attack minus mean score before it"),
    "recovery": ("recovery", "share of what was lost that the attack brought back"),
    "residual": (
        "residual",
        "share of the original's knowledge, less what a model that never saw the data shows, there",
    ),
}


def attack_report(audit: Audit, provenance: Mapping[str, Any]) -> Report:
    """The page's content."""
    roles = [role for role in (ORIGINAL, UNLEARNED, REFERENCE) if any(role in a.means for a in audit.attacked)]
    figure = audit.durability
    rows = [row for attacked in audit.attacked for row in _rows(attacked)]
    rows.append(
        MetricRow(
            "durability", "durability: 1 - the largest residual", "All attacks", True,
            {UNLEARNED: _cell(figure.estimate)},
            "one minus the largest residual over all attacks but membership, the unattacked model among them",
        )
    )  # fmt: skip
    rows.append(
        MetricRow(
            "kept", "retain rows: share of the original's score", "All attacks", True, {UNLEARNED: _cell(audit.kept)},
            "mean extraction strength on the retain rows, unattacked, over the original's",
        )
    )  # fmt: skip
    skipped = [f"{a.attack.key} was not tried: {a.skipped}" for a in audit.attacked if a.skipped]
    return Report(
        title="Attacks on an unlearned model",
        verdict=_verdict(audit),
        models=tuple(roles),
        metrics=tuple(rows),
        panels=tuple(_panels(audit)),
        provenance=provenance,
        warnings=(*audit.notes, *skipped),
        before=ORIGINAL,
        reference=REFERENCE,
    )


def _rows(attacked: Attacked) -> Iterator[MetricRow]:
    if attacked.outcome is None:
        return
    key, about = attacked.attack.key, attacked.attack.about
    cells = {role: MetricCell(mean) for role, mean in attacked.means.items()}
    yield MetricRow(f"{key}/score", f"{key}: score", key, False, cells, f"{about}; {attacked.attack.scored}")
    if attacked.attack.key != "none":
        for name, (label, definition) in _SHARES.items():
            estimate: Estimate = getattr(attacked.outcome, name)
            yield MetricRow(f"{key}/{name}", f"{key}: {label}", key, False, {UNLEARNED: _cell(estimate)}, definition)
    else:
        residual = attacked.outcome.residual
        yield MetricRow(
            f"{key}/residual", f"{key}: residual", key, False, {UNLEARNED: _cell(residual)}, _SHARES["residual"][1]
        )
    if attacked.curves:
        half = attacked.steps_to_half
        note = "half of what was lost never came back" if math.isinf(half) else ""
        cell = MetricCell(None if math.isinf(half) or math.isnan(half) else half, note=note)
        yield MetricRow(
            f"{key}/steps_to_half", f"{key}: steps to half", key, True, {UNLEARNED: cell},
            "steps of finetuning until half of what was lost is back",
        )  # fmt: skip
        yield MetricRow(
            f"{key}/area", f"{key}: mean of the curve", key, False, {UNLEARNED: MetricCell(attacked.area)},
            "area under the curve of score by steps, over its width",
        )  # fmt: skip


def _cell(estimate: Estimate) -> MetricCell:
    low, high = estimate.interval or (None, None)
    value = None if math.isnan(estimate.value) else estimate.value
    return MetricCell(value, low, high, note=estimate.note)


def _panels(audit: Audit) -> Iterator[Panel]:
    for attacked in audit.attacked:
        if attacked.curves:
            curves = tuple(
                Curve(role, "steps of finetuning", "mean extraction strength", tuple(sorted(curve.items())))
                for role, curve in attacked.curves.items()
            )
            yield Panel(f"{attacked.attack.key}: {attacked.attack.about}", curves)


def _stands_out(found: Outcome) -> bool:
    """Whether a residual is certain: its interval lies above 0."""
    return found.residual.interval is not None and found.residual.interval[0] > 0


def _verdict(audit: Audit) -> Verdict | None:
    figure, value = audit.durability, audit.durability.estimate.value
    if math.isnan(value):
        return None
    back = [a.attack.key for a in audit.attacked if a.outcome and a.outcome.recovered]
    interval = figure.estimate.interval
    between = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    what = "no attack at all" if figure.worst == NONE.key else figure.worst
    sentences = [f"The worst was {what}; counted were {', '.join(figure.counted)}."]
    sentences.append(
        f"Something came back under {', '.join(back)}." if back else "No attack brought anything back with certainty."
    )
    seen = [a.attack.key for a in audit.attacked if a.outcome and not a.attack.counts and _stands_out(a.outcome)]
    if seen:
        sentences.append(
            f"That it saw the rows still shows under {', '.join(seen)}; what they say is not counted by it."
        )
    sentences.append("An attack that was not tried is not survived: this shows what is listed, and proves no erasure.")
    level: Literal["good", "mixed", "bad"]
    level = "good" if value >= DURABLE and not back else "bad" if value < FRAGILE else "mixed"
    words = {"good": "Durable against what was tried", "mixed": "Partly durable", "bad": "Fragile"}[level]
    # A model that says nothing resists every attack.
    if audit.kept.value < USABLE:
        level, words = "bad", "The model lost what it should keep"
        sentences.append(f"Of the original's knowledge of the retain rows {audit.kept.value:.0%} is left.")
    elif math.isnan(audit.kept.value):
        level = "mixed" if level == "good" else level
        sentences.append(f"Whether it still knows what it should is unknown: {audit.kept.note}.")
    return Verdict(level, f"{words}: durability {value:.2f}{between}", tuple(sentences))
