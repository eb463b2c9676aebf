"""Content-addressed stages: a folder per result, made once, reused for ever, resumed after a kill.

The key of a stage holds everything its result depends on: the stage's version, its part of the recipe, the seed, the
model it starts from and the data it reads. The code is recorded beside the result but is no part of the key: a
hand-bumped version is, and a golden-value test guards it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.parallel import from_first, process_number
from expunge.pipeline.environment import forget_peaks, peaks
from expunge.pipeline.folder import disk_errors
from expunge.pipeline.redacting import without
from expunge.progress import say
from expunge.training.trainer import last_resume_point

STAGE_VERSIONS = {
    "target": 1,
    "retain_model": 1,
    "written": 1,
    "alternates": 1,
    "unlearn": 1,
    "evaluate": 3,
    "harness": 2,
    "attack": 1,
    "combined": 1,
    "request": 1,
    "report": 3,
}
"""Bump a stage's number when a change of code changes its result."""

DONE = "stage.json"
"""Written last: a folder with it is complete."""

Build = Callable[[Path, Path], Mapping[str, Any]]
"""``(work, out) -> facts``: fills ``out``; whatever it keeps in ``work`` survives a kill."""


@dataclass(frozen=True)
class Stage:
    """A finished stage."""

    name: str
    key: str
    path: Path
    facts: Mapping[str, Any]
    reused: bool


def stage_key(name: str, parts: Mapping[str, Any]) -> str:
    """16 hex digits over the stage's name, version and everything its result depends on."""
    text = json.dumps([name, STAGE_VERSIONS[name], parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_folder(root: Path, name: str, key: str) -> Path:
    """Where a stage lies, finished or not."""
    return root / f"{name}-{key}"


def is_finished(folder: Path) -> bool:
    """Whether a stage's folder holds its result."""
    return _read_done(folder) is not None


class StageStore:
    """The folder that stages live in."""

    def __init__(self, root: Path) -> None:
        # Adapters name their base by its path: it must hold wherever the next command is run from.
        self.root = root.absolute()

    def run(
        self,
        name: str,
        parts: Mapping[str, Any],
        build: Build,
        *,
        label: str = "",
        hide: Collection[str] = (),
        again: bool = False,
    ) -> Stage:
        """Return the stage with these parts, building it if it is not there, or ``again`` in any case.

        In a process group all processes build together, and the first one keeps the result. Texts in ``hide`` count in
        the key like all others, and are left out where the parts are recorded.

        Raises:
            ResourceError: the disk is full; what was half-written is removed.
            UserError: another process is building the same stage.
        """
        if process_number() > 0:
            return self._follow(name, parts, build)
        stage = self._lead(name, parts, build, label, hide, again)
        from_first((stage.facts, stage.reused))
        return stage

    def _follow(self, name: str, parts: Mapping[str, Any], build: Build) -> Stage:
        """Do a share of the work, and leave the result to the first process."""
        key = stage_key(name, parts)
        if not from_first(False):
            with tempfile.TemporaryDirectory() as scratch:
                work, out = Path(scratch) / "work", Path(scratch) / "out"
                work.mkdir()
                out.mkdir()
                build(work, out)
        nothing: tuple[dict[str, Any], bool] = ({}, False)
        facts, reused = from_first(nothing)
        return Stage(name, key, stage_folder(self.root, name, key), facts, reused)

    def _lead(
        self, name: str, parts: Mapping[str, Any], build: Build, label: str, hide: Collection[str], again: bool
    ) -> Stage:
        key = stage_key(name, parts)
        final = stage_folder(self.root, name, key)
        title = label or name.replace("_", " ")
        if not again and (done := _read_done(final)) is not None:
            from_first(True)
            say(f"{title}: kept from before")
            shutil.rmtree(final.with_suffix(".work"), ignore_errors=True)
            return Stage(name, key, final, done["facts"], reused=True)
        with disk_errors(self.root), self._only_me(final):
            if not again and (done := _read_done(final)) is not None:
                from_first(True)
                return Stage(name, key, final, done["facts"], reused=True)
            from_first(False)
            facts = self._build(name, parts, build, final, hide)
        return Stage(name, key, final, facts, reused=False)

    def _build(
        self, name: str, parts: Mapping[str, Any], build: Build, final: Path, hide: Collection[str]
    ) -> dict[str, Any]:
        work, partial = final.with_suffix(".work"), final.with_suffix(".partial")
        if partial.exists():
            shutil.rmtree(partial)
        work.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        started = time.monotonic()
        forget_peaks()
        try:
            facts = dict(build(work, partial))
            facts |= {"stage_seconds": round(time.monotonic() - started, 2), **peaks()}
            shown = without(parts, hide) if hide else parts
            done = {"stage": name, "version": STAGE_VERSIONS[name], "parts": shown, "facts": facts}
            text = json.dumps(done, indent=1, sort_keys=True, default=str)
            (partial / DONE).write_text(text, encoding="utf-8")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            # Only what the next call can go on from is worth its space; this drops a half-written resume point too.
            if last_resume_point(work) is None:
                shutil.rmtree(work, ignore_errors=True)
            raise
        if final.exists():
            shutil.rmtree(final)
        os.replace(partial, final)
        shutil.rmtree(work, ignore_errors=True)
        # As a later call will read them, so that both leave the same manifest.
        return json.loads(text)["facts"]

    @contextmanager
    def _only_me(self, final: Path) -> Iterator[None]:
        """Keep a second process from building the same stage at the same time."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = final.with_suffix(".lock")
        with open(lock, "w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A lock on a file that its owner has just removed locks nobody out.
                busy = not lock.exists() or not os.path.samestat(os.fstat(stream.fileno()), lock.stat())
            except BlockingIOError:
                busy = True
            if busy:
                raise UserError(f"{final}: another process is working on this stage; wait for it or use another --out")
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)


def _read_done(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
