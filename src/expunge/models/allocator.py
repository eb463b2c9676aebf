"""Memory that the C library keeps for the next tensor, in huge pages: touching a page for the first time costs much.

A step makes hundreds of tensors of some megabytes, and glibc gives memory of that size back to the system as soon as it
is free. The next tensor then touches new pages, each of which the system has to find and clear: up to a quarter of the
time of a step of SmolLM2-135M was seen to go there. Nothing that is computed changes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor
from torch.nn import Parameter

from expunge.models.machine import free_memory, used_memory

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Numbers of glibc's ``mallopt``."""
_NEVER = -1
_GROW = 1 << 26
"""Bytes by which the heap grows at a time, where it has to."""

SLACK, SHARE = 1 << 27, 0.2
"""Bytes of holes that are put up with in any case, and up to which share of what the work needs: to touch again what
was given back took up to a third of a step."""

_state = {"kept": False}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, the process keeps what tensors leave, and grows in huge pages; at the end, what is free goes back.

    What is not touched is not taken. Inside another such block it does nothing, and so it does without glibc.
    """
    library = None if _state["kept"] else _glibc()
    if library is None:
        yield
        return
    _state["kept"] = True
    # What an earlier model left lies in holes.
    library.malloc_trim(0)
    _keep(library)
    try:
        yield
    finally:
        _state["kept"] = False
        library.malloc_trim(0)


def own_pages(parameters: Iterable[Parameter]) -> None:
    """Copy weights that will be written to into memory of the process's own, in huge pages inside :func:`kept_memory`.

    Weights on a CPU are their file, mapped. The first update would copy that page by page, of 4 KB each, which takes
    several times as long.
    """
    for parameter in parameters:
        if parameter.device.type == "cpu" and type(parameter.data) is Tensor:
            parameter.data = parameter.data.clone()


def give_back() -> None:
    """Return what lies free to the system, inside :func:`kept_memory`; what comes next takes memory of other sizes."""
    if _state["kept"] and (library := _glibc()):
        library.malloc_trim(0)


class Holes:
    """Watches what lies free between tensors of changing sizes, and gives it back where it comes to much.

    What was put behind a tensor, or into the hole that it left, keeps the next one of its size out. So a training would
    come to hold more with every pass.
    """

    def __init__(self, base: int = 0) -> None:
        """``base``: bytes that are held before the work begins."""
        self.base = base
        self.most = 0
        """Bytes that work was seen to need when it began without holes, besides what is kept."""
        self._fresh = True
        self._work: Hashable = None

    def look(self, work: Hashable = None, *, kept: int = 0) -> bool:
        """After each pass; returns whether something was given back.

        Args:
            work: what decides how much passes need: where it is another than before, more memory means no more holes.
            kept: bytes of tensors that stay from pass to pass and may have been made since the last look.
        """
        held = used_memory() - kept
        self._fresh, self._work = self._fresh or work != self._work, work
        if self._fresh or held <= self.most:
            self.most, self._fresh = max(self.most, held), False
        elif held > self.most + max(SLACK, SHARE * (self.most - self.base)) and _state["kept"]:
            give_back()
            self._fresh = True
            return True
        return False


@cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library


def _keep(library: ctypes.CDLL) -> None:
    # No tensor gets a mapping of its own, which would go when it goes; and the heap never shrinks by itself.
    for name, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _GROW)):
        library.mallopt(name, value)
    # The heap is made to reach as far as it may ever, once, so that its pages are asked for before they are used.
    room = free_memory(torch.device("cpu"))
    start = library.malloc(room) if room and hasattr(mmap, "MADV_HUGEPAGE") else None
    if start:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        library.madvise(first, (start + room - first) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
        library.free(start)
