"""What a measuring process reports, and how it watches its own memory."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass, field
from pathlib import Path

import torch

from expunge.models.load import LoadedModel

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(kw_only=True)
class Measured:
    """One side's numbers from one process."""

    setup: float = 0.0
    """Seconds before the first step that a whole run pays once."""
    seconds: list[float]
    """Of each step, those of the warm-up first; of the whole suite."""
    peak: int
    """Most bytes held at once, the loaded model included and its loading not."""
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    """Gradient norms before clipping."""
    tokens: float = 0.0
    """Useful tokens of a step."""
    labels: float = 0.0
    flops: float = 0.0
    """Useful floating-point operations of a step."""
    route: str = "default"
    """How float32 products were computed: ``default`` or ``onednn``."""
    rows: str = ""
    """Where the rows came from."""
    parts: dict[str, float] = field(default_factory=dict)
    """Seconds of the suite's parts."""
    scores: dict[str, float] = field(default_factory=dict)
    """The suite's means, by set and column."""
    answers: list[str] = field(default_factory=list)
    """Hashes of the suite's generated answers."""


def reset_peak(loaded: LoadedModel) -> None:
    """Forget how much memory was held before: loading may have needed more than the work."""
    if _on_cuda(loaded):
        torch.cuda.reset_peak_memory_stats()
    elif _RESET.exists():
        try:
            _RESET.write_text("5", encoding="ascii")
        except PermissionError:
            return


def peak_bytes(loaded: LoadedModel) -> int:
    """Most memory held since :func:`reset_peak`: allocated on the GPU, or resident.

    Where the system does not tell the resident peak apart, it is that of the whole process.
    """
    if _on_cuda(loaded):
        return torch.cuda.max_memory_allocated()
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii")) if _STATUS.exists() else None
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _on_cuda(loaded: LoadedModel) -> bool:
    return next(loaded.model.parameters()).device.type == "cuda"


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
