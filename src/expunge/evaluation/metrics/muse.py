"""MUSE (Shi et al. 2024, arXiv 2407.06460): verbatim memory, knowledge, privacy leakage, and requests that pile up.

Sets: ``verbmem`` (the beginning of a text, to be continued), ``knowmem_forget`` and ``knowmem_retain`` (questions),
``forget`` and ``holdout`` (raw text, for privacy leakage).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from expunge.evaluation.metrics.base import Metric, mean_column
from expunge.evaluation.metrics.degeneracy import beware_collapse, guard_metrics
from expunge.evaluation.metrics.joint import Models, joint_values, restrict
from expunge.evaluation.metrics.membership import privleak_caution
from expunge.evaluation.metrics.rouge import ROUGE_COLUMNS, rouge_table
from expunge.evaluation.metrics.text import fluency_columns, rouge_columns
from expunge.evaluation.metrics.tokens import Columns, Scores
from expunge.evaluation.stats import Interval, auc

GENERATED_SETS = ("verbmem", "knowmem_forget", "knowmem_retain")
STOP_WORDS = ("\n\n", "\nQuestion", "Question:")
"""Where an answer to one of a series of questions ends: what follows is the next question."""
PUBLISHED_RETAIN_AUC = {"news": 0.4772, "books": 0.5393}
"""Min-40% AUC of MUSE's own retain models, in its orientation, as code derived from MUSE writes them down."""
_MUSE = "MUSE (arXiv 2407.06460)"
_KEYS = {"verbmem": "forget_verbmem", "knowmem_forget": "forget_knowmem", "knowmem_retain": "retain_knowmem"}
_TITLES = {
    "verbmem": "Forget: verbatim memory",
    "knowmem_forget": "Forget: knowledge",
    "knowmem_retain": "Retain: knowledge",
}


