"""Benchmarks by name, and the one place that turns ``"tofu:forget10"`` and options into rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from expunge.benchmarks.base import Benchmark
from expunge.errors import RecipeError, nearest
from expunge.registry import Registry

BENCHMARKS: Registry[Callable[..., Benchmark]] = Registry(
    "benchmark",
    {
        "almanac": "expunge.benchmarks.almanac:load",
        "book": "expunge.benchmarks.book:load",
        "custom": "expunge.benchmarks.custom:load",
        "hallucination": "expunge.benchmarks.hallucination:load",
        "harm": "expunge.benchmarks.harm:load",
        "knowundo": "expunge.benchmarks.knowundo:load",
        "lume": "expunge.benchmarks.lume:load",
        "muse": "expunge.benchmarks.muse:load",
        "rwku": "expunge.benchmarks.rwku:load",
        "tofu": "expunge.benchmarks.tofu:load",
        "truthfulqa": "expunge.benchmarks.truthfulqa:load",
        "wikitext": "expunge.benchmarks.wikitext:load",
        "wmdp": "expunge.benchmarks.wmdp:load",
    },
)


def benchmark_options(spec: str) -> tuple[str, ...]:
    """Names of the options that a benchmark takes; :class:`RecipeError` for an unknown one."""
    return tuple(inspect.signature(BENCHMARKS.get(spec.partition(":")[0].strip())).parameters)


def load_benchmark(spec: str, **options: object) -> Benchmark:
    """Load the benchmark ``spec`` names: ``"almanac"``, ``"custom"``, or with a split, ``"tofu:forget10"``.

    ``options`` go to the benchmark's own ``load``. Raises :class:`RecipeError`, one line with the nearest valid name,
    for an unknown benchmark, an option it does not have, or a split it does not know.
    """
    name, colon, split = (part.strip() for part in spec.partition(":"))
    name = BENCHMARKS.canonical(name)
    loader = BENCHMARKS.get(name)
    accepted = benchmark_options(name)
    if colon:
        if "split" not in accepted:
            raise RecipeError(f"benchmark {name!r} has no splits, got {spec!r}; write {name!r}")
        if not split:
            raise RecipeError(f"benchmark {spec!r} ends in a colon; write {name!r} for its default split")
        if options.get("split", split) != split:
            raise RecipeError(f"benchmark {spec!r} and split={options['split']!r} name two splits; give one")
        options["split"] = split
    problems = [f"{option!r}{nearest(option, accepted)}" for option in options if option not in accepted]
    if problems:
        raise RecipeError(
            f"benchmark {name!r} has no option {', '.join(problems)}; accepted: {', '.join(accepted) or 'none'}"
        )
    return loader(**options)
