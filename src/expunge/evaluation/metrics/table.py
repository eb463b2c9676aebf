"""The table of metrics: which exist for which sets, with the definition of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from expunge.evaluation.metrics import composite, membership, probability
from expunge.evaluation.metrics.base import Metric, mean_column, to_be_forgotten
from expunge.evaluation.metrics.degeneracy import answers_guard, forget_guard

TOFU_SETS = ("forget", "retain", "holdout", "real_authors", "world_facts")
TOFU_UTILITY_SETS = ("real_authors", "world_facts")
SET_PREFIXES = {"real_authors": "ra", "world_facts": "wf"}
"""Short set names in open-unlearning's keys; every other set goes by its own name."""
_TOFU = "TOFU (arXiv 2401.06121)"
_OPEN_UNLEARNING = "OpenUnlearning (arXiv 2506.12618)"
_TRUTH_COLUMNS = ("paraphrase_avg_loss", "perturbed_avg_loss")


def metrics_for(
    sets: Iterable[str], utility_sets: Sequence[str] = (), *, legacy: bool = False, imported: bool = False
) -> dict[str, Metric]:
    """Build the metrics that make sense for these sets, by key.

    ``sets`` are the names of the scored sets; ``utility_sets`` those that model utility averages over besides
    ``retain``. A metric is in the table when the set it is about is there; what else it lacks (a holdout set, the
    retain model) is said by its value's note. ``legacy`` gives open-unlearning's variants, ``imported`` adds the
    membership attacks that only their logs carry.
    """
    names = list(dict.fromkeys(sets))
    metrics: list[Metric] = []
    for name in names:
        metrics += _answer_metrics(name, utility=name in utility_sets)
    if "forget" in names:
        metrics += [*_forget_metrics(), *_membership_metrics(legacy=legacy, imported=imported)]
        metrics += [*_quality_metrics(), *forget_guard(names)]
        if len(names) > 1:
            metrics += answers_guard([name for name in names if name != "holdout"])
    if "retain" in names:
        metrics.append(_model_utility(tuple(utility_sets)))
    table = {metric.key: metric for metric in metrics}
    about = {key: next(iter(metric.needs)) for key, metric in ADDED.items()}
    return table | {key: ADDED[key] for key, name in about.items() if name in names and key not in table}


ADDED: dict[str, Metric] = {}
"""Metrics that plugins bring; each is in the table of every suite that scores the first set it needs."""


def set_prefix(name: str) -> str:
    """Return the prefix of a set's metric keys: ``ra`` for real_authors, ``wf`` for world_facts, else the name."""
    return SET_PREFIXES.get(name, name)


def _direction(name: str) -> bool | None:
    """Lower where what was to be forgotten is asked for, whatever its set is called (verbmem, knowmem_forget)."""
    if name == "holdout":
        return None
    return not to_be_forgotten(name)


def _answer_metrics(name: str, *, utility: bool) -> list[Metric]:
    """Probability and ROUGE of a set's answers, and of their paraphrases and wrong variants."""
    prefix, title = set_prefix(name), name.replace("_", " ").capitalize()
    metrics = [_probability(name, prefix, title)]
    if name == "holdout":
        # holdout rows are there for membership; nobody generates from them
        return metrics
    metrics.append(_rouge(name, prefix, title))
    if name not in SET_PREFIXES:
        # TOFU has no paraphrases of real authors and world facts
        metrics.append(_paraphrase(name, prefix, title))
    metrics.append(_perturbed(name, prefix, title))
    if utility:
        metrics.append(_normalised(name, prefix, title))
    if name == "retain" or utility:
        metrics.append(_kept_truth_ratio(name, prefix, title))
    return metrics


def _probability(name: str, prefix: str, title: str) -> Metric:
    return Metric(
        key=f"{prefix}_Q_A_Prob",
        label=f"{title}: answer probability",
        definition="mean exp(-avg_loss), the geometric mean of the answer's token probabilities, end-of-sequence "
        f"token counted, over rows. {_TOFU}. Legacy: the same, but one row without tokens makes it NaN.",
        higher_is_better=_direction(name),
        function=partial(mean_column, name=name, column="prob"),
        needs={name: ("prob",)},
    )


def _rouge(name: str, prefix: str, title: str) -> Metric:
    return Metric(
        key=f"{prefix}_Q_A_ROUGE",
        label=f"{title}: ROUGE-L recall",
        definition="mean ROUGE-L recall of the greedy answer against the reference answer, words stemmed; rows "
        f"whose reference has no Latin letter or digit are left out. {_TOFU}. Legacy: they count as 0.",
        # gibberish scores below a model that never saw the answer
        higher_is_better=_direction(name) or None,
        function=partial(mean_column, name=name, column="rougeL_recall"),
        needs={name: ("rougeL_recall",)},
    )


