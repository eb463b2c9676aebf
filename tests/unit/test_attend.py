"""Attention of a packed tree against its definition: every head and row alone, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from expunge.models.cpu_attention import KEPT_KEYS
from expunge.models.tree_attention import _attend

HEADS, SHARED, ROWS, KEYS, WIDTH = 6, 2, 5, 8, 4
"""Three heads share a key; three columns stand for nodes that are remembered."""


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def allowed() -> Tensor:
    """Some remembered columns each, an earlier row or two, and every row itself."""
    mask = draw(ROWS, KEYS, seed=9) > 0
    mask[:, KEYS - ROWS :] = mask[:, KEYS - ROWS :].tril() | torch.eye(ROWS, dtype=torch.bool)
    return mask


def naive(query: Tensor, key: Tensor, value: Tensor, softcap: float | None, sinks: Tensor | None) -> Tensor:
    mask, out = allowed(), []
    for row in range(ROWS):
        for head in range(HEADS):
            seen = mask[row].nonzero()[:, 0].tolist()
            own = head // (HEADS // SHARED)
            scores = [(query[0, head, row] * key[0, own, k]).sum() * 0.3 for k in seen]
            if softcap is not None:
                scores = [softcap * (s / softcap).tanh() for s in scores]
            weights = [s.exp() for s in scores]
            total = sum(weights) + (0 if sinks is None else sinks[head].exp())
            out.append(sum(w / total * value[0, own, k] for w, k in zip(weights, seen, strict=True)))
    return torch.stack(out).view(1, ROWS, HEADS, WIDTH)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [False, True])
def test_values_and_gradients_are_those_of_the_definition(
    dtype: torch.dtype, softcap: float | None, sinks: bool
) -> None:
    shapes = [(1, HEADS, ROWS, WIDTH), (1, SHARED, KEYS, WIDTH), (1, SHARED, KEYS, WIDTH), (HEADS,)]
    ours = [draw(*shape, seed=n, dtype=dtype).requires_grad_() for n, shape in enumerate(shapes)]
    exact = [part.detach().double().requires_grad_() for part in ours]
    got = _attend(*ours[:3], allowed(), 0.3, softcap, ours[3] if sinks else None)
    expected = naive(*exact[:3], softcap, exact[3] if sinks else None)
    assert got.dtype == dtype
    # Capped or with sinks, the softmax is taken in float32 whatever the rest is in.
    tolerance = 1e-12 if dtype == torch.float64 and softcap is None and not sinks else 2e-6
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)
    weights = draw(1, ROWS, HEADS, WIDTH, seed=5)
    (got * weights.to(dtype)).sum().backward()
    (expected * weights).sum().backward()
    for mine, wanted in list(zip(ours, exact, strict=True))[: 4 if sinks else 3]:
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad.double(), wanted.grad, rtol=0, atol=2 * tolerance)


def test_nothing_as_large_as_all_weights_is_kept_of_long_rows() -> None:
    num_rows = KEPT_KEYS + 8
    query, key, value = (draw(1, heads, num_rows, 8, seed=1).float().requires_grad_() for heads in (6, 2, 2))
    visible = torch.ones(num_rows, num_rows, dtype=torch.bool).tril()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _attend(query, key, value, visible, 1 / math.sqrt(8), None, None)
    assert kept
    assert max(kept) < 6 * num_rows**2
