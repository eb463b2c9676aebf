"""What a recipe's unlearn part does with a benchmark's rows; whatever does not go together is refused here."""

from __future__ import annotations

from dataclasses import replace

from expunge.benchmarks.base import Benchmark
from expunge.data.sources import read_written
from expunge.data.views import VIEWS, ViewContext, need_alternates
from expunge.methods.auto import AUTO, Situation, default_for, settled
from expunge.methods.table import Composition, compose
from expunge.recipe import UnlearnPart
from expunge.training.merge import compose_members, make_merge
from expunge.training.rules import make_rules

Members = tuple[tuple[UnlearnPart, Composition], ...]
"""The runs of a merge, each with its settings."""


def composed(part: UnlearnPart, benchmark: Benchmark) -> tuple[UnlearnPart, Composition, Members]:
    """The part with its method settled, what unlearning does with these rows, and the runs that it merges if it does.

    Raises:
        RecipeError: parts that do not go together, or that the rows do not suit.
    """
    has_retain = bool(benchmark.retain)
    notes: tuple[str, ...] = ()
    if part.method == AUTO:
        situation = Situation(retain=has_retain, to_4bit=part.to_4bit)
        part = settled(part, situation)
        notes = (f"method auto is {part.method} here: {default_for(situation).reason}; --method names another",)
        if situation.to_4bit and default_for(situation) == default_for(replace(situation, to_4bit=False)):
            notes += ("to_4bit has no effect without retain rows: auto knows no method for 4 bits that needs none",)
    elif part.to_4bit:
        notes = (f"to_4bit has no effect: the method is {part.method!r}, not auto",)
    composition = compose(part, has_retain=has_retain)
    composition = replace(composition, notes=(*notes, *composition.notes))
    members: Members = ()
    if composition.merge:
        members = compose_members(part, make_merge(composition.merge), has_retain=has_retain)
    for one in (composition, *(member for _, member in members)):
        rows = read_written(part.written) if part.written else benchmark.forget
        if part.written and one.view == "model":
            need_alternates(rows, ViewContext())
        if check := VIEWS[one.view].check:
            check(rows)
    for trained in [member for _, member in members] or [composition]:
        make_rules(trained.rules, trained.terms)
    return part, composition, members
