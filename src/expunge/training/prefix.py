"""Keeping what the frozen lower blocks of a run put out: in memory, on disk, or not at all where it is too much."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.data.tree import TokenSequence, pack_units
from expunge.models.frozen_prefix import FrozenPrefix, Keep
from expunge.models.load import LoadedModel
from expunge.models.machine import free_memory
from expunge.models.reference import PACK_TOKENS
from expunge.parallel import from_first, num_processes, process_number
from expunge.progress import bar, say
from expunge.training.streams import Streams

MEMORY_SHARE = 0.25
"""Of the free memory: gradients and optimiser want theirs as well."""
DISK_SHARE = 0.5
"""Of what is free where the run's work folder lies."""


def freeze_prefix(
    loaded: LoadedModel,
    model: Any,
    streams: Streams,
    *,
    title: str,
    work: Path,
    beside: Iterable[TokenSequence] = (),
    layer: int | None = None,
) -> FrozenPrefix | None:
    """Run the blocks that no step changes once over every sequence of a run, and say in one line where that is kept.

    The run has at least one step.

    Args:
        loaded: whose model takes packed trees or does not.
        model: with its scope attached, at the numerics of training.
        streams: all that the run will show. A resumed run plans the same, and so computes the same bits.
        title: what the lines begin with.
        work: folder on the disk that may be used.
        beside: sequences that are looked at during the run besides.
        layer: a block whose output terms read.

    Returns:
        None where training moves the first block or below, where passes are padded, where the model cannot go on from
        kept states, or where they would take more than memory and disk can spare.
    """
    prefix = FrozenPrefix.of(model, layer) if loaded.packed else None
    if prefix is None:
        return None
    units = (unit for step in range(streams.plan.num_steps) for unit in streams.units(step))
    shown = (sequence for unit in units for sequence in unit.answers.values())
    # Sorted, so that those that begin alike share a pass.
    unique = sorted(dict.fromkeys(itertools.chain(shown, beside)), key=lambda s: s.ids)
    packs = [[unique[i] for i in pack] for pack in pack_units([[s] for s in unique], PACK_TOKENS)]
    blocks = f"{title}: blocks 0 to {prefix.start - 1} are frozen"
    if reason := prefix.trial(packs[0]):
        say(f"note: {blocks} and run in every step all the same: this model cannot go on from kept states ({reason})")
        return None
    share = sum(len(s.ids) for s in unique) / sum(len(s.ids) for s in packs[0])
    size = round(prefix.num_bytes * share)
    place, keep = _place(size, work)
    if keep is None:
        say(f"note: {blocks} and run in every step all the same: their states, {_mb(size)}, fit {place}")
        return None
    say(f"{blocks} and run once: their states, {_mb(size)}, are kept {place}")
    with bar(f"{title}: frozen blocks") as update:
        for done, pack in enumerate(packs[1:], start=2):
            prefix.fill(pack, keep)
            update(done, len(packs))
    return prefix


def _place(size: int, work: Path) -> tuple[str, Keep | None]:
    """Where so many bytes of each process go, in words, and what puts them there."""
    memory, disk = from_first((free_memory(torch.device("cpu")), shutil.disk_usage(work).free))
    if memory is None or size * num_processes() <= MEMORY_SHARE * memory:
        return "in memory", lambda found: found
    if size * num_processes() <= DISK_SHARE * disk:
        return "on disk", _on_disk(work)
    return "neither into memory nor on the disk", None


def _on_disk(folder: Path) -> Keep:
    numbers = itertools.count()

    def keep(found: dict[str, Tensor]) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save_file

        path = folder / f"prefix-{process_number()}-{next(numbers)}.safetensors"
        save_file(found, path)
        # Mapped, and read when it is asked for.
        kept = load_file(path)
        # What is mapped stays until it is let go; so a killed run leaves nothing behind. Windows keeps the file.
        with suppress(PermissionError):
            path.unlink()
        return kept

    return keep


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
