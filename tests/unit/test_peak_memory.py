"""The most memory that was held, since it was last forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.models import machine
from expunge.models.machine import forget_peak_memory, peak_memory, used_memory
from expunge.pipeline.environment import forget_peaks, peaks

CPU = torch.device("cpu")
BYTES = 200 << 20


def hold() -> None:
    """For a moment."""
    torch.ones(BYTES // 4)


@pytest.mark.skipif(not machine._CLEAR.exists(), reason="needs Linux's own count")
def test_a_peak_lasts_until_it_is_forgotten() -> None:
    forget_peak_memory(CPU)
    before = used_memory()
    hold()
    assert peak_memory(CPU) > before + 0.9 * BYTES
    forget_peak_memory(CPU)
    assert peak_memory(CPU) < before + 0.5 * BYTES


def test_where_nothing_is_told_it_is_that_of_the_whole_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_STATUS", "_CLEAR"):
        monkeypatch.setattr(machine, name, tmp_path / "absent")
    forget_peak_memory(CPU)
    assert peak_memory(CPU) >= 0.9 * used_memory()


def test_a_process_that_may_not_forget_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CLEAR", tmp_path)  # a folder cannot be written
    forget_peak_memory(CPU)


def test_what_a_stage_records() -> None:
    forget_peaks()
    found = peaks()
    assert found["peak_memory_gb"] > 0
    assert ("gpu_peak_memory_gb" in found) == torch.cuda.is_available()
