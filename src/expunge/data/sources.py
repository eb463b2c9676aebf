"""Files of rows: JSON lines, a JSON array, CSV, TSV or Parquet in; TOFU-style JSON lines out."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.data.fields import (
    ACCEPTED,
    ANSWER_FIELDS,
    PROMPT_FIELDS,
    BadRecord,
    record_from_row,
    row_from_record,
    unique_fields,
)
from expunge.data.rows import Row
from expunge.errors import DataError, nearest

_Records = Iterator[tuple[int, object]]
"""Line number and record; a record that could not be read is carried as the :class:`BadRecord` about it."""

_DECODER = json.JSONDecoder(object_pairs_hook=unique_fields)
_ONE_OBJECT = 1 << 26
"""Bytes up to which a file with a broken line is read whole to see whether it is one JSON value."""
_BATCH = 256
"""Parquet records in memory at once."""


def read_rows(path: str | os.PathLike[str], *, set_name: str) -> tuple[Row, ...]:
    """Return every row of a file, in its order.

    ``path``: ``.jsonl``, ``.ndjson``, ``.json`` (an array, or one object per line), ``.csv``, ``.tsv`` or ``.parquet``,
    in UTF-8; which fields a record may have is :func:`expunge.data.fields.row_from_record`'s to say.
    ``set_name`` starts each row's id (``"forget/0"``); ``origin`` is ``path:line`` with the path as given.
    Raises :class:`DataError`, one line naming file, line and field and never the text, at a file that cannot be read,
    a file without rows, or the first bad row (with the count of the others).
    """
    return tuple(stream_rows(path, set_name=set_name))


def read_written(path: str) -> tuple[Row, ...]:
    """Rows that were written for a forget set beforehand."""
    return read_rows(path, set_name="written")


def stream_rows(path: str | os.PathLike[str], *, set_name: str) -> Iterator[Row]:
    """The same one by one, so that a file of any size stays on disk; a JSON array alone is read whole.

    Bad rows are left out and raised at the end: what came before counts only once the stream has ended.
    """
    name = os.fspath(path)
    number = 0
    problems: list[tuple[int, str]] = []
    for line, record in _records(name):
        try:
            if isinstance(record, BadRecord):
                raise record
            row = row_from_record(record, row_id=f"{set_name}/{number}", origin=f"{name}:{line}")
        except BadRecord as problem:
            problems.append((line, str(problem)))
            continue
        number += 1
        yield row
    if problems:
        raise DataError(_problem_line(name, problems))
    if not number:
        raise DataError(f"{name}: holds no rows; the {set_name} set needs at least one")


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[int, object]]:
    """Line number and record of everything in a file that :func:`read_rows` reads, whatever the fields are called.

    A record that could not be read is carried as the :class:`BadRecord` about it. Raises :class:`DataError` as there.
    """
    return _records(os.fspath(path))


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows as JSON lines that :func:`read_rows` reads back (ids and origins aside); all of them or nothing.

    TOFU's names are used (``question, answer, paraphrased_answer, perturbed_answer`` ...), ``text`` for raw text and
    ``messages`` for a row with history.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as out:
            for row in rows:
                out.write(json.dumps(record_from_row(row), ensure_ascii=False) + "\n")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return a file's bytes, or raise the :class:`DataError` that says why they cannot be had."""
    name = os.fspath(path)
    with _opened(name) as file:
        data = file.read()
    if not data.strip():
        raise DataError(_empty(name))
    return data


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a UTF-8 file's text without its byte-order mark; :class:`DataError` with the byte offset otherwise."""
    return "".join(text_lines(path, newline=""))


