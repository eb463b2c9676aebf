"""The fast float32 matrix route of CPUs without AMX, switched on only where its measured error says float32."""

from __future__ import annotations

import os

import torch

_COMPILED_PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "96", "LRU_CACHE_CAPACITY": "96"}
"""How many shapes of products oneDNN, and torch's layer above it, keep compiled: a pass over a llama has about 15."""


def _matmul_error() -> float:
    """Largest relative error of a float32 product against float64, on a size that every route takes."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(256, 512, generator=generator) for _ in range(2))
    exact = left.double() @ right.double().T
    return float(((torch.nn.functional.linear(left, right).double() - exact).abs() / exact.abs().clamp(min=1)).max())


def use_fast_float32() -> str:
    """Send float32 matrix products to oneDNN where that is faster and just as exact, and name the route taken.

    The switch allows oneDNN to use bfloat16 arithmetic. A CPU with AMX would really do so; others compute in float32
    at about twice the speed of the default library. The choice rests on the measured error, never on a timing, so
    that the same machine always takes the same route.

    Returns:
        ``"onednn"`` or ``"default"``, to be recorded with every result.
    """
    # Both keep 1,024, of a megabyte and more each: passes of many lengths filled over half a gigabyte with them. They
    # read this at the first product.
    for name, number in _COMPILED_PRODUCTS.items():
        os.environ.setdefault(name, number)
    matmul = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    if matmul is None or not hasattr(matmul, "fp32_precision") or not torch.backends.mkldnn.is_available():
        return "default"
    before = matmul.fp32_precision
    baseline = _matmul_error()
    matmul.fp32_precision = "bf16"
    # Real bfloat16 arithmetic errs by about 1e-2 here, float32 in another order of summation by about 1e-6.
    if _matmul_error() <= max(4 * baseline, 1e-5):
        return "onednn"
    matmul.fp32_precision = before
    return "default"
