"""The job of an order as the product builds it, and how much work its steps hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.cases import Order
from benchmarks.sources import Sets
from expunge.methods.table import compose
from expunge.recipe import UnlearnPart
from expunge.training.job import Job, unlearn_job
from expunge.training.streams import Unit

NEVER = 1e6
"""Minutes between two resume points: the plain way writes none either."""


def make_job(order: Order, sets: Sets) -> Job:
    """Everything but the model: the whole run is planned, of which only some steps are taken."""
    part = UnlearnPart(
        method=order.method,
        lr=order.lr,
        batch_size=order.batch,
        max_steps=order.run_steps,
        warmup=0.0,
        schedule="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=order.bf16,
        checkpoint_minutes=NEVER,
        **order.settings,
    )
    composition = compose(part, has_retain=True)
    return unlearn_job(
        "benchmark",
        composition,
        part,
        forget=sets.forget,
        retain=sets.retain,
        seed=order.seed,
        refusals=sets.refusals,
    )


@dataclass(frozen=True)
class Amount:
    """Useful work of a step, on average: what no way of computing it can do without."""

    tokens: float
    """Tokens of every sequence, prompt and answer, without pads; a reference's pass is not counted."""
    labels: float
    """Supervised tokens among them."""


def count_work(steps: Iterable[list[Unit]]) -> Amount:
    """Mean amounts over some steps."""
    answers = [[s for unit in units for s in unit.answers.values()] for units in steps]
    tokens = sum(len(s.ids) for sequences in answers for s in sequences)
    labels = sum(s.num_labels for sequences in answers for s in sequences)
    return Amount(tokens / len(answers), labels / len(answers))
