"""The prefix tree against a definition written out: a node is a token after one particular history."""

from __future__ import annotations

import random

import pytest
import torch

from expunge.data.tree import PackedTree, TokenSequence, count_unique_tokens, pack_units


def seq(*ids: int, first: int = 1) -> TokenSequence:
    return TokenSequence(ids, first)


def random_sequences(seed: int, count: int = 8) -> list[TokenSequence]:
    """Sequences over three tokens, so that many share beginnings."""
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        ids = tuple(draw.randrange(3) for _ in range(draw.randint(2, 9)))
        out.append(TokenSequence(ids, draw.randint(1, len(ids) - 1)))
    return out


@pytest.mark.parametrize("first", [0, 3, 4, -1])
def test_first_label_must_have_a_predecessor_and_leave_a_label(first: int) -> None:
    with pytest.raises(ValueError, match=r"first_label must be in \[1, 2\] for 3 ids"):
        TokenSequence((5, 6, 7), first)


def test_a_shared_question_is_encoded_once() -> None:
    # 1-2 is the shared question; answers 3-4 and 5-6. The last token of each is only a label.
    tree = PackedTree.build([seq(1, 2, 3, 4, first=2), seq(1, 2, 5, 6, first=2)])
    assert tree.input_ids.tolist() == [1, 2, 3, 5]
    assert tree.position_ids.tolist() == [0, 1, 2, 2]
    # Node 1 predicts both 3 and 5; node 2 predicts 4; node 3 predicts 6.
    assert tree.label_rows.tolist() == [1, 2, 1, 3]
    assert tree.labels.tolist() == [3, 4, 5, 6]
    assert tree.sequence.tolist() == [0, 0, 1, 1]
    assert tree.prompt_ends.tolist() == [1, 1]
    assert tree.paths == ((0, 1, 2), (0, 1, 3))
    assert tree.visible.int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]


def test_a_sequence_that_is_the_beginning_of_another() -> None:
    tree = PackedTree.build([seq(1, 2), seq(1, 2, 3)])
    assert tree.input_ids.tolist() == [1, 2]
    assert tree.label_rows.tolist() == [0, 0, 1]
    assert tree.labels.tolist() == [2, 2, 3]


def test_equal_sequences_share_nodes_but_keep_their_labels() -> None:
    tree = PackedTree.build([seq(1, 2, 3), seq(1, 2, 3)])
    assert tree.input_ids.tolist() == [1, 2]
    assert tree.labels.tolist() == [2, 3, 2, 3]
    assert tree.sequence.tolist() == [0, 0, 1, 1]


def test_a_tree_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        PackedTree.build([])


@pytest.mark.parametrize("seed", range(20))
def test_tree_against_its_definition(seed: int) -> None:
    sequences = random_sequences(seed)
    tree = PackedTree.build(sequences)
    # Histories in the order in which they are first met.
    histories = list(dict.fromkeys(s.ids[: i + 1] for s in sequences for i in range(len(s.ids) - 1)))
    assert tree.input_ids.tolist() == [h[-1] for h in histories]
    assert tree.position_ids.tolist() == [len(h) - 1 for h in histories]
    for i, mine in enumerate(histories):
        for j, other in enumerate(histories):
            assert bool(tree.visible[i, j]) == (mine[: len(other)] == other)
    expected = [
        (histories.index(s.ids[:t]), s.ids[t], n)
        for n, s in enumerate(sequences)
        for t in range(s.first_label, len(s.ids))
    ]
    assert list(zip(tree.label_rows.tolist(), tree.labels.tolist(), tree.sequence.tolist(), strict=True)) == expected
    assert tree.num_sequences == len(sequences)
    assert count_unique_tokens(sequences) == len(histories)


def test_moving_keeps_everything() -> None:
    tree = PackedTree.build([seq(1, 2, 3)])
    moved = tree.to(torch.device("cpu"))
    assert moved.num_sequences == 1
    assert torch.equal(moved.visible, tree.visible)


def test_num_labels() -> None:
    assert seq(1, 2, 3, 4, first=3).num_labels == 1
    assert seq(1, 2, 3, 4, first=1).num_labels == 3


def test_packs_keep_order_and_budget() -> None:
    # Each needs 3 nodes; the first two share two of them, so three nodes more would exceed 6.
    units = [[seq(1, 2, 3, 4)], [seq(1, 2, 5, 6)], [seq(7, 8, 9, 1)], [seq(7, 8, 9, 2)]]
    assert pack_units(units, 4) == [[0, 1], [2, 3]]
    assert pack_units(units, 7) == [[0, 1, 2, 3]]
    assert pack_units(units, 3) == [[0], [1], [2, 3]]


def test_packs_count_what_is_computed_of_each_sequence() -> None:
    # Three nodes each, of which the first two are remembered: the packs hold three times as many.
    units = [[seq(1, 2, 3, 4)], [seq(5, 6, 7, 8)], [seq(9, 10, 11, 12)], [seq(13, 14, 15, 16)]]
    assert pack_units(units, 3) == [[0], [1], [2], [3]]
    assert pack_units(units, 3, lambda s: 2) == [[0, 1, 2], [3]]


def test_an_oversized_unit_stands_alone_and_whole() -> None:
    big = [seq(*range(20)), seq(*range(30, 50))]
    assert pack_units([[seq(90, 91)], big, [seq(92, 93)]], 10) == [[0], [1], [2]]


@pytest.mark.parametrize("seed", range(20))
def test_packing_any_units(seed: int) -> None:
    draw = random.Random(seed)
    units = [random_sequences(seed * 100 + i, draw.randint(1, 3)) for i in range(12)]
    budget = draw.randint(4, 40)
    packs = pack_units(units, budget)
    assert [i for pack in packs for i in pack] == list(range(12))
    for pack in packs:
        size = len(PackedTree.build([s for i in pack for s in units[i]]).input_ids)
        assert size <= budget or len(pack) == 1
    assert packs == pack_units(units, budget)


def test_no_units_give_no_packs() -> None:
    assert pack_units([], 10) == []
    assert count_unique_tokens([]) == 0
