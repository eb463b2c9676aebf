import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.evaluation import stats

floats = st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 1))
samples = st.lists(floats, min_size=1, max_size=20).map(np.array)


def test_auc_counts_pairs_and_half_ties():
    # pairs (neg, pos): (1,2)+ (1,3)+ (2,2)= (2,3)+ (4,2)- (4,3)-  ->  (3 + 0.5) / 6
    assert stats.auc(np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0])) == pytest.approx(3.5 / 6)


def test_auc_leaves_out_missing_scores_and_needs_both_sides():
    assert stats.auc(np.array([0.0, np.nan]), np.array([1.0])) == 1.0
    assert math.isnan(stats.auc(np.array([np.nan]), np.array([1.0])))


@given(samples, samples)
def test_auc_is_symmetric_and_equals_the_loop_over_pairs(neg, pos):
    pairs = [(n < p) + 0.5 * (n == p) for n in neg for p in pos]
    assert stats.auc(neg, pos) == pytest.approx(sum(pairs) / len(pairs))
    assert stats.auc(neg, pos) + stats.auc(pos, neg) == pytest.approx(1.0)


def test_ks_pvalue_of_two_separated_pairs_is_one_third():
    # D = 1; of the C(4,2) = 6 orderings of two and two, 2 separate them fully
    assert stats.ks_pvalue(np.array([1.0, 2.0, np.nan]), np.array([3.0, 4.0])) == pytest.approx(2 / 6)
    assert stats.ks_pvalue(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == 1.0
    assert math.isnan(stats.ks_pvalue(np.array([]), np.array([1.0])))


def test_harmonic_mean():
    assert stats.harmonic_mean([0.5, 0.25]) == pytest.approx(2 / (2 + 4))
    assert stats.harmonic_mean([0.5, 0.0]) == 0.0
    assert math.isnan(stats.harmonic_mean([]))
    assert math.isnan(stats.harmonic_mean([0.0, math.nan]))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=9))
def test_harmonic_mean_lies_between_the_extremes(values):
    assert min(values) * (1 - 1e-9) <= stats.harmonic_mean(values) <= max(values) * (1 + 1e-9)


def test_words_and_ngrams():
    assert stats.words("It's 5 o'clock...") == ["it", "'", "s", "5", "o", "'", "clock", ".", ".", "."]
    assert stats.words("我是 cat") == ["我", "是", "cat"]
    assert stats.ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert stats.ngrams("a", 2) == []


def test_distinct_repetition_and_entropy():
    texts = ["a b a b", "a b"]
    # bigrams: ab ba ab | ab -> 2 different of 4, frequencies 3/4 and 1/4
    assert stats.distinct_n(texts, 2) == pytest.approx(2 / 4)
    assert stats.repetition(texts, 2) == pytest.approx(1 - 2 / 4)
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert stats.ngram_entropy(texts, 2) == pytest.approx(entropy)
    assert stats.ngram_entropy(["a a a"], 1) == 0.0
    assert all(math.isnan(f(["a"], 2)) for f in (stats.distinct_n, stats.repetition, stats.ngram_entropy))


def test_row_resamples_are_reproducible_and_differ_between_sets():
    first = stats.row_resamples(10, 4, seed=3, name="forget")
    assert first.shape == (4, 10)
    assert first.min() >= 0
    assert first.max() < 10
    assert np.array_equal(first, stats.row_resamples(10, 4, seed=3, name="forget"))
    assert not np.array_equal(first, stats.row_resamples(10, 4, seed=3, name="retain"))
    assert not np.array_equal(first, stats.row_resamples(10, 4, seed=4, name="forget"))


def test_percentile_interval_leaves_out_undefined_resamples():
    values = np.array([np.nan, *range(101)], dtype=float)
    assert stats.percentile_interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert stats.percentile_interval(np.array([1.0, np.nan, np.nan]), 0.9) is None
    assert stats.percentile_interval(np.array([]), 0.9) is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.percentile_interval(values, 95)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    low, high = stats.bootstrap_interval(lambda rows: float(values[rows].mean()), 400, num_resamples=2000)
    half = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        values = generator.exponential(size=60)
        interval = stats.bootstrap_interval(
            lambda rows, v=values: float(v[rows].mean()), 60, num_resamples=200, seed=trial, level=0.9
        )
        hits += interval[0] <= 1.0 <= interval[1]
    # 0.9 of 200 is 180; skewed data and the percentile form cost a little
    assert 164 <= hits <= 195


def test_no_interval_from_one_row_or_no_resamples():
    assert stats.bootstrap_interval(lambda rows: 1.0, 1) is None
    assert stats.bootstrap_interval(lambda rows: 1.0, 5, num_resamples=0) is None


def test_paired_difference_cancels_what_rows_share():
    easy = np.random.default_rng(0).normal(scale=100, size=50)
    low, high = stats.paired_difference_interval(easy + 1.0, easy, num_resamples=200)
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.0)


def test_paired_difference_drops_rows_that_either_lacks():
    first, second = np.array([1.0, np.nan, 3.0]), np.array([0.0, 5.0, 2.0])
    assert stats.paired_difference_interval(first, second, num_resamples=50) == (1.0, 1.0)
    medians = stats.paired_difference_interval(first, second, statistic=lambda v: float(np.median(v)), num_resamples=50)
    assert medians == (1.0, 1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        stats.paired_difference_interval(first, second[:2])
