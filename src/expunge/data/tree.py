"""Many sequences as one row of unique tokens: a prefix tree, so that nothing is padded and nothing encoded twice.

A node of the tree is one token after one particular history. Sequences that begin alike share nodes: the system
prompt of a whole batch, a question with its several answers. Attention lets a node see its ancestors and itself,
which is causal attention within every sequence; the position of a node is its depth.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of a prompt with its answer; ``ids[first_label:]`` are the labels, but for ``spared`` positions.

    ``first_label`` is at least 1: a token without a predecessor cannot be predicted.
    """

    ids: tuple[int, ...]
    first_label: int
    spared: frozenset[int] = frozenset()
    """Positions of the answer that are read and not supervised; at least one is."""

    def __post_init__(self) -> None:
        if not 1 <= self.first_label < len(self.ids):
            raise ValueError(
                f"first_label must be in [1, {len(self.ids) - 1}] for {len(self.ids)} ids, got {self.first_label}"
            )
        answer = range(self.first_label, len(self.ids))
        if not self.spared <= set(answer) or len(self.spared) == len(answer):
            raise ValueError(f"spared must be some, not all, of positions {answer}, got {sorted(self.spared)}")

    @property
    def num_labels(self) -> int:
        """How many tokens are supervised."""
        return len(self.ids) - self.first_label - len(self.spared)

    @property
    def label_positions(self) -> list[int]:
        """Positions of the supervised tokens, ascending; each is predicted at the one before."""
        return [place for place in range(self.first_label, len(self.ids)) if place not in self.spared]

    @property
    def labels(self) -> list[int]:
        """The supervised token ids."""
        return [self.ids[place] for place in self.label_positions]


@dataclass(frozen=True, slots=True)
class PackedTree:
    """One packed row of N unique tokens and the M labels that its sequences ask for."""

    input_ids: Tensor
    """``(N,)`` token of each node; parents come before children."""
    position_ids: Tensor
    """``(N,)`` depth of each node."""
    visible: Tensor
    """``(N, N)`` bool: node i (row) may attend to node j (column), an ancestor or itself."""
    label_rows: Tensor
    """``(M,)`` the node that predicts each label."""
    labels: Tensor
    """``(M,)`` token ids to predict, ordered by sequence and then by position."""
    sequence: Tensor
    """``(M,)`` which sequence each label belongs to."""
    num_sequences: int

    @classmethod
    def build(cls, sequences: SequenceOf[TokenSequence]) -> PackedTree:
        """Merge sequences along their common beginnings.

        Raises:
            ValueError: if there are no sequences.
        """
        if not sequences:
            raise ValueError("a packed tree needs at least one sequence")
        children: dict[tuple[int, int], int] = {}
        tokens: list[int] = []
        parents: list[int] = []
        rows: list[int] = []
        for sequence in sequences:
            node = -1
            predicted = set(sequence.label_positions)
            # The last token predicts nothing, so it is a label but never a node.
            for position, token in enumerate(sequence.ids[:-1]):
                child = children.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                node = child
                if position + 1 in predicted:
                    rows.append(node)
        visible, depth = _ancestry(parents)
        return cls(
            input_ids=torch.tensor(tokens),
            position_ids=torch.from_numpy(depth),
            visible=torch.from_numpy(visible),
            label_rows=torch.tensor(rows),
            labels=torch.tensor([token for s in sequences for token in s.labels]),
            sequence=torch.tensor([i for i, s in enumerate(sequences) for _ in range(s.num_labels)]),
            num_sequences=len(sequences),
        )

    def to(self, device: torch.device | str) -> PackedTree:
        """The same tree with its tensors on ``device``."""
        tensors = {
            name: getattr(self, name).to(device)
            for name in ("input_ids", "position_ids", "visible", "label_rows", "labels", "sequence")
        }
        return PackedTree(**tensors, num_sequences=self.num_sequences)


def _ancestry(parents: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The ``(N, N)`` ancestor-or-self matrix and the ``(N,)`` depths, parents before children."""
    num_nodes = len(parents)
    visible = np.zeros((num_nodes, num_nodes), dtype=bool)
    depth = np.zeros(num_nodes, dtype=np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] = visible[parent]
            depth[node] = depth[parent] + 1
        visible[node, node] = True
    return visible, depth


def _prefixes(unit: Iterable[TokenSequence]) -> set[int]:
    """One number for every node that these sequences need: the hash chain of the tokens up to it."""
    nodes: set[int] = set()
    for sequence in unit:
        chain = 0
        for token in sequence.ids[:-1]:
            chain = hash((chain, token))
            nodes.add(chain)
    return nodes


def count_unique_tokens(sequences: Iterable[TokenSequence]) -> int:
    """How many nodes the tree of these sequences has: the tokens that a forward pass computes."""
    return len(_prefixes(sequences))


def pack_units(units: SequenceOf[SequenceOf[TokenSequence]], max_tokens: int) -> list[list[int]]:
    """Split units into packs of at most ``max_tokens`` unique tokens each, in order; an oversized unit stands alone.

    A unit is a group of sequences that one loss value needs together (an answer with its alternate); it is not split.
    The result is a pure function of its arguments, so that an interrupted run packs alike.

    Returns:
        Lists of indices into ``units``.
    """
    packs: list[list[int]] = []
    seen: set[int] = set()
    for index, unit in enumerate(units):
        nodes = _prefixes(unit)
        if packs and len(seen | nodes) <= max_tokens:
            packs[-1].append(index)
            seen |= nodes
        else:
            packs.append([index])
            seen = nodes
    return packs
