"""A large set in one Arrow file: packed as it is read, row by row, and never in memory as a whole.

Sets that are no secret lie below the cache folder (:func:`~expunge.data.cache.default_cache`), under a hash of their
files and of how these were cut, and are found again by the next run. Everything else lies in a file without a name
in the folder for temporary files: what is to be forgotten must not outlast the process, however that ends.

The file is read a few rows at a time and not mapped: pages that are mapped would count as the process's memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from expunge import __version__
from expunge.data.cache import default_cache, remove_stale
from expunge.data.lazy import Count, LazyRows
from expunge.data.rows import Row, content_line, row_from_line
from expunge.errors import ResourceError
from expunge.progress import say

LARGE = 32_000_000
"""Characters of text above which a set is packed."""
FOLDER = "packed"
"""Where packed sets lie below the cache folder."""
STORED_VERSION = 2
"""Bump it when texts are cut otherwise, or rows kept otherwise, than before."""

_BATCH_ROWS, _BATCH_CHARS = 64, 1 << 18
"""What is read to get at one row."""
_DIGEST = 32
"""Bytes of a SHA-256."""


def pack_large(
    rows: Iterable[Row], *, files: Sequence[str | os.PathLike[str]] = (), how: object = None
) -> Sequence[Row]:
    """The rows as a tuple or, where their texts exceed :data:`LARGE` characters, packed on disk.

    Args:
        rows: a stream that reads them.
        files: what they are read from, for a set that may be kept in the cache; none: it may not.
        how: everything else that the rows depend on, as JSON takes it.

    Raises:
        ResourceError: the disk is full, or the folder cannot be written to.
    """
    stream = iter(rows)
    held: list[Row] = []
    size = 0
    for row in stream:
        held.append(row)
        size += len(row.prompt) + len(row.answer)
        if size > LARGE:
            every = itertools.chain(held, stream)
            return _cached(every, files, how) if files else _unnamed(every)
    return tuple(held)


@dataclass(frozen=True, kw_only=True)
class _About:
    """What must be known of a packed file to read it."""

    content_hash: str
    rows: int
    starts: list[int]
    """Number of the first row of each batch."""
    file_hash: str = ""


class StoredRows(LazyRows):
    """The rows of a packed file, which stays open."""

    def __init__(self, file: BinaryIO, about: _About, path: Path | None = None) -> None:
        from pyarrow import ipc

        self.reader = ipc.open_file(file)
        weakref.finalize(self, file.close)
        self.about = about
        self.content_hash = about.content_hash
        self.path = path
        """Where it lies in the cache."""
        self._last: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self.about.rows

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self.about.starts)):
            yield from map(row_from_line, *(column.to_pylist() for column in self._batch(number).columns))

    def lines(self) -> Iterator[str]:
        """As they lie in the file."""
        for number in range(len(self.about.starts)):
            yield from self._batch(number).column(0).to_pylist()

    def row(self, number: int) -> Row:
        """The row at ``number``, read from the file."""
        batch = bisect_right(self.about.starts, number) - 1
        place = number - self.about.starts[batch]
        line, origin = (column[place].as_py() for column in self._batch(batch).columns)
        return row_from_line(line, origin)

    def _batch(self, number: int) -> Any:
        kept, batch = self._last
        if kept != number:
            batch = self.reader.get_batch(number)
            self._last = (number, batch)
        return batch

    def counts(self, key: str, count: Count) -> np.ndarray:
        """Kept beside the packed file, where that is in the cache: to count tokens takes longer than to pack."""
        if self.path is None or key in self._counts:
            return super().counts(key, count)
        path = self.path.with_name(f"{self.path.stem}-{key}.counts")
        found = _read_counts(path)
        if found is None or len(found) != len(self):
            found = super().counts(key, count)
            # A cache that has become read-only costs the count once more, nothing else.
            with suppress(OSError):
                _write_counts(path, found)
        self._counts[key] = found
        return found


def _read_counts(path: Path) -> np.ndarray | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    whole = hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]
    return np.frombuffer(data[_DIGEST:], dtype="<i4") if whole else None


def _write_counts(path: Path, counts: np.ndarray) -> None:
    data = counts.astype("<i4").tobytes()
    with _partial(path) as file:
        file.write(hashlib.sha256(data).digest() + data)


# -- packing -----------------------------------------------------------------------------------------------------------


def _unnamed(rows: Iterable[Row]) -> StoredRows:
    """Packed into a file that has no name, so that nothing is left of it however the process ends."""
    say("a large set is packed into a temporary file, which goes with this process")
    with _disk_errors(tempfile.gettempdir(), "TMPDIR"):
        file: Any = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as its rows are)
        return StoredRows(file, _pack(rows, file))


def _cached(rows: Iterable[Row], files: Sequence[str | os.PathLike[str]], how: object) -> StoredRows:
    """Found in the cache, else packed into it."""
    folder = default_cache() / FOLDER
    path = folder / f"{_key(files, how)}.arrow"
    found = _open(path)
    if found is not None:
        return found
    say(f"a large set is packed in {folder}, once")
    with _disk_errors(folder, "EXPUNGE_CACHE"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale(folder, "*.partial")
        with _partial(path) as file:
            about = _pack(rows, file)
        with path.open("rb") as file, _partial(path.with_suffix(".json")) as note:
            # Written last: a file without it is not trusted.
            about_file = asdict(about) | {"file_hash": hashlib.file_digest(file, "sha256").hexdigest()}
            note.write(json.dumps(about_file).encode())
        return StoredRows(path.open("rb"), about, path)


def _open(path: Path) -> StoredRows | None:
    """The packed file, if it is there and whole."""
    try:
        about = _About(**json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        file = path.open("rb")
    except (OSError, ValueError, TypeError):
        return None
    if hashlib.file_digest(file, "sha256").hexdigest() != about.file_hash:
        file.close()
        return None
    return StoredRows(file, about, path)


def _key(files: Sequence[str | os.PathLike[str]], how: object) -> str:
    hashes = []
    for name in files:
        with Path(name).expanduser().open("rb") as file:
            hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
    # Names count as well: rows say where they were read.
    about = [STORED_VERSION, __version__, [os.fspath(name) for name in files], hashes, how]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _pack(rows: Iterable[Row], file: BinaryIO) -> _About:
    import pyarrow

    digest = hashlib.sha256()
    starts: list[int] = []
    total = 0
    schema = pyarrow.schema([("content", pyarrow.string()), ("origin", pyarrow.string())])
    with pyarrow.ipc.new_file(file, schema) as writer:
        for lines, origins in _batches(rows):
            starts.append(total)
            total += len(lines)
            for line in lines:
                digest.update(f"{line}\n".encode())
            writer.write_batch(pyarrow.record_batch([lines, origins], schema=schema))
    file.flush()
    return _About(content_hash=digest.hexdigest(), rows=total, starts=starts)


def _batches(rows: Iterable[Row]) -> Iterator[tuple[list[str], list[str]]]:
    """Contents and origins, a few rows together."""
    lines: list[str] = []
    origins: list[str] = []
    size = 0
    for row in rows:
        lines.append(content_line(row))
        origins.append(row.origin)
        size += len(lines[-1])
        if len(lines) == _BATCH_ROWS or size > _BATCH_CHARS:
            yield lines, origins
            lines, origins, size = [], [], 0
    if lines:
        yield lines, origins


@contextmanager
def _partial(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name once it is whole, or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _disk_errors(place: str | Path, variable: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(
            f"a large set of texts cannot be packed in {place}: {reason}; make room, or set {variable} to a folder on "
            "a larger disk that you can write to"
        ) from error
