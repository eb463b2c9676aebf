"""One gradient for a table that is embedding and output head at once.

torch gives each use of a weight a gradient of its own, as large as the weight. For the embedding that is zeros but for
the rows of some hundred tokens; then both are added into a third one. A fifth of SmolLM2-135M's weights are its table,
and a profile of small steps on a CPU showed a tenth of the time there. Here the rows are added to the head's gradient,
where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def one_gradient(model: Any, ids: Tensor) -> Iterator[None]:
    """Run a forward pass over ``ids`` inside: same values, same gradients, without arrays of the table's size.

    Nothing is changed where embedding and head are no plain layers with one weight that is trained.

    Args:
        model: plain or wrapped.
        ids: what its embedding will be given.
    """
    tied = _tied(model) if torch.is_grad_enabled() else None
    if tied is None:
        yield
        return
    embedding, head = tied
    rows, table = _Table.apply(embedding.weight, ids, embedding.padding_idx)
    hook = embedding.register_forward_hook(lambda module, inputs, output: rows)
    # An attribute of the object goes before its parameters, which stay as they are.
    head.__dict__["weight"] = table
    try:
        yield
    finally:
        del head.__dict__["weight"]
        hook.remove()


def _tied(model: Any) -> tuple[nn.Embedding, nn.Linear] | None:
    """Embedding and head, where they are plain and share a trained weight."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # Subclasses scale, quantise or adapt; engines put weights together when a pass asks for them.
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear or embedding.weight is not head.weight:
        return None
    weight = embedding.weight
    plain = type(weight) is nn.Parameter and weight.requires_grad and not hasattr(weight, "ds_id")
    usual = embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse
    return (embedding, head) if plain and usual else None


class _Table(torch.autograd.Function):
    """``(V, d)`` table and ids to ``(..., d)`` rows and the table itself."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: int | None) -> tuple[Tensor, Tensor]:
        ctx.padding = padding
        ctx.shape = table.shape
        ctx.save_for_backward(ids)
        ctx.set_materialize_grads(False)
        return F.embedding(ids, table), table.view_as(table)

    @staticmethod
    def backward(ctx: Any, of_rows: Tensor | None, of_table: Tensor | None) -> tuple[Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        if of_rows is None:
            return of_table, None, None
        if of_table is None:  # a pass that ended below the head
            of_table = of_rows.new_zeros(ctx.shape)
        ids, of_rows = ids.flatten(), of_rows.flatten(0, -2)
        if ctx.padding is not None:
            of_rows = of_rows.masked_fill((ids == ctx.padding)[:, None], 0)
        # In a fixed order on every device, which index_add_ does not promise.
        return of_table.index_put_((ids,), of_rows.to(of_table.dtype), accumulate=True), None, None
