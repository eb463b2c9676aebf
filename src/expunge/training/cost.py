"""How long passes take: their floating-point operations over the rate at which this machine multiplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from expunge.models.machine import copy_rate, has_fast_bf16, matmul_rate, touch_rate
from expunge.models.shape import ModelShape, Moved
from expunge.training.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What lies between the rate of a bare product and that of whole passes, by kind of device.

    The shares say how much of the best rate of one product of the model's own shapes a whole pass reaches, norms,
    attention and Python included; the rest is time that does not shrink with faster products. They hold for the code as
    it is: measure again (``python -m benchmarks.run``) after a change of speed.
    """

    train: float
    """Share of the rate in forward and backward passes."""
    forward: float
    """Share in passes without gradients."""
    decode: float
    """Share in generation, one token of each row at a time."""
    half: float
    """Of the first two shares, what is left under bfloat16: casts and what stays in float32 get no faster."""
    traffic: float
    """How often training reads or writes, besides its products, what blocks keep for the backward pass."""
    attention: float
    """The same of attention's weights: one number in float32 for each head and pair of tokens."""
    beside: float
    """The same of what adapters add to the outputs of the layers that they stand beside."""
    pass_seconds: float
    """Of each forward pass besides, by block: launching kernels, Python."""
    decode_seconds: float
    """The same of each token that is written."""
    optimizer_passes: float
    """How often a step reads or writes a trained weight: gradient, states, norm, update, zeroing."""
    disk: float
    """Bytes a second from disk into a model and back, hashes included."""
    start_seconds: float
    """Of each stage besides: tokenizer, self-check, files."""


