"""Differences between models on the same rows: what the rows have in common cancels.

Two sides are compared, each one model or several seeds of one recipe. Rows are matched by set and id, resampled
together, and the metric is evaluated on both sides of every resample.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from expunge.evaluation.metrics import Columns, Metric, Scores
from expunge.evaluation.metrics.base import mean_column, missing_rows, present_columns
from expunge.evaluation.stats import bootstrap_pvalue, percentile_interval, row_resamples, sign_flip_test

SIGN_FLIP, BOOTSTRAP = "sign-flip", "bootstrap"
"""Names of the two tests: of a mean of per-row values, and of everything else."""

_Key = tuple[str, int]


@dataclass(frozen=True, eq=False)
class RowValues:
    """One model's per-row values, and which rows they are."""

    scores: Scores
    ids: Mapping[str, tuple[str, ...]]
    """By set, in the order of the columns."""
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Reference answers, by set; a row is the same only if its answer is. Empty where they are not known."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """By set, one digest over all its ids and answers, which stands for answers that were redacted."""

    @functools.cached_property
    def places(self) -> dict[str, dict[_Key, int]]:
        """Where each row stands, by set and ``(id, how many times it came before)``."""
        out: dict[str, dict[_Key, int]] = {}
        for name, ids in self.ids.items():
            seen: Counter[str] = Counter()
            out[name] = {}
            for place, row_id in enumerate(ids):
                out[name][row_id, seen[row_id]] = place
                seen[row_id] += 1
        return out

    def answer(self, name: str, place: int) -> str:
        """The reference answer of a row, spaces folded; empty where it is not known."""
        answers = self.answers.get(name, ())
        return " ".join((answers[place] or "").split()) if place < len(answers) else ""


@dataclass(frozen=True, eq=False)
class Compared:
    """One model in a comparison: its rows, and the rows of the retain model that it is measured against."""

    rows: RowValues
    reference: RowValues | None = None


@dataclass(frozen=True)
class PairedDifference:
    """``first - second`` of one metric on the rows that both have.

    ``value`` is None where there is none, and ``note`` says why. ``test`` names where ``p`` is from.
    ``n`` counts the rows behind it, over all sets the metric reads.
    """

    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    test: str = ""
    n: int = 0
    note: str = ""


def same_rows(members: Sequence[RowValues]) -> dict[str, tuple[_Key, ...]]:
    """Rows that all members have, by set, in the first one's order: same id, and no two different known answers.

    Where a member does not know its answers (another tool's log, a redacted run), only sets of one length have rows in
    common; where digests of the whole set are known, only sets of one digest.
    """
    first = members[0]
    out: dict[str, tuple[_Key, ...]] = {}
    for name, places in first.places.items():
        if all(name in other.places for other in members) and _may_agree(members, name):
            out[name] = tuple(key for key in places if _agree(members, name, key))
    return {name: keys for name, keys in out.items() if keys}


def _may_agree(members: Sequence[RowValues], name: str) -> bool:
    """False where answers that would tell were redacted, and the digests say that they differ."""
    digests = {digest for member in members if (digest := member.digests.get(name))}
    return len(digests) <= 1 or all(member.answers.get(name) for member in members)


def _agree(members: Sequence[RowValues], name: str, key: _Key) -> bool:
    if not all(key in member.places[name] for member in members):
        return False
    # Without answers only the place of a row says which it is, and that only in sets of one length.
    if not all(member.answers.get(name) for member in members) and len({len(m.places[name]) for m in members}) > 1:
        return False
    return len({text for member in members if (text := member.answer(name, member.places[name][key]))}) <= 1


def row_differences(first: RowValues, second: RowValues) -> list[str]:
    """Say in a few words, set by set, where two models were not asked the same rows; empty where they were."""
    common = same_rows([first, second])
    said = []
    for name in dict.fromkeys([*first.ids, *second.ids]):
        counts = len(first.ids.get(name, ())), len(second.ids.get(name, ()))
        shared = len(common.get(name, ()))
        if 0 in counts:
            said.append(f"{name}: only in one")
        elif shared < max(counts):
            said.append(f"{name}: {shared} in common of {counts[0]} and {counts[1]}")
    return said


class PairedBootstrap:
    """Paired differences with one set of resamples for every metric and model.

    Args:
        num_resamples: bootstrap resamples behind every interval; a costly metric takes fewer (``max_resamples``).
        seed: of the resamples and of the sign flips.
        level: of the intervals.
    """

    def __init__(self, *, num_resamples: int = 1000, seed: int = 0, level: float = 0.95) -> None:
        self.num_resamples, self.seed, self.level = num_resamples, seed, level
        # One side, often the baseline, comes again and again on the same rows.
        self._kept: dict[tuple[object, ...], np.ndarray] = {}

    def difference(self, metric: Metric, first: Sequence[Compared], second: Sequence[Compared]) -> PairedDifference:
        """``metric(first) - metric(second)``, each side the mean over its members.

        Rows are drawn with replacement within each set, the same ones for every member, and the retain model's rows
        move along where it has them all. A row that any member lacks a value of is left out on both sides.
        The test is :func:`~expunge.evaluation.stats.sign_flip_test` for the mean of a column, else
        :func:`~expunge.evaluation.stats.bootstrap_pvalue`. Members are held fixed: the interval is about rows.
        """
        members = [*second, *first]
        try:
            rows = _complete_rows(metric, members)
        except _LackingError as lacking:
            return PairedDifference(note=str(lacking))
        n = sum(map(len, rows.values()))
        sides = [[_Aligned.of(metric, one, rows) for one in side] for side in (first, second)]
        values = [_mean([metric.function(one.scores, one.reference) for one in side]) for side in sides]
        value = values[0] - values[1]
        if not math.isfinite(value):
            return PairedDifference(n=n, note="undefined on the rows in common")
        if min(map(len, rows.values())) < 2:
            return PairedDifference(value, n=n, note="a single row: no interval")
        column = mean_of_column(metric)
        if column:
            return self._of_means(column, sides, value, n)
        replicates = self._replicates(metric, first, sides[0], rows) - self._replicates(metric, second, sides[1], rows)
        low, high = percentile_interval(replicates, self.level) or (None, None)
        p = bootstrap_pvalue(replicates, value, min(map(len, rows.values())))
        return PairedDifference(value, low, high, None if math.isnan(p) else p, BOOTSTRAP, n)

    def _of_means(
        self, column: tuple[str, str], sides: Sequence[Sequence[_Aligned]], value: float, n: int
    ) -> PairedDifference:
        name, key = column
        first, second = (np.mean([one.scores[name][key] for one in side], axis=0) for side in sides)
        by_row = first - second
        draws = row_resamples(len(by_row), self.num_resamples, seed=self.seed, name=name)
        low, high = percentile_interval(by_row[draws].mean(axis=1), self.level) or (None, None)
        return PairedDifference(value, low, high, sign_flip_test(by_row, seed=self.seed), SIGN_FLIP, n)

    def _replicates(
        self,
        metric: Metric,
        members: Sequence[Compared],
        aligned: Sequence[_Aligned],
        rows: Mapping[str, tuple[_Key, ...]],
    ) -> np.ndarray:
        count = min(self.num_resamples, metric.max_resamples or self.num_resamples)
        total = np.zeros(count)
        for member, one in zip(members, aligned, strict=True):
            kept = (member, metric.key, tuple(rows.items()))
            if kept not in self._kept:
                self._kept[kept] = np.array([self._on_resample(metric, one, number) for number in range(count)])
            total += self._kept[kept]
        return total / len(members)

    def _on_resample(self, metric: Metric, one: _Aligned, number: int) -> float:
        draws = {
            name: self._draws(name, len(next(iter(columns.values()))))[number] for name, columns in one.scores.items()
        }
        scores = {name: _take(columns, draws[name]) for name, columns in one.scores.items()}
        if one.reference is None:
            return metric.function(scores, None)
        reference = {
            name: _take(columns, draws[name]) if name in one.moving else columns
            for name, columns in one.reference.items()
        }
        return metric.function(scores, reference)

    def _draws(self, name: str, num_rows: int) -> np.ndarray:
        kept = ("draws", name, num_rows)
        if kept not in self._kept:
            self._kept[kept] = row_resamples(num_rows, self.num_resamples, seed=self.seed, name=name)
        return self._kept[kept]


def mean_of_column(metric: Metric) -> tuple[str, str] | None:
    """Set and column of a metric that is a plain mean over rows; None for any other."""
    function = metric.function
    if isinstance(function, functools.partial) and function.func is mean_column and not function.args:
        return function.keywords["name"], function.keywords["column"]
    return None


class _LackingError(Exception):
    """A side lacks what the metric reads."""


def _complete_rows(metric: Metric, members: Sequence[Compared]) -> dict[str, tuple[_Key, ...]]:
    """The rows, of every set the metric reads, on which all members have all it needs; raises where there are none."""
    common = same_rows([one.rows for one in members])
    out: dict[str, tuple[_Key, ...]] = {}
    for one in members:
        reference = _present(one.reference) if one.reference else None
        if lacking := metric.missing(_present(one.rows), reference):
            raise _LackingError(lacking)
    for name, columns in metric.needs.items():
        if name not in common:
            raise _LackingError(f"no row of the {name} set in common")
        whole = np.logical_and.reduce([_complete(one.rows, name, columns, common[name]) for one in members])
        out[name] = tuple(key for key, kept in zip(common[name], whole, strict=True) if kept)
        if not out[name]:
            raise _LackingError(f"no row of the {name} set has all the values it needs on both sides")
    return out


def _complete(rows: RowValues, name: str, columns: Sequence[str], keys: Sequence[_Key]) -> np.ndarray:
    places = [rows.places[name][key] for key in keys]
    return ~np.logical_or.reduce([missing_rows(rows.scores[name][column])[places] for column in columns])


def _present(rows: RowValues) -> Scores:
    return {name: present_columns(columns) for name, columns in rows.scores.items()}


@dataclass(frozen=True)
class _Aligned:
    """A model's columns on the rows in common, and the retain model's: moving with them, or held fixed as a whole."""

    scores: Scores
    reference: Scores | None
    moving: frozenset[str]

    @classmethod
    def of(cls, metric: Metric, one: Compared, rows: Mapping[str, tuple[_Key, ...]]) -> _Aligned:
        """Only the columns that the metric reads."""
        scores = _read(metric, one.rows)
        taken = {name: _take(scores[name], _places(one.rows, name, keys)) for name, keys in rows.items()}
        if one.reference is None or not (metric.needs_reference or metric.uses_reference):
            return cls(taken, None, frozenset())
        reference = _read(metric, one.reference)
        common = same_rows([one.rows, one.reference])
        moving = {name for name, keys in rows.items() if name in reference and set(keys) <= set(common.get(name, ()))}
        for name in moving:
            reference[name] = _take(reference[name], _places(one.reference, name, rows[name]))
        return cls(taken, reference, frozenset(moving))


def _read(metric: Metric, rows: RowValues) -> Scores:
    present = _present(rows)
    reads = {name: (*columns, *metric.uses.get(name, ())) for name, columns in metric.needs.items()}
    return {
        name: {column: present[name][column] for column in columns if column in present[name]}
        for name, columns in reads.items()
        if name in present
    }


def _places(rows: RowValues, name: str, keys: Sequence[_Key]) -> np.ndarray:
    return np.array([rows.places[name][key] for key in keys])


def _take(columns: Columns, places: np.ndarray) -> Columns:
    return {column: values[places] for column, values in columns.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
