"""Storing a model's weights in few bits, and what of an unlearning's changes is too small to survive it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import ModelError
from expunge.models.layers import decoder_layers

GROUP = 128
BNB_BLOCK = 64
BITS = (8, 4)


def round_to_nearest(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """What a weight is after symmetric round-to-nearest quantisation and back.

    With ``top = 2^(bits-1) - 1``, each run of ``group`` inputs of an output row has its own scale, ``max |w| / top``,
    and every weight becomes the nearest multiple of it: ``scale * clip(round(w / scale), -top, top)``.

    Args:
        weight: ``(outputs, inputs)``; the last run of a row may be shorter. Any floating type.
        bits: at least 2.
        group: inputs that share a scale; 0 for a whole row.

    Returns:
        The same shape and type. Scales are kept in float32: nothing is lost but what the bits lose.

    Raises:
        ValueError: for fewer than 2 bits, a negative group or a weight that is no matrix.
    """
    if bits < 2 or group < 0:
        raise ValueError(f"bits must be at least 2 and group at least 0, got {bits} and {group}")
    levels, scale = _levels(weight, bits, group)
    return _joined(levels * scale, weight)


def quantise(model: Any, bits: int, group: int = GROUP) -> int:
    """Round the linear weights of a model's decoder blocks in place, as common 4-bit and 8-bit exports do.

    Embeddings, output head, norms and biases stay as they are. Compute stays in the model's own type, so that the
    result is that of the weights alone, and runs on any device.

    Args:
        model: plain or wrapped; adapters must be merged, or their base alone would be rounded.
        bits: 8 or 4, say.
        group: inputs that share a scale.

    Returns:
        How many weights were rounded.

    Raises:
        ModelError: if the blocks hold no linear layer.
    """
    return replace_weights(model, partial(round_to_nearest, bits=bits, group=group))


@torch.no_grad()
def replace_weights(model: Any, stored: Callable[[Tensor], Tensor]) -> int:
    """Put what is left of every linear weight of the blocks, once stored, in its place; how many weights they were."""
    count = 0
    for _, weight in block_weights(model):
        weight.copy_(stored(weight))
        count += weight.numel()
    return count


def through_bitsandbytes(weight: Tensor, kind: str, block: int = BNB_BLOCK) -> Tensor:
    """What a weight is after bitsandbytes has stored it in 4 bits, and back.

    Each run of ``block`` weights is divided by its largest magnitude and becomes the nearest of 16 fixed levels:
    quantiles of a normal distribution (``nf4``), or 4-bit floating-point numbers (``fp4``).

    Args:
        weight: any shape and floating type.
        kind: ``nf4`` or ``fp4``; ``load_in_4bit`` of transformers takes fp4 unless told otherwise.
        block: weights that share a scale.

    Raises:
        ModelError: bitsandbytes is not installed, or cannot do this on the weight's device.

    Source: QLoRA (arXiv 2305.14314), section 3.
    """
    if find_spec("bitsandbytes") is None:
        raise ModelError('it needs the package bitsandbytes: pip install "expunge[quant]"')
    from bitsandbytes import functional

    try:
        packed, state = functional.quantize_4bit(weight.detach().contiguous().float(), blocksize=block, quant_type=kind)
        return functional.dequantize_4bit(packed, state).to(weight.dtype)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"bitsandbytes cannot store {kind} weights on {weight.device}: {reason}") from error


@dataclass(frozen=True)
class BinCrossing:
    """What of an unlearning is left once both models are rounded: a prediction that needs no generation."""

    crossed: float
    """Share of all weights that are in another bin: the whole number that is stored differs between the two models."""
    kept_norm: float
    """Norm of the difference of the rounded models over that of the unrounded; 1 keeps it all, far above 1 is noise.

    NaN where the models are equal.""" ""
    moved: float
    """Share of all weights that differ before rounding."""
    by_weight: dict[str, float]
    """``crossed`` of each weight matrix, by name."""


def bin_crossing(original: Any, unlearned: Any, bits: int, group: int = GROUP) -> BinCrossing:
    """Compare two models after round-to-nearest, weight by weight.

    A change that leaves a weight within its bin is undone by the rounding: where few weights cross, the quantised
    unlearned model is the quantised original.

    Raises:
        ModelError: if the models' blocks do not hold the same weights.
    """
    first, second = dict(block_weights(original)), dict(block_weights(unlearned))
    if [(n, w.shape) for n, w in first.items()] != [(n, w.shape) for n, w in second.items()]:
        raise ModelError("bin crossing compares the weights of one architecture, and these two models differ in theirs")
    crossed: dict[str, int] = {}
    moved = total = 0
    squares_before = squares_after = 0.0
    for name, old in first.items():
        a, b = (w.detach().to("cpu", torch.float32) for w in (old, second[name]))
        levels, scales = zip(*(_levels(w, bits, group) for w in (a, b)), strict=True)
        # A scale that follows its largest weight moves every value a little; the bin is what tells the models apart.
        crossed[name] = int((levels[0] != levels[1]).sum())
        rounded = levels[1] * scales[1] - levels[0] * scales[0]
        moved += int((a != b).sum())
        total += a.numel()
        squares_before += float((b - a).double().square().sum())
        squares_after += float(rounded.double().square().sum())
    return BinCrossing(
        crossed=sum(crossed.values()) / total,
        kept_norm=(squares_after / squares_before) ** 0.5 if squares_before else math.nan,
        moved=moved / total,
        by_weight={name: count / first[name].numel() for name, count in crossed.items()},
    )


def block_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and ``(outputs, inputs)`` view of every linear weight in the decoder blocks, biases left out.

    Raises:
        ModelError: if there is none.
    """
    found = False
    for name, module in decoder_layers(model).named_modules():
        if isinstance(module, nn.Linear):
            found = True
            yield name, module.weight
        elif type(module).__name__ == "Conv1D":
            # GPT-2 keeps its linear layers the other way round.
            found = True
            yield name, module.weight.T
    if not found:
        raise ModelError(f"the blocks of {type(model).__name__} hold no linear layer to quantise")


def _levels(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor]:
    """``(outputs, runs, group)`` whole numbers and ``(outputs, runs, 1)`` scales; the last run is filled with zeros."""
    if weight.dim() != 2:
        raise ValueError(f"a weight to quantise is a matrix, got shape {tuple(weight.shape)}")
    outputs, inputs = weight.shape
    size = group or inputs
    padded = torch.nn.functional.pad(weight.float(), (0, -inputs % size)).view(outputs, -1, size)
    top = 2 ** (bits - 1) - 1
    scale = padded.abs().amax(dim=2, keepdim=True) / top
    levels = torch.round(padded / torch.where(scale > 0, scale, 1.0)).clamp(-top, top)
    return levels, scale


def _joined(runs: Tensor, like: Tensor) -> Tensor:
    return runs.reshape(runs.shape[0], -1)[:, : like.shape[1]].to(like.dtype)
