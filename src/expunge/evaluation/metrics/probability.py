"""Probabilities of answers, and the truth ratio between a right answer and its wrong variants.

Rows come as columns of one set: ``avg_loss`` ``(n,)`` of the answer, ``paraphrase_avg_loss`` ``(n,)`` of its
paraphrase, ``perturbed_avg_loss`` ``(n, k)`` of its wrong variants. An answer's probability is length-normalised:
``exp(-avg_loss)``, the geometric mean of its token probabilities.
"""

from __future__ import annotations

import numpy as np

from expunge.evaluation.metrics.base import nan_mean, row_mean
from expunge.evaluation.metrics.tokens import Columns, Scores

EPSILON = 1e-10
"""Keeps the ratios finite; part of the published formulas, so it stays as it is."""


def paraphrase_probability(scores: Scores, reference: Scores | None = None, *, name: str) -> float:
    """Mean probability of the paraphrased answers. Range ``[0, 1]``."""
    return nan_mean(np.exp(-scores[name]["paraphrase_avg_loss"]))


def perturbed_probability(scores: Scores, reference: Scores | None = None, *, name: str) -> float:
    """Mean probability of the wrong answers: over a row's variants, then over rows. Range ``[0, 1]``."""
    return nan_mean(row_mean(np.exp(-scores[name]["perturbed_avg_loss"])))


def normalised_probability(scores: Scores, reference: Scores | None = None, *, name: str) -> float:
    """Mean of ``p / (p + sum_j p_j + 1e-10)``, the answer among its ``k`` wrong variants.

    Range ``[0, 1]``; ``1/(k+1)`` is chance. Source: TOFU (arXiv 2401.06121).
    """
    wrong = np.exp(-scores[name]["perturbed_avg_loss"])
    total = np.where(np.isnan(wrong).all(axis=1), np.nan, np.nansum(wrong, axis=1))
    right = scores[name]["prob"]
    return nan_mean(right / (right + total + EPSILON))


def right_answer_column(name: str) -> str:
    """Which answer is the right one in a set's truth ratio: the paraphrase in forget and retain, else the answer."""
    return "paraphrase_avg_loss" if name in ("forget", "retain") else "avg_loss"


def truth_ratios(columns: Columns, *, right: str) -> np.ndarray:
    """``R = exp(-mean_j b_j) / (exp(-a) + 1e-10)``: wrong answers over the right one, row by row.

    ``a`` is the average loss in column ``right``, ``b_j`` those of the wrong variants. ``(n,)`` in ``[0, 1e10]``;
    below 1 the model prefers the right answer. NaN where either side is missing.
    A collapsed model gives every answer probability near 0 and so a ratio near 0 by the epsilon alone.
    """
    wrong = np.exp(-row_mean(columns["perturbed_avg_loss"]))
    return wrong / (np.exp(-columns[right]) + EPSILON)


def closer_to_1_better(ratios: np.ndarray) -> float:
    """Mean of ``min(R, 1/(R + 1e-10))``. Range ``[0, 1]``; 1 when right and wrong answers look alike."""
    return nan_mean(np.minimum(ratios, 1.0 / (ratios + EPSILON)))


def true_better(ratios: np.ndarray) -> float:
    """Mean of ``max(0, 1 - R)``. Range ``[0, 1]``; higher when the right answer is preferred more."""
    return nan_mean(np.maximum(0.0, 1.0 - ratios))


def prob_mean(columns: Columns, *, right: str) -> float:
    """Mean of ``c / (c + w + 1e-10)``, ``c = exp(-a)`` the right answer, ``w = exp(-mean_j b_j)`` the wrong ones.

    Range ``[0, 1]``; 0.5 when the model cannot tell them apart. The OpenUnlearning paper's truth ratio.
    """
    correct = np.exp(-columns[right])
    wrong = np.exp(-row_mean(columns["perturbed_avg_loss"]))
    return nan_mean(correct / (correct + wrong + EPSILON))


def forget_truth_ratio(scores: Scores, reference: Scores | None = None) -> float:
    """:func:`closer_to_1_better` on the forget set."""
    return closer_to_1_better(truth_ratios(scores["forget"], right=right_answer_column("forget")))


def forget_prob_mean(scores: Scores, reference: Scores | None = None) -> float:
    """:func:`prob_mean` on the forget set."""
    return prob_mean(scores["forget"], right=right_answer_column("forget"))


def kept_truth_ratio(scores: Scores, reference: Scores | None = None, *, name: str) -> float:
    """:func:`true_better` on a set that should be kept."""
    return true_better(truth_ratios(scores[name], right=right_answer_column(name)))