def _paraphrase(name: str, prefix: str, title: str) -> Metric:
    return Metric(
        key=f"{prefix}_Q_A_PARA_Prob",
        label=f"{title}: paraphrase probability",
        definition=f"mean exp(-avg_loss) of the paraphrased answer. {_TOFU}. Legacy: the same.",
        higher_is_better=_direction(name),
        function=partial(probability.paraphrase_probability, name=name),
        needs={name: ("paraphrase_avg_loss",)},
    )


def _perturbed(name: str, prefix: str, title: str) -> Metric:
    return Metric(
        key=f"{prefix}_Q_A_PERT_Prob",
        label=f"{title}: wrong answers' probability",
        definition="mean exp(-avg_loss) of the wrong answers, over a row's variants, then over rows. "
        f"{_TOFU}. Legacy: the same.",
        higher_is_better=None,
        function=partial(probability.perturbed_probability, name=name),
        needs={name: ("perturbed_avg_loss",)},
    )


def _normalised(name: str, prefix: str, title: str) -> Metric:
    return Metric(
        key=f"{prefix}_Q_A_Prob_normalised",
        label=f"{title}: probability among wrong answers",
        definition=f"mean p / (p + sum_j p_j + 1e-10), p_j of the wrong answers. {_TOFU}. Legacy: the same.",
        higher_is_better=True,
        function=partial(probability.normalised_probability, name=name),
        needs={name: ("prob", "perturbed_avg_loss")},
    )


def _kept_truth_ratio(name: str, prefix: str, title: str) -> Metric:
    right = probability.right_answer_column(name)
    return Metric(
        key=f"{prefix}_Truth_Ratio",
        label=f"{title}: truth ratio",
        definition="true_better: mean max(0, 1 - R), R = exp(-mean_j b_j) / (exp(-a) + 1e-10), b_j the wrong answers' "
        f"average losses, a that of the {'paraphrased ' if right != 'avg_loss' else ''}answer. {_TOFU}. "
        "Legacy: the same.",
        higher_is_better=True,
        function=partial(probability.kept_truth_ratio, name=name),
        needs={name: (right, "perturbed_avg_loss")},
    )


def _forget_metrics() -> list[Metric]:
    return [
        Metric(
            key="forget_truth_ratio",
            label="Forget: truth ratio",
            definition="closer_to_1_better: mean min(R, 1/(R + 1e-10)), R as in Truth_Ratio, a the paraphrased answer. "
            f"A collapsed model scores near 0, so compare with the retain model. {_TOFU}. Legacy: the same.",
            higher_is_better=None,
            function=probability.forget_truth_ratio,
            needs={"forget": _TRUTH_COLUMNS},
        ),
        Metric(
            key="forget_truth_ratio_prob_mean",
            label="Forget: truth ratio (probability form)",
            definition="prob_mean: mean c / (c + w + 1e-10), c = exp(-a) of the paraphrased answer, "
            f"w = exp(-mean_j b_j) of the wrong ones. {_OPEN_UNLEARNING}. Legacy: the same.",
            higher_is_better=None,
            function=probability.forget_prob_mean,
            needs={"forget": _TRUTH_COLUMNS},
        ),
        Metric(
            key="extraction_strength",
            label="Forget: extraction strength",
            definition="mean 1 - k/T, k the shortest answer prefix after which every remaining argmax is right, "
            f"k = T if none. Carlini et al. 2023; {_OPEN_UNLEARNING}. Legacy: k <= T-1, so never below "
            "1/T; the last token is dropped even if it is no end of sequence; rows without tokens count as 0.",
            higher_is_better=False,
            function=partial(mean_column, name="forget", column="extraction_strength"),
            needs={"forget": ("extraction_strength",)},
        ),
        Metric(
            key="exact_memorization",
            label="Forget: exact memorisation",
            definition="mean share of answer tokens (without end of sequence) whose argmax is right. Tirumala et al. "
            f"2022; {_OPEN_UNLEARNING}. Legacy: the last token is dropped even if it is no end of sequence.",
            higher_is_better=False,
            function=partial(mean_column, name="forget", column="exact_memorization"),
            needs={"forget": ("exact_memorization",)},
        ),
    ]


