"""What a training leaves open and the machine decides: bfloat16, the size of passes, activation checkpointing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from expunge.errors import ModelError
from expunge.methods.terms import WeightedTerm
from expunge.models.checkpointing import can_checkpoint, compute_again
from expunge.models.machine import free_memory
from expunge.models.shape import ModelShape, Moved
from expunge.parallel import by_first, from_first, process_number
from expunge.progress import say
from expunge.recipe import TrainPart
from expunge.training.memory import Fit, MemoryNeed, PassSettings, as_before, fit, pass_tokens, training_need
from expunge.training.precision import bf16_note, uses_bf16
from expunge.training.streams import Streams
from expunge.training.workload import sampled_units, training_load

if TYPE_CHECKING:
    from expunge.training.job import Job

Terms = Mapping[str, tuple[WeightedTerm, ...]]


def with_precision(job: Job, model: Any) -> Job:
    """The job with its precision settled, and said where nobody asked for it."""
    first = next(model.parameters())
    asked = job.part.bf16
    used = uses_bf16(asked, first.device, model.dtype, job.rules)
    if note := bf16_note(asked, used, first.device):
        say(note)
    return replace(job, part=replace(job.part, bf16=used))


def with_passes(job: Job, model: Any, streams: Streams, *, layer: int | None, work: Path | None) -> tuple[Job, Fit]:
    """The job with its passes settled for a model with its scope attached, and activation checkpointing switched on.

    Where nothing is set, a resumed run does as it did before.
    """
    device = next(model.parameters()).device
    part = by_first(lambda: as_before(job.part, work))
    # Memory differs from process to process, and all of them must cut their steps alike.
    found = from_first(_fit(part, model, streams, job.terms, device, layer))
    if found.note:
        say(found.note)
    if work and process_number() == 0:
        found.keep(work)
    if found.checkpoint_activations:
        compute_again(model)
    return replace(job, part=replace(part, **found.choices)), found


def _fit(part: TrainPart, model: Any, streams: Streams, terms: Terms, device: torch.device, layer: int | None) -> Fit:
    try:
        shape, moved = ModelShape.of(model), Moved.of(model)
    except (ModelError, AttributeError):
        # An architecture that names its sizes otherwise trains all the same.
        tokens = part.micro_batch_tokens or pass_tokens(device)
        return Fit(micro_batch_tokens=tokens, checkpoint_activations=bool(part.checkpoint_activations))
    steps = sampled_units(streams)

    def need(tokens: int, checkpoint: bool) -> MemoryNeed:
        largest = training_load(steps, streams.plan.num_steps, tokens).largest
        settings = pass_settings(part, terms, layer=layer, checkpoint=checkpoint)
        return training_need(shape, moved, largest, settings)

    return fit(part, device, free_memory(device), need, can_checkpoint=can_checkpoint(model))


def pass_settings(part: TrainPart, terms: Terms, *, layer: int | None, checkpoint: bool) -> PassSettings:
    """What a part and its terms say of the passes."""
    members: Sequence[WeightedTerm] = [weighted for group in terms.values() for weighted in group]
    return PassSettings(
        bf16=bool(part.bf16),
        checkpoint=checkpoint,
        distributions=any("reference_logits" in weighted.term.needs for weighted in members),
        optimizer=part.optimizer,
        top=None if any(weighted.term.head for weighted in members) else layer,
    )
