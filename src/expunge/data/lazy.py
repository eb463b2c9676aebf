"""Sets too large for memory: sequences of rows that are made when they are asked for, in the place of tuples.

Whatever takes a ``Sequence[Row]`` takes them. Sets of ordinary size stay tuples.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from expunge.data.rows import Row, content_line, lines_hash

Count = Callable[[Iterable[Row]], Iterable[int]]
"""Into how many rows each row is cut, in their order."""


class LazyRows(Sequence[Row]):
    """Rows by number, none of them held; a slice is a tuple of those that it names."""

    @abstractmethod
    def row(self, number: int) -> Row:
        """The row at ``number``, in ``[0, len)``."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        if isinstance(index, slice):
            return tuple(self.row(number) for number in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.row(index % len(self))

    def lines(self) -> Iterator[str]:
        """The content of every row as :func:`~expunge.data.rows.content_line` writes it."""
        return map(content_line, self)

    @cached_property
    def content_hash(self) -> str:
        """What :func:`~expunge.data.rows.rows_hash` says of a tuple of the same rows."""
        return lines_hash(self.lines())

    def counts(self, key: str, count: Count) -> np.ndarray:
        """``(n,)`` what ``count`` says of every row, asked once for each ``key``; what counts otherwise has another."""
        if key not in self._counts:
            self._counts[key] = np.fromiter(count(self), dtype=np.int32, count=len(self))
        return self._counts[key]

    @cached_property
    def _counts(self) -> dict[str, np.ndarray]:
        return {}


class JoinedRows(LazyRows):
    """Several sets, one after the other."""

    def __init__(self, parts: Sequence[Sequence[Row]]) -> None:
        self.parts = parts
        self.starts = [0, *itertools.accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[Row]:
        return itertools.chain.from_iterable(self.parts)

    def row(self, number: int) -> Row:
        """The row of the part that ``number`` falls into."""
        part = bisect_right(self.starts, number) - 1
        return self.parts[part][number - self.starts[part]]

    def lines(self) -> Iterator[str]:
        """The parts' own, as they keep them."""
        for part in self.parts:
            yield from part.lines() if isinstance(part, LazyRows) else map(content_line, part)

    def counts(self, key: str, count: Count) -> np.ndarray:
        """The parts' own, as they keep them."""
        found = [
            part.counts(key, count) if isinstance(part, LazyRows) else np.fromiter(count(part), dtype=np.int32)
            for part in self.parts
        ]
        return np.concatenate(found)


class ChangedRows(LazyRows):
    """Every row of a set as ``change`` makes it over."""

    def __init__(self, rows: Sequence[Row], change: Callable[[Row], Row]) -> None:
        self.rows = rows
        self.change = change

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return map(self.change, self.rows)

    def row(self, number: int) -> Row:
        """The row at ``number``, made over."""
        return self.change(self.rows[number])


class ChosenRows(LazyRows):
    """Some rows of a set, by their numbers."""

    def __init__(self, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        self.rows = rows
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, number: int) -> Row:
        """The row of the set whose number stands at ``number``."""
        return self.rows[self.numbers[number]]


class CutRows(LazyRows):
    """Every row of a set cut into ``counts`` of it, by ``cut``; only where the pieces end is held."""

    def __init__(self, rows: Sequence[Row], cut: Callable[[Row], Sequence[Row]], counts: np.ndarray) -> None:
        self.rows = rows
        self.cut = cut
        self.ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[Row]:
        for whole, pieces in zip(self.rows, np.diff(self.ends, prepend=0), strict=True):
            yield from self.cut(whole) if pieces > 1 else (whole,)

    def row(self, number: int) -> Row:
        """The piece at ``number``, of the row that it falls into."""
        place = int(np.searchsorted(self.ends, number, side="right"))
        first = int(self.ends[place - 1]) if place else 0
        whole = self.rows[place]
        # Most rows are one piece, and need not be cut to know it.
        return self.cut(whole)[number - first] if self.ends[place] - first > 1 else whole


def joined(*parts: Sequence[Row]) -> Sequence[Row]:
    """The rows of all parts in order: a tuple, unless one of them is too large for that."""
    there = [part for part in parts if part]
    if not any(isinstance(part, LazyRows) for part in there):
        return tuple(itertools.chain.from_iterable(there))
    return there[0] if len(there) == 1 else JoinedRows(there)


def chosen(rows: Sequence[Row], numbers: Sequence[int]) -> Sequence[Row]:
    """The rows of these numbers: a tuple, unless they are too many for that."""
    return ChosenRows(rows, numbers) if isinstance(rows, LazyRows) else tuple(rows[number] for number in numbers)


def changed(rows: Sequence[Row], change: Callable[[Row], Row]) -> Sequence[Row]:
    """Every row as ``change`` makes it over: a tuple, unless they are too many for that."""
    return ChangedRows(rows, change) if isinstance(rows, LazyRows) else tuple(map(change, rows))
