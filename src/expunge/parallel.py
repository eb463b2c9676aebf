"""Several processes on one run: each takes its share of the work, and all of them know the results.

How they share a training is in :mod:`expunge.training.distributed`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from expunge.errors import UserError

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=24)
"""After which a process that is waited for counts as lost."""


def join_group() -> None:
    """Meet the other processes, where a launcher (``torchrun``, ``accelerate launch``) has started several.

    Raises:
        UserError: for a setting of the launcher under which results would be wrong.
    """
    if launched() > 1:
        check_launch(os.environ)
        from accelerate import PartialState

        # The others wait while the first one asks its judges: ten minutes, which is usual, can be too few.
        PartialState(timeout=LONGEST_WAIT)


def launched() -> int:
    """How many processes the launcher has started, whether they have met or not."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def engine() -> str:
    """What holds the weights in pieces, one on each process: ``FSDP``, ``DeepSpeed``, or nothing."""
    asked = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
    return next((name for key, name in asked.items() if os.environ.get(key, "false").lower() == "true"), "")


def check_launch(environment: Mapping[str, str]) -> None:
    """Refuse what a launcher's configuration asks for, where results would be wrong.

    Raises:
        UserError: one line with the setting to change.
    """
    on = {name for name, value in environment.items() if value.lower() in ("true", "1", "yes")}
    fsdp = "ACCELERATE_USE_FSDP" in on
    problems = {
        "FSDP of version 1 melts parameters together; set fsdp_version: 2": (
            fsdp and environment.get("FSDP_VERSION", "1") != "2"
        ),
        "only the first process would load the model, and each of them asks it for its reference; set "
        "fsdp_cpu_ram_efficient_loading: false": fsdp and "FSDP_CPU_RAM_EFFICIENT_LOADING" in on,
        "the model would be cut in pieces before it was asked for its reference; set zero3_init_flag: false": (
            "ACCELERATE_DEEPSPEED_ZERO3_INIT" in on
        ),
        "the recipe says in which precision a run trains, for its reference must have the same; set "
        "mixed_precision: 'no', and bf16: true in the recipe": (
            environment.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        ),
    }
    if wrong := [problem for problem, there in problems.items() if there]:
        raise UserError(f"the launcher's configuration: {'; '.join(wrong)} (see docs/clusters.md)")


def num_processes() -> int:
    """How many processes work together; 1 without a process group."""
    group = _group()
    return group.get_world_size() if group else 1


def process_number() -> int:
    """This process among them, from 0; the first one writes and speaks."""
    group = _group()
    return group.get_rank() if group else 0


def my_share(work: Sequence[T]) -> list[T]:
    """Every n-th piece of work, beginning with this process's number: all pieces are somebody's, none is two's."""
    return list(work[process_number() :: num_processes()])


def gathered(found: Mapping[K, V]) -> dict[K, V]:
    """The results of all processes together. Each must call it, in the same order."""
    group = _group()
    if group is None:
        return dict(found)
    parts: list[Any] = [None] * num_processes()
    group.all_gather_object(parts, dict(found))
    return {key: value for part in parts for key, value in part.items()}


def from_first(value: T) -> T:
    """What the first process has. Each must call it, in the same order."""
    group = _group()
    if group is None:
        return value
    carried = [value]
    group.broadcast_object_list(carried, src=0)
    return carried[0]


def by_first(do: Callable[[], T]) -> T:
    """What the first process gets by doing something that the others must not do as well. Each must call it."""
    found: Any = do() if process_number() == 0 else None
    return from_first(found)


def wait_for_all() -> None:
    """Come together: what any process wrote before is there for all. Each must call it."""
    if group := _group():
        group.barrier()


def summed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers or tensors on the CPU added up over the processes, by name; a process may lack a name.

    Each must call it. The sum is taken in the order of the processes, so that all get the same bits.
    """
    total: dict[str, Any] = {}
    for (_, name), value in gathered({(process_number(), name): value for name, value in found.items()}).items():
        total[name] = total[name] + value if name in total else value
    return total


def _group() -> Any:
    """torch's process group, or None. Where torch was never imported there is none, and it need not be imported."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None
