import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.evaluation.metrics import METRICS, compute, metrics_for
from expunge.evaluation.metrics.membership import auc_similarity, privleak
from expunge.evaluation.metrics.probability import closer_to_1_better, prob_mean, true_better, truth_ratios

LN2 = math.log(2.0)


def col(*values):
    return np.array(values, dtype=np.float64)


def value(key, scores, reference=None, utility_sets=(), **options):
    metrics = metrics_for(scores, utility_sets, **options)
    return compute(scores, reference, {key: metrics[key]}, num_resamples=0)[key]


def suite(n=30, seed=0, shift=0.0):
    """Columns of a made-up model on all of TOFU's sets, ``n`` rows each."""
    generator = np.random.default_rng(seed)
    scores = {}
    for name in ("forget", "retain", "holdout", "real_authors", "world_facts"):
        losses = generator.gamma(2.0, 0.5, size=n) + (shift if name == "forget" else 0.0)
        scores[name] = {
            "avg_loss": losses,
            "prob": np.exp(-losses),
            "paraphrase_avg_loss": losses + generator.normal(0.3, 0.1, n),
            "perturbed_avg_loss": losses[:, None] + generator.normal(0.6, 0.3, (n, 5)),
            "rougeL_recall": generator.uniform(0.2, 1.0, n),
            "extraction_strength": generator.uniform(0, 1, n),
            "exact_memorization": generator.uniform(0, 1, n),
            "distinct_2": generator.uniform(0.5, 1, n),
            "empty": (generator.uniform(size=n) < 0.1).astype(float),
            "generation_loss": generator.uniform(1, 4, n),
        }
        for attack in ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus"):
            scores[name][attack] = losses + generator.normal(0, 0.2, n)
    return scores


def test_probability_is_the_mean_over_rows_that_have_one():
    result = value("forget_Q_A_Prob", {"forget": {"prob": col(0.5, 0.1, np.nan)}})
    assert result.value == pytest.approx((0.5 + 0.1) / 2)
    assert result.n == 2


def test_variant_probabilities():
    scores = {
        "retain": {
            "paraphrase_avg_loss": LN2 * col(1, 2),
            "perturbed_avg_loss": LN2 * np.array([[1, 2, np.nan], [3, 3, 3]]),
        }
    }
    assert value("retain_Q_A_PARA_Prob", scores).value == pytest.approx((1 / 2 + 1 / 4) / 2)
    # first over a row's wrong answers, then over rows
    assert value("retain_Q_A_PERT_Prob", scores).value == pytest.approx(((1 / 2 + 1 / 4) / 2 + 1 / 8) / 2)


def test_normalised_probability():
    scores = {"real_authors": {"prob": col(0.5), "perturbed_avg_loss": LN2 * np.array([[1, 2, np.nan]])}}
    result = value("ra_Q_A_Prob_normalised", scores, utility_sets=["real_authors"])
    assert result.value == pytest.approx(0.5 / (0.5 + 0.5 + 0.25))


def test_truth_ratio_and_its_three_aggregates():
    # a = 1 bit; b = 2 bits on average: R = (1/4)/(1/2).  Second row the other way round: R = 2.
    columns = {"a": LN2 * col(1, 2), "perturbed_avg_loss": LN2 * np.array([[1.0, 3.0], [1.0, 1.0]])}
    ratios = truth_ratios(columns, right="a")
    assert ratios == pytest.approx([0.5, 2.0])
    assert closer_to_1_better(ratios) == pytest.approx((0.5 + 1 / 2) / 2)
    assert true_better(ratios) == pytest.approx((0.5 + 0.0) / 2)
    # c/(c+w): (1/2)/(1/2+1/4) and (1/4)/(1/4+1/2)
    assert prob_mean(columns, right="a") == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_the_right_answer_is_the_paraphrase_for_forget_and_retain_and_the_answer_elsewhere():
    columns = {"avg_loss": LN2 * col(1), "paraphrase_avg_loss": LN2 * col(2), "perturbed_avg_loss": LN2 * col([3])}
    scores = {"forget": columns, "retain": columns, "world_facts": columns}
    # R = (1/8)/(1/4) with the paraphrase, (1/8)/(1/2) with the answer
    assert value("forget_truth_ratio", scores).value == pytest.approx(0.5)
    assert value("retain_Truth_Ratio", scores).value == pytest.approx(1 - 0.5)
    assert value("wf_Truth_Ratio", scores, utility_sets=["world_facts"]).value == pytest.approx(1 - 0.25)


