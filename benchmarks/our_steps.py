"""expunge's own way to train, through ``expunge.training.run``, with a stopwatch among its callbacks."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from benchmarks.cases import Order
from benchmarks.measured import Measured, peak_bytes, reset_peak, wait
from benchmarks.plan import count_work, make_job
from benchmarks.sources import Sets
from benchmarks.work import useful_flops
from expunge.models.load import LoadedModel
from expunge.training.job import Job, job_streams
from expunge.training.run import train


class Stopwatch(TrainerCallback):
    """Notes when each step ends, and ends the run after so many."""

    def __init__(self, loaded: LoadedModel, job: Job, count: int) -> None:
        self.loaded, self.job, self.count = loaded, job, count
        self.device = next(loaded.model.parameters()).device
        self.marks: list[float] = []
        self.peak = 0
        self.model: Any = None

    def _mark(self) -> None:
        wait(self.device)
        self.marks.append(time.perf_counter())

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Whatever is computed once lies behind."""
        self._mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The weights have moved."""
        self._mark()
        if state.global_step >= self.count:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before anything is saved, which the plain way does not do."""
        self.peak = peak_bytes(self.loaded)
        self.model = kwargs["model"]


def our_steps(order: Order, loaded: LoadedModel, sets: Sets) -> Measured:
    """Train for the order's steps of the whole run that it plans; references and caches are those of the whole run."""
    reset_peak(loaded)
    job = make_job(order, sets)
    streams = job_streams(loaded.format, job)
    count = order.warmup + order.steps
    watch = Stopwatch(loaded, job, count)
    with tempfile.TemporaryDirectory(prefix="expunge-benchmark-") as name:
        folder = Path(name)
        started = time.perf_counter()
        train(loaded, replace(job, watchers=(watch,)), work=folder / "work", out=folder / "out", cache=folder / "cache")
        lines = [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text("utf-8").splitlines()]
    amount = count_work(streams.units(step) for step in range(order.warmup, count))
    return Measured(
        setup=watch.marks[0] - started,
        seconds=[after - before for before, after in itertools.pairwise(watch.marks)],
        losses=[line["loss"] for line in lines],
        norms=[line["grad_norm"] for line in lines],
        peak=watch.peak,
        tokens=amount.tokens,
        labels=amount.labels,
        flops=useful_flops(watch.model, job, amount),
    )
