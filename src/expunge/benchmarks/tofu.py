"""TOFU: fictitious authors, some of whom a model must forget (Maini et al. 2024, arXiv 2401.06121)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import (
    Root,
    data_base,
    find_folder,
    hub_file,
    optional_hub_file,
    seed_problem,
    whole_numbers,
)
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning, warn_sets
from expunge.data.rows import Row
from expunge.data.sources import read_rows, read_text
from expunge.errors import DataError, RecipeError, unknown

HUB_ID = "locuslab/TOFU"
HUB_REVISION = "324592d84ae4f482ac7249b9285c2ecdb53e3a68"
RETAIN_SPLITS = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
RETAIN_POOLS = ("all", "probed")
REFUSALS_FILE = "idontknow.jsonl"

_PROBE_FILES = {
    "retain": "retain_perturbed.json",
    "real_authors": "real_authors_perturbed.json",
    "world_facts": "world_facts_perturbed.json",
}


_LAYOUT_HELP = (
    "give the published files (forgetXX.json, forgetXX_perturbed.json, retainYY.json, retain_perturbed.json, "
    "real_authors_perturbed.json, world_facts_perturbed.json) in a folder, or its subfolder 'tofu', "
    "with --data-root or EXPUNGE_DATA"
)


def load(
    *,
    split: str = "forget10",
    root: Root = None,
    holdout_rows: int = 0,
    retain_rows: int | None = None,
    retain_pool: str = "all",
    eval_rows: int | None = None,
    paraphrased: bool = False,
    seed: int = 0,
    revision: str | None = None,
) -> Benchmark:
    """Read one TOFU split and its probes, from a folder of the published files or from the Hub.

    - ``split``: ``forget01``, ``forget05`` or ``forget10``; the complement is the retain set.
    - ``root``: the folder, or its parent where the folder is called ``tofu``; else ``EXPUNGE_DATA``; else the Hub at
      ``revision`` (a pinned commit unless given).
    - ``holdout_rows``: so many rows from the end of the retain set are kept out of every training set, for membership
      tests. With 0, ``holdoutXX.json`` is used where it is there. A multiple of 20 holds out whole authors.
    - ``retain_pool``: ``probed`` keeps only the retain rows that ``retain_perturbed`` tests (the first 400).
    - ``retain_rows``: draws so many of the pool, by ``seed``; only drawn rows are probed.
    - ``eval_rows``: at most so many rows of each probe set other than ``forget``, drawn by ``seed``.
    - ``paraphrased``: the probes ``forget`` and ``retain`` are asked by their paraphrased questions, which no training
      set has; the other sets are published without.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for files that are missing or do not
    fit together (a probe whose training row is another, a forget row inside the retain set).
    """
    _check_options(split, holdout_rows, retain_rows, retain_pool, eval_rows, paraphrased, seed)
    files = _locate(root, revision, split)
    forget, retain = files.rows(f"{split}.json", "forget"), files.rows(f"{RETAIN_SPLITS[split]}.json", "retain")
    probes = _aligned_probes(files, split, forget, retain)
    if paraphrased:
        probes |= {name: _paraphrased(probes[name]) for name in ("forget", "retain")}
    num_probed = len(probes["retain"])
    retain, holdout = _hold_out(retain, holdout_rows, num_probed)
    if not holdout_rows and files.optional(file := f"holdout{split[-2:]}.json"):
        holdout = files.rows(file, "holdout")
    warn_sets({"forget": forget, "retain": retain, "holdout": holdout})
    retain = _retain_subset(retain[:num_probed] if retain_pool == "probed" else retain, retain_rows, seed)
    probes["retain"] = _trained_on(probes["retain"], retain)
    if holdout:
        probes["holdout"] = holdout
    return Benchmark(
        name=f"tofu:{split}",
        forget=forget,
        retain=retain,
        holdout=holdout,
        probes=_capped(probes, eval_rows, seed),
        refusals=_refusals(files.optional(REFUSALS_FILE)),
        utility_sets=("real_authors", "world_facts"),
        origin=files.origin,
    )


@dataclass(frozen=True)
class _Folder:
    """TOFU's files in a local folder."""

    path: Path

    @property
    def origin(self) -> str:
        return str(self.path)

    def optional(self, file: str) -> Path | None:
        path = self.path / file
        return path if path.is_file() else None

    def rows(self, file: str, set_name: str) -> tuple[Row, ...]:
        return read_rows(self.path / file, set_name=set_name)


@dataclass(frozen=True)
class _Hub:
    """TOFU's files on the Hub at one revision, fetched one by one into the Hub's own cache."""

    revision: str

    @property
    def origin(self) -> str:
        return f"{HUB_ID}@{self.revision}"

    def optional(self, file: str) -> Path | None:
        return optional_hub_file(HUB_ID, file, self.revision, layout=_LAYOUT_HELP)

    def rows(self, file: str, set_name: str) -> tuple[Row, ...]:
        rows = read_rows(hub_file(HUB_ID, file, self.revision, layout=_LAYOUT_HELP), set_name=set_name)
        # The cache's path differs between machines; the place a later message names should not.
        return tuple(replace(row, origin=f"{self.origin}/{file}:{row.origin.rpartition(':')[2]}") for row in rows)


