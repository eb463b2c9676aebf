"""What the numbers were measured on: the machine, the versions, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from expunge.models.numerics import use_fast_float32

SHAPES = {"block": (512, 576, 1536), "head": (300, 576, 49152)}
"""``(rows, in, out)`` of a product in a block and in the head of a step of SmolLM2-135M."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""Instruction sets that decide how fast products are."""
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy")
ENOUGH_SECONDS = 1.0
"""Of repetition for each rate, three repetitions at least."""


def processor() -> str:
    """What the processor calls itself."""
    return _found(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")) or platform.processor() or platform.machine()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine(device: str) -> dict[str, Any]:
    """Hardware, versions and matrix rates, as plain values."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "cpu": processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(int(_found(r"MemTotal:\s*(\d+)", Path("/proc/meminfo")) or 0) / 2**20, 1),
        "flags": [flag for flag in FLAGS if flag in _found(r"flags\s*:\s*(.+)", Path("/proc/cpuinfo")).split()],
        "gpu": gpu,
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "rates": _gpu_rates() if device == "cuda" else _cpu_rates(),
    }


def _found(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8")) if path.exists() else None
    return match[1].strip() if match else ""


def _cpu_rates() -> dict[str, dict[str, float]]:
    """Operations a second by route and shape; a route that this machine does not take is absent."""
    rates = {"default": {name: _rate(shape, torch.float32) for name, shape in SHAPES.items()}}
    matmul = getattr(getattr(torch.backends, "mkldnn", None), "matmul", None)
    before = getattr(matmul, "fp32_precision", None)
    if use_fast_float32() == "onednn":
        rates["onednn"] = {name: _rate(shape, torch.float32) for name, shape in SHAPES.items()}
        matmul.fp32_precision = before  # type: ignore[union-attr]
    return rates | {"bf16": {name: _rate(shape, torch.bfloat16) for name, shape in SHAPES.items()}}


def _gpu_rates() -> dict[str, dict[str, float]]:
    return {"bf16": {"block": _rate((8192, 4096, 14336), torch.bfloat16, device="cuda")}}


def _rate(shape: tuple[int, int, int], dtype: torch.dtype, device: str = "cpu") -> float:
    """``2 m k n`` over the median seconds of a product."""
    rows, inner, outer = shape
    draw = torch.Generator().manual_seed(0)
    states, weight = (torch.randn(size, inner, generator=draw).to(device, dtype) for size in (rows, outer))
    seconds: list[float] = []
    F.linear(states, weight)
    while len(seconds) < 3 or sum(seconds) < ENOUGH_SECONDS:
        started = time.perf_counter()
        F.linear(states, weight)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * rows * inner * outer / statistics.median(seconds)
