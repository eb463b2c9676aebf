import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.evaluation.metrics import TokenScores, answer_columns, fluency_columns, padded, rouge_columns
from expunge.evaluation.metrics.membership_scores import min_k, min_k_plus_plus
from expunge.evaluation.metrics.memorization import exact_memorization, extraction_strength


def scored(logps, correct, *, eos, mean=None, variance=None):
    length = len(logps)
    return TokenScores(
        logps=np.array(logps, dtype=np.float32),
        correct=np.array(correct, dtype=bool),
        mean=np.array(mean if mean is not None else [-1.0] * length, dtype=np.float32),
        variance=np.array(variance if variance is not None else [1.0] * length, dtype=np.float32),
        ends_with_eos=eos,
    )


def test_losses_count_the_end_of_sequence_and_memorization_does_not():
    answer = scored([-1.0, -2.0, -3.0, -4.0, -0.5], [True, False, True, True, False], eos=True)
    columns = answer_columns([answer], ["abc"])
    loss = (1 + 2 + 3 + 4 + 0.5) / 5
    assert columns["avg_loss"] == pytest.approx(loss)
    assert columns["mia_loss"] == pytest.approx(loss)
    assert columns["prob"] == pytest.approx(math.exp(-loss))
    assert columns["mia_zlib"] == pytest.approx(loss / len(zlib.compress(b"abc")))
    assert columns["num_tokens"] == 5
    # of the 4 answer tokens 3 are right, and all are right after the first 2
    assert columns["exact_memorization"] == pytest.approx(3 / 4)
    assert columns["extraction_strength"] == pytest.approx(1 - 2 / 4)
    # int(4 * 0.4) = 1 token: the least likely
    assert columns["mia_min_k"] == pytest.approx(4.0)
    # z = (logp + 1) / 1, the lowest is -3
    assert columns["mia_min_k_plus_plus"] == pytest.approx(3.0)


def test_without_end_of_sequence_every_token_is_an_answer_token_but_legacy_drops_the_last():
    answer = scored([-1.0, -1.0, -1.0, -9.0], [True, True, True, False], eos=False)
    ours, legacy = (answer_columns([answer], ["x"], legacy=flag) for flag in (False, True))
    assert ours["exact_memorization"] == pytest.approx(3 / 4)
    assert legacy["exact_memorization"] == 1.0
    # the last token is wrong, so no suffix matches
    assert ours["extraction_strength"] == 0.0
    assert legacy["extraction_strength"] == 1.0
    assert ours["mia_min_k"] == 9.0
    assert legacy["mia_min_k"] == 1.0
    assert ours["avg_loss"] == legacy["avg_loss"] == 3.0


def test_legacy_and_ours_agree_above_the_floor_when_the_answer_ends():
    answer = scored([-1.0, -3.0, -2.0, -4.0], [False, True, True, False], eos=True)
    ours, legacy = (answer_columns([answer], ["x"], legacy=flag) for flag in (False, True))
    assert {name: ours[name][0] for name in ours} == {name: legacy[name][0] for name in legacy}


def test_rows_without_tokens_are_missing_not_zero():
    empty = scored([], [], eos=False)
    only_end = scored([-2.0], [True], eos=True)
    columns = answer_columns([empty, only_end], ["", ""])
    inner = ("extraction_strength", "exact_memorization", "mia_min_k", "mia_min_k_plus_plus")
    assert all(np.isnan(columns[name]).all() for name in inner)
    assert np.array_equal(np.isnan(columns["avg_loss"]), [True, False])
    assert np.array_equal(np.isnan(columns["prob"]), [True, False])
    assert np.array_equal(columns["num_tokens"], [0, 1])
    legacy = answer_columns([empty, only_end], ["", ""], legacy=True)
    assert np.array_equal(legacy["extraction_strength"], [0.0, 0.0])
    assert np.isnan(legacy["exact_memorization"]).all()


def test_no_rows_give_empty_columns():
    assert all(values.shape == (0,) for values in answer_columns([], []).values())


def test_texts_must_match_the_rows():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        answer_columns([scored([-1.0], [True], eos=False)], [])


def test_token_scores_reject_ragged_arrays_and_an_end_without_tokens():
    one = np.zeros(1, dtype=np.float32)
    with pytest.raises(ValueError, match="one length"):
        TokenScores(one, np.zeros(2, dtype=bool), one, one, False)
    with pytest.raises(ValueError, match="cannot end"):
        scored([], [], eos=True)


