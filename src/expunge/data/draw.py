"""Seeded subsets of rows, the same on every machine."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def draw(rows: Sequence[T], count: int | None, *, seed: int, name: str) -> tuple[T, ...]:
    """Return ``count`` of the rows, in file order; all of them where ``count`` is ``None`` or not smaller.

    The rows are shuffled by ``(seed, name)`` and the first ``count`` are kept, so a smaller draw is part of a larger
    one and two sets drawn with one seed do not take the same positions.
    """
    if count is None or count >= len(rows):
        return tuple(rows)
    # As bytes: a list of so many numbers would take four times the memory.
    order = array("q", range(len(rows)))
    random.Random(f"{name}/{seed}").shuffle(order)
    return tuple(rows[index] for index in sorted(order[:count]))
