"""Membership: can the forget set be told from rows no model ever saw? Needs a holdout set of the same kind."""

from __future__ import annotations

import math

from expunge.evaluation.metrics.tokens import Scores
from expunge.evaluation.stats import auc

ATTACKS = {
    "mia_loss": "average loss",
    "mia_zlib": "average loss per zlib-compressed byte",
    "mia_min_k": "mean loss of the 40% least likely answer tokens (at least one)",
    "mia_min_k_plus_plus": "the same over log-probs standardised by the mean and variance of their distribution",
}
"""Attacks whose columns we compute."""
IMPORTED_ATTACKS = {
    "mia_reference": "average loss minus that of a reference model",
    "mia_gradnorm": "norm of the gradient of the loss",
}
"""Attacks that only imported logs carry."""
LEGACY_REFERENCE_AUC = 0.5
UNFIT_REFERENCE_AUC = 0.9
EPSILON = 1e-10


def mia_auc(scores: Scores, reference: Scores | None = None, *, column: str) -> float:
    """AUC of telling holdout (1) from forget (0) by a loss-like score.

    Range ``[0, 1]``; 1: the forget set looks like training data; 0.5: it looks like the holdout set;
    far below 0.5: it stands out as unlearned.
    """
    return auc(scores["forget"][column], scores["holdout"][column])


def privleak(scores: Scores, reference: Scores | None = None, *, legacy: bool = False) -> float:
    """``((1-A) - (1-A_ret)) / (1-A_ret + 1e-10) * 100``, ``A`` and ``A_ret`` the model's and retain model's min-k AUC.

    In percent, from -100 with no upper bound; 0 is the retain model's value, negative: still looks trained on,
    positive: over-unlearned. NaN without a reference, or where ``A_ret`` is 1 and the ratio has no meaning.
    ``legacy``, as open-unlearning: ``A_ret = 0.5`` without a reference's min-k scores; ``A_ret = 1`` divides by 1e-10.
    Source: MUSE (arXiv 2407.06460), in OpenUnlearning's orientation.
    """
    retain_auc = _retain_auc(reference)
    if math.isnan(retain_auc) and legacy:
        retain_auc = LEGACY_REFERENCE_AUC
    if retain_auc == 1.0 and not legacy:
        return math.nan
    model_auc = mia_auc(scores, column="mia_min_k")
    return (retain_auc - model_auc) / (1.0 - retain_auc + EPSILON) * 100.0


def privleak_caution(scores: Scores, reference: Scores | None = None) -> str:
    """Warn when the reference itself recognises the forget set, or when none was given."""
    retain_auc = _retain_auc(reference)
    if math.isnan(retain_auc):
        return "no retain model's min-k scores: compared with an AUC of 0.5"
    if retain_auc >= UNFIT_REFERENCE_AUC:
        return f"the reference tells forget from holdout (AUC {retain_auc:.3f}): was it trained on the forget set?"
    return ""


def _retain_auc(reference: Scores | None) -> float:
    """Min-k AUC of the retain model; NaN where its scores are not there."""
    if reference is None or any("mia_min_k" not in reference.get(name, {}) for name in ("forget", "holdout")):
        return math.nan
    return mia_auc(reference, column="mia_min_k")


def auc_similarity(auc_model: float, auc_retain: float) -> float:
    """How close the model's AUC is to the retain model's: ``min(A/A_ret, (1-A)/(1-A_ret))``.

    Range ``[0, 1]``; 1 when equal, 0 when the model sits at the far end (0 or 1). NaN if either is NaN.
    """
    if auc_model == auc_retain:
        return 1.0
    return auc_model / auc_retain if auc_model < auc_retain else (1.0 - auc_model) / (1.0 - auc_retain)
