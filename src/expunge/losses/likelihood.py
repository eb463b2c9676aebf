"""Losses on the likelihood of an answer: learn it, or climb away from it."""

from __future__ import annotations

from torch import Tensor

from expunge.losses.logps import Reduction, at_least_fp32, reduce


def nll_loss(per_token_logps: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Negative log-likelihood per token: ``-log pi(y_t | x, y_<t)``.

    Args:
        per_token_logps: ``(N,)`` over the labelled tokens.
        reduction: over tokens. The mean over the *effective* batch is the sum over micro-batches divided by its count.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least 0.

    Source: the retain term of GradDiff (Maini et al., 2024, "TOFU"), and the forget term of IDK on refusals.
    """
    return reduce(-at_least_fp32(per_token_logps), reduction)


def ga_loss(per_token_logps: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Gradient ascent: the log-likelihood itself, ``log pi(y_t | x, y_<t)``, to be minimised.

    Args:
        per_token_logps: ``(N,)`` over the labelled tokens.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at most 0 and unbounded below, so it needs early stopping.

    Source: Jang et al., 2023, eq. 1; Yao et al., 2023; "GA" in TOFU.
    """
    return reduce(at_least_fp32(per_token_logps), reduction)
