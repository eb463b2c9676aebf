"""Learning something else in place of the answer: random tokens, or the model's own next-best ones."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.losses.logps import Reduction, at_least_fp32, reduce, token_logps
from expunge.losses.rows import chunks

_RANDOM_RANGE = float(2**62)


def random_label_loss(logits: Tensor, random: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Negative log-likelihood of a uniformly random token of the vocabulary, per token.

    Args:
        logits: ``(N, V)`` on labelled rows.
        random: ``(N,)`` integers in ``[0, 2**62)``; token ``random mod V`` is learnt.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least 0. Its expectation is smallest, ``ln V``, for the uniform
        distribution.

    Source: Tian et al., 2024 (arXiv 2407.01920). KnowUnDo's code draws once for all epochs and relabels the prompt too.
    """
    return reduce(-token_logps(logits, random % logits.shape[-1]), reduction)


def adversarial_labels(
    reference_logits: Tensor,
    labels: Tensor,
    sequence: Tensor,
    random: Tensor,
    *,
    top_k: int = 1,
    legacy_shift: bool = False,
) -> Tensor:
    """The starting model's likeliest tokens without the true one: ``argmax_{a != y_t} P(a | x, y_<t)`` for ``top_k=1``.

    Args:
        reference_logits: ``(N, V)`` of the frozen starting model on labelled rows; V at least 2.
        labels: ``(N,)`` true token ids.
        sequence: ``(N,)`` which answer a row belongs to.
        random: ``(N,)`` integers in ``[0, 2**62)`` that choose among several candidates.
        top_k: number of candidates, at least 1; one of them is drawn by its probability.
        legacy_shift: KnowUnDo's code, which takes the candidates one position late,
            ``argmax_{a != y_t} P(a | x, y_<=t)``: the model learns to skip a token. An answer's last token, whose
            follower has no row, stays unshifted.

    Returns:
        ``(N,)`` token ids, each different from its label.

    Raises:
        ValueError: if ``top_k`` is below 1.

    Source: Tian et al., 2024 (arXiv 2407.01920), the "adversarial sample" baseline.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    source = torch.arange(len(labels), device=labels.device)
    if legacy_shift:
        source = source + torch.nn.functional.pad(sequence[1:] == sequence[:-1], (0, 1)).long()
    return torch.cat(
        [
            _drawn(at_least_fp32(reference_logits.detach()[source[rows]]), labels[rows], random[rows], top_k)
            for rows in chunks(reference_logits)
        ]
    )


def _drawn(known: Tensor, labels: Tensor, random: Tensor, top_k: int) -> Tensor:
    """One of each row's likeliest tokens without its label."""
    known = known.scatter(-1, labels.unsqueeze(-1), float("-inf"))
    values, tokens = known.topk(min(top_k, known.shape[-1] - 1), dim=-1)
    # The inverse of the distribution function, at a uniform number.
    reached = torch.softmax(values, dim=-1).cumsum(dim=-1)[:, :-1]
    chosen = (random.to(reached.dtype) / _RANDOM_RANGE).unsqueeze(-1) >= reached
    return tokens.gather(-1, chosen.sum(dim=-1, keepdim=True)).squeeze(-1)


def adversarial_label_loss(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Negative log-likelihood of :func:`adversarial_labels`, per token.

    Args:
        logits: ``(N, V)`` of the policy on labelled rows.
        labels: ``(N,)`` the adversarial token ids.
        reduction: over tokens.

    Returns:
        A scalar, or ``(N,)`` for ``"none"``; at least 0.

    Raises:
        ValueError: if a label is negative.
    """
    return reduce(-token_logps(logits, labels), reduction)
