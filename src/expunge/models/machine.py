"""What the machine at hand offers: free memory, fast bfloat16, and how fast it multiplies and copies."""

from __future__ import annotations

import math
import mmap
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

FEWEST_CALLS = 3
"""How often a piece of work is timed at least, however long it takes."""
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of CPUs that multiply bfloat16 faster than float32: x86 with AVX512-BF16 or AMX, and Arm."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where nobody says.

    On a GPU, what torch holds in reserve counts as free. On a CPU it is what the system calls available, or less where
    the process's control group allows less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    return min([*_available(Path("/proc/meminfo")), *_group_room(Path("/"))], default=None)


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory that a device has; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def used_memory() -> int:
    """Bytes of main memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def forget_peak_memory(device: torch.device) -> None:
    """Begin to measure :func:`peak_memory` anew; of main memory only on Linux, and where the process may."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        with suppress(OSError):
            _CLEAR.write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Most bytes held since :func:`forget_peak_memory`: allocated by tensors on a GPU, or resident.

    Where the system does not tell the peak since then apart, it is that of the whole process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii")) if _STATUS.exists() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _available(meminfo: Path) -> Iterator[int]:
    """What Linux says can be taken without swapping; nothing elsewhere."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * 1024


def _group_room(root: Path) -> Iterator[int]:
    """What is left below the limit of every control group that the process is in, of either version."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            names, mount = ("memory.max", "memory.current", "inactive_file"), root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = mount / path.strip("/")
        # Inside a container the path may be the host's, and the container's own group lies at the mount.
        for folder in (group, *group.parents):
            yield from _room(folder, *names)
            if folder == mount:
                break


def _room(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    try:
        allowed, used = ((folder / name).read_text(encoding="utf-8").strip() for name in (limit, usage))
        counted = (folder / "memory.stat").read_text(encoding="utf-8").split()
    except OSError:
        return
    if allowed.isdecimal():
        # Pages of files that were read count as used, and are given up as soon as somebody wants the memory.
        spare = int(counted[counted.index(reclaimable) + 1]) if reclaimable in counted else 0
        yield max(int(allowed) - int(used) + spare, 0)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 faster than float32, in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(_cpu_flags(Path("/proc/cpuinfo")) & _FAST_BF16)


def _cpu_flags(cpuinfo: Path) -> frozenset[str]:
    """The first core's flags; none where the system does not list them."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":") for line in lines)
    flags = next((text for name, _, text in found if name.strip().lower() in ("flags", "features")), "")
    return frozenset(flags.split())


def matmul_rate(
    rows: int, inner: int, columns: int, *, dtype: torch.dtype, device: torch.device, seconds: float = 0.2
) -> float:
    """Floating-point operations a second of ``(rows, inner) x (inner, columns)``: the best of what fits in the time."""
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(columns, inner, dtype=dtype, device=device)
    return 2 * rows * inner * columns / _fastest(lambda: torch.nn.functional.linear(left, right), device, seconds)


def copy_rate(device: torch.device, *, num_bytes: int = 1 << 26, seconds: float = 0.1) -> float:
    """Bytes read and written a second by a large copy: the best of what fits in the time."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _fastest(lambda: target.copy_(source), device, seconds)


def touch_rate(device: torch.device, *, num_bytes: int = 1 << 28) -> float:
    """Bytes of main memory a second that the system hands out when they are first touched; infinite on a GPU.

    Asked for in huge pages, as :func:`~expunge.models.allocator.kept_memory` does.
    """
    if device.type != "cpu":
        return math.inf
    with mmap.mmap(-1, num_bytes) as fresh:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            fresh.madvise(mmap.MADV_HUGEPAGE)
        started = time.perf_counter()
        for page in range(0, num_bytes, mmap.PAGESIZE):
            fresh[page] = 1
        return num_bytes / (time.perf_counter() - started)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call; the first, which touches memory for the first time, does not count."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    work()
    wait()
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    # Something else may have had the processor during a single one.
    while len(taken) < FEWEST_CALLS or time.perf_counter() < ends:
        started = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - started)
    return min(taken)
