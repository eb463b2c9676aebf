"""Sets of a published data set: which files hold one, and their records one after the other.

A set lies in one file or in numbered Parquet shards (``test-00000-of-00001.parquet``), as the Hub writes them. Files
are read as they stream by, so that a corpus of gigabytes costs no more than the rows that are taken from it.
"""

from __future__ import annotations

import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.benchmarks.files import commit_of, hub_file
from expunge.data.fields import BadRecord, row_from_record, unique_fields
from expunge.data.overlap import DataWarning, Fingerprints, check_fingerprints
from expunge.data.rows import Row
from expunge.data.sources import read_text
from expunge.data.stored import pack_large
from expunge.errors import DataError

SUFFIXES = (".parquet", ".jsonl", ".json")
"""What a set's file may end in; the first that is there wins."""
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
_BATCH = 256

Records = Iterator[tuple[str, object]]
"""``file:line`` and record; one that could not be read is carried as the :class:`BadRecord` about it."""
MakeRow = Callable[[object, str, str], Row | None]
"""``(record, row id, origin)`` to a row; None leaves the record out, :class:`BadRecord` refuses it."""


@dataclass(frozen=True)
class SetFiles:
    """The files of one set, in order."""

    paths: tuple[Path, ...]
    shown: tuple[str, ...]
    """The same, as messages name them: a cache's path differs between machines."""


def local_set(folder: Path, names: Sequence[str], suffixes: Sequence[str] = SUFFIXES) -> SetFiles | None:
    """The first of ``names`` (``raw/retain1``, without an extension) that is in the folder, or None.

    With ``.txt`` among the suffixes, a text file is a set too: one text a line.

    Raises:
        DataError: some of its shards are missing.
    """
    for name in names:
        files = _shards(folder / name) or [path for end in suffixes if (path := folder / f"{name}{end}").is_file()][:1]
        if files:
            return SetFiles(tuple(files), tuple(map(str, files)))
    return None


def _shards(stem: Path) -> list[Path]:
    found = sorted(stem.parent.glob(f"{stem.name}-*.parquet")) if stem.parent.is_dir() else []
    parts = {path: (int(match[1]), int(match[2])) for path in found if (match := _SHARD.search(path.name))}
    if not parts:
        return []
    numbers = list(parts.values())
    total = numbers[0][1]
    if numbers != [(number, total) for number in range(total)]:
        raise DataError(f"{stem}-*.parquet: the parts here are not the {total} that make the set")
    return list(parts)


@dataclass
class HubSets:
    """The sets of one Hub data set at one commit: that of the first file, should a branch move meanwhile."""

    hub_id: str
    revision: str
    layout: str
    """Ends a message about files that cannot be had: which local ones would do."""

    @property
    def origin(self) -> str:
        """Data set and revision; the commit, once a file has been read."""
        return f"{self.hub_id}@{self.revision}"

    def files(self, *names: str) -> SetFiles:
        """These files, as one set.

        Raises:
            DataError: one of them cannot be had.
        """
        paths = []
        for name in names:
            paths.append(hub_file(self.hub_id, name, self.revision, layout=self.layout))
            self.revision = commit_of(paths[-1], self.revision)
        return SetFiles(tuple(paths), tuple(f"{self.origin}/{name}" for name in names))