def test_a_row_without_wrong_answers_has_no_truth_ratio():
    columns = {"paraphrase_avg_loss": col(LN2, LN2), "perturbed_avg_loss": np.array([[LN2], [np.nan]])}
    result = value("forget_truth_ratio", {"forget": columns})
    assert result.value == pytest.approx(1.0)
    assert result.n == 1


def test_model_utility_is_the_harmonic_mean_of_nine():
    def columns(prob):
        return {
            "avg_loss": LN2 * col(1),
            "prob": col(prob),
            "paraphrase_avg_loss": LN2 * col(1),
            "perturbed_avg_loss": LN2 * col([2, 2]),
            "rougeL_recall": col(0.8),
        }

    scores = {"retain": columns(0.9), "real_authors": columns(0.5), "world_facts": columns(0.25)}
    # truth ratio 1 - (1/4)/(1/2) = 0.5 everywhere; normalised: 0.5/(0.5+2/4) and 0.25/(0.25+2/4)
    parts = [0.9, 0.8, 0.5, 0.5, 0.8, 0.5, 1 / 3, 0.8, 0.5]
    result = value("model_utility", scores, utility_sets=["real_authors", "world_facts"])
    assert result.value == pytest.approx(9 / sum(1 / p for p in parts))
    assert result.note == ""
    scores["world_facts"]["rougeL_recall"] = col(0.0)
    assert value("model_utility", scores, utility_sets=["real_authors", "world_facts"]).value == 0.0


def test_model_utility_of_sets_without_wrong_answers_uses_probability_and_rouge_and_says_so():
    plain = {"avg_loss": LN2 * col(1), "prob": col(0.5), "rougeL_recall": col(0.25)}
    scores = {"retain": plain, "general": plain | {"perturbed_avg_loss": np.full((1, 3), np.nan)}}
    result = value("model_utility", scores, utility_sets=["general"])
    assert result.value == pytest.approx(4 / (2 + 4 + 2 + 4))
    assert result.note == "no truth ratio for retain, general: probability and ROUGE only"


def test_model_utility_needs_every_utility_set():
    scores = {"retain": {"prob": col(0.5), "rougeL_recall": col(0.5)}}
    result = value("model_utility", scores, utility_sets=["general"])
    assert result.value is None
    assert result.note == "no general set was scored"


def test_membership_auc_is_one_when_forget_looks_trained_on():
    scores = {"forget": {"mia_loss": col(0.1, 0.2, 0.9)}, "holdout": {"mia_loss": col(0.5, 0.8)}}
    # 0.1 and 0.2 lie below both, 0.9 above both: 4 of 6 pairs
    result = value("mia_loss", scores)
    assert result.value == pytest.approx(4 / 6)
    assert result.n == 5


def test_privleak_compares_with_the_retain_model():
    model = {"forget": {"mia_min_k": col(1, 2)}, "holdout": {"mia_min_k": col(3, 4)}}
    retain = {"forget": {"mia_min_k": col(1, 4)}, "holdout": {"mia_min_k": col(2, 3)}}
    # A = 1, A_ret = 2/4: ((1-1) - 0.5) / 0.5
    assert value("privleak", model, retain).value == pytest.approx(-100.0)
    assert value("privleak", retain, retain).value == 0.0
    missing = value("privleak", model)
    assert missing.value is None
    assert missing.note == "needs the retain model's scores as reference"
    # legacy compares with 0.5 and says so
    legacy = value("privleak", model, legacy=True)
    assert legacy.value == pytest.approx((0.0 - 0.5) / 0.5 * 100)
    assert "0.5" in legacy.note


