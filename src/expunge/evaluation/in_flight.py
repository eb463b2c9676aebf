"""Answers that are being written together: what each row is so far, and what the model remembers of it.

Rows leave when they have ended, and others take their places. A row's tokens may stand in any columns as long as they
stand in order: positions are counted by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache

from expunge.evaluation.answer_cache import all_roomy, answer_cache
from expunge.models.gated import gates_of
from expunge.models.load import LoadedModel

Ids = tuple[int, ...]
SHORTEST_PREFIX = 8
"""A common beginning of fewer tokens is not worth a pass of its own."""


@dataclass(frozen=True)
class Asked:
    """A prompt, and how its answer is known to begin."""

    prompt: Ids
    known: Ids = ()

    @property
    def ids(self) -> Ids:
        """Both."""
        return self.prompt + self.known


@dataclass
class InFlight:
    """The rows of a batch that have not ended, and what the model remembers of them."""

    rows: list[Asked]
    ids: Tensor
    """``(B, T)`` prompts, padded somewhere before their last tokens, and what was answered so far."""
    mask: Tensor
    """``(B, T)`` 1 for a token, 0 for padding; the last column is never padding."""
    begins: Tensor
    """``(B,)`` where answers begin."""
    cache: Any = None
    """Of the first columns; at least the last one is still to be shown."""

    @classmethod
    def start(cls, loaded: LoadedModel, rows: list[Asked], max_new_tokens: int) -> InFlight:
        """Rows of which nothing is generated; what all of them begin with is encoded."""
        device = next(loaded.model.parameters()).device
        longest = max(len(asked.ids) for asked in rows)
        cache = answer_cache(loaded.model, longest + max_new_tokens)
        shared = _encode_shared(loaded, rows, cache)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, asked in enumerate(rows):
            rest = asked.ids[shared:]
            for part, tokens in ((slice(shared), asked.ids[:shared]), (slice(longest - len(rest), None), rest)):
                ids[row, part] = torch.tensor(tokens, dtype=torch.long)
                mask[row, part] = 1
        begins = torch.tensor([longest - len(asked.known) for asked in rows], device=device)
        return cls(rows, ids.to(device), mask.to(device), begins, cache)

    @property
    def written(self) -> Tensor:
        """``(B,)`` how many tokens each answer has."""
        return self.ids.shape[1] - self.begins

    def answers(self, ids: Tensor) -> list[list[int]]:
        """The answers in a longer ``(B, T')``, padding behind their ends included."""
        return [row[begin:].tolist() for row, begin in zip(ids, self.begins.tolist(), strict=True)]

    def keep(self, output: Any, going: list[int]) -> InFlight:
        """Those of ``going``, after a pass that gave ``output``."""
        ids: Tensor = output.sequences
        cache = output.past_key_values
        if isinstance(cache, Cache):
            cache.batch_select_indices(torch.tensor(going, device=ids.device))
        else:
            cache = None  # what is remembered in another way is computed anew
        answered = self.mask.new_ones(len(going), ids.shape[1] - self.mask.shape[1])
        mask = torch.cat([self.mask[going], answered], dim=1)
        return InFlight([self.rows[i] for i in going], ids[going], mask, self.begins[going], cache)

    def takes_others(self, loaded: LoadedModel) -> bool:
        """Whether rows can join: where every layer remembers all tokens, and the model goes by position ids."""
        roomy = self.cache is not None and all_roomy(self.cache)
        return roomy and loaded.packed and gates_of(loaded.model) is None

    def joined(self, loaded: LoadedModel, rows: list[Asked], max_new_tokens: int) -> InFlight:
        """These rows and others, none of which the model has seen, each of at least two tokens."""
        others = InFlight.start(loaded, rows, max_new_tokens)
        others._show(loaded)
        width = max(int(part.mask.sum(1).max()) for part in (self, others))
        cache = answer_cache(loaded.model, width + max_new_tokens)
        assert cache is not None
        sides = [(part, *_to_the_right(part.mask, width)) for part in (self, others)]
        layers: Any = cache.layers
        for layer, mine, theirs in zip(layers, self.cache.layers, others.cache.layers, strict=True):
            sources = zip((mine, theirs), sides, strict=True)
            states = [_columns(source, places[:, :-1]) for source, (_, places, _) in sources]
            layer.update(*(torch.cat(both) for both in zip(*states, strict=True)))
            for source in (mine, theirs):
                source.forget()
        ids = torch.cat([part.ids.gather(1, places) for part, places, _ in sides])
        begins = torch.cat([width - part.written for part in (self, others)])
        return InFlight(self.rows + others.rows, ids, torch.cat([mask for _, _, mask in sides]), begins, cache)

    def _show(self, loaded: LoadedModel) -> None:
        """Encode all but the last column."""
        seen, end = self.cache.get_seq_length(), self.ids.shape[1] - 1
        if seen < end:
            places = (self.mask.cumsum(1) - 1).clamp(min=0)
            loaded.model(
                input_ids=self.ids[:, seen:end],
                attention_mask=self.mask[:, :end],
                position_ids=places[:, seen:end],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )


def _to_the_right(mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """``(B, width)`` columns that hold each row's tokens, at the right end, and a mask of them."""
    order = mask.argsort(dim=1, stable=True)[:, -width:]
    found = mask.gather(1, order)
    missing = (0, 0) if order.shape[1] == width else (width - order.shape[1], 0)
    return torch.nn.functional.pad(order, missing), torch.nn.functional.pad(found, missing)


def _columns(layer: Any, places: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values ``(B, H, T, D)`` of some columns."""
    keys, values = (
        states.gather(2, places[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3]))
        for states in (layer.keys, layer.values)
    )
    return keys, values


def _encode_shared(loaded: LoadedModel, rows: Sequence[Asked], cache: DynamicCache | None) -> int:
    """Encode what all prompts begin with into every row of the cache, in one row; returns how many tokens that is.

    Rows are then padded behind it. So it is left to models that go by position ids, as a packed tree needs, and whose
    layers have no window, which would count the padding.
    """
    shortest = min(len(asked.prompt) for asked in rows) - 1
    columns = zip(*(asked.prompt[:shortest] for asked in rows), strict=True)
    shared = next((at for at, tokens in enumerate(columns) if len(set(tokens)) > 1), shortest)
    if cache is None or not all_roomy(cache) or not loaded.packed or gates_of(loaded.model):
        return 0
    if len(rows) == 1 or shared < SHORTEST_PREFIX:
        return 0
    ids = torch.tensor([rows[0].prompt[:shared]], device=next(loaded.model.parameters()).device)
    loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(rows))
    return shared
