"""How much of an answer a model still knows by heart, token by token under teacher forcing."""

from __future__ import annotations

import math

import numpy as np


def extraction_strength(correct: np.ndarray, *, legacy: bool = False) -> float:
    """Share of the answer that the model completes by itself once it has seen the rest.

    ``1 - k/T``, ``k`` the shortest prefix after which every remaining argmax is right (``k = T`` if there is none).
    ``correct`` is ``(T,)`` bool. Range ``[0, 1]``; 1 means the whole answer comes from the prompt alone.
    NaN for no tokens. ``legacy``: as open-unlearning, ``k`` stops at ``T - 1`` (floor ``1/T``), and no tokens give 0.
    Source: Carlini et al. 2023; OpenUnlearning (arXiv 2506.12618).
    """
    length = len(correct)
    if length == 0:
        return 0.0 if legacy else math.nan
    wrong = np.flatnonzero(~correct)
    prefix = int(wrong[-1]) + 1 if wrong.size else 0
    if legacy:
        prefix = min(prefix, length - 1)
    return 1.0 - prefix / length


def exact_memorization(correct: np.ndarray) -> float:
    """Share of answer tokens whose argmax is right. ``(T,)`` bool to ``[0, 1]``; NaN for no tokens.

    Source: Tirumala et al. 2022; OpenUnlearning (arXiv 2506.12618).
    """
    return float(np.mean(correct)) if len(correct) else math.nan
