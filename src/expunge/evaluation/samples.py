"""Per-row values on disk: ``samples.parquet``, from which every aggregate can be made again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from expunge.errors import DataError
from expunge.evaluation.metrics import Scores, padded

if TYPE_CHECKING:
    from expunge.evaluation.evaluate import Evaluation

_TEXT_COLUMNS = ("set", "id", "prompt", "answer", "generation")
_REDACTED = b"expunge.redacted"
"""Marks a file without texts; holds the :func:`set_digest` of every set."""


def write_samples(path: Path, evaluation: Evaluation, *, redact: bool = False) -> None:
    """Write one line per row and set, atomically.

    With ``redact`` prompts, answers and generations are left out. No hash stands in their place: a short answer could
    be found by hashing all that are likely. Rows keep their ids, and each set has one digest over all of it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = sorted({column for columns in evaluation.scores.values() for column in columns})
    table: dict[str, list] = {name: [] for name in (*_TEXT_COLUMNS, *names)}
    for set_name, rows in evaluation.rows.items():
        columns = evaluation.scores[set_name]
        texts = evaluation.generations.get(set_name, (None,) * len(rows))
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            shown = (None, None, None) if redact else (row.prompt, row.answer, text)
            for column, value in zip(_TEXT_COLUMNS, (set_name, row.id, *shown), strict=True):
                table[column].append(value)
            for name in names:
                table[name].append(_cell(columns[name][i]) if name in columns else None)
    sets = {name: set_digest((row.id, row.answer) for row in rows) for name, rows in evaluation.rows.items()}
    partial = path.with_name(f"{path.name}.partial")
    pq.write_table(pa.table(table, metadata=redaction_mark(sets) if redact else None), partial)
    os.replace(partial, path)


def redaction_mark(sets: Mapping[str, str]) -> dict[bytes, bytes]:
    """What a Parquet file without texts says of itself: the digest of every set that it is about."""
    return {_REDACTED: json.dumps(dict(sets)).encode()}


def set_digest(rows: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over the ids and answers of a whole set, spaces folded: whether two runs asked the same rows."""
    digest = hashlib.sha256()
    for row_id, answer in rows:
        digest.update(json.dumps([row_id, " ".join(answer.split())]).encode())
    return digest.hexdigest()


def redacted_sets(path: Path) -> dict[str, str] | None:
    """The digest of every set of a file without texts; None for a file that has them.

    Raises:
        DataError: if the file is missing or is no table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        mark = (pq.read_schema(path).metadata or {}).get(_REDACTED)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a table of per-row values: {str(error).splitlines()[0]}") from None
    return None if mark is None else json.loads(mark)


def _cell(value: np.ndarray | np.floating) -> float | list[float]:
    return value.tolist() if np.ndim(value) else float(value)


def read_scores(path: Path) -> Scores:
    """Read the columns of every set back.

    Raises:
        DataError: if the file is missing or is not such a table.
    """
    scores: Scores = {}
    for name, records in _by_set(path).items():
        columns: dict[str, np.ndarray] = {}
        for column in records[0]:
            values = [record[column] for record in records]
            if column in _TEXT_COLUMNS or all(value is None for value in values):
                continue
            columns[column] = padded(values) if isinstance(values[0], list) else np.array(values, dtype=np.float64)
        scores[name] = columns
    return scores


def read_texts(path: Path) -> dict[str, list[dict[str, str]]]:
    """Prompt, answer and generation of every row, by set; empty where they were redacted."""
    return {
        name: [{column: record[column] or "" for column in _TEXT_COLUMNS} for record in records]
        for name, records in _by_set(path).items()
    }


def _by_set(path: Path) -> dict[str, list[dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a table of per-row values: {str(error).splitlines()[0]}") from None
    out: dict[str, list[dict]] = {}
    for record in records:
        if "set" not in record:
            raise DataError(f"{path}: not a table of per-row values: it has no column 'set'")
        out.setdefault(record["set"], []).append(record)
    return out