def test_privleak_warns_of_a_reference_that_saw_the_forget_set():
    model = {"forget": {"mia_min_k": col(1, 4)}, "holdout": {"mia_min_k": col(2, 3)}}
    trained = {"forget": {"mia_min_k": col(1, 2)}, "holdout": {"mia_min_k": col(3, 4)}}
    result = value("privleak", model, trained)
    assert result.value is None
    assert "was it trained on the forget set?" in result.note
    assert privleak(model, trained, legacy=True) == pytest.approx(0.5 / 1e-10 * 100)


def test_forget_quality_is_the_ks_p_value_of_truth_ratios():
    def ratios(*bits):
        return {"forget": {"paraphrase_avg_loss": 0 * col(*bits), "perturbed_avg_loss": LN2 * col(*bits)[:, None]}}

    low, high = ratios(3, 4), ratios(1, 2)
    # two rows against two, fully apart: 2 of 6 orderings
    assert value("forget_quality", low, high).value == pytest.approx(1 / 3)
    assert value("forget_quality_log10", low, high).value == pytest.approx(math.log10(1 / 3))
    assert value("forget_quality", low, low).value == 1.0
    assert value("forget_quality", low).value is None


def test_forget_quality_log10_stays_finite_when_the_p_value_underflows():
    n = 2000
    low = {"forget": {"paraphrase_avg_loss": np.zeros(n), "perturbed_avg_loss": np.linspace(3, 4, n)[:, None]}}
    high = {"forget": {"paraphrase_avg_loss": np.zeros(n), "perturbed_avg_loss": np.linspace(1, 2, n)[:, None]}}
    assert value("forget_quality", low, high).value == 0.0
    assert value("forget_quality_log10", low, high).value == pytest.approx(-323.3, abs=0.1)


def test_memorisation_score():
    forget = {
        "extraction_strength": col(0.5),
        "exact_memorization": col(0.75),
        "paraphrase_avg_loss": LN2 * col(1),
        "perturbed_avg_loss": LN2 * col([1.0]),
    }
    # 1 - ES, 1 - EM, 1 - 1/2, 1 - (1/2)/(1/2+1/2)
    assert value("mem_score", {"forget": forget}).value == pytest.approx(4 / (2 + 4 + 2 + 2))


def test_privacy_score_and_its_similarity():
    assert auc_similarity(0.2, 0.4) == pytest.approx(0.2 / 0.4)
    assert auc_similarity(0.7, 0.4) == pytest.approx(0.3 / 0.6)
    assert auc_similarity(1.0, 1.0) == 1.0
    assert auc_similarity(1.0, 0.5) == 0.0
    assert math.isnan(auc_similarity(math.nan, 0.5))
    scores = suite()
    assert value("priv_score", scores, scores).value == pytest.approx(1.0)


def test_fluency_guards():
    scores = {"forget": {"distinct_2": col(1.0, 0.5, np.nan), "empty": col(0, 0, 1)}}
    assert value("forget_distinct_2", scores).value == pytest.approx(0.75)
    # rows without an answer are left out: exp((1 + 3) / 2)
    losses = {"forget": {"generation_loss": col(1.0, 3.0, np.nan)}}
    assert value("forget_perplexity", losses).value == pytest.approx(math.exp(2.0))
    assert value("forget_empty_rate", scores).value == pytest.approx(1 / 3)


def test_the_forget_guards_read_the_rephrased_questions_too():
    scores = {
        "forget": {"generation_loss": col(1.0, np.nan), "distinct_2": col(1.0, 0.4), "empty": col(0, 1)},
        "forget_rephrased": {"generation_loss": col(2.0, 6.0), "distinct_2": col(0.5, 0.5), "empty": col(0, 0)},
    }
    assert value("forget_perplexity", scores).value == pytest.approx(math.exp(3.0))
    assert value("forget_distinct_2", scores).value == pytest.approx(0.6)
    assert value("forget_empty_rate", scores).value == pytest.approx(1 / 4)
    assert (value("forget_perplexity", scores).n, value("forget_perplexity", scores).version) == (3, 2)
    del scores["forget_rephrased"]["generation_loss"]
    assert value("forget_perplexity", scores).value == pytest.approx(math.e)


