"""Published files whose records are not rows yet: found in a folder or on the Hub, read record by record."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.benchmarks.files import Root, commit_of, data_base, find_folder, hub_file
from expunge.data.fields import BadRecord, whole
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.data.sources import read_records
from expunge.errors import DataError


@dataclass(frozen=True)
class Record:
    """One object of a published file."""

    fields: Mapping[str, object]
    origin: str
    """``file:line``."""
    place: int = 0
    """Which one of its file, from 0: an array on one line has them all on line 1."""

    def text(self, name: str) -> str:
        """A field that must hold text; ends are stripped. :class:`DataError` where it is missing, empty or no text."""
        found = _plain(self.fields.get(name))
        if found:
            return self._whole(name, found)
        state = "must be text" if found is None else "is empty"
        raise DataError(f"{self.origin}: field {name!r} {state if name in self.fields else 'is missing'}")

    def maybe(self, name: str) -> str:
        """A field's text, or nothing where it is missing or no text."""
        value = self.fields.get(name)
        return self._whole(name, value.strip()) if isinstance(value, str) else ""

    def texts(self, name: str, *, least: int = 1) -> tuple[str, ...]:
        """A field that must hold a list of at least so many texts."""
        value = self.fields.get(name)
        found = tuple(_plain(part) or "" for part in value) if isinstance(value, list) else ()
        if len(found) < least or not all(found):
            raise DataError(
                f"{self.origin}: field {name!r} must be a list of {least} texts or more, none of them empty"
            )
        return tuple(self._whole(name, text) for text in found)

    def _whole(self, name: str, text: str) -> str:
        try:
            return whole(text, name)
        except BadRecord as problem:
            raise DataError(f"{self.origin}: {problem}") from None


def _plain(value: object) -> str | None:
    """A text with its ends stripped, or a number as text; empty where it is null or not a number, None for the rest."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Published:
    """Where the files lie."""

    paths: Mapping[str, Path]
    """By the name that was asked for."""
    shown: Mapping[str, str]
    """The same, as messages name them."""
    origin: str

    def records(self, file: str) -> tuple[Record, ...]:
        """Every record of a file."""
        return records_of(self.paths[file], self.shown[file])


def records_of(path: Path, shown: str | None = None) -> tuple[Record, ...]:
    """Every record of a file.

    Raises:
        DataError: a file that cannot be read, or a record that is no object of named fields.
    """
    records: list[Record] = []
    for line, record in read_records(path):
        origin = f"{shown or path}:{line}"
        if isinstance(record, BadRecord):
            raise DataError(f"{origin}: {record}")
        if not isinstance(record, Mapping):
            raise DataError(f"{origin}: a row must be an object of named fields")
        records.append(Record(dict(record), origin, len(records)))
    return tuple(records)


def locate(
    root: Root, revision: str | None, layouts: Sequence[Sequence[str]], *,
    title: str, inside: Sequence[str], hub_id: str, pinned: str, layout: str,
) -> Published:  # fmt: skip
    """The files of a data set: below the data root, else on the Hub.

    Args:
        root: as :func:`~expunge.benchmarks.files.data_base` takes it; a folder given by hand must have the files.
        revision: of the Hub; ``pinned`` unless given.
        layouts: names of files that belong together, one list for each way they are laid out; the first is the Hub's.
        title: what messages call the data set.
        inside: folders below the root that may hold them, besides the root itself where it was given by hand.
        hub_id: of the data set.
        pinned: the commit that is read unless another is asked for.
        layout: ends messages: which local files would do.

    Raises:
        DataError: the files are not there, or not all of them.
    """
    base = data_base(root, layout=layout)
    # What EXPUNGE_DATA names holds many data sets, and a file's plain name in it may be another's.
    places = (*inside, *(() if root is None else (".",)))
    for files in layouts if base is not None else ():
        assert base is not None
        if folder := find_folder(base, places, files, layout=layout):
            if revision is not None:
                text = f"revision={revision} has no effect: {title} is read from {folder}"
                warnings.warn(text, DataWarning, stacklevel=3)
            paths = {file: folder / file for file in files}
            return Published(paths, {file: str(path) for file, path in paths.items()}, str(folder))
    if root is not None:
        raise DataError(f"{base} holds no {title} files; {layout}")
    return _fetched(layouts[0], hub_id, revision or pinned, layout)


def _fetched(files: Sequence[str], hub_id: str, revision: str, layout: str) -> Published:
    """All files at the commit of the first: a branch may move between two requests."""
    paths: dict[str, Path] = {}
    for file in files:
        paths[file] = hub_file(hub_id, file, revision, layout=layout)
        revision = commit_of(paths[file], revision)
    origin = f"{hub_id}@{revision}"
    return Published(paths, {file: f"{origin}/{file}" for file in files}, origin)


def one_a_prompt(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The first row of each prompt: a prompt is asked once, however many answers are known."""
    return _first_by(rows, lambda row: evened(row.prompt))


def each_once(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows without those whose prompt and answer came before."""
    return _first_by(rows, lambda row: (evened(row.prompt), evened(row.answer)))


def _first_by(rows: Sequence[Row], key: Callable[[Row], object]) -> tuple[Row, ...]:
    seen: dict[object, Row] = {}
    for row in rows:
        seen.setdefault(key(row), row)
    return tuple(seen.values())


def evened(text: str) -> str:
    """Case and white space make no other text."""
    return " ".join(text.casefold().split())
