"""The evaluation suite either way: seconds, memory, and scores that must agree."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.cases import Order
from benchmarks.measured import Measured, peak_bytes, reset_peak
from benchmarks.plain_suite import PlainSuite
from benchmarks.sources import Sets
from expunge.evaluation import evaluate
from expunge.models.load import LoadedModel
from expunge.recipe import EvaluatePart

COMPARED = (
    "avg_loss",
    "paraphrase_avg_loss",
    "perturbed_avg_loss",
    "mia_min_k",
    "extraction_strength",
    "rougeL_recall",
)
"""Columns whose means are compared, where both sides have them."""
PARTS = {"teacher-forced": "score_sequences", "generation": "generate_answers"}
"""What expunge's evaluation calls for each part."""


def plain_suite(order: Order, loaded: LoadedModel, sets: Sets) -> Measured:
    """A pass for each metric."""
    reset_peak(loaded)
    started = time.perf_counter()
    suite = PlainSuite(loaded, order.new_tokens)
    columns = suite.run(sets.probes)
    seconds = time.perf_counter() - started
    return _measured(loaded, seconds, suite.seconds, columns, suite.texts)


def our_suite(order: Order, loaded: LoadedModel, sets: Sets) -> Measured:
    """One pass for all of them, as ``expunge evaluate`` does."""
    reset_peak(loaded)
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    with _clocked(seconds):
        found = evaluate.evaluate_model(loaded, sets.probes, EvaluatePart(max_new_tokens=order.new_tokens))
    total = time.perf_counter() - started
    return _measured(loaded, total, seconds, found.scores, found.generations)


@contextmanager
def _clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Add up how long the parts take while the block runs."""

    def clock(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - started
            return result

        return timed

    clocks: dict[str, Any] = {name: clock(part, getattr(evaluate, name)) for part, name in PARTS.items()}
    with mock.patch.multiple(evaluate, **clocks):
        yield


def _measured(
    loaded: LoadedModel,
    seconds: float,
    parts: Mapping[str, float],
    columns: Mapping[str, Mapping[str, np.ndarray]],
    texts: Mapping[str, Any],
) -> Measured:
    means = {
        f"{name} {column}": float(np.nanmean(values[column]))
        for name, values in columns.items()
        for column in COMPARED
        if column in values
    }
    written = [text for name in sorted(texts) for text in texts[name]]
    return Measured(
        seconds=[seconds],
        peak=peak_bytes(loaded),
        parts=dict(parts),
        scores=means,
        answers=[hashlib.sha256(text.encode()).hexdigest()[:12] for text in written],
    )
