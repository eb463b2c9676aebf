"""A recipe's data: its benchmark, with the probes of others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from expunge.benchmarks.base import Benchmark, with_probes_of
from expunge.benchmarks.table import benchmark_options, load_benchmark
from expunge.data.overlap import DataWarning
from expunge.progress import say
from expunge.recipe import Recipe


def load_data(recipe: Recipe, data_root: str | None = None) -> Benchmark:
    """The recipe's benchmark, with the probes of those that are measured too; its warnings become one line each."""

    def load(spec: str, options: Mapping[str, Any]) -> Benchmark:
        root = {"root": data_root} if data_root and "root" in benchmark_options(spec) else {}
        return load_benchmark(spec, **{**root, **options})

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        benchmark = load(recipe.data.benchmark, recipe.data.options)
        for spec, options in recipe.data.also.items():
            benchmark = with_probes_of(benchmark, load(spec, options))
    for warning in caught:
        say(f"warning: {warning.message}")
    for note in benchmark.notes:
        say(f"note: {note}")
    return benchmark
