"""What a report shows, free of how it was computed and of how it is drawn.

The pipeline fills these frozen records; :mod:`~expunge.reporting.tables`, :mod:`~expunge.reporting.figures`
and :mod:`~expunge.reporting.html` only read them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.errors import UserError, unknown

SCHEMA = "expunge.report/1"
LEVELS = ("good", "mixed", "bad")
KINDS = ("number", "p_value")

# C0 controls (tab and line feed stay), DEL, C1 controls and lone surrogates: not legal in HTML, LaTeX or UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: object) -> str:
    """Return ``text`` as a string every writer can show: control characters and lone surrogates become U+FFFD.

    Line ends become ``\\n``; tabs, line feeds and all other characters are kept.
    """
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n").replace("\r", "\n"))


@dataclass(frozen=True)
class MetricCell:
    """One metric of one model: the value, its interval, the number of samples, and a remark.

    ``value`` None (or NaN) means "not measured"; ``note`` then says why. ``ci_low`` and ``ci_high`` come together.
    A ``note`` of one space says that there is nothing to measure (:data:`BLANK`).
    """

    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    note: str = ""

    @property
    def missing(self) -> bool:
        """Whether there is no number to show."""
        return self.value is None or math.isnan(self.value)

    @property
    def interval(self) -> tuple[float, float] | None:
        """``(ci_low, ci_high)`` where there is a value and both ends are numbers, else None."""
        if self.missing or self.ci_low is None or self.ci_high is None:
            return None
        if math.isnan(self.ci_low) or math.isnan(self.ci_high):
            return None
        return self.ci_low, self.ci_high


BLANK = MetricCell(note=" ")
"""Stands where a metric is not about a model."""


@dataclass(frozen=True)
class MetricRow:
    """One metric across the models.

    ``higher_is_better`` None means the goal is the retain model's value. ``kind`` ``"p_value"`` marks a probability
    whose exact zero is only an underflow. ``cells`` maps a model's label to its cell; a model may be absent.
    """

    key: str
    label: str
    group: str
    higher_is_better: bool | None
    cells: Mapping[str, MetricCell]
    definition: str = ""
    kind: Literal["number", "p_value"] = "number"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"metric {self.key!r}: " + unknown("kind", self.kind, KINDS))

    def cell(self, model: str) -> MetricCell:
        """The cell of ``model``, an empty one where it was not measured."""
        return self.cells.get(model, MetricCell())


@dataclass(frozen=True)
class Curve:
    """One line of a panel: ``points`` are ``(x, y)`` in drawing order; a point that is not finite leaves a gap."""

    label: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Curves that share one pair of axes (the axis labels are those of the first curve)."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class AnswerPair:
    """One question, the true answer, and what each model said; ``set_name`` is forget, retain, ..."""

    question: str
    truth: str
    answers: Mapping[str, str]
    set_name: str = "forget"


@dataclass(frozen=True)
class ScatterPoint:
    """One model in the forget-versus-utility plot, with the ends of its intervals where they are known."""

    label: str
    forget: float
    utility: float
    forget_low: float | None = None
    forget_high: float | None = None
    utility_low: float | None = None
    utility_high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer in one word, one headline and a few sentences."""

    level: Literal["good", "mixed", "bad"]
    headline: str
    sentences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UserError("verdict: " + unknown("level", self.level, LEVELS))


@dataclass(frozen=True)
class Report:
    """Everything one report shows.

    ``models`` are the column labels in order. ``before`` and ``reference`` name the two special columns (either may be
    absent from ``models``); every other model is an unlearned one. ``scatter_axes`` are the labels of the plot's x and
    y axes. ``confidence`` is the level of all intervals.

    Raises :class:`~expunge.errors.UserError` for a repeated model or metric key, or a cell, answer or point of a model
    that is not in ``models``.
    """

    title: str
    verdict: Verdict | None
    models: tuple[str, ...]
    metrics: tuple[MetricRow, ...] = ()
    panels: tuple[Panel, ...] = ()
    scatter: tuple[ScatterPoint, ...] = ()
    pairs: tuple[AnswerPair, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    footnotes: tuple[str, ...] = ()
    before: str = "before"
    reference: str = "retain model"
    panels_title: str = "Training"
    scatter_axes: tuple[str, str] = ("what is left of the forget set", "model utility")
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not self.models:
            raise UserError("report: models is empty; name at least one model, such as ('before', 'after')")
        _refuse_repeats("model", self.models)
        _refuse_repeats("metric", [row.key for row in self.metrics])
        used = [(f"metric {row.key!r}", label) for row in self.metrics for label in row.cells]
        # By its number: a question to be forgotten has no place in a message.
        used += [(f"answers, pair {n}", label) for n, pair in enumerate(self.pairs, 1) for label in pair.answers]
        used += [("scatter", point.label) for point in self.scatter]
        for where, label in used:
            if label not in self.models:
                raise UserError(f"report: {where}: " + unknown("model", label, self.models))

    @property
    def has_reference(self) -> bool:
        """Whether a retain model is among the columns."""
        return self.reference in self.models

    @property
    def unlearned(self) -> tuple[str, ...]:
        """The labels that are neither the model before nor the retain model."""
        return tuple(label for label in self.models if label not in (self.before, self.reference))

    @property
    def groups(self) -> tuple[str, ...]:
        """The metric groups, in order of first appearance."""
        return tuple(dict.fromkeys(row.group for row in self.metrics))

    def rows(self, keys: Iterable[str] | None = None) -> tuple[MetricRow, ...]:
        """The rows of ``keys`` in that order (all, grouped, where None); UserError for a key that is not there."""
        if keys is None:
            order = self.groups
            return tuple(sorted(self.metrics, key=lambda row: order.index(row.group)))
        table = {row.key: row for row in self.metrics}
        wanted = list(keys)
        for key in wanted:
            if key not in table:
                raise UserError(unknown("metric", key, table))
        return tuple(table[key] for key in wanted)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types; a number that is not finite becomes None."""
        return {"schema": SCHEMA, **plain(self)}

    def to_json(self) -> str:
        """The report as strict, lossless ASCII JSON text (no NaN), the same bytes for the same report."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _refuse_repeats(what: str, names: Iterable[str]) -> None:
    """Raise UserError where a name comes twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"report: {what} {name!r} comes twice; give each {what} its own name")
        seen.add(name)


def plain(value: object) -> Any:
    """Return ``value`` in JSON types: records become dicts, sets sorted lists, NaN and infinities None, others text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if hasattr(value, "item") and not isinstance(value, (float, str)):  # a NumPy or torch scalar
        return plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return str(value)