@pytest.mark.parametrize(
    ("correct", "ours", "legacy"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),
        ([0, 1, 1, 1], 3 / 4, 3 / 4),
        ([1, 1, 0, 1], 1 / 4, 1 / 4),
        ([1, 1, 1, 0], 0.0, 1 / 4),
        ([0], 0.0, 1.0),
    ],
)
def test_extraction_strength_by_hand(correct, ours, legacy):
    flags = np.array(correct, dtype=bool)
    assert extraction_strength(flags) == pytest.approx(ours)
    assert extraction_strength(flags, legacy=True) == pytest.approx(legacy)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_matches_its_definition_and_never_exceeds_exact_memorization(correct):
    flags = np.array(correct)
    length = len(correct)
    shortest = next(k for k in range(length + 1) if all(correct[k:]))
    value = extraction_strength(flags)
    assert value == pytest.approx(1 - shortest / length)
    assert 0.0 <= value <= exact_memorization(flags) + 1e-12
    assert extraction_strength(flags, legacy=True) == pytest.approx(max(value, 1 / length))


def test_min_k_takes_the_lowest_share_and_at_least_one():
    logps = np.array([-1.0, -5.0, -3.0, -2.0, -4.0])
    assert min_k(logps) == pytest.approx((5 + 4) / 2)  # int(5 * 0.4) = 2
    assert min_k(logps[:2]) == 5.0  # int(0.8) = 0, so one
    assert min_k(logps, share=1.0) == pytest.approx(15 / 5)
    assert math.isnan(min_k(np.array([])))


def test_min_k_plus_plus_standardises_with_a_floor_on_the_variance():
    logps, mean, variance = np.array([-3.0, -1.0]), np.array([-1.0, -1.0]), np.array([4.0, 1.0])
    assert min_k_plus_plus(logps, mean, variance) == pytest.approx((3 - 1) / 2)
    # sigma^2 = 0 counts as 1e-6: (-1.001 + 1) / 1e-3 = -1
    assert min_k_plus_plus(np.array([-1.001]), np.array([-1.0]), np.array([0.0])) == pytest.approx(1.0)


@given(st.permutations(range(6)))
def test_min_k_ignores_token_order(order):
    logps = np.array([-0.1, -2.0, -0.7, -3.0, -0.2, -1.5])
    assert min_k(logps[list(order)]) == pytest.approx(min_k(logps))


def test_rouge_by_hand():
    columns = rouge_columns(["the cats sat", ""], ["the cat sat down", "yes"])
    # stemmed: cats = cat; 3 of 4 reference words, 3 of 3 generated: F1 = 2*1*0.75/1.75
    assert columns["rouge1_recall"] == pytest.approx([3 / 4, 0.0])
    assert columns["rougeL_recall"] == pytest.approx([3 / 4, 0.0])
    assert columns["rougeL_f1"] == pytest.approx([2 * 0.75 / 1.75, 0.0])


def test_rouge_l_is_about_order_and_rouge_1_is_not():
    columns = rouge_columns(["b a"], ["a b"])
    assert columns["rouge1_recall"] == 1.0
    assert columns["rougeL_recall"] == 0.5


def test_rouge_of_a_reference_it_cannot_read_is_missing():
    assert all(np.isnan(values).all() for values in rouge_columns(["北京"], ["北京"]).values())
    with pytest.raises(ValueError, match=r"shorter|longer"):
        rouge_columns(["a"], [])


def test_fluency_by_hand():
    columns = fluency_columns(["the the the the", "a b c", "", " ...\n", "one"])
    # three pairs "the the", one different; ". ." twice, one different
    assert columns["distinct_2"] == pytest.approx([1 / 3, 1.0, np.nan, 1 / 2, np.nan], nan_ok=True)
    assert np.array_equal(columns["empty"], [0, 0, 1, 1, 0])
    assert np.array_equal(columns["num_words"], [4, 3, 0, 0, 1])


def test_padded_fills_with_nan():
    assert padded([[1.0, 2.0], [3.0], []]) == pytest.approx(
        np.array([[1.0, 2.0], [3.0, np.nan], [np.nan, np.nan]]), nan_ok=True
    )
    assert padded([]).shape == (0, 0)
