"""Memory that the process keeps: where it is arranged, what it changes, and that it goes back."""

from __future__ import annotations

import sys

import pytest
import torch

import expunge.models.allocator as allocator
from expunge.models.allocator import kept_memory
from expunge.models.machine import used_memory

MEGABYTES = 200

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="needs glibc on Linux")


def faults() -> int:
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fill() -> int:
    """Page faults of making and dropping a tensor."""
    before = faults()
    torch.ones(MEGABYTES << 18)
    return faults() - before


@glibc
def test_the_next_tensor_gets_the_pages_of_the_last() -> None:
    with kept_memory():
        fill()
        assert fill() < 100  # of 51200


@glibc
def test_it_goes_back_at_the_end_and_not_in_between() -> None:
    with kept_memory():
        with kept_memory():
            fill()
        assert fill() < 100
        held = used_memory()
    assert used_memory() < held - (MEGABYTES << 20) * 0.9


@glibc
def test_memory_that_nobody_uses_is_not_taken() -> None:
    before = used_memory()
    with kept_memory():
        assert used_memory() < before + (64 << 20)


@glibc
def test_an_error_ends_it() -> None:
    with pytest.raises(ZeroDivisionError), kept_memory():
        raise ZeroDivisionError
    assert not allocator._state["kept"]


@pytest.mark.parametrize("room", [None, 0, 1 << 60])
def test_it_needs_no_reservation(room: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "free_memory", lambda device: room)
    with kept_memory():
        assert float(torch.ones(10).sum()) == 10


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    allocator._glibc.cache_clear()
    try:
        with kept_memory():
            assert not allocator._state["kept"]
    finally:
        allocator._glibc.cache_clear()
