"""Blocks of a packed row: they cover what is visible and nothing else, and attend as the whole square does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from expunge.data.blocks import LONGEST_STRETCH, Block, Blocks
from expunge.data.tree import PackedTree, TokenSequence
from expunge.models.tree_attention import tree_attention

SYSTEM = tuple(range(3, 13))
ROWS = [
    *(TokenSequence((*SYSTEM, *range(20 * n, 20 * n + 12)), 15) for n in range(2, 9)),
    # Two answers to one question, and one that goes on from the middle of another.
    TokenSequence((*SYSTEM, *range(40, 46), 301, 302, 303), 16),
    TokenSequence((*SYSTEM, *range(200, 260)), 30),
]
GROUPS, WIDTH = 3, 4


def covered(blocks: Blocks, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """How often each pair of row and column is attended to, over the rows that are read."""
    times = np.zeros(shape, dtype=int)
    read = set(blocks.place.tolist())
    done = 0
    for block in blocks.blocks:
        for row_of, keys, allowed in zip(block.rows.tolist(), block.keys.tolist(), block.allowed[:, 0], strict=True):
            for row, seen in zip(row_of, allowed.tolist(), strict=True):
                if done in read:
                    for key, sees in zip(keys, seen, strict=True):
                        times[row, key] += sees
                done += 1
    return times


def test_every_visible_pair_is_in_one_block_and_no_other() -> None:
    tree = PackedTree.build(ROWS)
    assert tree.blocks is not None
    np.testing.assert_array_equal(covered(tree.blocks, tuple(tree.visible.shape)), tree.visible.numpy().astype(int))
    flat = torch.cat([block.rows.flatten() for block in tree.blocks.blocks])
    assert flat[tree.blocks.place].tolist() == list(range(len(tree.input_ids)))
    assert sum(block.allowed.numel() for block in tree.blocks.blocks) < 0.5 * tree.visible.numel()


def test_a_part_of_the_nodes_sees_remembered_columns() -> None:
    tree = PackedTree.build(ROWS)
    system = list(range(len(SYSTEM)))
    part = tree.part(list(range(len(SYSTEM), len(tree.input_ids))), system, None)
    assert part.blocks is not None
    assert part.visible.shape[1] > part.visible.shape[0]
    np.testing.assert_array_equal(covered(part.blocks, tuple(part.visible.shape)), part.visible.numpy().astype(int))


def test_one_path_is_cut_where_it_is_long() -> None:
    path = np.tril(np.ones((6 * LONGEST_STRETCH, 6 * LONGEST_STRETCH), dtype=bool))
    assert Blocks.of(path[:50, :50]) is None, "nothing to leave out"
    blocks = Blocks.of(path)
    assert blocks is not None
    assert max(block.rows.shape[1] for block in blocks.blocks) == LONGEST_STRETCH
    # Of six by six squares those above the diagonal are left out, but for what fills up.
    assert 21 / 36 <= sum(block.allowed.numel() for block in blocks.blocks) / path.size <= 25 / 36


def test_a_single_node() -> None:
    assert Blocks.of(np.ones((1, 1), dtype=bool)) is None


def test_what_is_long_and_shares_nothing_is_looked_at_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.data.blocks.LONGEST_STRETCH", 16)
    monkeypatch.setattr("expunge.data.blocks.ALONE", 16 * 16)
    tree = PackedTree.build([TokenSequence(tuple(range(100)), 5), *ROWS])
    assert tree.blocks is not None
    lone = [block for block in tree.blocks.blocks if block.run is not None]
    assert len(lone) >= 100 // 16
    for block in lone:
        for places, run in zip((block.rows, block.keys), block.run or (), strict=True):
            assert places.tolist() == [list(range(run.start, run.stop))]
    np.testing.assert_array_equal(covered(tree.blocks, tuple(tree.visible.shape)), tree.visible.numpy().astype(int))


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("alone", [1, 1 << 15])
def test_values_and_gradients_are_those_of_the_whole_square(
    alone: int, window: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.data.blocks.ALONE", alone)
    tree = PackedTree.build(ROWS)
    assert tree.blocks is not None
    assert any(block.run is not None for block in tree.blocks.blocks) == (alone == 1)
    num_nodes = len(tree.input_ids)
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(1, h, num_nodes, WIDTH, generator=draw, dtype=torch.float64).to(dtype) for h in (6, 2, 2)]
    weights = torch.randn(1, num_nodes, 6, WIDTH, generator=draw, dtype=torch.float64).to(dtype)
    found: list[tuple[Tensor, ...]] = []
    for one, kind in ((tree, dtype), (replace(tree, blocks=None), torch.float64)):
        parts = [part.to(kind).requires_grad_() for part in given]
        module: Any = torch.nn.Module()
        mixed, _ = tree_attention(module, *parts, None, tree=one, sliding_window=window, scaling=0.4)
        assert mixed.shape == (1, num_nodes, 6, WIDTH)
        assert mixed.dtype == kind
        found.append((mixed, *torch.autograd.grad((mixed * weights.to(kind)).sum(), parts)))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.06}[dtype]
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


def test_filling_up_is_never_a_number_that_is_none() -> None:
    """A row that fills up sees at least one key: softmax over nothing would spoil the gradient of real rows."""
    tree = PackedTree.build(ROWS)
    assert tree.blocks is not None
    assert all(bool(block.allowed.any(dim=-1).all()) for block in tree.blocks.blocks)
    assert all(isinstance(block, Block) for block in tree.to("cpu").blocks.blocks)  # type: ignore[union-attr]