def cut_answer(text: str) -> str:
    """The text before the first of :data:`STOP_WORDS`, stripped: a base model goes on to ask itself questions."""
    ends = [place for word in STOP_WORDS if (place := text.find(word)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def plain_rouge_l(generations: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """``(n,)`` ROUGE-L F1 without stemming, as MUSE computes it; NaN for a reference without a word ROUGE can see."""
    return rouge_table(generations, references, stemmed=False)[:, ROUGE_COLUMNS.index("rougeL_f1")]


def muse_columns(generations: Sequence[str], references: Sequence[str], cut_references: Sequence[str]) -> Columns:
    """``muse_rougeL_f1``, words stemmed, and ``muse_rougeL_f1_legacy``, unstemmed against the cut references.

    Each ``(n,)`` in ``[0, 1]``; NaN where the reference has no word that ROUGE can see. ``empty`` is of the text that
    is scored: an answer that goes straight on to the next question says nothing, whatever the model wrote.
    """
    return {
        "muse_rougeL_f1": rouge_columns(generations, references)["rougeL_f1"],
        "muse_rougeL_f1_legacy": plain_rouge_l(generations, cut_references),
        "empty": fluency_columns(generations)["empty"],
    }


def privleak_original(auc_model: float, auc_retain: float) -> float:
    """MUSE's own ``(A - A_ret) / A_ret * 100``, AUCs of telling *forget* (1) from holdout (0) by a loss-like score.

    ``A = 1 - mia_min_k``: the orientation is the opposite of OpenUnlearning's, so that
    ``(A - A_ret) / A_ret = ((1 - B) - (1 - B_ret)) / (1 - B_ret)`` with ``B`` the AUCs in the other one, and the two
    forms agree but for the ``1e-10`` in OpenUnlearning's denominator. In percent, from -100 without an upper bound;
    NaN where ``A_ret`` is 0.
    """
    return (auc_model - auc_retain) / auc_retain * 100.0 if auc_retain else math.nan


def privleak_muse(scores: Scores, reference: Scores | None) -> float:
    """:func:`privleak_original` of the model's and the retain model's min-k scores; NaN without a reference."""
    if reference is None:
        return math.nan
    model, retain = (auc(s["holdout"]["mia_min_k"], s["forget"]["mia_min_k"]) for s in (scores, reference))
    return privleak_original(model, retain)


def muse_metrics(sets: Sequence[str]) -> list[Metric]:
    """MUSE's metrics for the sets at hand."""
    metrics: list[Metric] = []
    for name in GENERATED_SETS:
        if name in sets:
            metrics += [_rouge(name), _rouge_legacy(name)]
    if "verbmem" in sets:
        metrics += _memorization()
    if {"forget", "holdout"} <= set(sets):
        metrics.append(_privleak())
    return metrics + guard_metrics(name for name in ("verbmem", "knowmem_forget") if name in sets)


def _rouge(name: str) -> Metric:
    kept = name == "knowmem_retain"
    what = "continuation against the true one" if name == "verbmem" else "answer, cut at the next question,"
    return Metric(
        key=f"{_KEYS[name]}_ROUGE",
        label=f"{_TITLES[name]} (ROUGE-L)",
        definition=f"mean ROUGE-L F1 of the greedy {what} with words stemmed, as OpenUnlearning. {_MUSE}. "
        "Legacy: without stemming, see the key ending in _legacy.",
        # gibberish scores below a model that never saw the text
        higher_is_better=True if kept else None,
        function=partial(mean_column, name=name, column="muse_rougeL_f1"),
        needs={name: ("muse_rougeL_f1",)},
        caution=beware_collapse(*(() if kept else (name,))),
    )


def _rouge_legacy(name: str) -> Metric:
    kept = name == "knowmem_retain"
    cut = ", the reference cut to as many tokens as were asked for" if name == "verbmem" else ""
    return Metric(
        key=f"{_KEYS[name]}_ROUGE_legacy",
        label=f"{_TITLES[name]} (ROUGE-L, MUSE's own)",
        definition=f"as {_KEYS[name]}_ROUGE without stemming{cut}. {_MUSE}, its code.",
        higher_is_better=True if kept else None,
        function=partial(mean_column, name=name, column="muse_rougeL_f1_legacy"),
        needs={name: ("muse_rougeL_f1_legacy",)},
        caution=beware_collapse(*(() if kept else (name,))),
    )


def _memorization() -> list[Metric]:
    about = {
        "extraction_strength": "mean 1 - k/T, k the shortest prefix of the true continuation after which every argmax "
        "is right. Carlini et al. 2023",
        "exact_memorization": "mean share of the true continuation's tokens whose argmax is right. Tirumala et al. "
        "2022",
    }
    return [
        Metric(
            key=f"verbmem_{column}",
            label=f"{_TITLES['verbmem']} ({column.replace('_', ' ')})",
            definition=f"{text}; OpenUnlearning gives it as {column} of its MUSE suite. Legacy: its last token is "
            "dropped even if it is no end of sequence.",
            higher_is_better=False,
            function=partial(mean_column, name="verbmem", column=column),
            needs={"verbmem": (column,)},
            caution=beware_collapse("verbmem"),
        )
        for column, text in about.items()
    ]


def _privleak() -> Metric:
    columns = {"forget": ("mia_min_k",), "holdout": ("mia_min_k",)}
    return Metric(
        key="privleak_muse",
        label="Privacy leakage (%), MUSE's form",
        definition="(A - A_ret) / A_ret * 100, A and A_ret the min-40% AUC of the model and of the retain model for "
        "telling forget (1) from holdout (0); equals privleak, whose AUCs are 1 - A. 0 is ideal, -100 full "
        f"leakage, unbounded above. {_MUSE}. Legacy: A_ret is a constant in the code, 0.4772 for its news corpus "
        "and 0.5393 for its books.",
        higher_is_better=None,
        function=privleak_muse,
        needs=columns,
        needs_reference=True,
        caution=privleak_caution,
    )


@dataclass(frozen=True, slots=True)
class FoldTrend:
    """How a metric fares while the forget set grows (scalability) or requests follow one another (sustainability)."""

    values: Mapping[str, float]
    """The metric by fold, in order."""
    slope: float
    """Least-squares change per unit of size; NaN with fewer than two folds."""
    worst_drop: float
    """Most by which a later fold is worse than the first; 0 where none is. In the metric's own unit."""
    worst_fold: str
    """The fold of the worst drop; empty where none is worse."""
    slope_interval: Interval | None = None
    worst_drop_interval: Interval | None = None
    """Over rows; its lower end is 0 or above by construction, so 0 in it does not show that nothing dropped."""


def fold_trend(
    values: Mapping[str, float], *, higher_is_better: bool | None, sizes: Sequence[float] | None = None
) -> FoldTrend:
    """Slope and worst drop of a metric over folds.

    ``slope = sum (s - mean s)(v - mean v) / sum (s - mean s)^2`` over sizes ``s`` and values ``v``;
    ``worst_drop = max(0, max over later folds of v_first - v)``, with the sign turned where lower is better, and the
    distance ``|v - v_first|`` where neither is.

    Args:
        values: the metric by fold, in order; NaN values are left out, a NaN at the first fold leaves no drop (NaN).
        higher_is_better: the metric's direction.
        sizes: size of each fold's forget set (scalability); None numbers the folds 1, 2, 3 ... (sustainability).

    Raises:
        ValueError: sizes and values differ in number, or there is no fold.
    """
    names, numbers = list(values), np.array(list(values.values()), dtype=np.float64)
    places = np.arange(1.0, len(names) + 1) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if not names or len(places) != len(names):
        raise ValueError(f"{len(places)} sizes for {len(names)} folds; give one size a fold, and at least one fold")
    drops = _drops(numbers, higher_is_better)
    worst = float(np.nan if np.isnan(numbers[0]) else np.nanmax(drops, initial=0.0))
    at = names[int(np.nanargmax(drops))] if worst > 0 else ""
    return FoldTrend(dict(values), _slope(places, numbers), worst, at)


def _drops(values: np.ndarray, higher_is_better: bool | None) -> np.ndarray:
    change = values[0] - values
    if higher_is_better is None:
        return np.abs(change)
    return change if higher_is_better else -change


def _slope(sizes: np.ndarray, values: np.ndarray) -> float:
    there = ~np.isnan(values)
    x, y = sizes[there], values[there]
    if len(x) < 2 or np.ptp(x) == 0:
        return math.nan
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def metric_trend(
    metric: Metric,
    evaluations: Mapping[str, Scores],
    reference: Scores | None = None,
    *,
    sizes: Sequence[float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> FoldTrend:
    """:func:`fold_trend` of a metric over evaluations, with bootstrap intervals of slope and worst drop.

    Scalability (MUSE's C5) unlearns ever larger forget sets from the same model: give ``sizes``. Sustainability (C6)
    unlearns disjoint sets one after the other: leave ``sizes`` out. The same rows are drawn in every fold where a set
    has the same number of rows. A fold that lacks what the metric needs has value NaN.
    """
    folds = list(evaluations)
    reads = {name: (*columns, *metric.uses.get(name, ())) for name, columns in metric.needs.items()}

    def trend(models: Models) -> FoldTrend:
        retain, *scores = models
        values = {fold: _value(metric, taken or {}, retain) for fold, taken in zip(folds, scores, strict=True)}
        return fold_trend(values, higher_is_better=metric.higher_is_better, sizes=sizes)

    def statistic(models: Models) -> dict[str, float]:
        found = trend(models)
        return {"slope": found.slope, "worst_drop": found.worst_drop}

    models = [
        None if reference is None else restrict(reference, reads),
        *(restrict(evaluations[fold], reads) for fold in folds),
    ]
    count = min(num_resamples, metric.max_resamples or num_resamples)
    found = joint_values(statistic, models, num_resamples=count, seed=seed, level=level)
    whole = trend(models)
    return FoldTrend(
        whole.values, whole.slope, whole.worst_drop, whole.worst_fold, found["slope"][1], found["worst_drop"][1]
    )


def _value(metric: Metric, scores: Scores, reference: Scores | None) -> float:
    return math.nan if metric.missing(scores, reference) else metric.function(scores, reference)
