"""What must not stand in two sets at once: a row to forget that is also a row to keep.

Rows are compared by fingerprints of eight bytes, so that a set of any size is read once and not held: among a million
rows two different ones are taken for the same once in thirty million times.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.data.rows import Row
from expunge.errors import DataError


class DataWarning(UserWarning):
    """The data can be used, but something in it will surprise."""


def fingerprint(text: str) -> int:
    """Eight bytes of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Fingerprints:
    """A set with what its rows are compared by."""

    rows: Sequence[Row]
    pairs: np.ndarray
    """``(n,)`` of prompt and answer."""
    asked: np.ndarray
    """``(m,)`` numbers of the rows that have a prompt."""
    prompts: np.ndarray
    """``(m,)`` of their prompts."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Fingerprints:
        """Read every row once."""
        found = np.empty((2, len(rows)), dtype=np.uint64)
        has_prompt = np.zeros(len(rows), dtype=bool)
        for number, row in enumerate(rows):
            prompt = _prompt(row)
            found[:, number] = fingerprint(f"{len(prompt)} {prompt} {_even(row.answer)}"), fingerprint(prompt)
            has_prompt[number] = bool(row.prompt)
        asked = np.flatnonzero(has_prompt)
        return cls(rows, found[0], asked, found[1, asked])

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        row = self.rows[int(number)]
        return row.origin or row.id


def check_overlap(forget: Sequence[Row], retain: Sequence[Row]) -> list[str]:
    """Refuse rows that stand in both sets; return a line for each lesser oddity (see :func:`check_sets`)."""
    return check_sets({"forget": forget, "retain": retain})


def check_sets(sets: Mapping[str, Sequence[Row]]) -> list[str]:
    """Refuse rows that stand in two of the sets, named by their keys; return a line for each lesser oddity.

    Two rows are the same when prompt (with its chat history) and answer agree after Unicode, case and white space are
    evened out. Lines are returned for rows repeated inside a set and for prompts that stand in two sets with different
    answers; they give counts and places, never text. Raises :class:`DataError` on a row in two sets.
    """
    return check_fingerprints({name: Fingerprints.of(rows) for name, rows in sets.items()})


def check_fingerprints(sets: Mapping[str, Fingerprints]) -> list[str]:
    """:func:`check_sets` of sets that were read already."""
    lines = [line for name, rows in sets.items() for line in _repeats(rows, name)]
    for (first, left), (second, right) in itertools.combinations(sets.items(), 2):
        _refuse_shared_rows(left, right, first, second)
        lines += _shared_prompts(left, right, first, second)
    return lines


def warn_sets(sets: Mapping[str, Sequence[Row]]) -> None:
    """Run :func:`check_sets` and issue each line it returns as a :class:`DataWarning`."""
    for line in check_sets(sets):
        warnings.warn(line, DataWarning, stacklevel=3)


def _refuse_shared_rows(left: Fingerprints, right: Fingerprints, first: str, second: str) -> None:
    shared, others = _matches(left.pairs, right.pairs)
    if len(shared):
        named = zip(shared[:3], others[:3], strict=True)
        places = ", ".join(f"{left.place(row)} = {right.place(other)}" for row, other in named)
        more = ", ..." if len(shared) > 3 else ""
        raise DataError(
            f"{len(shared)} of {len(left.rows)} {first} rows also stand in the {second} set ({places}{more}); "
            "take them out of one of the two"
        )


def _repeats(rows: Fingerprints, name: str) -> list[str]:
    _, earliest = _matches(rows.pairs, rows.pairs)
    repeats = np.flatnonzero(earliest != np.arange(len(rows.pairs)))
    if not len(repeats):
        return []
    row = int(repeats[0])
    places = f"{rows.place(row)} = {rows.place(earliest[row])}"
    return [f"{len(repeats)} of {len(rows.rows)} {name} rows repeat an earlier one ({places})"]


def _shared_prompts(left: Fingerprints, right: Fingerprints, first: str, second: str) -> list[str]:
    shared, others = _matches(left.prompts, right.prompts)
    if not len(shared):
        return []
    row, other = left.asked[shared[0]], right.asked[others[0]]
    return [
        f"{len(shared)} of {len(left.rows)} {first} prompts also stand in the {second} set with another answer "
        f"(first: {left.place(row)} and {right.place(other)})"
    ]


def _matches(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``left`` of what ``right`` has too, ascending, each with its first place in ``right``."""
    values, firsts = np.unique(right, return_index=True)
    if not len(values):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    at = np.searchsorted(values, left).clip(max=len(values) - 1)
    shared = np.flatnonzero(values[at] == left)
    return shared, firsts[at[shared]]


def _prompt(row: Row) -> str:
    return "\n".join(_even(text) for text in (*(f"{role}: {content}" for role, content in row.history), row.prompt))


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
