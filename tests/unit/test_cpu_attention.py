"""Attention in plain products: gradients by finite differences, and what is computed again or in half precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import expunge.models.cpu_attention as products
from expunge.models.cpu_attention import cpu_attention

SHAPES = ((2, 6, 5, 4), (2, 3, 7, 4), (2, 3, 7, 3))
"""Two stretches, two heads to a key, values of another width."""


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(draw(shape, seed, dtype).requires_grad_() for seed, shape in enumerate(SHAPES))


def mask(rows: int = 5, keys: int = 7) -> Tensor:
    """Of each stretch its own; every row sees a key."""
    seen = draw((2, 1, rows, keys), 9) > 0
    return seen | (torch.arange(keys) == 2)


@pytest.mark.parametrize("kept", [0, 128])
def test_gradients_are_those_of_finite_differences(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "KEPT_KEYS", kept)
    assert torch.autograd.gradcheck(lambda *heads: cpu_attention(*heads, mask(), 0.4), inputs())


def test_what_is_computed_again_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kept in (0, 128):
        monkeypatch.setattr(products, "KEPT_KEYS", kept)
        heads = inputs(torch.float32)
        cpu_attention(*heads, mask(), 0.4).square().sum().backward()
        found.append([part.grad for part in heads])
    for again, at_once in zip(*found, strict=True):
        torch.testing.assert_close(again, at_once, rtol=0, atol=0)


def test_a_mask_may_be_everyones() -> None:
    heads, common = inputs(), mask()[:1]
    expected = cpu_attention(*heads, common.expand(2, -1, -1, -1), 0.4)
    torch.testing.assert_close(cpu_attention(*heads, common, 0.4), expected, rtol=0, atol=0)
    torch.testing.assert_close(cpu_attention(*heads, common[0, 0], 0.4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_rounded_on_its_way_in_and_out_only(autocast: bool) -> None:
    heads = tuple(draw(shape, seed, torch.bfloat16).requires_grad_() for seed, shape in enumerate(SHAPES))
    exact = tuple(part.detach().double().requires_grad_() for part in heads)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = cpu_attention(*heads, mask(), 0.4)
    expected = cpu_attention(*exact, mask(), 0.4)
    assert got.dtype == torch.bfloat16
    # Half a unit in the last of eight bits.
    torch.testing.assert_close(got.double(), expected, rtol=2**-8, atol=1e-6)
    outgoing = draw(tuple(got.shape), 5, torch.bfloat16)
    got.backward(outgoing)
    expected.backward(outgoing.double())
    for mine, wanted in zip(heads, exact, strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), wanted.grad, rtol=2**-8, atol=1e-5)


def test_it_is_torchs_own() -> None:
    query, key, value = inputs(torch.float32)
    keys, values = (heads.repeat_interleave(2, dim=1) for heads in (key, value))
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask(), scale=0.4)
    torch.testing.assert_close(cpu_attention(query, key, value, mask(), 0.4), expected)


def test_no_gradient_is_asked_for() -> None:
    with torch.no_grad():
        assert not cpu_attention(*inputs(), mask(), 0.4).requires_grad
