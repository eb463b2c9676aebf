"""Useful floating-point operations of a step: what the mathematics asks for, however it is computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.plan import Amount
from expunge.models.gated import gates_of
from expunge.models.layers import decoder_layers, resolve_layer
from expunge.training.job import Job


def useful_flops(model: Any, job: Job, amount: Amount) -> float:
    """``sum over blocks of c N T + c_head d V M``, with c = 2 forward, 2 more for gradients of states, 2 of weights.

    A trained matrix costs 6 a token, a frozen one above something trained 4, one below everything trained 2. Blocks
    above the one that a hidden-state objective reads cost nothing, and neither does the head then. Attention's own
    products and a reference's passes are left out.

    Args:
        model: with its scope attached.
        job: says whether the head is read, and which block otherwise.
        amount: T tokens and M labels of a step.
    """
    blocks = list(decoder_layers(model))
    head = any(w.term.head for members in job.terms.values() for w in members)
    top = len(blocks) - 1 if head or job.layer is None else resolve_layer(model, job.layer)
    first = _first_moving(model, blocks)
    per_token = sum(_per_token(block, gradients=number >= first) for number, block in enumerate(blocks[: top + 1]))
    per_label = _per_label(model.get_output_embeddings()) if head else 0.0
    return per_token * amount.tokens + per_label * amount.labels


def _first_moving(model: Any, blocks: list[nn.Module]) -> int:
    """The lowest block whose states carry gradients."""
    if model.get_input_embeddings().weight.requires_grad:
        return 0
    edits = gates_of(model)
    edited = [layer + 1 for layer in edits.layers] if edits else []
    trained = [n for n, block in enumerate(blocks) if any(p.requires_grad for p in block.parameters())]
    return min([*edited, *trained, len(blocks)])


def _per_token(block: nn.Module, *, gradients: bool) -> float:
    # By their outer sizes, for a matrix in 4 bits is stored in another shape.
    maps = [module for module in block.modules() if isinstance(module, nn.Linear)]
    every = sum(m.in_features * m.out_features for m in maps)
    trained = sum(m.in_features * m.out_features for m in maps if m.weight.requires_grad)
    return (4 if gradients else 2) * every + 2 * trained


def _per_label(head: Any) -> float:
    return (6 if head.weight.requires_grad else 4) * head.weight.numel()
