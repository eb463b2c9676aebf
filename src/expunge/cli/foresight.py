"""What a dry run says: a line a stage, and what all of them take together."""

from __future__ import annotations

import json
from typing import Any

import typer


def print_foresight(found: Any, as_json: bool) -> None:
    """Print a :class:`expunge.pipeline.foresee.Foresight` as a table, or as JSON."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(found.as_dict()))
        return
    console = Console(highlight=False)
    several = any(stage.run for stage in found.stages)
    table = Table(*(["run"] if several else []), "stage", "state", "rows", "steps", "tokens", "time", "peak memory")
    for stage in found.stages:
        cost = stage.cost
        numbers = [_count(value) for value in (cost.rows, cost.steps, cost.tokens)]
        cells = [stage.title, stage.state, *numbers, _time(cost.seconds), _memory(cost.memory)]
        table.add_row(*([stage.run] if several else []), *cells)
    console.print(table)
    for note in dict.fromkeys(f"{stage.title}: {stage.cost.note}" for stage in found.stages if stage.cost.note):
        console.print(note, markup=False)
    unknown = any(stage.state != "kept" and stage.cost.seconds is None for stage in found.stages)
    left = " and what is not estimated" if unknown else ""
    peak = f", {_memory(found.memory)} at most" if found.memory else ""
    console.print(f"in all: about {_time(found.seconds) or '0 s'}{left}{peak}")
    for name, machine in found.machines.items():
        free = f", {_memory(machine.room)} free" if machine.room is not None else ""
        rate = machine.rates.blocks / 1e9
        console.print(f"{name} on {machine.device}: {rate:.0f} GF/s in its products{free}", markup=False)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _time(seconds: float | None) -> str:
    if not seconds:
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _memory(num_bytes: int | None) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes else ""
