"""Losses that pull the model towards its own distribution with the answer taken out of it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from expunge.losses.logps import Reduction, at_least_fp32, check_labels, reduce
from expunge.losses.rows import by_rows


def _towards(logits: Tensor, source: Tensor, labels: Tensor, *, less: float) -> Tensor:
    """Cross-entropy of each row towards the softmax of ``source`` with ``less`` taken from the label's logit."""
    lifted = at_least_fp32(source)
    taken = torch.full_like(labels, -less, dtype=lifted.dtype).unsqueeze(-1)
    target = torch.softmax(lifted.scatter_add(-1, labels.unsqueeze(-1), taken), dim=-1)
    return -(target * torch.log_softmax(at_least_fp32(logits), dim=-1)).sum(dim=-1)


def undial_loss(
    logits: Tensor, reference_logits: Tensor, labels: Tensor, *, beta: float, reduction: Reduction = "mean"
) -> Tensor:
    """Self-distillation on adjusted logits: cross-entropy towards ``softmax(z_ref - beta onehot(label))``, per token.

    Args:
        logits: ``(N, V)`` of the policy on labelled rows.
        reference_logits: ``(N, V)`` of the frozen starting model on the same rows; no gradient flows into it.
        labels: ``(N,)`` token ids.
        beta: how far the label's logit is lowered, above 0.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least the target's entropy, which it reaches where the policy equals
        the target.

    Raises:
        ValueError: if beta is not positive, or a label is negative.

    Source: Dong et al., 2024 (arXiv 2402.10052), "UNDIAL". open-unlearning also takes rows without a label: there -100
    lowers the hundredth token from the vocabulary's end, and the mean runs over prompt and padding. No such row exists
    here.
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")
    check_labels(labels)
    return reduce(by_rows(partial(_towards, less=beta), logits, reference_logits.detach(), labels), reduction)


def ceu_loss(
    logits: Tensor, labels: Tensor, sequence: Tensor, *, ignore_first: int = 1, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy unlearning: towards the model's own distribution without the label, per token that counts.

    ``-sum_{v != y} q(v) log p(v)`` with the constant ``q(v) = p(v) / (1 - p(y))``, ``q(y) = 0``. It equals
    ``H(q) - log(1 - p(y))``: what is above the target's entropy vanishes where the label has lost its probability.

    Args:
        logits: ``(N, V)`` of the policy on labelled rows.
        labels: ``(N,)`` token ids.
        sequence: ``(N,)`` which answer a row belongs to, ascending.
        ignore_first: how many tokens at the beginning of each answer are left alone, at least 0.
        reduction: over the tokens that are not ignored.

    Returns:
        A scalar, or the kept tokens' losses for ``"none"``; at least 0. Its gradient with respect to the label's logit
        is ``p(y)``, and to any other ``-q(v) p(y)``: bounded, and 0 once the label has no probability.

    Raises:
        ValueError: if a label or ``ignore_first`` is negative.

    Source: Yang, 2025 (arXiv 2503.01224), "CE-U".
    """
    if ignore_first < 0:
        raise ValueError(f"ignore_first must be at least 0, got {ignore_first}")
    # Where a row's sequence begins is the number of rows before it.
    kept = torch.arange(len(sequence), device=sequence.device) - torch.searchsorted(sequence, sequence) >= ignore_first
    check_labels(labels)
    return reduce(by_rows(partial(_towards, less=float("inf")), logits, logits.detach(), labels)[kept], reduction)