def shard_names(stem: str, count: int = 1) -> list[str]:
    """``stem-00000-of-00001.parquet`` and so on, as the Hub's own tools name the parts of a set."""
    return [f"{stem}-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def rows_of(files: SetFiles, set_name: str, make: MakeRow | None = None, *, count: int | None = None) -> Sequence[Row]:
    """Rows of a set in file order; as :func:`stream_set`, at once."""
    return pack_large(stream_set(files, set_name, make, count=count))


def kept_rows(files: SetFiles, set_name: str) -> Sequence[Row]:
    """Rows of a set that is no secret, by its records' field names: a large one is packed once for all runs."""
    return pack_large(stream_set(files, set_name), files=files.paths, how=[set_name, files.shown])


def stream_set(
    files: SetFiles, set_name: str, make: MakeRow | None = None, *, count: int | None = None
) -> Iterator[Row]:
    """Rows of a set in file order, one by one.

    Args:
        files: where they are.
        set_name: begins every row's id.
        make: makes a row of a record; None: by its fields, as the user's own files are read.
        count: reading ends after so many rows; None: at the end.

    Raises:
        DataError: a file that cannot be read, a set without rows, or the first bad record with the count of the others.
    """
    make = make or plain_row
    number = 0
    problems: list[str] = []
    for origin, record in records(files):
        try:
            if isinstance(record, BadRecord):
                raise record
            row = make(record, f"{set_name}/{number}", origin)
        except BadRecord as problem:
            problems.append(f"{origin}: {problem}")
            continue
        if row is not None:
            number += 1
            yield row
        if number == count:
            break
    if problems:
        more = f" (and {len(problems) - 1} more bad rows)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    if not number:
        raise DataError(f"{files.shown[0]}: holds no rows that can be used; the {set_name} set needs at least one")


def plain_row(record: object, row_id: str, origin: str) -> Row:
    """A row by the record's field names, as in the user's own files."""
    return row_from_record(record, row_id=row_id, origin=origin)


def records(files: SetFiles) -> Records:
    """Every record of a set, read as it is asked for (a JSON array is read whole)."""
    readers = {".parquet": _parquet, ".json": _json, ".txt": _lines}
    for path, shown in zip(files.paths, files.shown, strict=True):
        for line, record in readers.get(path.suffix.lower(), _json_lines)(path, shown):
            yield f"{shown}:{line}", record


def note_overlap(sets: Mapping[str, Sequence[Row]]) -> None:
    """Warn of rows that stand twice or in two of the sets. Published files are used as they are, not refused."""
    read = {name: Fingerprints.of(rows) for name, rows in sets.items()}
    lines: dict[str, None] = {}
    for pair in itertools.combinations(read.items(), 2):
        try:
            lines |= dict.fromkeys(check_fingerprints(dict(pair)))
        except DataError as error:
            lines[f"{str(error).partition(';')[0]}; kept as published"] = None
    for line in lines:
        warnings.warn(line, DataWarning, stacklevel=3)


_Numbered = Iterator[tuple[int, object]]


def _parquet(path: Path, shown: str) -> _Numbered:
    import pyarrow
    from pyarrow import parquet

    line = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                for record in batch.to_pylist():
                    line += 1
                    yield line, record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{shown}: no readable Parquet file ({type(error).__name__})") from None


def _lines(path: Path, shown: str) -> _Numbered:
    try:
        # newline="\n": a text may hold other line ends, which JSON allows inside a string.
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError:
        raise DataError(f"{shown}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror or type(error).__name__})") from None


def _json_lines(path: Path, shown: str) -> _Numbered:
    for number, line in _lines(path, shown):
        try:
            record = json.loads(str(line), object_pairs_hook=unique_fields)
        except ValueError:
            yield number, BadRecord("broken JSON, or plain text; a file of one text a line must end in .txt")
            continue
        yield from _rows_of_columns(record) if _is_columns(record) else [(number, record)]


def _json(path: Path, shown: str) -> _Numbered:
    """An array, columns by name, or one object a line."""
    text = read_text(path)
    try:
        content = json.loads(text, object_pairs_hook=unique_fields)
    except ValueError as error:
        if text.lstrip().startswith("["):
            line, reason = getattr(error, "lineno", 1), getattr(error, "msg", "no JSON value")
            raise DataError(f"{shown}:{line}: broken JSON: {reason}") from None
        yield from _json_lines(path, shown)
        return
    if _is_columns(content):
        yield from _rows_of_columns(content)
    else:
        yield from enumerate(content if isinstance(content, list) else [content], start=1)


def _is_columns(record: object) -> bool:
    """Whether it is a whole table by columns, ``{"id": {"0": ...}, "input": {"0": ...}}``, as pandas writes it."""
    return isinstance(record, dict) and bool(record) and all(isinstance(column, dict) for column in record.values())


def _rows_of_columns(record: object) -> _Numbered:
    """Rows by their key; a column that lacks one gives a row without that field."""
    columns: dict[str, dict[str, object]] = record if isinstance(record, dict) else {}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    for line, key in enumerate(keys, start=1):
        yield line, {name: column[key] for name, column in columns.items() if key in column}
