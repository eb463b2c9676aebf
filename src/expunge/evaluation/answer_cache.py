"""What a model remembers of the answers it is writing: keys and values in memory that is taken once.

transformers' own cache copies all that it holds for every new token. Here a token is written into room that is already
there, and attention is given a view of the part in use: the same numbers, without the copying.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

CACHE_BYTES = 2 << 30
"""Most memory for the keys and values of one batch; longer texts are generated in smaller batches."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, ``(B, H, T, D)`` views of buffers with room for more tokens; for inference alone.

    Args:
        room: tokens that there is room for; more are possible, and cost a copy.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._buffers: list[Tensor] = []
        self._view: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add ``(B, H, t, D)`` keys and values, and return all ``T + t``."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self._has_room or after > self._buffers[0].shape[-2]:
            kept = (self.keys, self.values) if before else (None, None)
            pairs = zip(kept, (key_states, value_states), strict=True)
            self._buffers = [_buffer(old, new, max(self.room, after)) for old, new in pairs]
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        return self._write(before, key_states, value_states)

    def forget(self) -> None:
        """Let everything go."""
        self.keys = self.values = self._view = None
        self._buffers = []

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows; they move up within the memory that is taken."""
        had_room = self._has_room
        super().batch_select_indices(indices)
        if had_room and self.keys is not None and self.values is not None:
            self._buffers = [buffer[: len(indices)] for buffer in self._buffers]
            self._write(0, self.keys, self.values)

    @property
    def _has_room(self) -> bool:
        """Whether the states are still views: what else changes rows makes tensors of its own."""
        return self._view is not None and self.keys is self._view

    def _write(self, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        end = start + keys.shape[-2]
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, start:end] = new
        all_keys, all_values = (buffer[:, :, :end] for buffer in self._buffers)
        self.keys, self.values, self._view = all_keys, all_values, all_keys
        return all_keys, all_values


def _buffer(old: Tensor | None, new: Tensor, room: int) -> Tensor:
    """``(B, H, room, D)``, beginning with ``old``."""
    buffer = new.new_empty(*new.shape[:2], room, new.shape[-1])
    if old is not None:
        buffer[:, :, : old.shape[-2]] = old
    return buffer


def answer_cache(model: Any, room: int) -> DynamicCache | None:
    """The cache that ``generate`` would make for a model, its layers roomy where they only ever grow.

    Layers of another kind stay as they are: linear attention, windows shorter than ``room``.

    Args:
        model: a causal language model, possibly wrapped.
        room: tokens of a prompt and its answer together.

    Returns:
        None where the model remembers in another way, or asks for a cache of another kind.
    """
    wanted = getattr(getattr(model, "generation_config", None), "cache_implementation", None)
    if model._is_stateful or wanted is not None or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer(room) if _only_grows(layer, room) else layer for layer in cache.layers]
    return cache


def _only_grows(layer: Any, room: int) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:
        return room < layer.sliding_window  # the window never moves
    return type(layer) is DynamicLayer


def all_roomy(cache: DynamicCache) -> bool:
    """Whether every layer of a cache remembers all tokens."""
    return bool(cache.layers) and all(isinstance(layer, RoomyLayer) for layer in cache.layers)


def bytes_of_a_token(model: Any) -> int:
    """Memory that keys and values of one token take in all layers; 0 for a model without attention heads."""
    config = model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or not heads:
        return 0
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept_heads = getattr(config, "num_key_value_heads", None) or heads
    return 2 * config.num_hidden_layers * kept_heads * width * next(model.parameters()).element_size()