def text_lines(path: str | os.PathLike[str], *, newline: str = "\n") -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, without its byte-order mark, one by one.

    ``newline`` as in :func:`open`: ``"\\n"`` ends a line there alone, ``""`` at any of the three line ends. Raises
    :class:`DataError` for a file that cannot be read (with the byte offset, where it is not UTF-8) or holds no text.
    """
    name = os.fspath(path)
    blank = True
    with _opened(name) as file:
        if file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{name}: is UTF-16, not UTF-8; save it as UTF-8")
        try:
            with io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline) as text:
                for line in text:
                    blank = blank and not line.strip()
                    yield line
        except UnicodeDecodeError:
            raise DataError(_not_utf8(name)) from None
    if blank:
        raise DataError(_empty(name))


@contextmanager
def _opened(name: str) -> Iterator[io.BufferedReader]:
    """The file, or the :class:`DataError` that says why it cannot be had."""
    place = Path(name).expanduser()
    if place.is_dir():
        raise DataError(f"{name}: is a folder; give one file of rows ({', '.join(_READERS)})")
    try:
        with place.open("rb") as file:
            yield file
    except FileNotFoundError:
        siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"{name}: no such file{nearest(place.name, siblings)}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or type(error).__name__})") from None


def _empty(name: str) -> str:
    return f"{name}: is empty; it needs at least one row"


def _not_utf8(name: str) -> str:
    """Where the first byte is that is no UTF-8; a pipe cannot be read again to find it."""
    offset = 0
    if _size(name):
        with _opened(name) as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as error:
                    return f"{name}:{number}: not UTF-8 at byte {offset + error.start} of the file; save it as UTF-8"
                offset += len(line)
    return f"{name}: not UTF-8; save it as UTF-8"


def _size(name: str) -> int:
    """Bytes of a file; 0 of a pipe."""
    place = Path(name).expanduser()
    return place.stat().st_size if place.is_file() else 0


def _records(name: str) -> _Records:
    suffix = Path(name).suffix.lower()
    if suffix not in _READERS and Path(name).expanduser().is_file():
        raise DataError(f"{name}: unknown extension {suffix or 'none'!r}; accepted: {', '.join(_READERS)}")
    return _READERS.get(suffix, _json)(name)


def _problem_line(name: str, problems: list[tuple[int, str]]) -> str:
    line, first = problems[0]
    others = problems[1:]
    if not others:
        return f"{name}:{line}: {first}"
    lines = ", ".join(str(number) for number, _ in others[:4]) + (", ..." if len(others) > 4 else "")
    return f"{name}:{line}: {first} (and {len(others)} more bad row{'s'[: len(others) > 1]}: line {lines})"


def _json(name: str) -> _Records:
    rest = text_lines(name)
    head: list[str] = []
    for line in rest:
        head.append(line)
        if line.strip():
            break
    lines = itertools.chain(head, rest)
    return _json_array(name, "".join(lines)) if head[-1].lstrip().startswith("[") else _json_lines(name, lines)


def _json_lines(name: str, lines: Iterator[str]) -> _Records:
    # Cut at "\n" alone: splitlines() would also break at U+2028 and its kin, which JSON allows inside a string.
    whole_file_tried = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, _DECODER.decode(line.removesuffix("\n"))
        except ValueError as error:
            if not whole_file_tried:
                _refuse_one_object(name)
                whole_file_tried = True
            yield number, BadRecord(_broken_json(error))


def _refuse_one_object(name: str) -> None:
    """A whole file that is one object has broken lines everywhere; say what is really wrong with it."""
    if not 0 < _size(name) <= _ONE_OBJECT:
        return
    try:
        _DECODER.decode(read_text(name))
    except ValueError:
        return
    raise DataError(f"{name}: is one JSON value over several lines; give an array of rows, or one object per line")


def _json_array(name: str, text: str) -> _Records:
    position, line, seen = text.index("[") + 1, 1, 0
    while True:
        position = _skip_space(text, position)
        line, seen = line + text.count("\n", seen, position), position
        if text[position : position + 1] == "]":
            break
        try:
            record, position = _DECODER.raw_decode(text, position)
        except ValueError as error:
            raise DataError(f"{name}:{getattr(error, 'lineno', line)}: {_broken_json(error)}") from None
        yield line, record
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "]":
            here = 1 + text.count("\n", 0, position)
            raise DataError(f"{name}:{here}: broken JSON: ',' or ']' expected after row {line}'s object")
    if text[position + 1 :].strip():
        here = 1 + text.count("\n", 0, _skip_space(text, position + 1))
        raise DataError(f"{name}:{here}: broken JSON: something stands after the array's closing ']'")


def _skip_space(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\n", "\r"):
        position += 1
    return position


def _broken_json(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno}: {error.msg}"
    return "broken JSON: a number too long to read"


def _table(delimiter: str) -> Callable[[str], _Records]:
    def read(name: str) -> _Records:
        # A book in one cell is longer than the csv module's limit, which is global: raised here, put back after.
        limit = csv.field_size_limit(max(_size(name), csv.field_size_limit()) + 1)
        try:
            yield from _table_records(name, text_lines(name, newline=""), delimiter)
        except csv.Error as error:
            raise DataError(f"{name}: broken table: {error}") from None
        finally:
            csv.field_size_limit(limit)

    return read


def _table_records(name: str, lines: Iterator[str], delimiter: str) -> _Records:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    for cells in reader:
        start, line = line, reader.line_num + 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = _checked_header(name, start, cells)
        elif len(cells) != len(header):
            yield start, BadRecord(f"{len(cells)} cells where the header has {len(header)}; is a cell unquoted?")
        else:
            yield start, unique_fields(zip(header, cells, strict=True))


def _checked_header(name: str, line: int, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    known = {*PROMPT_FIELDS, *ANSWER_FIELDS, "messages", "chosen"}
    if known.isdisjoint(cell.lower() for cell in header):
        # The cells are not shown: without a header line they are the first row's content.
        other = next(
            (f"; is it separated by {mark!r}?" for mark in (";", "\t", ",") if len(cells) == 1 and mark in cells[0]), ""
        )
        raise DataError(f"{name}:{line}: the header line names no known field{other}; {ACCEPTED}")
    return header


def _parquet(name: str) -> _Records:
    import pyarrow
    from pyarrow import parquet

    number = 0
    with _opened(name) as file:
        if not file.peek(1):
            raise DataError(_empty(name))
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_BATCH):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name}: no readable Parquet file ({type(error).__name__})") from None


_READERS: dict[str, Callable[[str], _Records]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
}
ROW_FILES = tuple(_READERS)
"""What a file of rows may end in."""
