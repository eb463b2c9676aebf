"""What a result was made with: versions, threads, code, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from expunge.plugins import plugin_versions

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "scipy", "rouge-score", "tokenizers")


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in GB (1e9 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e9, 2)


def forget_gpu_peak() -> None:
    """Begin to measure :func:`gpu_peak` anew."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def gpu_peak() -> dict[str, float]:
    """Most memory that tensors took on the GPU, in GB (1e9 bytes); nothing without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"gpu_peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}


@lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 over the package's own source, recorded with every result."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """Versions, threads and machine, as plain values."""
    import torch

    import expunge
    from expunge.models.numerics import use_fast_float32

    return {
        "expunge": expunge.__version__,
        "code": code_hash()[:16],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "plugins": plugin_versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "matmul_route": use_fast_float32(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