def _locate(root: Root, revision: str | None, split: str) -> _Folder | _Hub:
    """The folder that holds the split, or the Hub: a folder given by hand must have it, EXPUNGE_DATA may."""
    needed = [f"{split}.json", f"{split}_perturbed.json", f"{RETAIN_SPLITS[split]}.json", *_PROBE_FILES.values()]
    base = data_base(root, layout=_LAYOUT_HELP)
    folder = find_folder(base, ("tofu", ""), needed, layout=_LAYOUT_HELP) if base else None
    if folder is None and root is not None:
        raise DataError(f"{os.fspath(root)} holds no TOFU files; {_LAYOUT_HELP}")
    if folder is None:
        return _Hub(revision or HUB_REVISION)
    if revision is not None:
        warnings.warn(f"revision={revision} has no effect: TOFU is read from {folder}", DataWarning, stacklevel=3)
    return _Folder(folder)


def _check_options(
    split: str, holdout_rows: int | None, retain_rows: int | None, retain_pool: str, eval_rows: int | None,
    paraphrased: bool, seed: int,
) -> None:  # fmt: skip
    problems = []
    if split not in RETAIN_SPLITS:
        problems.append(unknown("TOFU split", str(split), RETAIN_SPLITS))
    if retain_pool not in RETAIN_POOLS:
        problems.append(unknown("retain_pool", str(retain_pool), RETAIN_POOLS))
    if holdout_rows is None:  # the others may be left open
        problems.append("holdout_rows must be a whole number of at least 0, got None")
    problems += whole_numbers(holdout_rows=(holdout_rows, 0), retain_rows=(retain_rows, 1), eval_rows=(eval_rows, 1))
    if not isinstance(paraphrased, bool):
        problems.append(f"paraphrased must be true or false, got {paraphrased!r}")
    problems += seed_problem(seed)
    if problems:
        raise RecipeError("; ".join(problems))


def _aligned_probes(
    files: _Folder | _Hub, split: str, forget: tuple[Row, ...], retain: tuple[Row, ...]
) -> dict[str, tuple[Row, ...]]:
    """Read the four probe files; those about training rows must be about these, in this order."""
    forget_file = f"{split}_perturbed.json"
    probes = {"forget": files.rows(forget_file, "forget")}
    probes |= {name: files.rows(file, name) for name, file in _PROBE_FILES.items()}
    _check_aligned(probes["forget"], forget, forget_file, f"{split}.json")
    _check_aligned(
        probes["retain"], retain[: len(probes["retain"])], _PROBE_FILES["retain"], f"{RETAIN_SPLITS[split]}.json"
    )
    return probes


def _paraphrased(probes: Sequence[Row]) -> tuple[Row, ...]:
    """The same rows, asked in the published other words; ids stay, for they link a probe with its training row."""
    if lacking := [row for row in probes if row.paraphrased_prompt is None]:
        raise DataError(
            f"{lacking[0].origin}: no field 'paraphrased_question' ({len(lacking)} of {len(probes)} rows lack it); "
            "leave paraphrased out, or give the published files"
        )
    return tuple(replace(row, prompt=row.paraphrased_prompt or "", paraphrased_prompt=None) for row in probes)


def _trained_on(probes: tuple[Row, ...], retain: tuple[Row, ...]) -> tuple[Row, ...]:
    """The probes whose row was drawn: forgetting what was never learnt would read as damage."""
    trained = {row.id for row in retain}
    kept = tuple(row for row in probes if row.id in trained)
    if not kept:
        raise RecipeError("none of the retain rows drawn is probed; use retain_pool=probed or a larger retain_rows")
    return kept


def _check_aligned(probes: Sequence[Row], trained: Sequence[Row], probe_file: str, file: str) -> None:
    """Row i of a probe file must repeat row i of the training file: their shared id is what links the two."""
    pairs = [[(row.prompt, row.answer) for row in rows] for rows in (probes, trained)]
    if pairs[0] == pairs[1]:
        return
    at = next((i for i, (a, b) in enumerate(zip(*pairs, strict=False)) if a != b), min(map(len, pairs)))
    raise DataError(
        f"{probe_file} and {file} part at row {at}: their questions and answers must agree; are both published files?"
    )


def _hold_out(retain: tuple[Row, ...], count: int, probed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Split the last ``count`` rows off the retain set, but none of the first ``probed``, which the probes test."""
    if count > len(retain) - probed:
        raise RecipeError(f"holdout_rows={count} is more than the {len(retain) - probed} retain rows no probe is about")
    kept = len(retain) - count
    return retain[:kept], tuple(replace(row, id=f"holdout/{i}") for i, row in enumerate(retain[kept:]))


def _retain_subset(pool: tuple[Row, ...], count: int | None, seed: int) -> tuple[Row, ...]:
    if count is not None and count > len(pool):
        raise RecipeError(f"retain_rows={count} is more than the {len(pool)} rows there are to draw from")
    return draw(pool, count, seed=seed, name="tofu/retain")


def _capped(probes: dict[str, tuple[Row, ...]], count: int | None, seed: int) -> dict[str, tuple[Row, ...]]:
    """At most ``count`` rows of every probe set but ``forget``, which is what the run is about and stays whole."""
    return {
        name: rows if name == "forget" else draw(rows, count, seed=seed, name=f"tofu/probe/{name}")
        for name, rows in probes.items()
    }


def _refusals(path: Path | None) -> tuple[str, ...]:
    """One refusal a line: plain text, whatever the file's extension says."""
    if path is None:
        return ()
    return tuple(line.strip() for line in read_text(path).split("\n") if line.strip())
