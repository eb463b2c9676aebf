"""One forward pass over many sequences, ending in logits on labelled rows: the one place that predicts tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.tree import PackedTree, TokenSequence
from expunge.losses.logps import sequence_logps, shared_logps, token_logps
from expunge.models.frozen_prefix import FrozenPrefix
from expunge.models.gated import gates_of, leak_free_groups, prompt_arguments
from expunge.models.layers import LayerReachedError, Visit, Where, layer_output, visited_blocks
from expunge.models.tree_attention import tree_logits


@dataclass(frozen=True)
class LabelledRows:
    """What a pass yields: M labelled tokens of B sequences, ordered by sequence and then by position."""

    logits: Tensor
    """``(M, V)`` at the position that predicts each label; empty where the pass ended below the head."""
    labels: Tensor
    """``(M,)``."""
    sequence: Tensor
    """``(M,)`` which sequence a row belongs to."""
    num_sequences: int
    hidden: Tensor | None = None
    """``(M, d)`` output of the asked layer at the position that predicts each label."""
    gates: Tensor | None = None
    """``(B, L)`` logits of a gated model's gates; None for others, and where the pass ended below a gate."""

    @cached_property
    def per_token_logps(self) -> Tensor:
        """``(M,)`` log-probs of the labels, float32."""
        return token_logps(self.logits, self.labels)

    @cached_property
    def logps(self) -> Tensor:
        """``(B,)`` log-probs summed over each sequence's labels."""
        return sequence_logps(self.per_token_logps, self.sequence, self.num_sequences)

    @cached_property
    def num_tokens(self) -> Tensor:
        """``(B,)`` labels per sequence."""
        return torch.bincount(self.sequence, minlength=self.num_sequences)

    def parts(self, counts: SequenceOf[int]) -> list[LabelledRows]:
        """These rows as several, of so many sequences each, renumbered from 0.

        They are what a backward pass should go through: it leaves the gradient where the logits were, and makes no
        other array of their size. Once it is done the logits are lost, and it cannot be done again.
        """
        firsts = [0, *accumulate(counts)]
        edges = torch.searchsorted(self.sequence, torch.tensor(firsts, device=self.sequence.device)).tolist()
        sizes = [end - start for start, end in pairwise(edges)]
        logps: SequenceOf[Tensor | None] = [None] * len(sizes)
        logits = [self.logits] * len(sizes)
        if len(self.logits):
            whole, logits = shared_logps(self.logits, self.labels, sizes)
            logps = whole.split(sizes)
        parts = [
            LabelledRows(rows, labels, sequence - first, count, hidden, gates)
            for rows, labels, sequence, first, count, hidden, gates in zip(
                logits,
                self.labels.split(sizes),
                self.sequence.split(sizes),
                firsts[:-1],
                counts,
                _cut(self.hidden, sizes),
                _cut(self.gates, counts),
                strict=True,
            )
        ]
        for part, own in zip(parts, logps, strict=True):
            if own is not None:
                part.__dict__["per_token_logps"] = own
        return parts


def _cut(values: Tensor | None, sizes: SequenceOf[int]) -> SequenceOf[Tensor | None]:
    return [None] * len(sizes) if values is None else values.split(list(sizes))


def labelled_rows(
    model: nn.Module,
    sequences: SequenceOf[TokenSequence],
    *,
    packed: bool,
    layer: int | None = None,
    head: bool = True,
    prefix: FrozenPrefix | None = None,
) -> LabelledRows:
    """Run ``model`` once over ``sequences``.

    Args:
        model: a causal language model, possibly wrapped; switched to tree attention if ``packed``.
        sequences: B sequences; shared beginnings are encoded once when packed.
        packed: one row of unique tokens; otherwise a right-padded batch, for architectures that cannot.
        layer: a block whose output is wanted too.
        head: whether logits are wanted; without them nothing above ``layer`` is computed.
        prefix: what the frozen lower blocks put out; a packed pass over sequences that it holds goes on from there.

    Returns:
        Logits (and hidden states) on labelled rows, differentiable unless gradients are off.
    """
    groups = leak_free_groups(model, sequences) if packed else []
    if len(groups) > 1:
        parts = [_one_pass(model, [sequences[i] for i in group], packed, layer, head, prefix) for group in groups]
        return _joined(parts, groups, len(sequences))
    return _one_pass(model, sequences, packed, layer, head, prefix)


