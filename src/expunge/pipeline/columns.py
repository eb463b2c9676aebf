"""Which runs of a comparison stand in which column: one by one, or several seeds of one recipe together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expunge.errors import UserError, unknown
from expunge.pipeline.finished import Finished
from expunge.pipeline.redacting import REDACTED

_ORDER = ("before", "retain", "run")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """How runs are compared."""

    baseline: str | None = None
    """Label or folder of the column that differences are to; None: the first run, or ``before`` for a single one."""
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Folders of runs that make one column, by its name."""
    seeds: bool = True
    """Put runs together whose recipes differ in nothing but the seed."""
    metrics: Sequence[str] = ()
    """Keys to show, in this order; all where empty."""
    reference: str | Path | None = None
    """The retain model's run or log for every run, instead of each one's own."""
    num_resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.num_resamples < 10:
            raise UserError(f"--resamples must be at least 10, got {self.num_resamples}")


@dataclass(frozen=True, eq=False)
class Column:
    """What stands in one column: a run, or several seeds of one."""

    label: str
    members: tuple[Finished, ...]

    @property
    def role(self) -> str:
        """``run``, ``before`` or ``retain``."""
        return self.members[0].role


def make_columns(models: Sequence[Finished], settings: CompareSettings) -> list[Column]:
    """Put every model in a column: groups that were named, seeds of one recipe, and each of the others in its own.

    Raises:
        UserError: a group of fewer than two runs, or whose name a run has already.
    """
    named = {name: _members(name, models, folders) for name, folders in settings.groups.items()}
    taken = {model: name for name, members in named.items() for model in members}
    if settings.seeds:
        free = [model for model in models if model.role == "run" and model not in taken]
        for members in _same_but_seed(free):
            name = _group_name(members, {*named, *(m.label for m in models)})
            named[name] = members
            taken |= dict.fromkeys(members, name)
    columns: dict[str, Column] = {}
    for model in models:
        label = taken.get(model, model.label)
        if label not in columns:
            columns[label] = Column(label, tuple(named[label]) if model in taken else (model,))
        elif model not in columns[label].members:
            raise UserError(f"--group {label}: a run has this name already; give the group another")
    return sorted(columns.values(), key=lambda column: _ORDER.index(column.role))


def _members(name: str, models: Sequence[Finished], folders: Sequence[str]) -> list[Finished]:
    members = []
    for folder in folders:
        found = [m for m in models if m.role == "run" and m.folder.resolve() == Path(folder).resolve()]
        if len(found) != 1:
            raise UserError(f"--group {name}: {folder} holds {len(found)} models; a group takes runs of one model each")
        members.append(found[0])
    if len(set(members)) < 2:
        raise UserError(f"--group {name}: needs at least two runs, for instance {name}=runs/seed0,runs/seed1")
    return list(dict.fromkeys(members))


def _same_but_seed(models: Sequence[Finished]) -> list[list[Finished]]:
    """Runs whose recipes differ in their seeds (and names) only, and in these all."""
    alike: dict[str, list[Finished]] = {}
    for model in models:
        if model.recipe and model.recipe.get("unlearn") and "seed" in model.recipe:
            rest = {key: value for key, value in model.recipe.items() if key not in ("seed", "name")}
            text = json.dumps(rest, sort_keys=True, default=str)
            # What was taken out may have been another thing in each: such runs are put together by hand.
            if REDACTED not in text:
                alike.setdefault(text, []).append(model)
    return [
        members for members in alike.values() if len(members) > 1 and len(set(map(seed_of, members))) == len(members)
    ]


def seed_of(model: Finished) -> int | None:
    """The seed in a run's recipe; None where it says none."""
    seed = (model.recipe or {}).get("seed")
    return seed if isinstance(seed, int) else None


def _group_name(members: Sequence[Finished], taken: set[str]) -> str:
    """What the runs' names begin with, else their method; told apart from every other column."""
    start = _shared_start([model.label for model in members])
    unlearn = (members[0].recipe or {}).get("unlearn")
    method = str(unlearn.get("method", "")) if isinstance(unlearn, dict) else ""
    choices = (start, method, f"{members[0].label} and {len(members) - 1} more")
    return next(name for name in (*choices, " + ".join(m.label for m in members)) if name and name not in taken)


def find_baseline(columns: Sequence[Column], wanted: str | None) -> Column:
    """The column that differences are to: the one asked for by name or folder, else the first run.

    A single run is compared with what it started from, where that was measured.

    Raises:
        UserError: the one asked for is not there.
    """
    if wanted is not None:
        for column in columns:
            folders = {member.folder.resolve() for member in column.members if member.role == "run"}
            if column.label == wanted or Path(wanted).resolve() in folders:
                return column
        raise UserError(f"--baseline: {unknown('run', wanted, [column.label for column in columns])}")
    runs = [column for column in columns if column.role == "run"]
    before = [column for column in columns if column.role == "before"]
    return (before if before and len(runs) < 2 else runs or list(columns))[0]


def _shared_start(labels: Sequence[str]) -> str:
    """What all names begin with, less what leads up to a seed's number: ``npo`` of ``npo_s0`` and ``npo_s1``."""
    start = ""
    for letters in zip(*labels, strict=False):
        if len(set(letters)) > 1:
            break
        start += letters[0]
    cut = re.sub(r"(?:(?:^|[\W_]+)(?:seed|s)?|seed)[\W_]*$", "", start)
    cut = re.sub(r"\d+$", "", start) if cut == start else cut
    return "" if "/" in cut else cut
