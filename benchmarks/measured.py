"""What a measuring process reports, and how it watches its own memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from expunge.models.load import LoadedModel
from expunge.models.machine import forget_peak_memory, peak_memory


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
    forget_peak_memory(_device(loaded))


def peak_bytes(loaded: LoadedModel) -> int:
    """Most memory held since :func:`reset_peak`: allocated on the GPU, or resident."""
    return peak_memory(_device(loaded))


def _device(loaded: LoadedModel) -> torch.device:
    return next(loaded.model.parameters()).device


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
