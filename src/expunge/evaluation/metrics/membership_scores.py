"""Per-answer scores of the membership attacks, all oriented like a loss: low means *the model has seen this*."""

from __future__ import annotations

import math
import zlib

import numpy as np

MIN_K_SHARE = 0.4
"""Share of tokens that the min-k attacks look at, as in TOFU and MUSE evaluations."""
MIN_VARIANCE = 1e-6


def zlib_score(avg_loss: float, text: str) -> float:
    """Loss per byte of the compressed answer: ``avg_loss / len(zlib(text as UTF-8))``. Source: Carlini et al. 2021."""
    return avg_loss / len(zlib.compress(text.encode("utf-8")))


def min_k(logps: np.ndarray, *, share: float = MIN_K_SHARE) -> float:
    """Negative mean of the lowest ``max(1, int(T*share))`` token log-probs.

    ``(T,)`` to ``[0, inf]``; NaN for no tokens. Source: Shi et al. 2024 (Min-K% Prob).
    """
    if len(logps) == 0:
        return math.nan
    lowest = np.sort(logps.astype(np.float64))[: max(1, int(len(logps) * share))]
    return -float(lowest.mean())


def min_k_plus_plus(logps: np.ndarray, mean: np.ndarray, variance: np.ndarray, *, share: float = MIN_K_SHARE) -> float:
    """:func:`min_k` of standardised log-probs ``z_t = (logp_t - mu_t) / sqrt(max(sigma^2_t, 1e-6))``.

    Three ``(T,)`` arrays; any real number; NaN for no tokens. Source: Zhang et al. 2024 (Min-K%++).
    """
    spread = np.sqrt(np.maximum(variance.astype(np.float64), MIN_VARIANCE))
    return min_k((logps.astype(np.float64) - mean) / spread, share=share)
