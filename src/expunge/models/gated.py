"""A live model with gated edits: where each forward pass is edited, generation, and what the gates said.

Edits happen at one position a sequence: the last token of its prompt. A forward pass must therefore know where prompts
end, and says so in one of four ways: a packed tree, ``prompt_lengths``, ``labels``, or by running inside ``generate``.
A pass that cannot know raises an error; it is never run without the edits by accident.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.tree import PackedTree, TokenSequence
from expunge.errors import ModelError, RecipeError
from expunge.models.gated_edit import GatedEdit, GateSettings
from expunge.models.layers import decoder_layers

ATTRIBUTE = "gated_edits"
"""The submodule that holds the edits of a model; it starts the names of their parameters."""

Where = tuple[Tensor, Tensor, Tensor]
"""Batch row and position of each of P edits, and which of them belongs to each of B sequences."""


class GatedEdits(nn.Module):
    """All edits of a model: one adapter, or several side by side.

    Args:
        model: gives width, blocks and devices.
        members: one a request; at a block where several edit, all of them read the same state.
        scale: multiplies the sum of their edits.
    """

    def __init__(self, model: Any, members: SequenceOf[GateSettings], *, scale: float = 1.0) -> None:
        super().__init__()
        self.settings = tuple(members)
        self.scale = scale
        self.enabled = True
        self.prompt_end: int | None = None
        """While generating: how long the padded prompts are."""
        self._where: Where | None = None
        self._logits: dict[tuple[str, int], Tensor] = {}
        blocks = decoder_layers(model)
        width = model.config.get_text_config().hidden_size
        self.members = nn.ModuleDict()
        for number, settings in enumerate(members):
            if wrong := [layer for layer in settings.layers if not 0 <= layer < len(blocks)]:
                raise RecipeError(f"scope gated: layers must be in [0, {len(blocks) - 1}] for this model, got {wrong}")
            self.members[str(number)] = nn.ModuleDict(
                {
                    str(layer): GatedEdit(width, settings, _draw(number, layer), _device(blocks[layer]))
                    for layer in settings.layers
                }
            )

    @property
    def layers(self) -> list[int]:
        """Every edited block."""
        return sorted({layer for settings in self.settings for layer in settings.layers})

    # -- hooks --------------------------------------------------------------------------------------------------------

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Before each forward pass: find out where it is edited."""
        lengths = kwargs.pop("prompt_lengths", None)
        self._where = self._find(args, kwargs, lengths) if self.enabled else None
        if self._where or not self.enabled:
            self._logits = {}
        return args, kwargs

    def edit(self, layer: int, block: nn.Module, inputs: Any, output: Any) -> Any:
        """After block ``layer``: replace the states at the prompts' ends."""
        if self._where is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        rows, positions = (index.to(hidden.device) for index in self._where[:2])
        states = hidden[rows, positions]
        change = torch.zeros_like(states, dtype=torch.float32)
        for name, member in self.members.items():
            assert isinstance(member, nn.ModuleDict)
            if str(layer) in member:
                own, self._logits[name, layer] = member[str(layer)](states)
                change = change + own
        edited = (states.float() + self.scale * change).to(hidden.dtype)
        # Out of place, for the block's own backward pass may still need what it put out.
        changed = hidden.index_put((rows, positions), edited)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def same_places(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For activation checkpointing: a block that is run again is edited where it was the first time.

        Another pass may have begun since. What the gates said then stays, too.
        """
        return nullcontext(), self._at(self._where)

    @contextmanager
    def _at(self, where: Where | None) -> Iterator[None]:
        before = self._where, self._logits
        self._where, self._logits = where, dict(self._logits)
        try:
            yield
        finally:
            self._where, self._logits = before

    # -- where --------------------------------------------------------------------------------------------------------

    def _find(self, args: tuple, kwargs: dict[str, Any], lengths: Tensor | None) -> Where | None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if kwargs.get("tree") is not None:
            return _in_tree(kwargs["tree"])
        if lengths is not None:
            return _after_tokens(torch.as_tensor(lengths), mask)
        if self.prompt_end is not None:
            return _in_chunk(self.prompt_end - 1, args, kwargs)
        if kwargs.get("labels") is not None:
            return _before_labels(kwargs["labels"])
        raise ModelError(
            "a gated model must know where each prompt ends: use generate(), give labels or prompt_lengths, or score "
            "with expunge (lm-eval: expunge.evaluation.lm_eval_bridge); it is never run without its gates by accident"
        )

    # -- what the gates said ------------------------------------------------------------------------------------------

    def gate_logits(self) -> Tensor | None:
        """``(B, C)`` of the last edited pass, adapter by adapter and block by block; None if it ended below a gate."""
        wanted = [(str(n), layer) for n, settings in enumerate(self.settings) for layer in settings.layers]
        if self._where is None or any(key not in self._logits for key in wanted):
            return None
        return self._columns(wanted)[self._where[2].to(self._logits[wanted[0]].device)]

    def _columns(self, wanted: Iterable[tuple[str, int]]) -> Tensor:
        first = next(iter(self._logits.values()))
        return torch.stack([self._logits[key].to(first.device) for key in wanted], dim=-1)

    def row_gates(self, logits: Tensor) -> Tensor:
        """``(B, C)`` logits to ``(B,)`` in [0, 1]: the mean over an adapter's blocks, the widest open adapter's."""
        widths = [len(settings.layers) for settings in self.settings]
        openings = [torch.sigmoid(part).mean(-1) for part in logits.split(widths, dim=-1)]
        return torch.stack(openings).amax(0)

    def generated_gates(self, num_prompts: int) -> Tensor:
        """``(B, C)`` in [0, 1] for the prompts of the last ``generate``, whose rows beams and samples repeat."""
        wanted = [(str(n), layer) for n, settings in enumerate(self.settings) for layer in settings.layers]
        gates = torch.sigmoid(self._columns(wanted)).detach()
        return gates[:: len(gates) // num_prompts]


def _draw(number: int, layer: int) -> torch.Generator:
    """Follows from the run's seed alone, not from what has been drawn since."""
    return torch.Generator().manual_seed((torch.initial_seed() + 1_000_003 * (layer + 1) + number) % 2**63)


def _device(block: nn.Module) -> torch.device:
    return next(block.parameters()).device


def _in_tree(tree: PackedTree) -> Where:
    """The last tokens of the prompts; sequences with one prompt share a node."""
    nodes, owner = torch.unique(tree.prompt_ends, return_inverse=True)
    return torch.zeros_like(nodes), nodes, owner


def _after_tokens(lengths: Tensor, mask: Tensor | None) -> Where:
    """The ``lengths``-th real token of each row, on whichever side it is padded."""
    rows = torch.arange(len(lengths), device=lengths.device)
    if mask is None or mask.dim() != 2:
        return rows, lengths - 1, rows
    reached = mask.long().cumsum(-1) == lengths.to(mask.device)[:, None]
    if not reached.any(-1).all():
        raise ModelError(f"prompt_lengths must be in [1, number of tokens] of each row, got {lengths.tolist()}")
    return rows, reached.long().argmax(-1), rows


def _before_labels(labels: Tensor) -> Where:
    """The token before the first label that is not ignored."""
    supervised = labels != -100
    first = supervised.long().argmax(-1)
    if not supervised.any(-1).all() or not first.min() >= 1:
        raise ModelError("labels do not show where prompts end: each row needs ignored labels (-100), then its answer")
    rows = torch.arange(len(labels), device=labels.device)
    return rows, first - 1, rows


def _in_chunk(position: int, args: tuple, kwargs: dict[str, Any]) -> Where | None:
    """While generating, the prompts' last position if this pass holds it: not in a cached decoding step."""
    given = kwargs.get("input_ids", args[0] if args else None)
    given = kwargs["inputs_embeds"] if given is None else given
    cache = kwargs.get("past_key_values")
    index = position - (0 if cache is None else int(cache.get_seq_length()))
    if not 0 <= index < given.shape[1]:
        return None
    rows = torch.arange(given.shape[0], device=given.device)
    return rows, torch.full_like(rows, index), rows


# -- models -----------------------------------------------------------------------------------------------------------


def gates_of(model: Any) -> GatedEdits | None:
    """The edits of a gated model, itself or inside a wrapper for several processes; None for any other."""
    found = getattr(getattr(model, "module", model), ATTRIBUTE, None)
    return found if isinstance(found, GatedEdits) else None


def attach_gates(model: Any, members: SequenceOf[GateSettings], *, scale: float = 1.0) -> Any:
    """Freeze a model and put gated edits into it, in place; ``generate`` and ``save_pretrained`` know of them.

    Raises:
        RecipeError: for blocks that the model does not have.
        ModelError: for a model that is gated already.
    """
    from expunge.models.gated_files import save_gated

    refuse_gated(model)
    edits = GatedEdits(model, members, scale=scale)
    edits.train(model.training)
    model.requires_grad_(False)
    blocks = decoder_layers(model)
    setattr(model, ATTRIBUTE, edits)
    # Bound methods, so that a deep copy of the model calls its own edits.
    model.register_forward_pre_hook(edits.begin, with_kwargs=True)
    for layer in edits.layers:
        blocks[layer].register_forward_hook(partial(edits.edit, layer))
    model.generate = MethodType(_generate, model)
    model.save_pretrained = MethodType(save_gated, model)
    return model


def refuse_gated(model: Any) -> None:
    """Say that a gated model cannot be trained further.

    Raises:
        ModelError: if it is one.
    """
    if gates_of(model):
        raise ModelError(
            "this model carries a gated adapter and cannot be trained further; start from its base model, and put "
            "the adapters of several requests together with expunge.compose_adapters"
        )


@contextmanager
def without_gates(model: Any) -> Iterator[None]:
    """Run the base model alone inside the block of code; nothing changes for a model without gates."""
    edits = gates_of(model)
    before = edits.enabled if edits else True
    if edits:
        edits.enabled = False
    try:
        yield
    finally:
        if edits:
            edits.enabled = before


def _generate(model: Any, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
    """``generate`` with the prompts' end known: whatever the padding, the cache, the chunks or the beams.

    Prompts padded on the right are packed to the right end first; the answer then follows the padded width as usual.
    """
    edits = gates_of(model)
    assert edits is not None
    ids = kwargs.pop("input_ids", None) if inputs is None else inputs
    if ids is None:
        raise ModelError("a gated model generates from input_ids; embeddings do not show where the prompt ends")
    mask = kwargs.pop("attention_mask", None)
    if mask is None:
        mask = _real_tokens(model, ids, kwargs)
    if mask.shape == ids.shape and not mask[:, -1].all():
        ids, mask, kwargs = _packed_right(ids, mask, kwargs)
    edits.prompt_end = mask.shape[1]
    try:
        return type(model).generate(model, ids, *args, attention_mask=mask, **kwargs)
    finally:
        edits.prompt_end = None


def _real_tokens(model: Any, ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """What transformers would take for the mask: everything but pads, where pads can be told from ends."""
    chosen = [kwargs.get("generation_config"), getattr(model, "generation_config", None)]
    pad, end = (
        next((v for v in (kwargs.get(name), *(getattr(c, name, None) for c in chosen)) if v is not None), None)
        for name in ("pad_token_id", "eos_token_id")
    )
    ends = end if isinstance(end, list) else [end]
    return torch.ones_like(ids) if pad is None or pad in ends else (ids != pad).long()


def _packed_right(ids: Tensor, mask: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    if not mask.any(-1).all():
        raise ModelError("a prompt has no tokens: its attention mask is all zero")
    order = mask.bool().long().argsort(dim=-1, stable=True)
    moved = {
        name: value.gather(1, order) if isinstance(value, Tensor) and value.shape == ids.shape else value
        for name, value in kwargs.items()
    }
    return ids.gather(1, order), mask.gather(1, order), moved


# -- passes over sequences --------------------------------------------------------------------------------------------


def prompt_arguments(model: Any, sequences: SequenceOf[TokenSequence], device: torch.device) -> dict[str, Tensor]:
    """What a padded pass over ``sequences`` must be told besides: nothing, for a model without gates."""
    if gates_of(model) is None:
        return {}
    return {"prompt_lengths": torch.tensor([s.first_label for s in sequences], device=device)}


def leak_free_groups(model: Any, sequences: SequenceOf[TokenSequence]) -> list[list[int]]:
    """Which sequences may share a packed tree: all of them, unless one's prompt ends inside another.

    An edited node changes whatever comes after it. Where the prompt of one sequence is a beginning of another with a
    longer or shorter prompt, the other must not pass through that node, and goes into a tree of its own.
    """
    edits = gates_of(model)
    if edits is None or not edits.enabled:
        return [list(range(len(sequences)))]
    groups: list[tuple[list[int], set[tuple[int, ...]], set[tuple[int, ...]]]] = []  # members, prompts, crossed
    lengths = sorted({s.first_label for s in sequences})
    for index, s in enumerate(sequences):
        prompt = s.ids[: s.first_label]
        # Beginnings of this sequence that would be edited nodes if they were somebody's prompt.
        crossed = {s.ids[:n] for n in lengths if n < len(s.ids) and n != s.first_label}
        home = next((g for g in groups if prompt not in g[2] and not crossed & g[1]), None)
        if home is None:
            groups.append(home := ([], set(), set()))
        home[0].append(index)
        home[1].add(prompt)
        home[2].update(crossed)
    return [members for members, _, _ in groups] or [[]]
