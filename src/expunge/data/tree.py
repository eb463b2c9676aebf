"""Many sequences as one row of unique tokens: a prefix tree, so that nothing is padded and nothing encoded twice.

A node of the tree is one token after one particular history. Sequences that begin alike share nodes: the system
prompt of a whole batch, a question with its several answers. Attention lets a node see its ancestors and itself,
which is causal attention within every sequence; the position of a node is its depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.blocks import Blocks


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


Memory = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(layer, key, value) -> key, value``, ``(1, H, T, D)`` each: puts what is remembered of other nodes before them."""


@dataclass(frozen=True, slots=True)
class PackedTree:
    """One packed row of N unique tokens and the M labels that its sequences ask for."""

    input_ids: Tensor
    """``(N,)`` token of each node; parents come before children."""
    position_ids: Tensor
    """``(N,)`` depth of each node."""
    visible: Tensor
    """``(N, K)`` bool: node i (row) may attend to node j (column), an ancestor or itself. K is N, or more where only a
    part of the nodes is computed: the last N columns are the nodes themselves."""
    label_rows: Tensor
    """``(M,)`` the node that predicts each label."""
    labels: Tensor
    """``(M,)`` token ids to predict, ordered by sequence and then by position."""
    sequence: Tensor
    """``(M,)`` which sequence each label belongs to."""
    num_sequences: int
    prompt_ends: Tensor
    """``(B,)`` node of the last token of each prompt."""
    key_positions: Tensor
    """``(K,)`` depth of each column of ``visible``."""
    paths: tuple[tuple[int, ...], ...]
    """The nodes of each sequence, by position, in the whole tree."""
    blocks: Blocks | None
    """``visible`` as blocks, where these are much smaller; None where they are not."""
    memory: Memory | None = None
    """Keys and values of the first K - N columns, for attention to ask."""

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
        paths: list[tuple[int, ...]] = []
        for sequence in sequences:
            node = -1
            path: list[int] = []
            predicted = set(sequence.label_positions)
            # The last token predicts nothing, so it is a label but never a node.
            for position, token in enumerate(sequence.ids[:-1]):
                child = children.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                node = child
                path.append(node)
                if position + 1 in predicted:
                    rows.append(node)
            paths.append(tuple(path))
        visible, depth = _ancestry(parents)
        position_ids = torch.from_numpy(depth)
        return cls(
            input_ids=torch.tensor(tokens),
            position_ids=position_ids,
            visible=torch.from_numpy(visible),
            label_rows=torch.tensor(rows),
            labels=torch.tensor([token for s in sequences for token in s.labels]),
            sequence=torch.tensor([i for i, s in enumerate(sequences) for _ in range(s.num_labels)]),
            num_sequences=len(sequences),
            prompt_ends=torch.tensor([path[s.first_label - 1] for s, path in zip(sequences, paths, strict=True)]),
            key_positions=position_ids,
            paths=tuple(paths),
            blocks=Blocks.of(visible),
        )

    def part(self, nodes: SequenceOf[int], known: SequenceOf[int], memory: Memory | None) -> PackedTree:
        """Some nodes alone: a pass over them that attends to ``known`` ones besides, out of memory.

        Args:
            nodes: those that are computed, ascending; labels and prompts' ends outside them become -1.
            known: those whose keys and values ``memory`` has, in its order.
            memory: asked by every attention layer.
        """
        rows, keys = torch.tensor(nodes), torch.tensor([*known, *nodes])
        place = torch.full_like(self.input_ids, -1)
        place[rows] = torch.arange(len(rows))
        visible = self.visible[rows][:, keys]
        return replace(
            self,
            input_ids=self.input_ids[rows],
            position_ids=self.position_ids[rows],
            visible=visible,
            blocks=Blocks.of(visible.numpy()),
            label_rows=place[self.label_rows],
            prompt_ends=place[self.prompt_ends],
            key_positions=self.key_positions[keys],
            memory=memory,
        )

    def to(self, device: torch.device | str) -> PackedTree:
        """The same tree with its tensors on ``device``."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        movable = {name: value for name, value in held.items() if isinstance(value, Tensor | Blocks)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in movable.items()}
        return replace(self, **moved)


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


def _prefixes(unit: Iterable[TokenSequence], begin: Callable[[TokenSequence], int] | None = None) -> set[int]:
    """One number for every node that these sequences need: the hash chain of the tokens up to it."""
    nodes: set[int] = set()
    for sequence in unit:
        chain, first = 0, begin(sequence) if begin else 0
        for position, token in enumerate(sequence.ids[:-1]):
            chain = hash((chain, token))
            if position >= first:
                nodes.add(chain)
    return nodes


def count_unique_tokens(sequences: Iterable[TokenSequence]) -> int:
    """How many nodes the tree of these sequences has: the tokens that a forward pass computes."""
    return len(_prefixes(sequences))


def pack_units(
    units: SequenceOf[SequenceOf[TokenSequence]],
    max_tokens: int,
    begin: Callable[[TokenSequence], int] | None = None,
) -> list[list[int]]:
    """Split units into packs of at most ``max_tokens`` unique tokens each, in order; an oversized unit stands alone.

    A unit is a group of sequences that one loss value needs together (an answer with its alternate); it is not split.
    The result is a pure function of its arguments, so that an interrupted run packs alike.

    Args:
        units: in order.
        max_tokens: of one pack.
        begin: from which position on a sequence counts; None: from its first token.

    Returns:
        Lists of indices into ``units``.
    """
    packs: list[list[int]] = []
    seen: set[int] = set()
    for index, unit in enumerate(units):
        nodes = _prefixes(unit, begin)
        if packs and len(seen | nodes) <= max_tokens:
            packs[-1].append(index)
            seen |= nodes
        else:
            packs.append([index])
            seen = nodes
    return packs
