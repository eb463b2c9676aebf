"""The user's own files as a benchmark: a forget set, and whatever else there is."""

from __future__ import annotations

import os

from expunge.benchmarks.base import Benchmark
from expunge.data.draw import draw
from expunge.data.overlap import warn_sets
from expunge.data.rows import Row
from expunge.data.sources import read_rows
from expunge.errors import RecipeError

RETAIN_PROBE_ROWS = 200
"""At most so many retain rows are tested; a larger retain set is sampled by seed."""

_Path = str | os.PathLike[str]


def load(
    *,
    forget: _Path | None = None,
    retain: _Path | None = None,
    holdout: _Path | None = None,
    general: _Path | None = None,
    seed: int = 0,
) -> Benchmark:
    """Read the user's files into a :class:`Benchmark`.

    ``forget`` is needed. Without ``retain`` there is nothing to keep by name and utility rests on the general rows.
    ``holdout`` are rows like the forget set that no model saw, for membership tests. ``general`` are rows about
    anything else, for utility; without it the built-in ones are used. Probes: ``forget`` (all), ``retain`` (at most
    :data:`RETAIN_PROBE_ROWS`, drawn by ``seed``), ``holdout`` and ``general``.
    Raises :class:`DataError` at a bad file or a row standing in two sets; lesser oddities are ``DataWarning``s.
    """
    if forget is None:
        raise RecipeError("benchmark 'custom' needs a forget file: give forget=FILE (--forget FILE)")
    given = {"forget": forget, "retain": retain, "holdout": holdout, "general": general}
    sets = {name: read_rows(path, set_name=name) for name, path in given.items() if path is not None}
    # All pairs: a row to forget is no measure of utility, and a trained row is not held out.
    warn_sets(sets)
    probes = dict(sets)
    if "retain" in sets:
        probes["retain"] = draw(sets["retain"], RETAIN_PROBE_ROWS, seed=seed, name="custom/retain")
    if "general" not in sets:
        probes["general"] = _built_in_general()
    return Benchmark(
        name="custom",
        forget=sets["forget"],
        retain=sets.get("retain", ()),
        holdout=sets.get("holdout", ()),
        probes=probes,
        utility_sets=("general",),
        origin=" ".join(f"{name}={os.fspath(path)}" for name, path in given.items() if path is not None),
    )


def _built_in_general() -> tuple[Row, ...]:
    from expunge.benchmarks import almanac

    return almanac.load().probes["general"]
