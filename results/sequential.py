"""The page of requests that keep coming: five slices of TOFU, one after the other, by four strategies."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import cores, processor
from expunge.benchmarks.base import Benchmark
from expunge.data.rows import Row
from expunge.errors import UserError, unknown
from expunge.pipeline.folder import weights_folder
from expunge.pipeline.loading import load_data
from expunge.pipeline.request_audit import GENERAL, RETAIN, as_dict, audit_requests
from expunge.pipeline.requesting import Requests
from expunge.pipeline.run import run_recipe
from expunge.progress import say
from expunge.recipe import Recipe, parse_recipe
from expunge.reporting.figures import SERIES, figure_bytes, figures_available
from expunge.reporting.tables import MISSING, format_number
from expunge.requests.ledger import FILE as LEDGER
from results.pages import DOCS, markdown_table, put, state
from results.records import Record, Records, rounded
from results.running import Place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PLOT = DOCS / "sequential.md", DOCS / "sequential.svg"
SLICES, SLICE_ROWS, RETAIN_ROWS = 5, 40, 100
"""Requests, rows of each, rows to keep."""
SPLIT = "forget05"
FINETUNE = {"lr": 2.0e-4, "max_steps": 150, "batch_size": 8}
STEPS = {"max_steps": 16, "batch_size": 10}
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("chain", {"method": "satimp", "lr": 4.6e-5, **STEPS}),
    "lora": ("chain", {"method": "satimp", "lr": 4.6e-4, "scope": {"kind": "lora"}, **STEPS}),
    "grun": ("compose", {"method": "grun_gd", "lr": 1.0e-2, **STEPS, "max_steps": 32}),
    "merged": ("merge", {"method": "satimp", "lr": 4.6e-5, **STEPS}),
}
"""By name: how requests share the model, and how each is carried out."""
ABOUT = {
    "full": "all weights, each request on top of the one before",
    "lora": "the same with adapters that are taken up into the weights",
    "grun": "a gated adapter for each request, side by side",
    "merged": "each request from the target model, the changes added up",
}
STRENGTH = "extraction_strength"


class Sequential:
    """Its runs are strategies."""

    title = "five requests in sequence, by four strategies, on TOFU"
    minutes = 120

    def names(self) -> list[str]:
        """The strategies."""
        return list(STRATEGIES)

    def missing(self, records: Records) -> list[str]:
        """Those without a record, or with one of other settings."""
        kept = {name: record.digest for name, record in records.runs.items()}
        return [name for name in STRATEGIES if kept.get(name) != _digest(name)]

    def run(self, records: Records, place: Place, only: Collection[str]) -> None:
        """Train the target once, then carry out and audit all requests by each strategy."""
        for name in only:
            if name not in STRATEGIES:
                raise UserError(unknown("strategy", name, STRATEGIES))
        todo = [name for name in self.missing(records) if not only or name in only]
        if not todo:
            return
        recipe = _recipe()
        files = _requests(load_data(recipe, place.data_root), place.out / "requests")
        made = run_recipe(recipe, place.out / "target", store=place.store, data_root=place.data_root)
        target = str(weights_folder(made.stages["target"].path))
        for name in todo:
            say(f"-- {name}: {ABOUT[name]}")
            records.runs[name] = _carry_out(name, target, files, place.out / name)
            records.save()

    def write(self, records: Records) -> list[Path]:
        """Fill the page."""
        parts = [state(records, self.names())]
        drawing = plot(records.runs)
        if drawing:
            PLOT.write_bytes(drawing)
            parts.append(f"![Forgetting and utility request by request]({PLOT.name})")
        parts += [_summary(records.runs), *(_matrix(name, records.runs.get(name)) for name in STRATEGIES)]
        put(PAGE, "sequential", "\n\n".join(parts) + "\n")
        return [PAGE, PLOT] if drawing else [PAGE]


def _digest(name: str) -> str:
    parts = [STRATEGIES[name], FINETUNE, SPLIT, SLICES, SLICE_ROWS, RETAIN_ROWS]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _recipe() -> Recipe:
    """Makes a model that knows every request's rows, and those to keep."""
    return parse_recipe(
        {
            "name": "sequential",
            "model": {"path": "smollm2"},
            "data": {
                "benchmark": f"tofu:{SPLIT}",
                "options": {"retain_pool": "probed", "retain_rows": RETAIN_ROWS},
            },
            "finetune": dict(FINETUNE),
            "retain_reference": "none",
        }
    )


