"""The plain way to train: a pass for each stream and kind of answer, a frozen copy run beside it in every step.

What a well-written script around transformers does: padded batches, SDPA, logits of all positions, cross-entropy over
all of them, a deep copy of the model as the reference, AdamW as ``optim=adamw_torch`` gives it. Nothing is slowed down
on purpose, and the loop around it is leaner than a Trainer.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from benchmarks.cases import Order
from benchmarks.measured import Measured, peak_bytes, reset_peak, wait
from benchmarks.plain_forward import Answer, forward
from benchmarks.plain_losses import Stream, plain_loss
from benchmarks.plan import count_work, make_job
from benchmarks.sources import Sets
from benchmarks.work import useful_flops
from expunge.models.layers import resolve_layer
from expunge.models.load import LoadedModel
from expunge.scopes import make_scope
from expunge.training.job import Job, job_streams
from expunge.training.streams import Unit

REFERENCE = {"reference_logps", "reference_logits", "reference_hidden"}


class PlainTrainer:
    """Takes one step after the other over units that it is given."""

    def __init__(self, loaded: LoadedModel, job: Job) -> None:
        self.job = job
        self.pad_id = loaded.tokenizer.pad_token_id
        start = loaded.model
        start.set_attn_implementation("sdpa")
        self.layer = None if job.layer is None else resolve_layer(start, job.layer)
        asked = any(w.term.needs & REFERENCE for members in job.terms.values() for w in members)
        # An adapter can be switched off: a copy would only cost memory.
        adapter = job.scope.get("kind") == "lora"
        self.frozen = copy.deepcopy(start).eval().requires_grad_(False) if asked and not adapter else None
        set_seed(job.seed)
        self.model = make_scope(job.scope).attach(start, layer=self.layer)
        self.model.train()
        self.device = next(self.model.parameters()).device
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        """AdamW; biases and norms do not decay."""
        wide = [p for p in self.trained if p.ndim >= 2]
        narrow = [p for p in self.trained if p.ndim < 2]
        groups = [
            {"params": wide, "weight_decay": self.job.part.weight_decay},
            {"params": narrow, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.job.part.lr or 0.0)

    def step(self, units: list[Unit]) -> tuple[float, float]:
        """Loss and gradient norm of one step, which is taken."""
        with self._autocast():
            loss = torch.stack([self._stream_loss(name, units) for name in self.job.terms]).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.job.part.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    def _stream_loss(self, name: str, units: list[Unit]) -> Tensor:
        members = [unit for unit in units if unit.stream == name]
        terms = self.job.terms[name]
        reference: dict[str, Answer] = {}
        if any(w.term.needs & REFERENCE for w in terms):
            with self._reference() as frozen, torch.no_grad():
                reference = self._answers(frozen, members)
        stream = Stream(self._answers(self.model, members), reference)
        return torch.stack([w.weight * plain_loss(w.term.key, stream, w.settings) for w in terms]).sum()

    def _answers(self, model: Any, units: list[Unit]) -> dict[str, Answer]:
        """A pass for each kind of answer."""
        return {
            kind: forward(model, [unit.answers[kind] for unit in units], pad_id=self.pad_id, layer=self.layer)
            for kind in units[0].answers
        }

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        if self.frozen is not None:
            yield self.frozen
            return
        with self.model.disable_adapter():
            yield self.model

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bool(self.job.part.bf16))


def plain_steps(order: Order, loaded: LoadedModel, sets: Sets) -> Measured:
    """Train for the order's steps; the one-off cost is that of the frozen copy and the optimiser."""
    reset_peak(loaded)
    job = make_job(order, sets)
    streams = job_streams(loaded.format, job)
    count = order.warmup + order.steps
    steps = [streams.units(step) for step in range(count)]
    started = time.perf_counter()
    trainer = PlainTrainer(loaded, job)
    marks = [time.perf_counter()]
    made = []
    for units in steps:
        made.append(trainer.step(units))
        wait(trainer.device)
        marks.append(time.perf_counter())
    amount = count_work(steps[order.warmup :])
    return Measured(
        setup=marks[0] - started,
        seconds=[after - before for before, after in itertools.pairwise(marks)],
        losses=[loss for loss, _ in made],
        norms=[norm for _, norm in made],
        peak=peak_bytes(loaded),
        tokens=amount.tokens,
        labels=amount.labels,
        flops=useful_flops(trainer.model, job, amount),
    )
