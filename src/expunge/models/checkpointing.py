"""Activation checkpointing: each block keeps its input alone, and is run again in the backward pass."""

from __future__ import annotations

from typing import Any

from expunge.errors import RecipeError
from expunge.models.gated import gates_of


def can_checkpoint(model: Any) -> bool:
    """Whether transformers knows how to run this architecture's blocks again."""
    return bool(getattr(model, "supports_gradient_checkpointing", False))


def compute_again(model: Any) -> None:
    """Switch it on, in place, for passes in training mode; packed trees, adapters and gates stay as they are.

    Raises:
        RecipeError: for an architecture that does not support it.
    """
    if not can_checkpoint(model):
        raise RecipeError(
            f"checkpoint_activations: {type(model).__name__} does not support it; leave it out, or lower "
            "micro_batch_tokens"
        )
    edits = gates_of(model)
    options: dict[str, Any] = {"use_reentrant": False}
    if edits:
        options["context_fn"] = edits.same_places
    # An older name, without which versions before 5.23 have nothing.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(options)
    # It would send the gradient down to the embedding through blocks that are frozen; this kind does without.
    model.disable_input_require_grads()


def keep_all(model: Any) -> None:
    """Switch it off again; nothing happens where it was not on."""
    if can_checkpoint(model):
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