def test_missing_needs_are_named_never_guessed():
    forget = {"prob": col(0.5), "mia_loss": col(1.0), "rougeL_recall": col(np.nan)}
    metrics = metrics_for(["forget"])
    results = compute({"forget": forget}, None, metrics, num_resamples=0)
    assert set(results) == set(metrics)
    assert results["forget_Q_A_Prob"].value == 0.5
    assert results["forget_Q_A_ROUGE"].value is None
    assert results["forget_Q_A_ROUGE"].note == "no row of the forget set has rougeL_recall"
    assert results["mia_loss"].note == "no holdout set was scored"
    assert results["mia_loss"].n == 0
    assert "model_utility" not in results


def test_what_the_reference_lacks_is_named():
    scores = suite(5)
    assert value("forget_quality", scores, {}).note == "in the reference: no forget set was scored"


def test_columns_of_unequal_length_are_a_mistake():
    with pytest.raises(ValueError, match="forget set differ"):
        compute({"forget": {"prob": col(1), "empty": col(1, 0)}}, None, {})


def test_families_follow_the_sets_and_keep_the_peers_prefixes():
    keys = set(metrics_for(["forget", "retain", "general"], ["general"]))
    assert {"general_Q_A_Prob", "general_Q_A_ROUGE", "general_Q_A_Prob_normalised", "general_Truth_Ratio"} <= keys
    assert {"ra_Q_A_Prob_normalised", "wf_Truth_Ratio", "retain_Q_A_PARA_Prob"} <= set(METRICS)
    assert "real_authors_Q_A_Prob" not in METRICS
    assert "mia_gradnorm" not in METRICS
    assert "mia_gradnorm" in metrics_for(["forget"], imported=True)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_every_metric_is_described(metric):
    assert METRICS[metric.key] is metric
    assert metric.label
    assert "Legacy:" in metric.definition
    assert metric.needs
    assert metric.version >= 1
    assert metric.needs_holdout == ("holdout" in metric.needs)


def test_the_page_on_metrics_lists_them_all():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    for key in METRICS:
        family = re.sub(r"^(forget|retain|holdout|ra|wf)_(?=Q_A|Truth)", "{set}_", key)
        assert f"| `{key}` |" in page or f"| `{family}` |" in page, key


def test_directions():
    up = {k for k, m in METRICS.items() if m.higher_is_better}
    down = {k for k, m in METRICS.items() if m.higher_is_better is False}
    assert {"model_utility", "forget_quality", "retain_Q_A_ROUGE", "forget_distinct_2", "wf_Q_A_Prob"} <= up
    assert {"forget_Q_A_Prob", "extraction_strength", "exact_memorization", "forget_empty_rate"} <= down
    assert {"forget_truth_ratio", "forget_Q_A_ROUGE", "privleak", "mia_min_k"}.isdisjoint(up | down)


def test_all_metrics_have_intervals_around_their_values():
    results = compute(suite(shift=0.2), suite(seed=1), METRICS, num_resamples=200)
    for key, result in results.items():
        assert result.value is not None, key
        assert result.ci_low <= result.ci_high, key
        if not key.startswith("forget_quality"):
            assert result.ci_low <= result.value <= result.ci_high, key


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    probs = np.random.default_rng(0).uniform(size=400)
    result = compute({"forget": {"prob": probs}}, None, metrics_for(["forget"]))["forget_Q_A_Prob"]
    half = 1.96 * probs.std() / math.sqrt(400)
    assert result.ci_high - result.ci_low == pytest.approx(2 * half, rel=0.15)


