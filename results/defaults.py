"""The page that our default is chosen from: compositions with and without retain rows, and in 4 bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from expunge.reporting.tables import MISSING, format_number
from results.choice import chosen
from results.methods import FORGET, UTILITY
from results.pages import DOCS, markdown_table, put, shown_rate, state
from results.records import RETAIN_MODEL, Metrics, Record, Records

PAGE = DOCS / "defaults.md"
MIXED, ALONE = "mix_", "alone_"
"""What the names begin with of compositions that nobody published, and of runs without retain rows."""
INT4, RELEARNT = "quantise:int4", "relearn:subset"
COLUMNS = {
    FORGET: "ES",
    "forget_Q_A_ROUGE": "ROUGE",
    "forget_Q_A_Prob": "probability",
    UTILITY: "MU",
    "retain_Q_A_ROUGE": "kept",
    "mia_min_k": "min-k",
    "forget_perplexity": "PPL",
    "forget_distinct_2": "dist-2",
}


def write(records: Records, names: Sequence[str]) -> list[Path]:
    """Fill the page.

    Args:
        records: of the part.
        names: of every run that the recipe asks for.
    """
    goal = records.models.get(RETAIN_MODEL, {})
    best = chosen(records.runs, records.models) if records.runs else {}
    runs = {role: records.runs[name] for role, name in best.items()}
    mixed = [role for role in runs if not role.startswith(ALONE)]
    alone = [role for role in runs if role.startswith(ALONE)]
    table = Records(DOCS / "data" / "methods.json")
    published = {
        method: table.runs[name]
        for method, name in (chosen(table.runs, table.models) if table.models else {}).items()
        if not table.runs[name].failed
    }
    put(PAGE, "state", state(records, names) + "\n")
    put(PAGE, "with", _table(records.models, {role: runs[role] for role in mixed}) + "\n")
    put(PAGE, "beaten", _beaten({role: runs[role] for role in mixed if role.startswith(MIXED)}, published, goal) + "\n")
    put(PAGE, "without", _table(records.models, {role: runs[role] for role in alone}) + "\n")
    return [PAGE]


def _table(models: Mapping[str, Metrics], runs: Mapping[str, Record]) -> str:
    if not runs:
        return "Nothing has been run yet."
    rows = [[f"*{name}*", MISSING, *_values(metrics), *[MISSING] * 3] for name, metrics in models.items()]
    for role, record in runs.items():
        if record.failed:
            rows.append([role, record.failed, *[MISSING] * (len(COLUMNS) + 3)])
            continue
        attacked = [format_number(record.attacks.get(name, {}).get("unlearned")) for name in (INT4, RELEARNT)]
        rows.append([role, shown_rate(record), *_values(record.metrics), *attacked, f"{record.cost['seconds']:.0f}"])
    return markdown_table(["run", "lr", *COLUMNS.values(), "ES in int4", "ES relearnt", "s"], rows)


def _values(metrics: Metrics) -> list[str]:
    return [format_number(metrics[key][0]) if key in metrics else MISSING for key in COLUMNS]


def _beaten(mixed: Mapping[str, Record], published: Mapping[str, Record], goal: Metrics) -> str:
    """Of each composition, how many methods of the first table it beats, and which it does not."""
    if not mixed or not published:
        return "Nothing to compare with has been run yet."
    rows = []
    for role, record in mixed.items():
        better = [] if record.failed else beaten(record.metrics, published, goal)
        left = [method for method in published if method not in better]
        rows.append([role, f"{len(better)} of {len(published)}", ", ".join(left) or MISSING])
    return markdown_table(["composition", "beats", "does not beat"], rows)


def beaten(mine: Metrics, published: Mapping[str, Record], goal: Metrics) -> Collection[str]:
    """Methods that are neither nearer to the retain model nor more useful.

    Nearness is that of extraction strength, usefulness is model utility; of equals in both, neither beats the other.
    """
    x, y = _place(mine, goal)
    return [
        method
        for method, record in published.items()
        if (other := _place(record.metrics, goal)) != (x, y) and x <= other[0] and y >= other[1]
    ]


def _place(metrics: Metrics, goal: Metrics) -> tuple[float, float]:
    strength, aim, utility = (
        found[key][0] or 0.0 for found, key in ((metrics, FORGET), (goal, FORGET), (metrics, UTILITY))
    )
    return abs(strength - aim), utility
