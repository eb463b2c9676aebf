"""Every metric of a model with its bootstrap interval, from per-row values."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from expunge.evaluation.metrics.base import Metric, MetricValue, missing_rows, present_columns
from expunge.evaluation.metrics.tokens import Columns, Scores
from expunge.evaluation.stats import Interval, percentile_interval, row_resamples


def compute(
    scores: Scores,
    reference: Scores | None,
    metrics: Mapping[str, Metric],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, MetricValue]:
    """Evaluate each metric, with a percentile bootstrap interval over rows.

    Rows are resampled within each set, independently between sets, with the same draws for every metric and model
    under one ``seed``. The reference's rows move with the model's where a set has the same number of rows in both
    (they are the same questions); otherwise the reference is held fixed. NaN rows are left out of a value, and
    ``n`` counts the rows that are complete in all columns the metric needs. A metric that lacks something, or is
    undefined, has value ``None`` and a note. ``num_resamples=0`` gives values without intervals.
    Raises ``ValueError`` when the columns of one set differ in their number of rows.
    """
    model, retain = _clean(scores), _clean(reference) if reference is not None else None
    draws = _Draws(model, retain, num_resamples, seed)
    return {key: _evaluate(metric, model, retain, draws, level) for key, metric in metrics.items()}


def _evaluate(metric: Metric, scores: Scores, reference: Scores | None, draws: _Draws, level: float) -> MetricValue:
    if note := metric.missing(scores, reference):
        return _none(metric, note)
    n = sum(int(_complete(scores[name], columns).sum()) for name, columns in metric.needs.items())
    if n == 0:
        return _none(metric, "no row has all the values it needs")
    # Sets that are read if they are there count as well.
    for name in (metric.uses.keys() - metric.needs.keys()) & scores.keys():
        if columns := tuple(column for column in metric.uses[name] if column in scores[name]):
            n += int(_complete(scores[name], columns).sum())
    value = metric.function(scores, reference)
    if not math.isfinite(value):
        return _none(metric, metric.caution(scores, reference) or "undefined on these rows")
    low, high = draws.interval(metric, level) or (None, None)
    note = metric.caution(scores, reference)
    return MetricValue(value, low, high, n, metric.higher_is_better, metric.version, note)


def _none(metric: Metric, note: str) -> MetricValue:
    return MetricValue(None, None, None, 0, metric.higher_is_better, metric.version, note)


def _complete(columns: Columns, names: tuple[str, ...]) -> np.ndarray:
    return ~np.logical_or.reduce([missing_rows(columns[name]) for name in names])


def _clean(scores: Scores) -> Scores:
    """Drop columns without any value, so that a resample cannot change which columns are there."""
    for name, columns in scores.items():
        lengths = {column: len(values) for column, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the columns of the {name} set differ in their number of rows: {lengths}")
    return {name: present_columns(columns) for name, columns in scores.items()}


class _Draws:
    """Resampled rows of every set, drawn once and shared by all metrics."""

    def __init__(self, scores: Scores, reference: Scores | None, num_resamples: int, seed: int) -> None:
        self._scores, self._reference = scores, reference
        self._num_resamples, self._seed = num_resamples, seed
        self._rows: dict[str, np.ndarray] = {}

    def interval(self, metric: Metric, level: float) -> Interval | None:
        """Return the percentile interval of a metric; ``None`` without resamples or with one row of a set alone."""
        count = min(self._num_resamples, metric.max_resamples or self._num_resamples)
        reads = {
            name: (*metric.needs.get(name, ()), *metric.uses.get(name, ()))
            for name in (*metric.needs, *metric.uses)
            if name in self._scores
        }
        complete = [int(_complete(self._scores[name], columns).sum()) for name, columns in metric.needs.items()]
        if count < 1 or min(complete) < 2:
            return None
        model, retain = _restrict(self._scores, reads), self._reference
        if retain is not None:
            retain = _restrict(retain, reads) if metric.needs_reference or metric.uses_reference else None
        values = np.empty(count)
        for number in range(count):
            values[number] = metric.function(
                self._take(model, number), self._take(retain, number) if retain is not None else None
            )
        return percentile_interval(values, level)

    def _take(self, scores: Scores, number: int) -> Scores:
        taken: Scores = {}
        for name, columns in scores.items():
            num_rows = _num_rows(self._scores[name])
            if _num_rows(columns) != num_rows:
                taken[name] = columns
                continue
            if name not in self._rows:
                self._rows[name] = row_resamples(num_rows, self._num_resamples, seed=self._seed, name=name)
            rows = self._rows[name][number]
            taken[name] = {column: values[rows] for column, values in columns.items()}
        return taken


def _restrict(scores: Scores, reads: Mapping[str, tuple[str, ...]]) -> Scores:
    return {
        name: {column: scores[name][column] for column in columns if column in scores[name]}
        for name, columns in reads.items()
        if name in scores
    }


def _num_rows(columns: Columns) -> int:
    return len(next(iter(columns.values()))) if columns else 0