def test_the_reference_moves_with_the_model_where_rows_are_the_same():
    scores = suite()
    same = compute(scores, scores, METRICS, num_resamples=50)
    assert (same["forget_quality"].ci_low, same["forget_quality"].ci_high) == (1.0, 1.0)
    assert (same["privleak"].ci_low, same["privleak"].ci_high) == (0.0, 0.0)
    shorter = {name: {c: v[:-1] for c, v in columns.items()} for name, columns in scores.items()}
    fixed = compute(scores, shorter, METRICS, num_resamples=50)
    assert fixed["privleak"].ci_low < fixed["privleak"].ci_high


def test_legacy_privleak_uses_a_reference_in_value_and_interval_alike():
    scores, retain = suite(), suite(seed=1)
    metrics = {"privleak": metrics_for(scores)["privleak"]}
    legacy = {"privleak": metrics_for(scores, legacy=True)["privleak"]}
    assert compute(scores, retain, legacy, num_resamples=50) == compute(scores, retain, metrics, num_resamples=50)
    assert compute(scores, None, legacy, num_resamples=50)["privleak"].ci_low is not None


def test_sets_are_resampled_independently():
    probs = {"prob": np.random.default_rng(0).uniform(size=50)}
    results = compute({"forget": probs, "retain": probs}, None, metrics_for(["forget", "retain"]), num_resamples=100)
    assert results["forget_Q_A_Prob"].value == results["retain_Q_A_Prob"].value
    assert results["forget_Q_A_Prob"].ci_low != results["retain_Q_A_Prob"].ci_low


def test_same_seed_same_interval_and_one_row_has_none():
    metrics = metrics_for(["forget"])
    scores = {"forget": {"prob": np.linspace(0, 1, 9)}}
    runs = [compute(scores, None, metrics, num_resamples=50, seed=seed)["forget_Q_A_Prob"] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    for values in (col(0.5), col(np.nan, 0.5, np.nan)):
        single = compute({"forget": {"prob": values}}, None, metrics)["forget_Q_A_Prob"]
        assert (single.value, single.ci_low, single.ci_high, single.n) == (0.5, None, None, 1)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(8)))
def test_row_order_changes_no_value(order):
    scores, reference = suite(8), suite(8, seed=1)
    shuffled = {name: {c: v[list(order)] for c, v in columns.items()} for name, columns in scores.items()}
    first = compute(scores, reference, METRICS, num_resamples=0)
    second = compute(shuffled, reference, METRICS, num_resamples=0)
    for key in METRICS:
        assert second[key].value == pytest.approx(first[key].value), key


def test_infinite_loss_is_probability_zero_not_a_crash():
    scores = suite(4)
    for column in ("avg_loss", "paraphrase_avg_loss"):
        scores["forget"][column][0] = np.inf
    scores["forget"]["perturbed_avg_loss"][0] = np.inf
    scores["forget"]["prob"][0] = 0.0
    results = compute(scores, suite(4, seed=1), METRICS, num_resamples=20)
    assert all(result.value is not None for result in results.values())


def test_the_guard_over_all_answers_counts_each_alike() -> None:
    scores = {
        "forget": {"generation_loss": np.array([1.0, 3.0]), "distinct_2": np.array([0.5, np.nan])},
        "retain": {"generation_loss": np.array([2.0, np.nan, 6.0]), "distinct_2": np.array([1.0, 1.0, 0.9])},
        "holdout": {"generation_loss": np.array([50.0])},
    }
    table = metrics_for(("forget", "retain", "holdout"))
    found = compute(scores, None, table, num_resamples=50)
    assert found["answers_perplexity"].value == pytest.approx(math.exp((1 + 3 + 2 + 6) / 4))
    assert found["answers_distinct_2"].value == pytest.approx((0.5 + 1.0 + 1.0 + 0.9) / 4)
    # The interval is over the rows of all sets.
    cell = found["answers_perplexity"]
    assert cell.ci_low is not None
    assert cell.ci_high is not None
    # Of the forget rows alone it could not reach beyond exp(3).
    assert 1 <= cell.ci_low <= cell.value <= math.exp(3) < cell.ci_high <= math.exp(6)
    assert cell.n == 4
    # One set has nothing besides it.
    assert "answers_perplexity" not in metrics_for(("forget",))
