"""From logits on labelled rows to log-probs: the one place where it happens.

Shift and mask are settled before: a row of logits stands at the position that predicts its label, and rows without a
label do not exist. So no loss can look up a masked label or average over padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.losses.rows import chunks, differentiate_once

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


def check_labels(labels: Tensor) -> None:
    """Refuse what is no token id.

    Raises:
        ValueError: if a label is negative.
    """
    if labels.numel() and int(labels.min()) < 0:
        raise ValueError(f"labels must be token ids, got {int(labels.min())}; drop masked rows before this call")


def token_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each label: ``log softmax(logits)[label]``.

    Args:
        logits: ``(N, V)``, one row per labelled token, at the position that predicts it.
        labels: ``(N,)`` token ids; ignore marks such as -100 are refused, because a negative label would silently
            read the vocabulary from its end.

    Returns:
        ``(N,)`` in float32 (float64 for float64 logits), at most 0. It can be differentiated once.

    Raises:
        ValueError: if a label is negative.
    """
    check_labels(labels)
    return _TokenLogps.apply(logits, labels, None)[0]


def shared_logps(logits: Tensor, labels: Tensor, counts: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities of the labels, and the logits part by part for whoever reads more of them than that.

    The gradient of all readers comes together in the memory of the logits, so that no other array of their size is
    made. It is written when every reader is done with them, so nothing that is read is wrong; but afterwards the logits
    are gone, and a second backward pass through the same graph is refused by torch.

    Args:
        logits: ``(N, V)`` that a model has put out, read from here on through the result alone.
        labels: ``(N,)`` token ids.
        counts: how many rows each part has, in order; N in all.

    Returns:
        As :func:`token_logps`, and views of the logits.

    Raises:
        ValueError: if a label is negative.
    """
    check_labels(labels)
    logps, *parts = _TokenLogps.apply(logits, labels, list(counts))
    return logps, parts


class _TokenLogps(torch.autograd.Function):
    """Log-probs of labels; with ``counts`` also the logits in parts, whose gradient then takes the logits' place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, counts: list[int] | None) -> tuple[Tensor, ...]:
        ctx.counts = counts
        ctx.save_for_backward(logits, labels)
        ctx.set_materialize_grads(False)
        logps = [
            -F.cross_entropy(at_least_fp32(logits[rows]), labels[rows], reduction="none") for rows in chunks(logits)
        ]
        return torch.cat(logps), *(() if counts is None else logits.split(counts))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *of_parts: Tensor | None) -> tuple[Tensor, None, None]:
        differentiate_once()
        # Unpacking makes torch check that no earlier backward pass has written over the logits.
        logits, labels = ctx.saved_tensors
        found = torch.empty_like(logits) if ctx.counts is None else logits.detach()
        if gradient is None:
            found.zero_()
        else:
            for rows in chunks(logits):
                of_row = gradient[rows, None]
                part = torch.softmax(at_least_fp32(logits[rows]), dim=-1).mul_(-of_row)
                found[rows] = part.scatter_add_(1, labels[rows, None], of_row)
        for place, more in zip(found.split(ctx.counts) if of_parts else (), of_parts, strict=True):
            if more is not None:
                place += more
        return found, None, None


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