def _membership_metrics(*, legacy: bool, imported: bool) -> list[Metric]:
    attacks = membership.ATTACKS | (membership.IMPORTED_ATTACKS if imported else {})
    metrics = [
        Metric(
            key=column,
            label=f"Membership AUC: {column.removeprefix('mia_').replace('_plus_plus', '++').replace('_', '-')}",
            definition=f"AUC of telling holdout (1) from forget (0) by {score}; 1: forget looks like training data, "
            f"0.5: like holdout. {_OPEN_UNLEARNING}. Legacy: the last token is dropped from the min-k family "
            "even if it is no end of sequence.",
            higher_is_better=None,
            function=partial(membership.mia_auc, column=column),
            needs={"forget": (column,), "holdout": (column,)},
        )
        for column, score in attacks.items()
    ]
    metrics.append(
        Metric(
            key="privleak",
            label="Privacy leakage (%)",
            definition="((1-A) - (1-A_ret)) / (1-A_ret + 1e-10) * 100, A and A_ret the min-k AUC of the model and "
            "of the retain model; 0 is ideal, -100 full leakage, unbounded above. MUSE (arXiv 2407.06460). "
            "Legacy: without a retain model A_ret = 0.5.",
            higher_is_better=None,
            function=partial(membership.privleak, legacy=legacy),
            needs={"forget": ("mia_min_k",), "holdout": ("mia_min_k",)},
            needs_reference=not legacy,
            uses_reference=True,
            caution=membership.privleak_caution,
        )
    )
    return metrics


def _quality_metrics() -> list[Metric]:
    quality = "two-sided Kolmogorov-Smirnov test between the model's and the retain model's truth ratios R on forget"
    attacks = tuple(membership.ATTACKS)
    # the exact null distribution costs about 1 ms at 400 rows a side, up to 100 ms at 4000
    few = 200
    return [
        Metric(
            key="forget_quality",
            label="Forget quality (p)",
            definition=f"p-value of the {quality}; depends on the number of rows and saturates. {_TOFU}. "
            "Legacy: the same.",
            higher_is_better=True,
            function=composite.forget_quality,
            needs={"forget": _TRUTH_COLUMNS},
            needs_reference=True,
            max_resamples=few,
        ),
        Metric(
            key="forget_quality_log10",
            label="Forget quality (log10 p)",
            definition=f"log10 of the p-value of the {quality}, not below -323.3. {_TOFU}. Legacy: not there.",
            higher_is_better=True,
            function=composite.forget_quality_log10,
            needs={"forget": _TRUTH_COLUMNS},
            needs_reference=True,
            max_resamples=few,
        ),
        Metric(
            key="mem_score",
            label="Memorisation score",
            definition="harmonic mean of 1 - extraction_strength, 1 - exact_memorization, 1 - forget_Q_A_PARA_Prob, "
            f"1 - forget_truth_ratio_prob_mean. After {_OPEN_UNLEARNING}, on the questions as scored (the paper: "
            "paraphrased ones) and not scaled by the model before unlearning: compare with the retain model's value. "
            "Legacy: not there.",
            higher_is_better=True,
            function=composite.mem_score,
            needs={"forget": ("extraction_strength", "exact_memorization", *_TRUTH_COLUMNS)},
        ),
        Metric(
            key="priv_score",
            label="Privacy score",
            definition="harmonic mean over loss, zlib, min-k and min-k++ of min(A/A_ret, (1-A)/(1-A_ret)). After "
            f"{_OPEN_UNLEARNING}, whose similarity is not given in closed form; this one is ours. Legacy: not there.",
            higher_is_better=True,
            function=composite.priv_score,
            needs={"forget": attacks, "holdout": attacks},
            needs_reference=True,
        ),
    ]


def _model_utility(utility_sets: tuple[str, ...]) -> Metric:
    names = ("retain", *utility_sets)
    others = f" and {{Prob_normalised, ROUGE, Truth_Ratio}} of {', '.join(utility_sets)}" if utility_sets else ""
    return Metric(
        key="model_utility",
        label="Model utility",
        definition=f"harmonic mean of {{Prob, ROUGE, Truth_Ratio}} of retain{others}; any 0 makes it 0. A set without "
        f"wrong answers counts with {{Prob, ROUGE}} only. {_TOFU}. Legacy: the same on TOFU's sets.",
        higher_is_better=True,
        function=partial(composite.model_utility, utility_sets=utility_sets),
        needs=dict.fromkeys(names, ("prob", "rougeL_recall")),
        uses={name: ("perturbed_avg_loss", probability.right_answer_column(name)) for name in names},
        caution=partial(composite.model_utility_caution, utility_sets=utility_sets),
    )


METRICS: dict[str, Metric] = metrics_for(TOFU_SETS, TOFU_UTILITY_SETS)
"""Every metric of a TOFU-like suite; other benchmarks have the same families under their own set names."""
