"""The frozen lower blocks of a model as data: what they put out is computed once a sequence, and never again.

Below the first block that training moves, hidden states follow from the tokens alone. They are kept, and a pass begins
where they enter that block: transformers' own code still runs, its lower blocks handing on what is kept.

Gated edits act at the last token of a prompt, so that what comes before it never changes in any block. Of those tokens
only the keys and values are kept, and a pass runs over the last token of the prompt and the answer.

As with packed trees, nothing is trusted: :meth:`FrozenPrefix.trial` compares both ways on the very model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.data.tree import PackedTree, TokenSequence
from expunge.errors import ModelError
from expunge.losses.logps import token_logps
from expunge.models.gated import gates_of, leak_free_groups, without_gates
from expunge.models.layers import LayerReachedError, decoder_layers, layer_output, recorded_blocks, replayed_blocks
from expunge.models.tree_attention import tree_logits

Keep = Callable[[dict[str, Tensor]], dict[str, Tensor]]
KeysValues = dict[int, tuple[Tensor, Tensor]]
"""By layer: keys and values, ``(T, H, D)`` each, as attention receives them."""


def first_moving_block(model: Any) -> tuple[int, bool]:
    """Where a pass can begin: the first block whose weights move or whose input is edited; the depth if there is none.

    Returns:
        The block, and whether gated edits alone move. Weights outside the blocks, but for an output head of its own,
        count as standing before the first.
    """
    blocks, edits = decoder_layers(model), gates_of(model)
    # From the top, so that weights shared between blocks belong to the lowest.
    place = {id(p): n for n in reversed(range(len(blocks))) for p in blocks[n].parameters()}
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    above = {id(p) for p in head.parameters()} - {id(p) for p in embeddings.parameters()} if head else set()
    place |= dict.fromkeys(above, len(blocks))
    own = {id(p) for p in edits.parameters()} if edits else set()
    moving = [place.get(id(p), 0) for p in model.parameters() if p.requires_grad and id(p) not in own]
    # An edit changes what its block puts out, and so what the next one takes in.
    edited = [min(edits.layers) + 1] if edits else []
    return min([*moving, *edited], default=len(blocks)), bool(edits) and not moving


@dataclass
class FrozenPrefix:
    """What the blocks below ``start`` put out, by sequence."""

    model: Any
    """The policy with its scope attached, outside any wrapper for several processes."""
    start: int
    """The first block that runs, at least 1."""
    edited: bool = False
    """Whether gated edits alone move: then prompts but for their last token are remembered as keys and values."""
    states: dict[TokenSequence, Tensor] = field(default_factory=dict)
    """``(T, d)`` what enters block ``start``: at every position, or from the last token of the prompt on."""
    memory: dict[tuple[int, ...], KeysValues] = field(default_factory=dict)
    """From block ``start`` on, by prompt without its last token."""

    @classmethod
    def of(cls, model: Any, layer: int | None = None) -> FrozenPrefix | None:
        """An empty one for a model with its scope attached; None where training moves the first block or below.

        Args:
            model: the policy.
            layer: a block whose output will be read; it is kept, or computed in every pass.
        """
        try:
            start, edited = first_moving_block(model)
        except ModelError:  # nobody can find its blocks
            return None
        start = start if layer is None else min(start, layer + 1)
        return cls(model, start, edited) if start else None

    @property
    def num_bytes(self) -> int:
        """How large everything is that is kept."""
        pairs = [pair for kept in self.memory.values() for pair in kept.values()]
        return sum(t.nbytes for t in [*self.states.values(), *(t for pair in pairs for t in pair)])

    # -- keeping ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fill(self, sequences: SequenceOf[TokenSequence], keep: Keep | None = None) -> None:
        """Run the frozen blocks over one pack of sequences, none of them kept so far.

        Args:
            sequences: packed into one tree.
            keep: puts tensors where they are to lie, and gives them back from there; None leaves them in memory.
        """
        tree = PackedTree.build(sequences)
        paths = dict(zip(sequences, tree.paths, strict=True))
        begun = {s.ids[: self._edge(s)]: list(path[: self._edge(s)]) for s, path in paths.items()}
        prompts = {prompt: path for prompt, path in begun.items() if prompt and prompt not in self.memory}
        with self._at_rest():
            states = self._put_out(tree)
            known = self._remembered(tree, states, sorted({node for path in prompts.values() for node in path}))
        states = states.cpu()
        found = {f"states.{n}": states[list(path[self._edge(s) :])] for n, (s, path) in enumerate(paths.items())}
        for n, path in enumerate(prompts.values()):
            for layer, (keys, values) in known.items():
                found |= {f"keys.{layer}.{n}": keys[path], f"values.{layer}.{n}": values[path]}
        found = keep(found) if keep else found
        self.states |= {s: found[f"states.{n}"] for n, s in enumerate(paths)}
        self.memory |= {
            prompt: {layer: (found[f"keys.{layer}.{n}"], found[f"values.{layer}.{n}"]) for layer in known}
            for n, prompt in enumerate(prompts)
        }

    def _edge(self, sequence: TokenSequence) -> int:
        """From which position on a sequence goes on from kept states."""
        return sequence.first_label - 1 if self.edited else 0

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with without_gates(self.model):
                yield
        finally:
            self.model.train(was_training)

    def _put_out(self, tree: PackedTree) -> Tensor:
        """``(N, d)`` what enters block ``start``."""
        with suppress(LayerReachedError), layer_output(self.model, self.start - 1, stop=True) as seen:
            tree_logits(self.model, tree.to(self._device))
        return seen[0][0]

    def _remembered(self, tree: PackedTree, states: Tensor, nodes: list[int]) -> KeysValues:
        """Keys and values of some nodes, closed under ancestors, from block ``start`` on; rows as in ``tree``."""
        seen: KeysValues = {}

        def record(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            # Laid out by node of the whole tree, so that one way of counting does for all.
            seen[layer] = _spread(key, nodes, len(states)), _spread(value, nodes, len(states))
            return key, value

        last = len(decoder_layers(self.model)) - 1
        if nodes and self.start <= last:
            part = tree.part(nodes, (), record).to(self._device)
            with suppress(LayerReachedError), self._handed_on(states[nodes]), layer_output(self.model, last, stop=True):
                tree_logits(self.model, part)
        return seen

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    # -- going on from it ---------------------------------------------------------------------------------------------

    def holds(self, sequences: SequenceOf[TokenSequence]) -> bool:
        """Whether a pass over these sequences can go on from what is kept; with edits switched off, none can."""
        edits = gates_of(self.model)
        return (edits is None or edits.enabled) and all(s in self.states for s in sequences)

    def begin(self, sequence: TokenSequence) -> int:
        """From which position on a pass computes a sequence."""
        return self._edge(sequence) if sequence in self.states else 0

    @contextmanager
    def shortcut(self, sequences: SequenceOf[TokenSequence]) -> Iterator[PackedTree]:
        """Let the model's pass over the tree that this yields begin at block ``start``.

        Args:
            sequences: free of leaks (:func:`~expunge.models.gated.leak_free_groups`), all of them held.
        """
        tree = PackedTree.build(sequences)
        computed: list[int] = []
        known: list[int] = []
        states: list[Tensor] = []
        memories: list[tuple[KeysValues, slice]] = []
        met = 0
        for s, path in zip(sequences, tree.paths, strict=True):
            # Nodes are numbered as they are met: what this sequence brings is the end of its path.
            edge, new = self._edge(s), bisect_left(path, met)
            computed += path[max(new, edge) :]
            states.append(self.states[s][max(new - edge, 0) :])
            if new < edge:
                known += path[new:edge]
                memories.append((self.memory[s.ids[:edge]], slice(new, edge)))
            met = max(met, path[-1] + 1)
        if self.edited:
            tree = tree.part(computed, known, _recall(memories) if memories else None)
        with self._handed_on(torch.cat(states).to(self._device)):
            yield tree

    @contextmanager
    def _handed_on(self, states: Tensor) -> Iterator[None]:
        blocks = decoder_layers(self.model)
        # Reentrant checkpointing passes no gradient into a block whose input asks for none.
        checkpointed = any(getattr(block, "gradient_checkpointing", False) for block in blocks)
        entering = states[None].requires_grad_(checkpointed and torch.is_grad_enabled())
        with replayed_blocks(self.model, [entering] * self.start, self.start - 1):
            yield

    # -- trust --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def trial(self, sequences: SequenceOf[TokenSequence]) -> str:
        """Keep a first pack of sequences, and check on this very model that a pass from there gives what it gave.

        Returns:
            An empty string if it does, else the reason in a few words.
        """
        group = [sequences[i] for i in leak_free_groups(self.model, sequences)[0]]
        was_training = self.model.training
        self.model.eval()
        try:
            if not self._plain_blocks(group[0]):
                return "its blocks hand on more than hidden states"
            whole = PackedTree.build(group).to(self._device)
            expected = tree_logits(self.model, whole)
            self.fill(sequences)
            with self.shortcut(group) as part:
                logits = tree_logits(self.model, part.to(self._device))
            differences = (token_logps(logits, whole.labels) - token_logps(expected, whole.labels)).abs()
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
            return f"its forward pass refuses it: {str(error).splitlines()[0][:100]}"
        finally:
            self.model.train(was_training)
        # In half precision single log-probs of long answers stray; a mistake moves them all.
        exact = logits.dtype == torch.float32 and self.model.dtype == torch.float32
        difference, limit = (differences.max(), 1e-3) if exact else (differences.mean(), 0.1)
        return "" if difference <= limit else f"log-probs differ by {float(difference):.1e}"

    def _plain_blocks(self, sequence: TokenSequence) -> bool:
        """Whether blocks put out hidden states and nothing else, seen on a pass over one token."""
        tree = PackedTree.build([TokenSequence(sequence.ids[:2], 1)]).to(self._device)
        with recorded_blocks(self.model) as outputs:
            tree_logits(self.model, tree)
        return all(isinstance(output, Tensor) and output.dim() == 3 for output in outputs)


def _spread(heads: Tensor, nodes: list[int], num_nodes: int) -> Tensor:
    """``(1, H, T, D)`` of some nodes as ``(num_nodes, H, D)``."""
    rows = heads[0].transpose(0, 1).cpu()
    spread = rows.new_empty(num_nodes, *rows.shape[1:])
    spread[nodes] = rows
    return spread


def _recall(memories: SequenceOf[tuple[KeysValues, slice]]) -> Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Puts the remembered keys and values of some stretches of prompts before those of the nodes that are computed."""

    def recall(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        kept = [(kept[layer][0][part], kept[layer][1][part]) for kept, part in memories]
        keys, values = (torch.cat(column).transpose(0, 1)[None] for column in zip(*kept, strict=True))
        return torch.cat([keys.to(key), key], dim=2), torch.cat([values.to(value), value], dim=2)

    return recall
