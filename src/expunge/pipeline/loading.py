"""A recipe's data: its benchmark, with the probes of others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from expunge.benchmarks.base import Benchmark, with_probes_of
from expunge.benchmarks.table import benchmark_options, load_benchmark
from expunge.data.overlap import DataWarning
from expunge.progress import say
from expunge.recipe import Recipe


@contextmanager
def warnings_said() -> Iterator[None]:
    """Every warning about data that the block gives becomes one line for the user."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        yield
    for warning in caught:
        say(f"warning: {warning.message}")


def load_data(recipe: Recipe, data_root: str | None = None) -> Benchmark:
    """The recipe's benchmark, with the probes of those that are measured too; its warnings become one line each."""

    def load(spec: str, options: Mapping[str, Any]) -> Benchmark:
        root = {"root": data_root} if data_root and "root" in benchmark_options(spec) else {}
        return load_benchmark(spec, **{**root, **options})

    with warnings_said():
        benchmark = load(recipe.data.benchmark, recipe.data.options)
        for spec, options in recipe.data.also.items():
            benchmark = with_probes_of(benchmark, load(spec, options))
    for note in benchmark.notes:
        say(f"note: {note}")
    return benchmark