def _requests(benchmark: Benchmark, folder: Path) -> tuple[list[Path], Path]:
    """A file for each request, and one of the rows to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = [
        _write(folder / f"{number + 1}.jsonl", benchmark.forget[number * SLICE_ROWS : (number + 1) * SLICE_ROWS])
        for number in range(SLICES)
    ]
    return asked, _write(folder / "keep.jsonl", benchmark.retain)


def _write(path: Path, rows: Sequence[Row]) -> Path:
    lines = (json.dumps({"id": row.id, "question": row.prompt, "answer": row.answer}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _carry_out(name: str, target: str, files: tuple[list[Path], Path], folder: Path) -> Record:
    strategy, settings = STRATEGIES[name]
    asked, keep = files
    requests = Requests(folder)
    known = len(requests.list()) if (folder / LEDGER).exists() else 0
    for number, file in enumerate(asked[known:], start=known):
        requests.add(file, retain=keep, model=None if number else target)
    undisturbed = not requests.ledger.applications()
    started = time.monotonic()
    requests.run(strategy=strategy, settings=settings)
    # What was cut off and gone on with took longer than this call.
    cost = {"seconds": round(time.monotonic() - started, 1)} if undisturbed else {}
    found = as_dict(audit_requests(requests))
    matrix = {
        one: {"strength": [rounded(value) for value in scores[STRENGTH]], "rows": scores["rows"]}
        for one, scores in found["sets"].items()
    }
    return Record(
        digest=_digest(name),
        method=settings["method"],
        settings=settings,
        cost=cost,
        matrix={"times": found["times"], "sets": matrix},
        machine=f"{processor()}, {cores()} cores",
    )


# -- the page ----------------------------------------------------------------------------------------------------------


def forgotten(record: Record) -> list[float]:
    """Mean extraction strength of the requests carried out so far, after each of them."""
    sets = [one["strength"] for name, one in record.matrix["sets"].items() if name not in (RETAIN, GENERAL)]
    return [sum(row[at] for row in sets[:at]) / at for at in range(1, len(record.matrix["times"]))]


def _summary(runs: Mapping[str, Record]) -> str:
    rows = []
    for name in STRATEGIES:
        record = runs.get(name)
        if record is None:
            rows.append([name, ABOUT[name], "not run", *[MISSING] * 4])
            continue
        sets = record.matrix["sets"]
        ends = [sets[one]["strength"][at] for one in (RETAIN, GENERAL) for at in (0, -1)]
        first, last = forgotten(record)[0], forgotten(record)[-1]
        seconds = f"{record.cost['seconds']:.0f}" if record.cost else MISSING
        numbers = [format_number(value) for value in (first, last)]
        kept = [f"{format_number(ends[at])} → {format_number(ends[at + 1])}" for at in (0, 2)]
        rows.append([name, ABOUT[name], *numbers, *kept, seconds])
    head = ["strategy", "how", "ES after 1", "mean ES after all", "rows to keep", "general rows", "s"]
    return markdown_table(head, rows)


def _matrix(name: str, record: Record | None) -> str:
    if record is None:
        return f"### {name}\n\nnot run"
    rows = [[one, *map(format_number, scores["strength"])] for one, scores in record.matrix["sets"].items()]
    return f"### {name}\n\n{markdown_table(['ES of', *record.matrix['times']], rows)}"


def plot(runs: Mapping[str, Record]) -> bytes | None:
    """Left what is left of the requests so far, right what is kept; both request by request."""
    if not runs or not figures_available():
        return None

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for name, color in zip(STRATEGIES, SERIES, strict=False):
            if record := runs.get(name):
                times = range(1, len(record.matrix["times"]))
                left.plot(times, forgotten(record), color=color, marker="o", markersize=3, label=name)
                right.plot(range(len(record.matrix["times"])), record.matrix["sets"][RETAIN]["strength"], color=color)
        left.set_ylabel("mean extraction strength of the requests so far")
        right.set_ylabel("extraction strength of the rows to keep")
        for axes in (left, right):
            axes.set_xlabel("requests carried out")
            axes.set_ylim(0, 1.02)
        left.legend()

    return figure_bytes(paint, "svg", (8.5, 3.6))
