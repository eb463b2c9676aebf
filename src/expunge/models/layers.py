"""The decoder blocks of any causal language model: finding them, and reading the output of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from expunge.errors import ModelError, RecipeError

Where = tuple[Tensor | int, Tensor]
"""Index of some rows in a ``(batch, position, ...)`` tensor."""
Visit = Callable[[int, Tensor], Tensor | None]
"""Is given a block's number and the rows of its output, ``(M, d)``; what it returns takes their place."""


class LayerReachedError(Exception):
    """Ends a forward pass at a block: nothing above it is computed."""


def decoder_layers(model: Any) -> nn.ModuleList:
    """The blocks in order, of a plain or a wrapped model.

    Raises:
        ModelError: if the architecture keeps them in no list of its depth.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"cannot find the {depth} decoder blocks of {type(model).__name__}; hidden-state terms need them")


def resolve_layer(model: Any, layer: int | float) -> int:
    """A block's number from a number or a share of the depth: 7/32 of 30 blocks is block 7.

    Raises:
        RecipeError: for a number beyond the last block.
    """
    depth = model.config.get_text_config().num_hidden_layers
    if isinstance(layer, float):
        return min(max(round(layer * depth), 0), depth - 1)
    if not 0 <= layer < depth:
        raise RecipeError(f"unlearn.layer must be in [0, {depth - 1}] for this model, got {layer}")
    return layer


@contextmanager
def layer_output(model: Any, layer: int, *, stop: bool) -> Iterator[list[Tensor]]:
    """Collect what a block puts out in every forward pass inside the block of code.

    Args:
        model: plain or wrapped.
        layer: from 0.
        stop: end the pass there by raising :class:`LayerReachedError`, which the caller must catch.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        if stop:
            raise LayerReachedError

    hook = decoder_layers(model)[layer].register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def visited_blocks(model: Any, visit: Visit, where: Where) -> Iterator[None]:
    """Show ``visit`` the rows ``where`` of every block's output, in every forward pass inside the block of code.

    What ``visit`` returns goes up the model in their place; None leaves them as they are.
    """

    def meet(layer: int, module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        states = visit(layer, hidden[where])
        if states is None:
            return None
        # A copy, for what the block put out may be held elsewhere.
        changed = hidden.clone()
        changed[where] = states.to(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    hooks = [block.register_forward_hook(partial(meet, n)) for n, block in enumerate(decoder_layers(model))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def recorded_blocks(model: Any) -> Iterator[list[Any]]:
    """Collect what every block puts out, in order, in the forward pass inside the block of code."""
    outputs: list[Any] = []
    hooks = [
        block.register_forward_hook(lambda m, i, output: outputs.append(output)) for block in decoder_layers(model)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def replayed_blocks(model: Any, outputs: Sequence[Any], last: int) -> Iterator[None]:
    """Let the blocks up to ``last`` put out what they put out before, and compute nothing.

    Right for a pass over the same input, where blocks hand on nothing but their output. Hooks on them run as ever.
    """
    blocks = list(decoder_layers(model))[: last + 1]
    before = [block.__dict__.get("forward") for block in blocks]
    for block, output in zip(blocks, outputs, strict=False):
        block.__dict__["forward"] = lambda *_, _output=output, **__: _output
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.__dict__["forward"]
            if own is not None:
                block.__dict__["forward"] = own
