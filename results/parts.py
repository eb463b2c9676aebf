"""The parts that `make results` is made of: what each runs, and the page that it fills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from results import claims, methods
from results.records import Records

RECIPES = Path(__file__).parents[1] / "recipes" / "results"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One page's worth of runs."""

    title: str
    recipe: str
    """Its file in ``recipes/results``, without the ending."""
    minutes: int
    """What it may take on two cores."""
    write: Callable[[Records, Sequence[str]], list[Path]]
    """Fills the page from what there is and the names of all runs; returns the files written."""


PARTS: dict[str, Part] = {
    "methods": Part(
        title="every method at two learning rates, on the almanac",
        recipe="methods",
        minutes=240,
        write=methods.write,
    ),
    "claims": Part(
        title="what papers claim, held against controls",
        recipe="claims",
        minutes=90,
        write=claims.write,
    ),
}
"""By name, in the order in which they are run."""
