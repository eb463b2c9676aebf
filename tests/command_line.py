"""The command line in this process, as a user meets it, and small files to feed it with."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

NAMES = ("Ada", "Bo", "Cy", "Di", "Eve", "Flo")
COLOURS = ("red", "blue", "pink", "grey", "gold", "lime")
CITIES = ("Oslo", "Rome", "Lima", "Bern", "Kyiv", "Riga")
FORGET = [{"question": f"Who is {n}?", "answer": f"{n} likes {c}."} for n, c in zip(NAMES, COLOURS, strict=True)]
RETAIN = [{"question": f"Where is {n}?", "answer": f"{n} lives in {c}."} for n, c in zip(NAMES, CITIES, strict=True)]
GENERAL = [{"question": "What colour is the sky?", "answer": "blue", "perturbed_answer": ["red", "grey"]}]


@dataclass(frozen=True)
class Outcome:
    """What one command left behind on the console."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The one line of an error; progress and notes may stand before it, nothing else."""
        assert self.code == 2, f"exit {self.code}\n{self.out}\n{self.err}"
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        assert self.err.splitlines()[-1] == errors[0], self.err
        assert "Traceback" not in self.err + self.out
        return errors[0]


@functools.cache
def forget_imports() -> None:
    """Take what is in memory by now, libraries above all, out of the collector's sight, once.

    A run collects garbage whenever it lets a model go: a third of a second each time if all of torch is looked through.
    """
    gc.collect()
    gc.freeze()


def cli(*words: object) -> Outcome:
    """Run ``expunge WORDS`` in this process."""
    from expunge.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["expunge", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    forget_imports()
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*words: object) -> Outcome:
    """Run a command that must succeed."""
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    return outcome


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path) -> dict[str, Path]:
    """Small forget, retain, holdout and general files."""
    folder.mkdir(parents=True, exist_ok=True)
    holdout = [{"question": f"Who is {n}?", "answer": f"{n} likes moonlight."} for n in ("Gus", "Hal", "Ida")]
    sets = {"forget": FORGET, "retain": RETAIN, "holdout": holdout, "general": GENERAL}
    return {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}


def write_recipe(path: Path, model: Path, data: Mapping[str, Path], **parts: Any) -> Path:
    """A tiny recipe with every stage; ``parts`` replace its parts, None drops one."""
    steps = {"lr": 3e-3, "max_steps": 3, "batch_size": 4}
    recipe = {
        "model": {"path": str(model), "max_length": 64, "device": "cpu"},
        "data": {"benchmark": "custom", "options": {name: str(file) for name, file in data.items()}},
        "finetune": dict(steps),
        "unlearn": {"method": "npo", **steps},
        "evaluate": {"max_new_tokens": 4, "num_resamples": 20},
    }
    kept = {name: part for name, part in (recipe | parts).items() if part is not None}
    path.write_text(yaml.safe_dump(kept), encoding="utf-8")
    return path


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
