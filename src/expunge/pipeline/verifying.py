"""`expunge verify`: whether a certificate is as it was written, and about this model and these files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.benchmarks.table import load_benchmark
from expunge.data.lazy import changed
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row, rows_hash
from expunge.errors import UserError
from expunge.pipeline.certificate_file import DIGEST, digest, read_certificate
from expunge.pipeline.hashes import differences, json_hash, model_record

_OWN_FILES = "custom"
"""The benchmark whose rows come from files that somebody can hold against the certificate."""
_DRAWN = {"corpus", "entity"}
"""Options that draw rows from a larger file: no file of rows stands for them."""
_READING = ("passage_words", "prompt_words", "held_share", "seed")
"""Options that change which rows a file gives."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    what: str
    """``digest``, ``model``, ``forget rows`` or ``retain rows``."""
    holds: bool
    found: str
    """In a few words."""


@dataclass(frozen=True)
class Verified:
    """Everything that was looked at, in order."""

    certificate: Mapping[str, Any]
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether all of it holds."""
        return all(check.holds for check in self.checks)


def verify_certificate(
    certificate: str | Path,
    model: str | Path,
    *,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
) -> Verified:
    """Hold a certificate against itself, a model, and files of rows.

    Args:
        certificate: a ``certificate.json``.
        model: a folder, a run or an adapter, wherever it lies now.
        forget: file of the rows that were to be forgotten.
        retain: file of the rows that were to be kept.

    Raises:
        UserError: the certificate, the model or a file cannot be read, or the rows came from no file.
    """
    content = read_certificate(certificate)
    files = {"forget": forget, "retain": retain}
    given = {name: str(path) for name, path in files.items() if path is not None}
    options = _reading_options(content["asked"], given) if given else {}
    checks = [_digest(content), _model(content["model"], model)]
    checks += [_rows(content["asked"], name, path, options) for name, path in given.items()]
    return Verified(content, tuple(checks))


def _digest(content: Mapping[str, Any]) -> Check:
    holds = content[DIGEST] == digest(content)
    told = "nothing was changed since it was written" if holds else "the certificate was changed after it was written"
    return Check("digest", holds, told)


def _model(known: Mapping[str, Any], source: str | Path) -> Check:
    found = model_record(source)
    listed = {name: value for name, value in known.items() if name != DIGEST}
    apart = differences(known, found)
    if known[DIGEST] != json_hash(listed):
        apart.insert(0, "the certificate's own list of files does not fit its hash")
    told = f"{source} is not the certified model: {', '.join(apart)}" if apart else f"{source} is the certified model"
    return Check("model", not apart, told)


def _rows(asked: Mapping[str, Any], name: str, path: str, options: Mapping[str, Any]) -> Check:
    holds = asked[DIGEST].get(name) == rows_hash(_read(path, name, options))
    told = "holds exactly the certified rows" if holds else "holds other rows, or the same ones in another order"
    return Check(f"{name} rows", holds, f"{path} {told}")


def _reading_options(asked: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """How the run read its files.

    Raises:
        UserError: its rows came from no file of a user's.
    """
    named = ", ".join(f"--{name}" for name in given)
    if asked["benchmark"] != _OWN_FILES:
        raise UserError(
            f"{named}: the certified rows are those of benchmark {asked['benchmark'][:60]!r}, and of no file"
        )
    if drawn := sorted(_DRAWN & set(map(str, asked["options_left_out"]))):
        raise UserError(
            f"{named}: the certified rows were drawn with {' and '.join(drawn)}, and are those of no one file"
        )
    options = {name: asked["options"][name] for name in _READING if name in asked["options"]}
    held = "holdout" in (asked["options"].get("make") or ())
    return {**options, "make": ["holdout"]} if held else options


def _read(path: str, name: str, options: Mapping[str, Any]) -> Sequence[Row]:
    """A file's rows as the run read them: as those to forget, whose place among the options decides nothing else."""
    if name != "forget":
        options = {key: value for key, value in options.items() if key != "make"}
    with warnings.catch_warnings():
        # Said when the run was made.
        warnings.simplefilter("ignore", DataWarning)
        rows = load_benchmark(_OWN_FILES, forget=path, **options).forget
    return changed(rows, lambda row: dataclasses.replace(row, id=name + row.id.removeprefix("forget")))
