"""Divergences between whole next-token distributions."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.losses.logps import Reduction, at_least_fp32, reduce
from expunge.losses.rows import by_rows


def kl_divergence_loss(logits: Tensor, reference_logits: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Forward KL from the reference, per labelled token: ``sum_v p_ref(v) (log p_ref(v) - log p(v))``.

    Args:
        logits: ``(N, V)`` of the policy on labelled rows.
        reference_logits: ``(N, V)`` of the frozen starting model on the same rows; no gradient flows into it.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least 0 up to rounding, and 0 where both agree.

    Source: "KL" in TOFU and the KLR retain term of NPO. open-unlearning sums over prompt and padding positions and
    divides by the batch size; MUSE's code feeds raw logits. Both sides pass through log-softmax here, on labels only.
    """
    return reduce(by_rows(_kl, logits, reference_logits.detach()), reduction)


def _kl(logits: Tensor, reference_logits: Tensor) -> Tensor:
    policy = torch.log_softmax(at_least_fp32(logits), dim=-1)
    reference = torch.log_softmax(at_least_fp32(reference_logits), dim=-1)
    return (reference.exp() * (reference - policy)).sum(dim=-1)