# CPU: the benchmark's cases with SmolLM2-135M on two cores of an AMD EPYC with AVX512-BF16, torch 2.13.
# CUDA: not measured yet; shares that large models are known to reach in bfloat16.
CALIBRATION = {
    "cpu": Calibration(
        train=0.74,
        forward=0.55,
        decode=0.4,
        half=0.72,
        traffic=8,
        attention=10,
        beside=8,
        pass_seconds=2e-4,
        decode_seconds=1.5e-3,
        optimizer_passes=10,
        disk=4e8,
        start_seconds=2.0,
    ),
    "cuda": Calibration(
        train=0.4,
        forward=0.45,
        decode=0.3,
        half=1.0,
        traffic=0,
        attention=0,
        beside=0,
        pass_seconds=4e-4,
        decode_seconds=4e-4,
        optimizer_passes=10,
        disk=1e9,
        start_seconds=4.0,
    ),
}
LOOKS = 3
"""A neighbour on the same processor may take it away for a second."""
RATE_TOKENS = 384
"""Rows of the products that are measured."""
RATE_VOCAB = 49152
"""Most columns of the head that are measured: more are no faster, and take long."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this machine reaches on a model's own shapes."""

    blocks: float
    """Floating-point operations a second of a product inside a block, in float32 (or the weights' precision)."""
    head: float
    """The same of the output head."""
    half: float
    """Of a product inside a block in bfloat16."""
    copy: float
    """Bytes read and written a second."""
    touch: float
    """Bytes a second of memory that is used for the first time."""
    calibration: Calibration

    @classmethod
    def measure(cls, shape: ModelShape, device: torch.device, dtype: torch.dtype = torch.float32) -> Rates:
        """Take about two seconds of this machine's time: of each rate the best of some looks, one after the other."""

        def rate(columns: int, kind: torch.dtype, rows: int = RATE_TOKENS) -> float:
            return matmul_rate(rows, shape.hidden, columns, dtype=kind, device=device)

        looked_for: dict[str, Callable[[], float]] = {
            "blocks": lambda: rate(shape.intermediate, dtype),
            "head": lambda: rate(min(shape.vocab, RATE_VOCAB), dtype, RATE_TOKENS // 2),
            "copy": lambda: copy_rate(device),
            "touch": lambda: touch_rate(device),
        }
        if has_fast_bf16(device):
            looked_for["half"] = lambda: rate(shape.intermediate, torch.bfloat16)
        found = dict.fromkeys(looked_for, 0.0)
        for _ in range(LOOKS):
            found = {name: max(found[name], look()) for name, look in looked_for.items()}
        # Where bfloat16 is no faster it may be slower by far, and is not worth waiting for.
        found.setdefault("half", found["blocks"] / 2)
        return cls(**found, calibration=CALIBRATION.get(device.type, CALIBRATION["cpu"]))

    def product(self, bf16: bool) -> float:
        """Of a block, in the precision of a training."""
        return self.half if bf16 else self.blocks

    def head_product(self, bf16: bool) -> float:
        """Of the head, in the precision of a training."""
        return self.head * self.product(bf16) / self.blocks


def forward_flops(shape: ModelShape, load: Workload, *, top: int | None = None) -> tuple[float, float]:
    """Operations of passes without gradients, in the blocks and in the head.

    ``2 P`` a token with P the numbers that it meets, ``4 q`` a pair of tokens and a block in attention, ``2 V d`` a row
    of logits.

    Args:
        shape: of the model.
        load: what the passes carry.
        top: the last block that runs, where no logits are wanted.
    """
    share = 1.0 if top is None else (top + 1) / shape.num_layers
    blocks = _linear(shape, load) + _attention(shape, load)
    return blocks * share, 2.0 * shape.head_params * load.labels if top is None else 0.0


def _linear(shape: ModelShape, load: Workload) -> float:
    return 2 * shape.block_params * load.tokens


def _attention(shape: ModelShape, load: Workload) -> float:
    return 4 * shape.query_width * shape.num_layers * load.pairs


def training_flops(
    shape: ModelShape, moved: Moved, load: Workload, *, checkpoint: bool = False, top: int | None = None
) -> tuple[float, float]:
    """Operations of forward and backward passes, in the blocks and in the head.

    Blocks below the first that moves are kept as data and not computed. Above it, the gradient with respect to the
    states costs as much as the forward pass, and so does that with respect to the weights, as far as they move: ``6 P``
    a token where all of them do, ``4 P`` under adapters. That of attention costs twice its forward pass. Activation
    checkpointing adds a forward pass.
    """
    depth = shape.num_layers if top is None else top + 1
    share = max(depth - moved.first_block, 0) / shape.num_layers
    again = 1 if checkpoint else 0
    blocks = (2 + again) * _linear(shape, load) + (3 + again) * _attention(shape, load)
    head = forward_flops(shape, load, top=top)[1]
    return share * blocks + 2 * moved.block_params * load.tokens, head * (3 if moved.head else 2)


def seconds_of(
    flops: tuple[float, float], rates: Rates, shape: ModelShape, load: Workload, *, bf16: bool = False, train: bool
) -> float:
    """Seconds of passes with so many operations in blocks and head."""
    share = rates.calibration.train if train else rates.calibration.forward
    share *= rates.calibration.half if bf16 else 1
    busy = flops[0] / rates.product(bf16) + flops[1] / rates.head_product(bf16)
    return busy / share + load.passes * shape.num_layers * rates.calibration.pass_seconds * (3 if train else 1)


def traffic_seconds(kept: float, rates: Rates) -> float:
    """Of passes with gradients, besides their products.

    Args:
        kept: bytes that blocks keep for the backward pass, all passes together.
        rates: of this machine.
    """
    return rates.calibration.traffic * kept / rates.copy


def attention_seconds(shape: ModelShape, load: Workload, rates: Rates, *, blocks: int) -> float:
    """Of attention in passes with gradients, besides its products; long rows spend much of their time there.

    Args:
        shape: of the model.
        load: what the passes carry.
        rates: of this machine.
        blocks: how many of them compute a gradient.
    """
    return rates.calibration.attention * 4 * shape.num_heads * blocks * load.pairs / rates.copy


def adapter_seconds(shape: ModelShape, moved: Moved, load: Workload, rates: Rates) -> float:
    """Of adapters in passes with gradients, besides their products."""
    return rates.calibration.beside * shape.element * moved.adapted_width * load.tokens / rates.copy


def optimizer_seconds(moved: Moved, rates: Rates) -> float:
    """Of one update: every trained weight's gradient and states are read and written."""
    return rates.calibration.optimizer_passes * moved.gradient_bytes / rates.copy


def decode_seconds(shape: ModelShape, rates: Rates, *, row_steps: float, steps: float) -> float:
    """Of generation.

    Args:
        shape: of the model.
        rates: of this machine.
        row_steps: tokens that are written, all rows together.
        steps: forward passes that write them; each reads all weights, and launches every block.
    """
    busy = 2 * (shape.block_params + shape.head_params) * row_steps / (rates.blocks * rates.calibration.decode)
    reading = steps * shape.weight_bytes / rates.copy
    return max(busy, reading) + steps * shape.num_layers * rates.calibration.decode_seconds


def stage_seconds(shape: ModelShape, rates: Rates, *, copies: int) -> float:
    """What a stage takes besides its passes: the weights are read or written ``copies`` times."""
    return rates.calibration.start_seconds + copies * shape.weight_bytes / rates.calibration.disk
