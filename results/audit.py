"""The page of the audit: what attacks bring back of each method, beside what the method kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.reporting.figures import MUTED, SERIES, figure_bytes, figures_available
from expunge.reporting.tables import MISSING, format_number
from results.choice import role_of
from results.pages import DOCS, markdown_table, put, shown_rate, state
from results.records import Record, Records
from results.running import RETRAINED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, PLOT = DOCS / "audit.md", DOCS / "audit.svg"


def write(records: Records, names: Sequence[str]) -> list[Path]:
    """Fill the page and the plot.

    Args:
        records: of the part.
        names: of every run that the recipe asks for.

    Returns:
        The files written.
    """
    runs = {role_of(name): records.runs[name] for name in names if name in records.runs}
    done = {role: record for role, record in runs.items() if not record.failed}
    parts = [state(records, names)]
    if drawing := plot(done):
        PLOT.write_bytes(drawing)
        parts.append(f"![Durability and model utility]({PLOT.name})")
    parts += [
        _table([role_of(name) for name in names], runs),
        "### What is left under each attack\n\n" + _residuals(done),
        "### What came back\n\n" + _rises(done),
    ]
    put(PAGE, "audit", "\n\n".join(parts) + "\n")
    return [PAGE, PLOT] if drawing else [PAGE]


def _table(roles: Sequence[str], runs: Mapping[str, Record]) -> str:
    rows = []
    for role in roles:
        record = runs.get(role)
        if record is None or record.failed:
            rows.append([role, record.failed if record else "not run", *[MISSING] * 6])
            continue
        found = record.durability
        low, high = found["low"], found["high"]
        ends = f" [{format_number(low)}, {format_number(high)}]" if low is not None and high is not None else ""
        metrics = [format_number(record.metrics.get(key, [None])[0]) for key in _METRICS]
        durable = f"{format_number(found['value'])}{ends}"
        rows.append(
            [role, shown_rate(record), *metrics, format_number(found["kept"]), durable, found["worst"] or MISSING]
        )
    head = ["method", "lr", *_METRICS.values(), "kept", "durability", "worst attack"]
    return markdown_table(head, rows)


_METRICS = {"extraction_strength": "ES", "forget_Q_A_ROUGE": "ROUGE", "model_utility": "MU"}


def _residuals(runs: Mapping[str, Record]) -> str:
    return _by_attack(runs, "residual")


def _rises(runs: Mapping[str, Record]) -> str:
    return _by_attack(runs, "rise")


def _by_attack(runs: Mapping[str, Record], what: str) -> str:
    """A number of every attack, method by method; attacks under which nobody has it are left out."""
    attacks = dict.fromkeys(name for record in runs.values() for name in record.attacks)
    shown = [name for name in attacks if any(r.attacks.get(name, {}).get(what) is not None for r in runs.values())]
    rows = [
        [role, *(format_number(record.attacks.get(name, {}).get(what)) for name in shown)]
        for role, record in runs.items()
    ]
    return markdown_table(["method", *shown], rows) if rows else "Nothing has been run yet."


def plot(runs: Mapping[str, Record]) -> bytes | None:
    """Durability against utility: the upper right corner is where a method wants to be."""
    points = {
        role: (record.metrics["model_utility"][0], record.durability["value"])
        for role, record in runs.items()
        if record.metrics and record.durability
    }
    shown = {role: (x, y) for role, (x, y) in points.items() if x is not None and y is not None}
    if not shown or not figures_available():
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for role, place in shown.items():
            axes.scatter([place[0]], [place[1]], s=28, color=SERIES[1 if role == RETRAINED else 0])
            axes.annotate(role, place, xytext=(5, 5), textcoords="offset points", fontsize=8, color=MUTED)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel("model utility")
        axes.set_ylabel("durability: 1 - what the worst attack finds")

    return figure_bytes(paint, "svg", (7.0, 4.2))
