"""Which parts of a packed row attend to which: most of the square of N x N nodes is none of each other's business.

The nodes that a sequence brings stand in one stretch of the row, each below the one before, and see nothing but the
path that leads to them. So attention runs stretch by stretch over the keys of its own path; stretches of like size are
filled up to one shape and share a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

LONGEST_STRETCH = 256
"""Rows of one path that attend together: each of them is given the keys of the last."""
WORTH = 0.7
"""Blocks are used where they are no larger than this share of the whole square: finding their keys costs as well."""
FILLED = 1.25
"""Most that filling up may make of a block's own size, but for what is too small to matter."""
SMALL = 4096
"""Numbers in the scores of a block that may be filled up in any case."""
ALONE = 1 << 15
"""Numbers in the scores of a stretch that is a call of its own: it keeps the machine busy without company."""


@dataclass(frozen=True, slots=True)
class Block:
    """S stretches that attend together, filled up to Q rows and K keys."""

    rows: Tensor
    """``(S, Q)`` nodes that ask; what fills up a stretch asks for its first one again, and is thrown away."""
    keys: Tensor
    """``(S, K)`` columns of the tree's ``visible``; what fills up is seen by none."""
    allowed: Tensor
    """``(S, 1, Q, K)`` bool."""
    run: tuple[slice, slice] | None = None
    """Rows and keys of a lone stretch whose keys are neighbours, as in a sequence that shares nothing: to be looked at
    where they are, for a copy of every beginning is more than the sequence."""

    def to(self, device: torch.device | str) -> Block:
        """The same block with its tensors on ``device``."""
        return Block(self.rows.to(device), self.keys.to(device), self.allowed.to(device), self.run)


@dataclass(frozen=True, slots=True)
class Blocks:
    """All blocks of a row, and how its rows come together again."""

    blocks: tuple[Block, ...]
    place: Tensor
    """``(N,)`` where each node's row stands when the blocks' ``(S, Q)`` rows are put in line."""

    @classmethod
    def of(cls, visible: np.ndarray[Any, Any]) -> Blocks | None:
        """Those of a tree; None where they would be hardly smaller than the whole.

        Args:
            visible: ``(N, K)`` bool, the last N columns being the rows themselves; see
                :class:`~expunge.data.tree.PackedTree`.
        """
        stretches = sorted(_stretches(visible), key=lambda s: (s.num_keys, s.num_rows))
        groups = list(_alike(stretches))
        if sum(_area(group) for group in groups) > WORTH * visible.size:
            return None
        place = np.zeros(len(visible), dtype=np.int64)
        blocks, done = [], 0
        for group in groups:
            block, num_rows = _block(visible, group), max(s.num_rows for s in group)
            for number, stretch in enumerate(group):
                place[stretch.first : stretch.end] = done + number * num_rows + np.arange(stretch.num_rows)
            done += len(group) * num_rows
            blocks.append(block)
        return cls(tuple(blocks), torch.from_numpy(place))

    def to(self, device: torch.device | str) -> Blocks:
        """The same blocks on ``device``."""
        return Blocks(tuple(block.to(device) for block in self.blocks), self.place.to(device))


@dataclass(frozen=True, slots=True)
class _Stretch:
    first: int
    end: int
    num_keys: int

    @property
    def num_rows(self) -> int:
        return self.end - self.first


def _stretches(visible: np.ndarray[Any, Any]) -> Iterator[_Stretch]:
    """Runs of rows each of which sees the one before, cut where they are long."""
    num_rows, num_keys = visible.shape
    before = np.arange(num_rows - 1)
    follows = visible[before + 1, num_keys - num_rows + before]
    edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), num_rows]
    for first, end in pairwise(edges):
        for start in range(first, end, LONGEST_STRETCH):
            last = min(start + LONGEST_STRETCH, end)
            yield _Stretch(start, last, int(visible[last - 1].sum()))


def _area(group: list[_Stretch]) -> int:
    """Numbers in the scores of stretches that are filled up to one shape."""
    return len(group) * max(s.num_rows for s in group) * max(s.num_keys for s in group)


def _alike(stretches: list[_Stretch]) -> Iterator[list[_Stretch]]:
    """Neighbours together, as long as filling up wastes little."""
    group: list[_Stretch] = []
    own = 0
    for stretch in stretches:
        size = _area([stretch])
        if group and (size >= ALONE or _area([*group, stretch]) > FILLED * (own + size) + SMALL):
            yield group
            group, own = [], 0
        group.append(stretch)
        own += size
    if group:
        yield group


def _block(visible: np.ndarray[Any, Any], group: list[_Stretch]) -> Block:
    num_rows, num_keys = max(s.num_rows for s in group), max(s.num_keys for s in group)
    rows = np.zeros((len(group), num_rows), dtype=np.int64)
    keys = np.zeros((len(group), num_keys), dtype=np.int64)
    allowed = np.zeros((len(group), 1, num_rows, num_keys), dtype=bool)
    for number, stretch in enumerate(group):
        own = np.arange(stretch.first, stretch.end)
        seen = np.flatnonzero(visible[stretch.end - 1])
        rows[number] = stretch.first
        rows[number, : len(own)] = own
        keys[number] = seen[0]
        keys[number, : len(seen)] = seen
        # A row that fills up sees what the first one sees: a softmax over nothing would not be a number.
        allowed[number, 0, :, : len(seen)] = visible[rows[number]][:, seen]
    neighbours = len(group) == 1 and bool((np.diff(keys[0]) == 1).all())
    run = (slice(group[0].first, group[0].end), slice(int(keys[0, 0]), int(keys[0, -1]) + 1)) if neighbours else None
    return Block(torch.from_numpy(rows), torch.from_numpy(keys), torch.from_numpy(allowed), run)
