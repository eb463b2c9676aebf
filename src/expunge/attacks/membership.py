"""Membership inference: do the forget rows still look like training data?

The reference model, which never saw them, says how far they look so by their wording alone.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from expunge.attacks.base import Attack, Found, Opener, Site, row_columns
from expunge.evaluation.metrics.membership import ATTACKS as LOSSES


def looks_seen(forget: np.ndarray, holdout: np.ndarray) -> np.ndarray:
    """``(n,)`` share of the holdout rows that have a higher loss than each forget row, ties counting half.

    Its mean is the area under the ROC curve of telling the two sets apart: 1, every forget row looks like training
    data; 0.5, they look alike; below, the forget rows stand out as unlearned.

    Args:
        forget: ``(n,)`` loss-like scores of the forget rows.
        holdout: ``(m,)`` the same of rows that no model has seen; NaN scores are left out.
    """
    others = np.sort(holdout[~np.isnan(holdout)])
    if not others.size:
        return np.full(len(forget), np.nan)
    above = others.size - np.searchsorted(others, forget, side="right")
    not_below = others.size - np.searchsorted(others, forget, side="left")
    return np.where(np.isnan(forget), np.nan, (above + not_below) / (2 * others.size))


def infer(opener: Opener, site: Site, *, column: str) -> Found:
    """Every forget row's rank among the holdout rows by one loss-like score."""
    losses = row_columns(opener(), [*site.forget, *site.holdout], site)[column]
    return Found(looks_seen(losses[: len(site.forget)], losses[len(site.forget) :]))


MEMBERSHIP = tuple(
    Attack(
        column.replace("mia_", "membership:"),
        f"training data told from holdout rows by {about}",
        partial(infer, column=column),
        needs=("holdout",),
        comparable=False,
        counts=False,
        scored="AUC of telling the forget rows from the holdout rows: 1, as training data; 0.5, no difference",
    )
    for column, about in LOSSES.items()
)
