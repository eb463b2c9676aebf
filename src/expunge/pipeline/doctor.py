"""What this machine has for a run, and what is wrong with it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from expunge.models.fetch import FOLDER, MINILM_FOLDER, default_cache, is_complete
from expunge.models.load import pick_device
from expunge.models.machine import copy_rate, free_memory, has_fast_bf16, matmul_rate, total_memory, touch_rate
from expunge.pipeline.environment import environment
from expunge.training.memory import pass_tokens
from expunge.training.precision import uses_bf16

OPTIONAL = {
    "gguf": "demo",
    "matplotlib": "report",
    "lm_eval": "eval",
    "bitsandbytes": "quant",
    "torchao": "quant",
    "vllm": "serve",
    "trackio": "track",
}
"""Packages that something can be done with, by the extra that brings them."""
PRODUCT = (512, 576, 1536)
"""Rows, inner size and columns of the product that is timed: one of SmolLM2-135M's MLP."""
DEMO_MEMORY, DEMO_DISK = 4e9, 2e9
"""Bytes that ``expunge demo`` needs."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found."""

    facts: dict[str, Any]
    """By topic, as plain values."""
    problems: tuple[str, ...]
    """What keeps runs from working, with what to do about it."""
    advice: tuple[str, ...]
    """What runs work without, or better with."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self.facts, "problems": list(self.problems), "advice": list(self.advice)}


def examine() -> Examination:
    """Look at packages, processors, memory, caches and data folders, and time a product; takes about two seconds."""
    device = pick_device("auto")
    cache, data = default_cache(), os.environ.get("EXPUNGE_DATA")
    facts = environment() | {
        "device": str(device),
        "matmul_gflops": _rates(device),
        "copy_gb_per_second": round(copy_rate(device) / 1e9, 1),
        "fresh_memory_gb_per_second": round(touch_rate(device) / 1e9, 1) if device.type == "cpu" else None,
        "bf16_in_hardware": has_fast_bf16(device),
        "memory_gb": _memory(torch.device("cpu")),
        "gpu_memory_gb": [_memory(torch.device("cuda", n)) for n in range(torch.cuda.device_count())],
        "by_default": {
            "bf16": uses_bf16(None, device, torch.float32),
            "micro_batch_tokens": pass_tokens(device),
        },
        "optional": {
            name: "there" if find_spec(name) else f'pip install "expunge[{extra}]"' for name, extra in OPTIONAL.items()
        },
        "cache": str(cache),
        "cached": [name for name in (FOLDER, MINILM_FOLDER) if is_complete(cache / name)],
        "cache_free_gb": round(_free_disk(cache) / 1e9, 1),
        "data": {"EXPUNGE_DATA": data, "folders": _folders(data)},
    }
    return Examination(facts=facts, problems=_problems(cache, data), advice=_advice(facts, device))


def _rates(device: torch.device) -> dict[str, float]:
    """Of a product in float32 and bfloat16, in 1e9 operations a second."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return {
        name: round(matmul_rate(*PRODUCT, dtype=dtype, device=device) / 1e9, 1)
        for name, dtype in kinds.items()
        if dtype is torch.float32 or has_fast_bf16(device)
    }


def _memory(device: torch.device) -> dict[str, float | None]:
    found = {"total": total_memory(device), "free": free_memory(device)}
    return {name: None if size is None else round(size / 1e9, 1) for name, size in found.items()}


def _free_disk(folder: Path) -> int:
    return shutil.disk_usage(_above(folder)).free


def _above(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _folders(data: str | None) -> list[str]:
    root = Path(data).expanduser() if data else None
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root and root.is_dir() else []


def _problems(cache: Path, data: str | None) -> tuple[str, ...]:
    found = _packages_at_fault(requires("expunge") or [], version)
    if not os.access(_above(cache), os.W_OK):
        found.append(f"{cache}: cannot be written to; set EXPUNGE_CACHE to a folder that can")
    if data and not Path(data).expanduser().is_dir():
        found.append(
            f"EXPUNGE_DATA={data}: there is no such folder; name the one that holds benchmark files, or unset it"
        )
    return tuple(found)


def _packages_at_fault(wanted: list[str], installed: Callable[[str], str]) -> list[str]:
    """Those of the package's own requirements that are missing or of another version."""
    from packaging.requirements import Requirement

    found = []
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = installed(requirement.name)
        except PackageNotFoundError:
            found.append(f'{requirement.name} is missing: pip install "{requirement.name}{requirement.specifier}"')
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            found.append(f'{requirement.name} is {have}: pip install "{requirement.name}{requirement.specifier}"')
    return found


def _advice(facts: dict[str, Any], device: torch.device) -> tuple[str, ...]:
    free, found = facts["memory_gb"]["free"], []
    if free is not None and free * 1e9 < DEMO_MEMORY:
        found.append(f"{free} GB of memory are free; the demo takes about {DEMO_MEMORY / 1e9:.0f} GB")
    if facts["cache_free_gb"] * 1e9 < DEMO_DISK:
        found.append(f"{facts['cache_free_gb']} GB of disk are free below {facts['cache']}; the demo takes 2 GB")
    if device.type == "cpu" and Path("/dev/nvidia0").exists():
        found.append("there is an NVIDIA GPU, and this torch does not see it: install torch with CUDA, or the driver")
    if device.type == "cpu" and facts["matmul_route"] == "default":
        found.append("float32 products take torch's usual route: the faster one is not there, or not exact here")
    return tuple(found)
