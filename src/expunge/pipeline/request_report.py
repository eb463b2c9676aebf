"""The page of a ledger's audit: requests down, points in time across, and the curve of what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from expunge.evaluation.stats import bootstrap_interval
from expunge.pipeline.request_audit import BASE, COLUMNS, Asked, RequestAudit
from expunge.reporting.content import Curve, MetricCell, MetricRow, Panel, Report, Verdict

_LABELS = {"extraction_strength": "extraction strength", "prob": "probability"}
_DEFINITIONS = {
    "extraction_strength": "mean share of an answer that the model finishes by itself once the rest is given",
    "prob": "mean probability of the answers, the geometric mean over their tokens",
}
FORGOTTEN, KEPT_SHARE = 0.25, 0.75
"""Share of the base model's score below which a request's rows count as forgotten, and from which on rows as kept."""


def request_report(audit: RequestAudit) -> Report:
    """The page's content."""
    return Report(
        title="Deletion requests",
        verdict=_verdict(audit),
        models=audit.times,
        metrics=tuple(_rows(audit)),
        panels=(_panel(audit, keep=False), _panel(audit, keep=True)),
        before=BASE,
        panels_title="Over time",
        footnotes=(
            "Each column is the model as it stood then. A request's rows count from the column that bears its number.",
            "An answer that is not given is not proof of erasure: `expunge attack` tries to bring it back.",
        ),
        warnings=audit.notes,
    )


def _rows(audit: RequestAudit) -> Iterator[MetricRow]:
    for column in COLUMNS:
        for one in audit.asked:
            cells = {label: _cell(audit, one, time, column) for time, label in enumerate(audit.times)}
            group = f"{'To keep' if one.keep else 'To forget'}: {_LABELS[column]}"
            yield MetricRow(
                f"{one.name}/{column}", f"{one.name}: {_LABELS[column]}", group, one.keep, cells, _DEFINITIONS[column]
            )


def _cell(audit: RequestAudit, one: Asked, time: int, column: str) -> MetricCell:
    values = audit.scores[one.name, time][column]
    mean = audit.mean(one.name, time, column)
    if math.isnan(mean):
        return MetricCell(note="no row has a value")
    interval = bootstrap_interval(lambda at: float(np.nanmean(values[at])), len(values))
    low, high = interval if interval else (None, None)
    note = "" if one.keep or (one.applied_at is not None and time >= one.applied_at) else "not yet carried out"
    return MetricCell(mean, low, high, len(values), note)


def _panel(audit: RequestAudit, *, keep: bool) -> Panel:
    curves = tuple(
        Curve(
            one.name,
            "requests carried out",
            "mean extraction strength",
            tuple((float(time), audit.mean(one.name, time)) for time in range(len(audit.times))),
        )
        for one in audit.asked
        if one.keep is keep
    )
    return Panel("What is to be kept, over time" if keep else "What is to be forgotten, over time", curves)


def _verdict(audit: RequestAudit) -> Verdict:
    last = len(audit.times) - 1
    applied = [one for one in audit.asked if one.applied_at is not None]
    left = {one.name: _share(audit, one, last) for one in applied}
    known = [name for name, share in left.items() if share >= FORGOTTEN]
    back = [name for name, found in audit.since.items() if found.recovered]
    lost = [one.name for one in audit.asked if one.keep and _share(audit, one, last) < KEPT_SHARE]
    sentences = [f"{name}: {share:.0%} of what the base model knew is left." for name, share in left.items()]
    sentences += [f"{name} came back in part after it had been carried out." for name in back]
    sentences += [
        f"{one.name} rows: {_share(audit, one, last):.0%} of the base model's score." for one in audit.asked if one.keep
    ]
    level: Literal["good", "mixed", "bad"] = "good" if not (known or back or lost) else "mixed"
    if not applied:
        level = "mixed"
    elif len(known) == len(applied) or len(lost) == sum(one.keep for one in audit.asked) > 0:
        level = "bad"
    headline = {
        "good": "All requests that were carried out still hold, and the rest is kept",
        "mixed": _mixed(bool(applied), holds=not (known or back), kept=not lost),
        "bad": "The requests do not hold, or nothing else is left",
    }[level]
    return Verdict(level, headline, tuple(sentences))


def _mixed(applied: bool, *, holds: bool, kept: bool) -> str:
    """The headline where something is right."""
    if not applied:
        return "Nothing that was carried out can be asked any more"
    if holds:
        return "The requests hold, but not all else is kept"
    return "Not every request holds" if kept else "Not every request holds, and not all else is kept"


def _share(audit: RequestAudit, one: Asked, time: int) -> float:
    """Mean extraction strength over the base model's; 0 where the base model knew nothing to be forgotten."""
    base = audit.mean(one.name, 0)
    if not base > 0:
        return 1.0 if one.keep else 0.0
    return audit.mean(one.name, time) / base
