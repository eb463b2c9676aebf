"""One measurement in a process of its own: takes an order as JSON, prints what it measured as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.cases import Order
from benchmarks.machine import describe_machine
from benchmarks.measured import Measured
from benchmarks.our_steps import our_steps
from benchmarks.plain_steps import plain_steps
from benchmarks.sources import Sets, open_model, read_sets
from benchmarks.suite import our_suite, plain_suite
from expunge.errors import ResourceError, UserError
from expunge.models.load import LoadedModel

WAYS: dict[tuple[str, str], Callable[[Order, LoadedModel, Sets], Measured]] = {
    ("steps", "plain"): plain_steps,
    ("steps", "ours"): our_steps,
    ("suite", "plain"): plain_suite,
    ("suite", "ours"): our_suite,
}


def measure(order: Order) -> dict[str, Any]:
    """Do what the order says.

    Returns:
        The fields of :class:`Measured` as plain values; for ``machine`` a description of this one.

    Raises:
        UserError: for a model, a device or a package that is not there.
    """
    if order.kind == "machine":
        return describe_machine(order.device)
    with _own_route():
        sets = read_sets(order)
        before = _route()
        loaded = open_model(order, sets)
        # Loading switches expunge's matrix route on; a plain script knows nothing of it.
        if order.way == "plain" and not order.onednn:
            _take_route(before)
            loaded.matmul_route = "default"
        measured = WAYS[order.kind, order.way](order, loaded, sets)
        measured.route = "bf16" if order.bf16 or order.dtype == "bfloat16" else loaded.matmul_route
        measured.rows = sets.origin
    return asdict(measured)


def _matmul() -> Any:
    """torch's settings of float32 products; None where it has none."""
    return getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)


def _route() -> str | None:
    return getattr(_matmul(), "fp32_precision", None)


def _take_route(route: str | None) -> None:
    if route is not None:
        _matmul().fp32_precision = route


@contextmanager
def _own_route() -> Iterator[None]:
    """Leave the route as it was found."""
    before = _route()
    try:
        yield
    finally:
        _take_route(before)


def main() -> int:
    """Read the order from the command line; 2 where it cannot be done, 3 where memory does not suffice."""
    order = Order(**json.loads(sys.argv[1]))
    torch.set_num_threads(order.threads)
    try:
        print(json.dumps(measure(order)))
    except (ResourceError, MemoryError, torch.OutOfMemoryError) as error:
        print(f"out of memory: {str(error).splitlines()[0]}", file=sys.stderr)
        return 3
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
