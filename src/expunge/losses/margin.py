"""Losses on the margin of raw logits: flat logits know nothing, without a softmax in the way."""

from __future__ import annotations

from torch import Tensor

from expunge.losses.logps import Reduction, at_least_fp32, reduce
from expunge.losses.rows import by_rows


def logit_margin_loss(logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Logit-margin flattening: ``(max_v z_v - mean_v z_v)^2`` of each labelled token's logits.

    Args:
        logits: ``(N, V)``, one row per labelled token, at the position that predicts it.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least 0, and 0 exactly where a row's logits are all equal: there the
        model predicts uniformly. Adding a constant to a row changes nothing. It falls as the model forgets; which token
        was right does not enter.

    Source: Entesari et al., 2025 (arXiv 2506.05314), the forget loss of PDU. Its code averages over every position of
    the batch, prompt and padding too; only positions that predict a label exist here.
    """
    return reduce(by_rows(_squared_margin, logits), reduction)


def _squared_margin(logits: Tensor) -> Tensor:
    logits = at_least_fp32(logits)
    return (logits.amax(dim=-1) - logits.mean(dim=-1)).square()
