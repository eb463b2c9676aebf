"""What a result was made with: versions, threads, code, memory."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from expunge.plugins import plugin_versions

_PACKAGES = ("torch", "transformers", "accelerate", "peft", "numpy", "scipy", "rouge-score", "tokenizers")


def forget_peaks() -> None:
    """Begin to measure :func:`peaks` anew."""
    import torch

    from expunge.models.machine import forget_peak_memory

    forget_peak_memory(torch.device("cpu"))
    if torch.cuda.is_available():
        forget_peak_memory(torch.device("cuda"))


def peaks() -> dict[str, float]:
    """Most memory since then, in GB (1e9 bytes): of this process, and what tensors took on the GPU if there is one."""
    import torch

    from expunge.models.machine import peak_memory

    found = {"peak_memory_gb": peak_memory(torch.device("cpu"))}
    if torch.cuda.is_available():
        found["gpu_peak_memory_gb"] = peak_memory(torch.device("cuda"))
    return {name: round(size / 1e9, 2) for name, size in found.items()}


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
