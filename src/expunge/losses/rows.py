"""Losses of vocabulary-wide rows, a few rows at a time.

A row of logits is as wide as the vocabulary, and every step of a loss written out in tensors would make another array
as large as all the logits: on a CPU most of its time goes to the first touch of that memory, on a GPU there may be no
room for it. What concerns one row alone can be computed a few rows at a time, where it stays in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_NUMBERS = {"cpu": 2**19, "other": 2**24}
"""Numbers in the widest temporaries: on a CPU they should fit its cache, elsewhere every launch should be worth it."""


def chunks(logits: Tensor) -> Iterator[slice]:
    """Slices of the rows of ``(N, V)`` logits, at least one; a chunk holds one row at least."""
    numbers = CHUNK_NUMBERS.get(logits.device.type, CHUNK_NUMBERS["other"])
    size = max(numbers // max(logits.shape[1], 1), 1)
    return (slice(first, first + size) for first in range(0, max(len(logits), 1), size))


def differentiate_once() -> None:
    """Refuse the gradient of a gradient, which would silently lack whatever is not written down as tensors.

    Raises:
        RuntimeError: in a backward pass with ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("losses of logits can be differentiated once only; leave create_graph out")


def by_rows(loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
    """``loss(logits, *others)``: same values, same gradient, without temporaries of their size but the gradient.

    Args:
        loss: takes some rows of each argument and returns one number a row; rows must not depend on each other.
        logits: ``(N, V)``; the gradient flows into them alone.
        others: ``(N, ...)`` each.

    Returns:
        ``(N,)``. It can be differentiated once: the backward pass runs ``loss`` again, chunk by chunk.
    """
    return _ByRows.apply(loss, logits, *others)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(logits, *others)
        return torch.cat([loss(logits[rows], *(other[rows] for other in others)) for rows in chunks(logits)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        differentiate_once()
        logits, *others = ctx.saved_tensors
        found = torch.empty_like(logits)
        for rows in chunks(logits):
            with torch.enable_grad():
                part = logits[rows].detach().requires_grad_()
                losses = ctx.loss(part, *(other[rows] for other in others))
            found[rows] = torch.autograd.grad(losses, part, gradient[rows])[0]
        return None, found, *(None for _ in others)
