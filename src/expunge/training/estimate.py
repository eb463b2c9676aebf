"""What a training will take, found out without its weights: steps, tokens, seconds, memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from expunge.data.tree import TokenSequence
from expunge.models.allocator import SLACK
from expunge.models.layers import resolve_layer
from expunge.models.machine import free_memory, used_memory
from expunge.models.numerics import use_fast_float32
from expunge.models.outline import Outline
from expunge.models.reference import PACK_TOKENS
from expunge.models.shape import ModelShape, Moved
from expunge.scopes import make_scope
from expunge.scopes.lora import LoraScope, QloraScope
from expunge.training.cost import (
    Rates,
    adapter_seconds,
    attention_seconds,
    forward_flops,
    optimizer_seconds,
    seconds_of,
    stage_seconds,
    traffic_seconds,
    training_flops,
)
from expunge.training.job import Job, job_streams
from expunge.training.memory import Fit, MemoryNeed, block_bytes, fit, training_need
from expunge.training.precision import uses_bf16
from expunge.training.prefix import MEMORY_SHARE
from expunge.training.sizing import pass_settings
from expunge.training.streams import Streams
from expunge.training.workload import reference_load, sampled_units, training_load

FOUR_BITS = 0.53
"""Bytes of a weight in 4 bits, its share of the scales included."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage is thought to take; None where it is not known."""

    rows: int | None = None
    steps: int | None = None
    tokens: int | None = None
    """Computed in forward passes, shared beginnings once."""
    seconds: float | None = None
    files_seconds: float = 0.0
    """Of them, what is spent on reading, hashing and writing weights."""
    memory: int | None = None
    """Bytes at the peak: of the process on a CPU, of the device elsewhere."""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the work would be done, and how fast."""

    device: torch.device
    rates: Rates
    room: int | None
    """Free bytes on the device."""
    base: int
    """Bytes beside what work needs: what the process holds on the device before any model is there, and on a CPU the
    holes between tensors that are put up with."""

    @classmethod
    def at_hand(cls, device: torch.device, shape: ModelShape, dtype: torch.dtype) -> Machine:
        """This one; takes about a second."""
        use_fast_float32()
        base = used_memory() + SLACK if device.type == "cpu" else 0
        rates = Rates.measure(shape, device, dtype)
        return cls(device=device, rates=rates, room=free_memory(device), base=base)


def training_cost(outline: Outline, job: Job, machine: Machine) -> StageCost:
    """Foresee a job: its scope is attached to the outline's model, its rows are tokenised, its steps are packed.

    Of a long plan some steps are looked at. What terms read of the starting model counts as not cached yet.
    """
    streams = job_streams(outline.format, job)
    model, layer = _attached(outline, job)
    shape, moved = _sizes(model, job)
    bf16 = uses_bf16(job.part.bf16, machine.device, outline.model.dtype, job.rules)
    steps = sampled_units(streams)
    found = _fit(job, streams, shape, moved, machine, layer, bf16=bf16)
    load = training_load(steps, streams.plan.num_steps, found.micro_batch_tokens)
    computed = load.answers() if moved.edits_alone else load
    settings = pass_settings(replace(job.part, bf16=bf16), job.terms, layer=layer, checkpoint=False)
    flops = training_flops(shape, moved, computed, checkpoint=found.checkpoint_activations, top=settings.top)
    seconds = seconds_of(flops, machine.rates, shape, computed, bf16=bf16, train=True)
    each = block_bytes(shape, round(computed.tokens / computed.passes), settings) if computed.passes else 0
    depth = shape.num_layers if settings.top is None else settings.top + 1
    blocks = max(depth - moved.first_block, 0)
    seconds += traffic_seconds(computed.passes * blocks * each, machine.rates)
    seconds += attention_seconds(shape, computed, machine.rates, blocks=blocks)
    seconds += adapter_seconds(shape, moved, computed, machine.rates)
    seconds += streams.plan.num_steps * optimizer_seconds(moved, machine.rates)
    seconds += _start_seconds(streams, shape, moved, machine.rates, bf16=bf16)
    assert found.need is not None
    seconds += found.need.growth / machine.rates.touch
    # Weights are hashed and read at the beginning, and written at the end unless an adapter is.
    copies = 3 if make_scope(job.scope).folder == "model" else 2
    files = stage_seconds(shape, machine.rates, copies=copies)
    return StageCost(
        rows=sum(len(rows) for rows in streams.rows.values()),
        steps=streams.plan.num_steps,
        tokens=round(computed.tokens),
        seconds=seconds + files,
        files_seconds=files,
        memory=machine.base + found.need.total,
        note=found.note,
    )


def _attached(outline: Outline, job: Job) -> tuple[Any, int | None]:
    scope = make_scope(job.scope)
    layer = None if job.layer is None else resolve_layer(outline.model, job.layer)
    attach: Callable[..., Any] = scope.attach
    if isinstance(scope, QloraScope):
        # Four bits change what weights take, not what is trained beside them.
        attach = LoraScope(rank=scope.rank, target_modules=scope.target_modules).attach
    return attach(copy.deepcopy(outline.model), layer=layer), layer


def _sizes(model: Any, job: Job) -> tuple[ModelShape, Moved]:
    shape, moved = ModelShape.of(model), Moved.of(model)
    if job.scope.get("kind") == "qlora":
        smaller = shape.weight_bytes - round(shape.block_params * (shape.element - FOUR_BITS))
        shape = replace(shape, weight_bytes=smaller)
    return shape, moved


def _fit(
    job: Job, streams: Streams, shape: ModelShape, moved: Moved, machine: Machine, layer: int | None, *, bf16: bool
) -> Fit:
    steps = sampled_units(streams)
    kept = _kept_bytes(streams, shape, moved, copies=2 if job.rules else 0) + (shape.weight_bytes if job.edit else 0)
    prefix = _prefix_bytes(streams, shape, moved)
    if machine.room is None or prefix <= MEMORY_SHARE * machine.room:
        kept += prefix
    part = replace(job.part, bf16=bf16)

    def need(tokens: int, checkpoint: bool) -> MemoryNeed:
        largest = training_load(steps, streams.plan.num_steps, tokens).largest
        settings = pass_settings(part, job.terms, layer=layer, checkpoint=checkpoint)
        return training_need(shape, moved, largest, settings, kept=kept)

    return fit(part, machine.device, machine.room, need, loaded=False)


def _kept_bytes(streams: Streams, shape: ModelShape, moved: Moved, *, copies: int) -> int:
    """The cached reference's hidden states, a copy of the head that they need where it moves, gradients that rules
    hold apart."""
    kept = copies * moved.gradient_bytes
    for need in ("reference_logits", "reference_hidden"):
        wanted = dict.fromkeys(streams.all_sequences(need))
        kept += 4 * shape.hidden * sum(sequence.num_labels for sequence in wanted)
        if need == "reference_logits" and wanted and moved.head:
            kept += shape.element * shape.head_params
    return kept


def _shown(streams: Streams) -> dict[TokenSequence, None]:
    """Every sequence of the plan, once."""
    units = (unit for step in range(streams.plan.num_steps) for unit in streams.units(step))
    return dict.fromkeys(s for unit in units for s in unit.answers.values())


def _prefix_bytes(streams: Streams, shape: ModelShape, moved: Moved) -> int:
    """What frozen blocks put out, as long as it is in memory: states, and before gates the prompts' keys and values."""
    if not moved.first_block:
        return 0
    shown = _shown(streams)
    if not moved.edits_alone:
        return shape.element * shape.hidden * sum(len(s.ids) for s in shown)
    prompts = {s.ids[: s.first_label - 1] for s in shown}
    above = shape.num_layers - moved.first_block
    remembered = 2 * above * shape.key_width * sum(len(prompt) for prompt in prompts)
    return shape.element * (remembered + shape.hidden * sum(s.num_labels for s in shown))


def _start_seconds(streams: Streams, shape: ModelShape, moved: Moved, rates: Rates, *, bf16: bool) -> float:
    """Of the reference's passes, and of those that fill the cache of frozen blocks."""
    needs = ("reference_logps", "reference_logits", "reference_hidden")
    asked: Iterable[TokenSequence] = (s for need in needs for s in streams.all_sequences(need))
    reference = reference_load(asked, PACK_TOKENS)
    seconds = seconds_of(forward_flops(shape, reference), rates, shape, reference, bf16=bf16, train=False)
    if moved.first_block:
        filled = reference_load(_shown(streams), PACK_TOKENS)
        # Of prompts before gates the keys and values of all blocks are kept.
        last = shape.num_layers if moved.edits_alone else moved.first_block
        below = forward_flops(shape, filled, top=last - 1)
        seconds += seconds_of(below, rates, shape, filled, bf16=bf16, train=False)
    return seconds
