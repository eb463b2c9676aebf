"""The page of every method: one table, learning rates, answers to be read, and a plot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.reporting.figures import MUTED, SERIES, figure_bytes, figures_available
from expunge.reporting.tables import MISSING, format_number
from results.choice import KEPT, LIKELY, TOLD, chosen, probe_score, role_of
from results.pages import DOCS, README, markdown_table, put, shown_rate, state
from results.records import BEFORE, RETAIN_MODEL, Metrics, Record, Records

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, ANSWERS, PLOT = DOCS / "methods.md", DOCS / "methods_answers.md", DOCS / "methods.svg"
FORGET, UTILITY = "extraction_strength", "model_utility"
COLUMNS = {
    FORGET: "ES",
    "exact_memorization": "EM",
    "forget_Q_A_ROUGE": "ROUGE",
    "forget_truth_ratio": "TR",
    "forget_quality_log10": "log10 FQ",
    UTILITY: "MU",
    "retain_Q_A_ROUGE": "kept",
    "mia_min_k": "min-k",
    "forget_perplexity": "PPL",
    "forget_distinct_2": "dist-2",
    "forget_empty_rate": "empty",
}
"""Metrics of the table, with their short names; the page says what they mean."""
BRIEFLY = {
    FORGET: "extraction strength",
    "forget_Q_A_ROUGE": "ROUGE-L of their answers",
    "retain_Q_A_ROUGE": "ROUGE-L of the others'",
    UTILITY: "utility",
    "forget_perplexity": "perplexity",
}
"""Columns of the short table for newcomers."""
FLUENT = 1.5
"""Times the perplexity of the retain model's answers that fluent answers may have."""
NOT_RUN = "not run"


def write(records: Records, names: Sequence[str]) -> list[Path]:
    """Fill the page, the answers and the plot.

    Args:
        records: of the part.
        names: of every run that the recipe asks for.

    Returns:
        The files written.
    """
    methods = list(dict.fromkeys(map(role_of, names)))
    best = chosen(records.runs, records.models) if records.runs else {}
    picked = {method: records.runs[best[method]] for method in methods if method in best}
    drawing = plot(records.models, picked)
    shown = f"![Extraction strength and model utility of every method]({PLOT.name})\n\n" if drawing else ""
    put(PAGE, "methods", f"{state(records, names)}\n\n{shown}{_table(records.models, picked, methods)}\n")
    put(PAGE, "rates", _rates(records, best) + "\n")
    put(ANSWERS, "answers", _answers(picked))
    left = sum(name not in records.runs for name in names)
    so_far = f"\n\nSo far {len(names) - left} of {len(names)} runs have been made." if left else ""
    put(README, "methods", f"{_briefly(records.models, picked)}{so_far}\n")
    if drawing is None:
        return [PAGE, ANSWERS, README]
    PLOT.write_bytes(drawing)
    return [PAGE, ANSWERS, README, PLOT]


def _table(models: Mapping[str, Metrics], picked: Mapping[str, Record], methods: Sequence[str]) -> str:
    rows = [
        [f"*{name}*", MISSING, *_values(models[name]), *[MISSING] * 4]
        for name in (BEFORE, RETAIN_MODEL)
        if name in models
    ]
    for method in methods:
        record = picked.get(method)
        if record is None or record.failed:
            reason = record.failed if record else NOT_RUN
            rows.append([method, reason, *[MISSING] * (len(COLUMNS) + 4)])
        else:
            rows.append([method, shown_rate(record), *_values(record.metrics), *_costs(record)])
    return markdown_table(["method", "lr", *COLUMNS.values(), "steps", "s", "GB", "trained"], rows)


def _values(metrics: Metrics, keys: Iterable[str] = COLUMNS) -> list[str]:
    return [format_number(metrics[key][0]) if key in metrics else MISSING for key in keys]


def _costs(record: Record) -> list[str]:
    cost = record.cost
    share = cost.get("trainable_share")
    return [
        str(cost.get("steps", MISSING)),
        f"{cost['seconds']:.0f}" if "seconds" in cost else MISSING,
        f"{cost['peak_memory_gb']:.1f}" if "peak_memory_gb" in cost else MISSING,
        MISSING if share is None else f"{share:.2%}" if 0 < share < 0.01 else f"{share:.0%}",
    ]


