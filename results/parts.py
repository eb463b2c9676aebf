"""The parts that `make results` is made of: what each runs, and the page that it fills."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from results import audit, benchmark_tables, claims, defaults, methods
from results.records import Records
from results.running import RETRAINED, Place, attack_retrained, carry_out, missing, runs_of
from results.sequential import Sequential

RECIPES = Path(__file__).parents[1] / "recipes" / "results"


class Part(Protocol):
    """One page's worth of runs."""

    @property
    def title(self) -> str:
        """In a few words."""

    @property
    def minutes(self) -> int:
        """Its budget on two cores: what it may take, not what was measured."""

    def names(self) -> list[str]:
        """Of all runs."""

    def missing(self, records: Records) -> list[str]:
        """Of the runs without a record, or with one of other settings."""

    def run(self, records: Records, place: Place, only: Collection[str]) -> None:
        """Make what is missing, and write each run's record down as soon as it is there.

        Raises:
            UserError: ``only`` names a run that there is not.
        """

    def write(self, records: Records) -> list[Path]:
        """Fill the page; returns the files written."""


@dataclass(frozen=True, kw_only=True)
class RecipePart:
    """A part whose runs are those of one recipe."""

    title: str
    recipe: str
    """Its file in ``recipes/results``, without the ending."""
    minutes: int
    page: Callable[[Records, Sequence[str]], list[Path]]
    """Fills the page from what there is and the names of all runs."""
    retrained: bool = False
    """Whether the retain model is attacked as well."""
    prepare: Callable[[Place], Place] = lambda place: place
    """Makes the files that the runs read, where they are not there as published."""

    @property
    def _file(self) -> Path:
        return RECIPES / f"{self.recipe}.yaml"

    def names(self) -> list[str]:
        """Of all runs."""
        return [*runs_of(self._file), *([RETRAINED] if self.retrained else [])]

    def missing(self, records: Records) -> list[str]:
        """Of the runs without a record, or with one of another recipe."""
        control = [RETRAINED] if self.retrained and RETRAINED not in records.runs else []
        return [*missing(runs_of(self._file), records), *control]

    def run(self, records: Records, place: Place, only: Collection[str]) -> None:
        """Make what is missing."""
        runs, place = runs_of(self._file, only), self.prepare(place)
        carry_out(runs, records, place)
        if self.retrained:
            attack_retrained(next(iter(runs.values())), records, place)

    def write(self, records: Records) -> list[Path]:
        """Fill the page."""
        return self.page(records, self.names())


PARTS: dict[str, Part] = {
    "methods": RecipePart(
        title="every method, at two learning rates a family, on the almanac",
        recipe="methods",
        minutes=150,
        page=methods.write,
    ),
    "defaults": RecipePart(
        title="what `--method auto` is chosen from, and compositions that nobody published",
        recipe="defaults",
        minutes=60,
        page=defaults.write,
    ),
    "claims": RecipePart(
        title="what papers claim, held against controls",
        recipe="claims",
        minutes=90,
        page=claims.write,
    ),
    "audit": RecipePart(
        title="attacks on a method of each kind, on the almanac",
        recipe="audit",
        minutes=90,
        page=audit.write,
        retrained=True,
    ),
    **{
        name: RecipePart(
            title=f"five methods on {title}",
            recipe=f"benchmark_{name}",
            minutes=minutes,
            page=benchmark_tables.page(name),
            prepare=benchmark_tables.own_texts if name == "custom" else lambda place: place,
        )
        for name, title, minutes in (
            ("tofu", "TOFU forget01", 60),
            ("knowundo", "a quarter of KnowUnDo privacy", 75),
            ("book", "thirty passages of a book", 30),
            ("harm", "the harmless stand-in", 30),
            ("custom", "a folder of texts", 30),
        )
    },
    "sequential": Sequential(),
}
"""By name, in the order in which they are run."""
