"""What a recipe's unlearn part does with a benchmark's rows; whatever does not go together is refused here."""

from __future__ import annotations

from expunge.benchmarks.base import Benchmark
from expunge.data.views import VIEWS
from expunge.methods.table import Composition, compose
from expunge.recipe import UnlearnPart
from expunge.training.merge import compose_members, make_merge
from expunge.training.rules import make_rules

Members = tuple[tuple[UnlearnPart, Composition], ...]
"""The runs of a merge, each with its settings."""


def composed(part: UnlearnPart, benchmark: Benchmark) -> tuple[Composition, Members]:
    """What unlearning does with these rows, and the runs that it merges if it does.

    Raises:
        RecipeError: parts that do not go together, or that the rows do not suit.
    """
    has_retain = bool(benchmark.retain)
    composition = compose(part, has_retain=has_retain)
    members: Members = ()
    if composition.merge:
        members = compose_members(part, make_merge(composition.merge), has_retain=has_retain)
    for one in (composition, *(member for _, member in members)):
        if check := VIEWS[one.view].check:
            check(benchmark.forget)
    for trained in [member for _, member in members] or [composition]:
        make_rules(trained.rules, trained.terms)
    return composition, members
