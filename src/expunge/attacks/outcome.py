"""What an attack brought back, from per-row scores alone: recovery, residual, durability.

A score is knowledge of a row between 0 (none) and 1 (all of it). Every model is scored before and under the attack,
on the same rows; where a model that never saw the data is at hand, what it says under the attack is what the attack
teaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from expunge.evaluation.stats import Interval, percentile_interval, row_resamples

LEAST_GAP = 0.01
"""Smallest mean difference of two scores that anything is divided by."""
LEAST_RISE = {"knowledge": 0.05, "verbatim": 0.10}
"""Mean rise of the score from which on something was recovered, by what the score is of."""


USABLE = 0.75
"""Share of the original's knowledge of the retain rows that a model must still have to be of use."""


@dataclass(frozen=True)
class Levels:
    """Scores of one set of rows under one attack (or none), ``(n,)`` each; NaN where a row has none."""

    unlearned: np.ndarray
    original: np.ndarray | None = None
    reference: np.ndarray | None = None
    """Of a model that never saw the data."""


@dataclass(frozen=True)
class Estimate:
    """A number with its paired bootstrap interval; NaN where ``note`` says why there is none."""

    value: float
    interval: Interval | None = None
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one attack did."""

    rise: Estimate
    """Mean score under the attack minus mean score before it, of the unlearned model."""
    recovery: Estimate
    """Share of what the unlearned model had lost that the attack brought back, in [0, 1]."""
    residual: Estimate
    """Share of the knowledge that only having seen the data explains which is there under the attack, in [0, 1]."""
    recovered: bool
    """Whether the rise is certain (its interval lies above 0) and large enough to count."""


@dataclass(frozen=True)
class Durability:
    """``1 - max residual`` over the attacks, and which one was worst."""

    estimate: Estimate
    worst: str = ""
    counted: tuple[str, ...] = field(default_factory=tuple)
    """The attacks with a residual; the others say why they have none."""


def outcome(
    before: Levels | None, under: Levels, *, kind: str = "knowledge", num_resamples: int = 1000, seed: int = 0
) -> Outcome:
    """Judge one attack.

    With ``u, o, r`` the mean scores of the unlearned, the original and the reference model, ``'`` under the attack::

        rise     = u' - u
        recovery = clip((u' - u) / (o' - u), 0, 1)
        residual = clip((u' - r') / (o' - r'), 0, 1)

    Without a reference ``r'`` is 0. Where it is not certain that ``o'`` is above ``r'`` there is no residual: a share
    of a lead that may be chance says nothing. Rows that lack one of the scores a number needs are left out of it.

    Args:
        before: scores without the attack; None where those under it are on another scale (of other answers, or of
            choices), so that there is no rise and no recovery.
        under: scores under it, of the same rows in the same order.
        kind: ``knowledge`` or ``verbatim``, which say how large a rise must be to count.
        num_resamples: draws of rows behind each interval; the same rows of all models.
        seed: of the draws.

    Raises:
        ValueError: for scores of different lengths or an unknown kind.
    """
    if kind not in LEAST_RISE:
        raise ValueError(f"kind must be one of {sorted(LEAST_RISE)}, got {kind!r}")
    draw = _Draw(num_resamples, seed)
    if before is None:
        other = Estimate(math.nan, None, "scored on another scale than the unattacked model")
        return Outcome(other, other, _residual(under, draw), recovered=False)
    rise = draw.estimate(_rise, {"u": before.unlearned, "ua": under.unlearned})
    low = rise.interval[0] if rise.interval else math.nan
    return Outcome(
        rise=rise,
        recovery=_recovery(before, under, draw),
        residual=_residual(under, draw),
        recovered=bool(rise.value >= LEAST_RISE[kind] and low > 0),
    )


def still_known(unlearned: np.ndarray, original: np.ndarray, *, num_resamples: int = 1000, seed: int = 0) -> Estimate:
    """``u / o`` on the rows that were to be kept: a model that says nothing at all resists every attack.

    Args:
        unlearned: ``(m,)`` scores of the unlearned model.
        original: the same of the original.
        num_resamples: draws behind the interval.
        seed: of the draws.

    Returns:
        Above 1 where more is known than before; NaN where the original knows nothing.
    """
    draw = _Draw(num_resamples, seed)
    scores = {"u": unlearned, "o": original}
    return draw.estimate(
        lambda mean: mean["u"] / mean["o"] if mean["o"] >= LEAST_GAP else math.nan,
        scores,
        "the original does not know the retain rows",
    )


def durability(attacks: Mapping[str, Levels], *, num_resamples: int = 1000, seed: int = 0) -> Durability:
    """One minus the largest residual over several attacks.

    The largest of several noisy numbers is drawn upwards by the noise; its interval, in which every resample takes its
    own largest, says by how much. Leave the unattacked model among the attacks (as ``none``): what is still there needs
    no attack.

    Args:
        attacks: scores under each attack, by name.
        num_resamples: draws behind the interval; an attack on other rows is resampled by itself.
        seed: of the draws.

    Returns:
        ``1`` for a model in which every attack finds what it finds in the reference, ``0`` for one in which some attack
        finds all that the original knows. NaN where no attack has a residual.
    """
    draw = _Draw(num_resamples, seed)
    found = {name: _residual(levels, draw) for name, levels in attacks.items()}
    counted = tuple(name for name, estimate in found.items() if not math.isnan(estimate.value))
    if not counted:
        return Durability(Estimate(math.nan, None, "no attack has a residual"))
    worst = max(counted, key=lambda name: found[name].value)
    replicates = [draw.replicates(_residual_of, _residual_scores(attacks[name])) for name in counted]
    whole = [values for values in replicates if values is not None]
    interval = None
    if len(whole) == len(counted):
        with np.errstate(invalid="ignore"):
            interval = percentile_interval(1 - np.nanmax(np.stack(whole), axis=0))
    return Durability(Estimate(1 - found[worst].value, interval), worst, counted)


_Scores = Mapping[str, np.ndarray]
_Means = Mapping[str, float]


def _rise(mean: _Means) -> float:
    return mean["ua"] - mean["u"]


def _recovery_of(mean: _Means) -> float:
    gap = mean["oa"] - mean["u"]
    return float(np.clip((mean["ua"] - mean["u"]) / gap, 0, 1)) if gap >= LEAST_GAP else math.nan


def _residual_of(mean: _Means) -> float:
    floor = mean.get("ra", 0.0)
    gap = mean["oa"] - floor
    return float(np.clip((mean["ua"] - floor) / gap, 0, 1)) if gap >= LEAST_GAP else math.nan


def _lead(mean: _Means) -> float:
    return mean["oa"] - mean.get("ra", 0.0)


def _recovery(before: Levels, under: Levels, draw: _Draw) -> Estimate:
    if under.original is None:
        return Estimate(math.nan, None, "no original model was given")
    scores = {"u": before.unlearned, "ua": under.unlearned, "oa": under.original}
    return draw.estimate(
        _recovery_of,
        scores,
        "under this attack the original knows no more than the unlearned model did: nothing to recover",
    )


def _residual(under: Levels, draw: _Draw) -> Estimate:
    if under.original is None:
        return Estimate(math.nan, None, "no original model was given")
    if under.reference is None:
        why = "the original knows nothing under this attack"
    else:
        why = "under this attack a model that never saw the data knows as much as the original: the attack tells it"
    lead = draw.estimate(_lead, _residual_scores(under))
    if lead.value >= LEAST_GAP and lead.interval and lead.interval[0] <= 0:
        why = "under this attack it is not certain that the original knows more than a model that never saw the data"
        return Estimate(math.nan, None, why)
    estimate = draw.estimate(_residual_of, _residual_scores(under), why)
    if under.reference is None and not estimate.note:
        return Estimate(
            estimate.value, estimate.interval, "no reference model: what the attack itself tells is counted"
        )
    return estimate


def _residual_scores(under: Levels) -> _Scores:
    assert under.original is not None
    scores = {"ua": under.unlearned, "oa": under.original}
    return scores if under.reference is None else {**scores, "ra": under.reference}


@dataclass(frozen=True)
class _Draw:
    """Paired resampling: the same rows of every model."""

    num_resamples: int
    seed: int

    def estimate(self, of: Callable[[_Means], float], scores: _Scores, why_not: str = "") -> Estimate:
        """A statistic of the scores' means over the rows that have all of them."""
        rows = _complete(scores)
        size = len(next(iter(rows.values())))
        if not size:
            return Estimate(math.nan, None, "no row has all the scores")
        value = of({name: float(column.mean()) for name, column in rows.items()})
        if math.isnan(value):
            return Estimate(value, None, why_not)
        values = self.replicates(of, scores)
        return Estimate(value, None if values is None else percentile_interval(values))

    def replicates(self, of: Callable[[_Means], float], scores: _Scores) -> np.ndarray | None:
        """``(num_resamples,)`` values of the statistic; None where there are fewer than two rows."""
        rows = _complete(scores)
        size = len(next(iter(rows.values())))
        if size < 2 or self.num_resamples < 1:
            return None
        draws = row_resamples(size, self.num_resamples, seed=self.seed)
        means = {name: column[draws].mean(axis=1) for name, column in rows.items()}
        return np.array([of({name: float(m[i]) for name, m in means.items()}) for i in range(self.num_resamples)])


def _complete(scores: _Scores) -> dict[str, np.ndarray]:
    """The rows that have every score."""
    if len({column.shape for column in scores.values()}) > 1:
        shapes = {name: column.shape for name, column in scores.items()}
        raise ValueError(f"scores of one attack must be of the same rows, got {shapes}")
    there = ~np.any([np.isnan(column) for column in scores.values()], axis=0)
    return {name: column[there] for name, column in scores.items()}
