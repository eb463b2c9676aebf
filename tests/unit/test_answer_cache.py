"""A cache with room for more tokens holds what transformers' own holds, whatever happens to its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from conftest import make_llama
from expunge.evaluation.answer_cache import RoomyLayer, all_roomy, answer_cache, bytes_of_a_token

Change = Callable[[Any], None]


def states(rows: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys and values of three heads; values are narrower."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, tokens, 4, generator=drawn), torch.randn(rows, 3, tokens, 2, generator=drawn)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda layer: None, 4),
        (lambda layer: layer.batch_select_indices(torch.tensor([2, 0])), 2),
        (lambda layer: layer.batch_repeat_interleave(2), 8),
        (lambda layer: layer.reorder_cache(torch.tensor([3, 1, 1, 0])), 4),
        (lambda layer: layer.crop(-2), 4),
        (lambda layer: layer.reset(), 4),
    ],
)
@pytest.mark.parametrize("room", [1, 7, 20])
def test_a_layer_holds_what_a_growing_one_holds(change: Change, rows: int, room: int) -> None:
    own, other = RoomyLayer(room), DynamicLayer()
    for tokens, count in ((5, 4), (1, 4), (0, 0), (1, rows), (3, rows)):
        if not tokens:
            change(own)
            change(other)
            continue
        new = states(count, tokens, seed=tokens)
        for ours, theirs in zip(own.update(*new), other.update(*new), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        assert own.get_seq_length() == other.get_seq_length()
        assert own.get_mask_sizes(2) == other.get_mask_sizes(2)


def test_a_token_is_written_where_it_stays() -> None:
    layer = RoomyLayer(9)
    first = layer.update(*states(2, 4, seed=0))[0]
    second = layer.update(*states(2, 5, seed=1))[0]
    assert second.data_ptr() == first.data_ptr()
    assert layer.update(*states(2, 1, seed=2))[0].data_ptr() != first.data_ptr()


def test_which_layers_have_room() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, MambaConfig, MambaForCausalLM

    llama = make_llama()
    assert all_roomy(answer_cache(llama, 10) or DynamicCache())
    assert not all_roomy(DynamicCache())
    shape: Any = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2}
    heads: Any = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    gemma = Gemma2ForCausalLM(Gemma2Config(**shape, **heads, sliding_window=16))
    # A window that never moves is no window.
    for room, expected in ((15, [RoomyLayer, RoomyLayer]), (16, [None, RoomyLayer])):
        cache = answer_cache(gemma, room)
        assert cache is not None
        assert [type(layer) if type(layer) is RoomyLayer else None for layer in cache.layers] == expected
    assert answer_cache(MambaForCausalLM(MambaConfig(**shape, state_size=4)), 10) is None
    llama.generation_config.cache_implementation = "static"
    assert answer_cache(llama, 10) is None


def test_the_bytes_of_a_token_are_those_of_a_cache() -> None:
    model = make_llama(num_hidden_layers=3).bfloat16()
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([[5, 6, 7, 8]]), past_key_values=cache, use_cache=True)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert bytes_of_a_token(model) * 4 == held
