"""From logits on labelled rows to log-probs: the one place where it happens.

Shift and mask are settled before: a row of logits stands at the position that predicts its label, and rows without a
label do not exist. So no loss can look up a masked label or average over padding.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def at_least_fp32(values: Tensor) -> Tensor:
    """Lift half precision to float32; leave float32 and float64 as they are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def reduce(losses: Tensor, reduction: Reduction) -> Tensor:
    """Apply ``"mean"``, ``"sum"`` or ``"none"`` to per-unit losses.

    Raises:
        ValueError: for any other reduction, or for the mean of nothing.
    """
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if losses.numel() == 0:
        raise ValueError("the mean of an empty batch is not defined; use reduction='sum' and divide by the real count")
    return losses.mean()


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label: ``log softmax(logits)[label]``.

    Args:
        logits: ``(N, V)``, one row per labelled token, at the position that predicts it.
        labels: ``(N,)`` token ids; ignore marks such as -100 are refused, because a negative label would silently
            read the vocabulary from its end.

    Returns:
        ``(N,)`` in float32 (float64 for float64 logits), at most 0.

    Raises:
        ValueError: if a label is negative.
    """
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"labels must be token ids, got {int(labels.min())}; drop masked rows before this call")
    return -F.cross_entropy(at_least_fp32(logits), labels, reduction="none")


def sequence_logps(per_token_logps: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Sum token log-probs per sequence: ``log pi(y|x) = sum_t log pi(y_t|x, y_<t)``.

    Args:
        per_token_logps: ``(N,)``.
        sequence: ``(N,)`` the sequence in ``[0, num_sequences)`` that each token belongs to.
        num_sequences: B; a sequence without tokens gets 0.

    Returns:
        ``(B,)`` sums, never divided by length.
    """
    return per_token_logps.new_zeros(num_sequences).index_add(0, sequence, per_token_logps)