def _one_pass(
    model: nn.Module,
    sequences: SequenceOf[TokenSequence],
    packed: bool,
    layer: int | None,
    head: bool,
    prefix: FrozenPrefix | None,
) -> LabelledRows:
    edits = gates_of(model)
    if layer is None:
        rows = _pass(model, sequences, packed, prefix)[0]
    else:
        with layer_output(model, layer, stop=not head) as seen:
            rows, where = _pass(model, sequences, packed, prefix, stops=not head)
        rows = replace(rows, hidden=seen[0][where])
    return replace(rows, gates=edits.gate_logits()) if edits else rows


def _joined(parts: list[LabelledRows], groups: list[list[int]], num_sequences: int) -> LabelledRows:
    """Several passes as one, their sequences in the order that was asked for."""
    device = parts[0].labels.device
    owner = torch.cat([torch.tensor(g, device=device)[p.sequence] for p, g in zip(parts, groups, strict=True)])
    order = owner.argsort(stable=True)
    back = torch.tensor([i for group in groups for i in group], device=device).argsort()
    hidden = [p.hidden for p in parts if p.hidden is not None]
    gates = [p.gates for p in parts if p.gates is not None]
    logits = torch.cat([p.logits for p in parts])
    return LabelledRows(
        logits[order] if len(logits) else logits,
        torch.cat([p.labels for p in parts])[order],
        owner[order],
        num_sequences,
        torch.cat(hidden)[order] if hidden else None,
        torch.cat(gates)[back] if gates else None,
    )


def visited_rows(model: nn.Module, sequences: SequenceOf[TokenSequence], *, packed: bool, visit: Visit) -> LabelledRows:
    """Run ``model`` once over ``sequences``, every block's output on the labelled rows shown to ``visit``.

    What ``visit`` returns goes up the model in their place. The rows are those of the result: ``visit`` is given states
    at the position that predicts each label. A gated model runs padded, for in a tree its edits could ask for two.
    """
    inside = partial(visited_blocks, model, visit)
    return _pass(model, sequences, packed and gates_of(model) is None, inside=inside)[0]


def _pass(
    model: nn.Module,
    sequences: SequenceOf[TokenSequence],
    packed: bool,
    prefix: FrozenPrefix | None = None,
    stops: bool = False,
    inside: Callable[[Where], AbstractContextManager[Any]] = nullcontext,
) -> tuple[LabelledRows, Where]:
    device = next(model.parameters()).device
    caught = suppress(LayerReachedError) if stops else nullcontext()
    logits = torch.empty(0, device=device)
    if packed:
        with _tree(sequences, prefix) as tree:
            tree = tree.to(device)
            where: Where = (0, tree.label_rows)
            with caught, inside(where):
                logits = tree_logits(model, tree)
        return LabelledRows(logits, tree.labels, tree.sequence, tree.num_sequences), where
    ids, mask = _padded(sequences)
    rows = [(i, t - 1) for i, s in enumerate(sequences) for t in s.label_positions]
    sequence, position = (torch.tensor(column, device=device) for column in zip(*rows, strict=True))
    labels = torch.tensor([token for s in sequences for token in s.labels], device=device)
    where = (sequence, position)
    with caught, inside(where):
        told = prompt_arguments(model, sequences, device)
        output = model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False, **told)
        logits = output.logits[sequence, position]
    return LabelledRows(logits, labels, sequence, len(sequences)), where


def _tree(sequences: SequenceOf[TokenSequence], prefix: FrozenPrefix | None) -> AbstractContextManager[PackedTree]:
    """The tree to run over while the block lasts: only a part of the model, and of the nodes, where states are kept."""
    if prefix is not None and prefix.holds(sequences):
        return prefix.shortcut(sequences)
    return nullcontext(PackedTree.build(sequences))


def _padded(sequences: SequenceOf[TokenSequence]) -> tuple[Tensor, Tensor]:
    """``(B, T)`` token ids and attention mask, padded on the right."""
    longest = max(len(s.ids) for s in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, s in enumerate(sequences):
        ids[i, : len(s.ids)] = torch.tensor(s.ids)
        mask[i, : len(s.ids)] = 1
    return ids, mask


@contextmanager
def head_inputs(model: Any) -> Iterator[list[Tensor]]:
    """Collect what the output head is given in every forward pass inside the block: final hidden states."""
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()
