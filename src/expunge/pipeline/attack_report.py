"""An audit as a report page: a table by attack, the curves of relearning, a verdict that rests on the worst attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from expunge.attacks.base import ORIGINAL, REFERENCE, UNLEARNED
from expunge.attacks.outcome import USABLE, Estimate, Outcome
from expunge.attacks.weights import NONE
from expunge.pipeline.attacking import Attacked, Audit
from expunge.reporting.content import BLANK, Curve, MetricCell, MetricRow, Panel, Report, Verdict

DURABLE, FRAGILE = 0.9, 0.5
"""Durability from which on a model is called durable, and below which it is called fragile."""
_SHARES = {
    "residual": "share of the original's knowledge, less what a model that never saw the data shows, that is there",
    "recovery": "share of what was lost that the attack brought back",
    "rise": "mean score under the attack minus mean score before it",
}


def attack_report(audit: Audit, provenance: Mapping[str, Any]) -> Report:
    """The page's content."""
    roles = [role for role in (ORIGINAL, UNLEARNED, REFERENCE) if any(role in a.means for a in audit.attacked)]
    figure = audit.durability
    tried = [(one, one.outcome) for one in audit.attacked if one.outcome]
    alone = partial(_row, others=[role for role in roles if role != UNLEARNED])
    rows = [
        alone(
            "durability", "durability: 1 - the largest residual", "All attacks", figure.estimate, higher=True,
            definition="one minus the largest residual over all attacks but membership, the unattacked model too",
        ),
        alone(
            "kept", "retain rows: share of the original's score", "All attacks", audit.kept, higher=True,
            definition="mean extraction strength on the retain rows, unattacked, over the original's",
        ),
        *(_score_row(one) for one, _ in tried),
    ]  # fmt: skip
    for name, definition in _SHARES.items():
        rows += [
            alone(f"{key}/{name}", _label(one), name.capitalize(), getattr(found, name), definition=definition)
            for one, found in tried
            if (key := one.attack.key) != NONE.key or name == "residual"
        ]
    rows += [row for one, _ in tried if one.curves for row in _curve_rows(one, alone)]
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
        panels_title="Relearning",
    )


def _label(attacked: Attacked) -> str:
    return attacked.attack.about if attacked.attack.key == NONE.key else attacked.attack.key


def _score_row(attacked: Attacked) -> MetricRow:
    attack = attacked.attack
    cells = {role: MetricCell(mean) for role, mean in attacked.means.items()}
    return MetricRow(f"{attack.key}/score", _label(attacked), "Score", False, cells, f"{attack.about}; {attack.scored}")


def _row(
    key: str, label: str, group: str, estimate: Estimate, *, others: Sequence[str], definition: str,
    higher: bool = False,
) -> MetricRow:  # fmt: skip
    """A row about the unlearned model alone."""
    cells = {UNLEARNED: _cell(estimate), **dict.fromkeys(others, BLANK)}
    return MetricRow(key, label, group, higher, cells, definition)


def _curve_rows(attacked: Attacked, alone: Callable[..., MetricRow]) -> Iterator[MetricRow]:
    key, half = attacked.attack.key, attacked.steps_to_half
    never = "half of what was lost never came back" if math.isinf(half) else ""
    yield alone(
        f"{key}/steps_to_half", f"{key}: steps to half", "Relearning",
        Estimate(math.nan if never else half, None, never), higher=True,
        definition="steps of finetuning until half of what was lost is back",
    )  # fmt: skip
    yield alone(
        f"{key}/area", f"{key}: mean of the curve", "Relearning", Estimate(attacked.area, None, ""),
        definition="area under the curve of score by steps, over its width",
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