def _briefly(models: Mapping[str, Metrics], picked: Mapping[str, Record]) -> str:
    """The models, and the fluent methods that no other fluent one beats, the nearest to the retain model first."""
    if RETAIN_MODEL not in models:
        return "Nothing has been run yet."
    goal = models[RETAIN_MODEL]
    fluent = {method: record for method, record in picked.items() if is_fluent(record, goal)}
    places = {method: (abs(place[0] - (goal[FORGET][0] or 0.0)), place[1]) for method, place in _places(fluent).items()}
    rows = [[f"*{name}*", *_values(models[name], BRIEFLY)] for name in (BEFORE, RETAIN_MODEL) if name in models]
    for method in sorted(unbeaten(places), key=lambda method: places[method]):
        rows.append([method, *_values(picked[method].metrics, BRIEFLY)])
    return markdown_table(["", *BRIEFLY.values()], rows)


def is_fluent(record: Record, retain_model: Metrics) -> bool:
    """Whether a run's forget answers are about as fluent as the retain model's."""
    key = "forget_perplexity"
    value, goal = (metrics.get(key, [None])[0] for metrics in (record.metrics, retain_model))
    return value is not None and goal is not None and value <= FLUENT * goal


def _rates(records: Records, best: Mapping[str, str]) -> str:
    """Every learning rate that was run, with what they are chosen by."""
    rows = []
    for name, record in records.runs.items():
        if not record.settings.get("lr"):
            continue
        method = role_of(name)
        mark = "x" if best[method] == name else ""
        if record.failed:
            rows.append([method, shown_rate(record), *[MISSING] * 3, record.failed, mark])
            continue
        score = probe_score(record.metrics, records.models)
        found = (format_number(record.metrics[key][0]) for key in (TOLD, LIKELY, KEPT))
        rows.append([method, shown_rate(record), *found, f"{score:.3f}", mark])
    head = ["method", "lr", "told, reworded", "likely, reworded", "kept, other rows", "score", "chosen"]
    return markdown_table(head, rows) if rows else "Nothing has been run yet."


def _answers(picked: Mapping[str, Record]) -> str:
    blocks = []
    first = next((record for record in picked.values() if record.answers), None)
    if first:
        asked = [f"{n}. {row['prompt']} *{row['truth']}*" for n, row in enumerate(first.answers, start=1)]
        blocks.append("\n".join(asked))
    for method, record in picked.items():
        lines = [f"{n}. {row['answer'] or '(empty)'}" for n, row in enumerate(record.answers, start=1)]
        blocks.append(f"## {method}\n\n" + ("\n".join(lines) or record.failed))
    return "\n\n".join(blocks) + "\n"


def plot(models: Mapping[str, Metrics], picked: Mapping[str, Record]) -> bytes | None:
    """Utility against extraction strength; the methods that none beats in both are named."""
    shown = _places(picked)
    known = {name: place for name, metrics in models.items() if (place := _place(metrics))}
    if not shown or RETAIN_MODEL not in known or not figures_available():
        return None
    goal = known[RETAIN_MODEL][0]
    named = unbeaten({method: (abs(x - goal), y) for method, (x, y) in shown.items()})

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for x, y in shown.values():
            axes.scatter([x], [y], s=18, color=SERIES[0], zorder=2)
        for name, place in known.items():
            axes.scatter([place[0]], [place[1]], s=70, marker="*", color=SERIES[1], zorder=3)
            axes.annotate(name, place, xytext=(6, 6), textcoords="offset points", fontsize=8)
        for method in sorted(named):
            axes.annotate(method, shown[method], xytext=(5, -9), textcoords="offset points", fontsize=7, color=MUTED)
        axes.axvline(goal, color=SERIES[1], linewidth=0.8, linestyle=":")
        axes.set_xlabel("extraction strength on the forget rows (dotted: the retain model's)")
        axes.set_ylabel("model utility")

    return figure_bytes(paint, "svg", (7.5, 5.0))


def _places(picked: Mapping[str, Record]) -> dict[str, tuple[float, float]]:
    """Extraction strength and utility of every run that has both."""
    places = {method: _place(record.metrics) for method, record in picked.items() if not record.failed}
    return {method: place for method, place in places.items() if place}


def _place(metrics: Metrics) -> tuple[float, float] | None:
    x, y = metrics[FORGET][0], metrics[UTILITY][0]
    return None if x is None or y is None else (x, y)


def unbeaten(points: Mapping[str, tuple[float, float]]) -> Collection[str]:
    """Those to which no other is at least as near to the goal and as useful, and better in one of the two.

    Args:
        points: distance to the goal, lower is better, and utility, higher is better.
    """
    return {
        name
        for name, (x, y) in points.items()
        if not any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points.values())
    }
