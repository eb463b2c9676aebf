"""Memory that the process keeps: where it is arranged, what it changes, and that it goes back."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import expunge.models.allocator as allocator
from expunge.models.allocator import Holes, kept_memory, own_pages
from expunge.models.machine import used_memory

MEGABYTES = 200

glibc = pytest.mark.skipif(allocator._glibc() is None, reason="needs glibc on Linux")


def huge_pages() -> str:
    """What the system is set to: one of three words stands in brackets."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text(encoding="ascii") if setting.is_file() else "[never]"


def faults() -> int:
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def fill() -> int:
    """Page faults of making and dropping a tensor."""
    before = faults()
    torch.ones(MEGABYTES << 18)
    return faults() - before


@glibc
def test_what_a_tensor_leaves_stays_with_the_process() -> None:
    with kept_memory():
        before = used_memory()
        fill()
        assert used_memory() > before + (MEGABYTES << 20) * 0.9


@glibc
@pytest.mark.skipif("[never]" in huge_pages(), reason="needs huge pages")
def test_it_grows_in_huge_pages() -> None:
    with kept_memory():
        assert fill() < 2000  # of 51200


@glibc
def test_it_goes_back_at_the_end_and_not_in_between() -> None:
    with kept_memory():
        with kept_memory():
            fill()
            held = used_memory()
        assert used_memory() > held - (20 << 20)
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


def test_holes_are_given_back_once_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([100, 90, 150, 201, 120, 160, 200, 260])
    trims: list[int] = []
    monkeypatch.setattr(allocator, "used_memory", lambda: next(held))
    monkeypatch.setattr(allocator, "SLACK", 100)
    monkeypatch.setattr(allocator, "_glibc", lambda: SimpleNamespace(malloc_trim=trims.append))
    monkeypatch.setitem(allocator._state, "kept", True)
    holes = Holes()
    # The first look says what is needed, and so does the one after holes went.
    assert [holes.look() for _ in range(8)] == [False, False, False, True, False, False, False, True]
    assert (holes.most, trims) == (120, [0, 0])


def test_more_holes_are_put_up_with_beside_large_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1500 bytes work needs 1000: 200 more may be holes."""
    held = iter([1500, 1700, 1701])
    monkeypatch.setattr(allocator, "used_memory", lambda: next(held))
    monkeypatch.setattr(allocator, "SLACK", 100)
    monkeypatch.setattr(allocator, "_glibc", lambda: SimpleNamespace(malloc_trim=lambda pad: None))
    monkeypatch.setitem(allocator._state, "kept", True)
    holes = Holes(500)
    assert [holes.look() for _ in range(3)] == [False, False, True]


def test_more_for_more_work_is_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([100, 300, 350, 401])
    monkeypatch.setattr(allocator, "used_memory", lambda: next(held))
    monkeypatch.setattr(allocator, "SLACK", 100)
    monkeypatch.setattr(allocator, "_glibc", lambda: SimpleNamespace(malloc_trim=lambda pad: None))
    monkeypatch.setitem(allocator._state, "kept", True)
    holes = Holes()
    assert [holes.look(work) for work in (0, 7, 7, 7)] == [False, False, False, True]


def test_what_is_kept_from_pass_to_pass_is_no_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not hide one: 100 of work, 200 of states, and then more than 100 of holes."""
    held = iter([100, 300, 390, 401])
    monkeypatch.setattr(allocator, "used_memory", lambda: next(held))
    monkeypatch.setattr(allocator, "SLACK", 100)
    monkeypatch.setattr(allocator, "_glibc", lambda: SimpleNamespace(malloc_trim=lambda pad: None))
    monkeypatch.setitem(allocator._state, "kept", True)
    holes = Holes()
    assert [holes.look(kept=kept) for kept in (0, 200, 200, 200)] == [False, False, False, True]


def test_holes_of_memory_that_is_not_kept_are_no_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([0, 1 << 40])
    monkeypatch.setattr(allocator, "used_memory", lambda: next(held))
    holes = Holes()
    assert not holes.look()
    assert not holes.look()


def test_weights_that_are_written_to_leave_their_file(tmp_path: Path) -> None:
    save_file({"weight": torch.arange(12.0).view(3, 4)}, tmp_path / "weights.safetensors")
    model = torch.nn.Linear(4, 3, bias=False)
    mapped = load_file(tmp_path / "weights.safetensors")["weight"]
    model.weight.data = mapped
    parameter = model.weight
    own_pages(model.parameters())
    assert model.weight is parameter
    assert torch.equal(model.weight, mapped)
    assert model.weight.data_ptr() != mapped.data_ptr()


def test_other_devices_are_left_alone() -> None:
    there = torch.nn.Parameter(torch.empty(2, device="meta"))
    own_pages([there])
    assert there.is_meta


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
