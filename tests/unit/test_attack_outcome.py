"""What an attack brought back, on scores small enough to do by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.attacks.outcome import Levels, durability, outcome, still_known


def levels(u: list[float], o: list[float] | None = None, r: list[float] | None = None) -> Levels:
    columns = (None if x is None else np.array(x) for x in (u, o, r))
    return Levels(*columns)  # type: ignore[arg-type]


BEFORE = levels([0.0, 0.2], [1.0, 1.0], [0.1, 0.1])


def test_recovery_and_residual_by_hand() -> None:
    found = outcome(BEFORE, levels([0.4, 0.6], [0.8, 1.0], [0.2, 0.2]))
    # means: u 0.1, u' 0.5, o' 0.9, r' 0.2
    assert found.rise.value == pytest.approx(0.4)
    assert found.recovery.value == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert found.residual.value == pytest.approx((0.5 - 0.2) / (0.9 - 0.2))
    assert found.recovered


def test_an_attack_that_does_nothing_recovers_nothing() -> None:
    found = outcome(BEFORE, BEFORE)
    assert (found.rise.value, found.recovery.value, found.recovered) == (0.0, 0.0, False)
    assert found.residual.value == 0.0  # the unlearned model knows no more than the one that never saw the data


def test_shares_stay_between_none_and_all() -> None:
    worse = outcome(BEFORE, levels([0.0, 0.0], [1.0, 1.0], [0.1, 0.1]))
    assert (worse.recovery.value, worse.residual.value) == (0.0, 0.0)
    better = outcome(BEFORE, levels([1.0, 1.0], [0.9, 0.9], [0.1, 0.1]))
    assert (better.recovery.value, better.residual.value) == (1.0, 1.0)


def test_an_attack_that_tells_the_answer_is_not_counted() -> None:
    found = outcome(BEFORE, levels([0.9, 0.9], [0.9, 0.9], [0.9, 0.9]))
    assert math.isnan(found.residual.value)
    assert "the attack tells it" in found.residual.note
    assert durability({"mcq": levels([0.9, 0.9], [0.9, 0.9], [0.9, 0.9])}).counted == ()


def test_a_share_of_a_lead_that_may_be_chance_is_none() -> None:
    # Guessing one of four: the original happens to be right once more than the model that never saw the data.
    guesses = levels([1.0, 0, 0, 1, 0, 0, 0, 0], [0, 1.0, 0, 1, 0, 0, 1, 0], [1.0, 0, 0, 0, 0, 1, 0, 0])
    found = outcome(None, guesses)
    assert math.isnan(found.residual.value)
    assert "not certain" in found.residual.note
    assert durability({"mcq": guesses}).counted == ()


def test_without_a_reference_what_the_attack_tells_counts_and_it_says_so() -> None:
    found = outcome(levels([0.1, 0.1], [1.0, 1.0]), levels([0.5, 0.5], [1.0, 1.0]))
    assert found.residual.value == pytest.approx(0.5)
    assert "no reference model" in found.residual.note


def test_without_an_original_only_the_rise_is_known() -> None:
    found = outcome(levels([0.1, 0.1]), levels([0.5, 0.5]))
    assert found.rise.value == pytest.approx(0.4)
    assert math.isnan(found.recovery.value)
    assert math.isnan(found.residual.value)
    assert "no original" in found.recovery.note


def test_where_nothing_was_lost_there_is_nothing_to_recover() -> None:
    same = levels([0.9, 0.9], [0.9, 0.9], [0.0, 0.0])
    found = outcome(same, same)
    assert math.isnan(found.recovery.value)
    assert "nothing to recover" in found.recovery.note
    assert found.residual.value == 1.0


def test_intervals_are_of_the_same_rows_of_every_model() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random(40)
    before = levels([*0.1 * easy], [*easy], [*0.0 * easy])
    under = levels([*0.5 * easy], [*easy], [*0.0 * easy])
    found = outcome(before, under)
    # Every row keeps half of what the original has: resampling rows changes both alike.
    assert found.residual.interval == pytest.approx((0.5, 0.5))
    low, high = found.rise.interval or (math.nan, math.nan)
    assert low < 0.4 * easy.mean() < high


def test_scores_on_another_scale_have_a_residual_alone() -> None:
    found = outcome(None, levels([0.5, 0.5], [1.0, 1.0], [0.0, 0.0]))
    assert found.residual.value == 0.5
    assert math.isnan(found.rise.value)
    assert math.isnan(found.recovery.value)
    assert not found.recovered
    assert "another scale" in found.rise.note


def test_a_rise_counts_if_it_is_certain_and_large() -> None:
    small = outcome(levels([0.1] * 9), levels([0.13] * 9))
    assert not small.recovered
    some = outcome(levels([0.1] * 9), levels([0.17] * 9))
    assert some.recovered
    assert not outcome(levels([0.1] * 9), levels([0.17] * 9), kind="verbatim").recovered
    lone = outcome(levels([0.0] * 9), levels([0.9] + [0.0] * 8))
    assert lone.rise.value == pytest.approx(0.1)
    assert not lone.recovered  # one row of nine: its interval holds 0


def test_rows_that_lack_a_score_are_left_out_of_every_model() -> None:
    nan = math.nan
    found = outcome(levels([0.0, 0.0, 0.0]), levels([0.2, nan, 0.4], [1.0, 1.0, nan], [0.0, 0.0, 0.0]))
    assert found.rise.value == pytest.approx(0.3)
    assert found.residual.value == pytest.approx(0.2)  # the first row alone
    assert found.residual.interval is None
    assert math.isnan(outcome(levels([nan]), levels([nan])).rise.value)


def test_scores_must_be_of_the_same_rows() -> None:
    with pytest.raises(ValueError, match="same rows"):
        outcome(levels([0.1]), levels([0.1, 0.2]))
    with pytest.raises(ValueError, match="kind must be one of"):
        outcome(BEFORE, BEFORE, kind="memory")


def test_durability_is_what_the_worst_attack_leaves() -> None:
    found = durability(
        {
            "none": levels([0.1, 0.1], [1.0, 1.0], [0.0, 0.0]),
            "int4": levels([0.6, 0.6], [0.9, 0.9], [0.1, 0.1]),
            "mcq": levels([0.9, 0.9], [0.9, 0.9], [0.9, 0.9]),
        }
    )
    assert found.worst == "int4"
    assert found.estimate.value == pytest.approx(1 - 0.5 / 0.8)
    assert found.counted == ("none", "int4")
    assert found.estimate.interval == pytest.approx((0.375, 0.375))


def test_the_interval_of_the_worst_takes_the_worst_of_every_resample() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.random(30), rng.random(30)
    ones, zeros = np.ones(30), np.zeros(30)
    both = durability({"a": Levels(one, ones, zeros), "b": Levels(other, ones, zeros)})
    alone = durability({both.worst: Levels(one if both.worst == "a" else other, ones, zeros)})
    assert both.estimate.interval is not None
    assert alone.estimate.interval is not None
    assert both.estimate.interval[1] <= alone.estimate.interval[1]
    assert both.estimate.value == pytest.approx(1 - max(one.mean(), other.mean()))


def test_the_same_seed_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(2)
    under = Levels(rng.random(12), np.ones(12), np.zeros(12))
    first, again, other = (outcome(under, under, seed=seed).residual.interval for seed in (0, 0, 1))
    assert first == again != other


def test_what_is_still_known_of_the_retain_rows_by_hand() -> None:
    found = still_known(np.array([0.2, 0.4]), np.array([0.8, 1.0]))
    assert found.value == pytest.approx(0.3 / 0.9)
    assert found.interval is not None
    assert found.interval[0] <= found.value <= found.interval[1]
    assert still_known(np.array([1.0]), np.array([0.5])).value == pytest.approx(2)
    nothing = still_known(np.array([0.1, 0.1]), np.array([0.0, 0.0]))
    assert math.isnan(nothing.value)
    assert nothing.note == "the original does not know the retain rows"
