"""``python -m benchmarks.foresight ORDER``: what a dry run says of an order, to be held against what was measured."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import torch

from benchmarks.cases import Order
from benchmarks.plan import make_job
from benchmarks.sources import model_place, read_sets
from expunge.evaluation.estimate import evaluation_cost
from expunge.models.load import DTYPES
from expunge.models.outline import load_outline
from expunge.models.shape import ModelShape
from expunge.recipe import EvaluatePart
from expunge.training.estimate import Machine, training_cost


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """The estimate of one side."""

    seconds: float
    """Of the whole run that the order plans, or of the suite; loading and saving, which are not measured, left out."""
    memory: float
    """Bytes at the peak."""
    rates: dict[str, float]
    """Of the machine as they were just then: what a change of the constants can be tried on."""


def foresee(order: Order) -> Foreseen:
    """Estimate an order of ours without its weights, as ``--dry-run`` does."""
    sets = read_sets(order)
    with model_place(order, sets, weights=False) as place:
        outline = load_outline(place, max_length=order.length, dtype=order.dtype)
        device = torch.device(order.device)
        machine = Machine.at_hand(device, ModelShape.of(outline.model), DTYPES[order.dtype])
        if order.kind == "suite":
            # The fluency model reads answers in a stage of its own, which is not measured.
            part = EvaluatePart(max_new_tokens=order.new_tokens, fluency=False)
            cost = evaluation_cost(outline, sets.probes, part, machine, answering="own")
        else:
            cost = training_cost(outline, make_job(order, sets), machine)
    assert cost.seconds is not None
    assert cost.memory is not None
    rates = {name: value for name, value in vars(machine.rates).items() if isinstance(value, float)}
    return Foreseen(seconds=cost.seconds - cost.files_seconds, memory=cost.memory, rates=rates)


def main() -> int:
    """Read the order from the command line, and print the estimate as JSON."""
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    print(json.dumps(asdict(foresee(order))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
