"""The metric table for the terminal, Markdown, LaTeX and JSON, and the number format they share with the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from expunge.reporting.content import MetricCell, MetricRow, Report, plain, printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Style = Literal["plain", "html", "latex"]

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
ARROWS = {True: "↑", False: "↓", None: "≈"}
LATEX_ARROWS = {True: r"$\uparrow$", False: r"$\downarrow$", None: r"$\approx$"}
_GOAL = {True: "higher is better", False: "lower is better"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: "\\" + char for char in "&%$#_"},
}
# Beyond this many models a wide table no longer fits 80 columns, and the long layout takes over.
_MAX_WIDE_MODELS = 3


def format_number(value: float | None, *, kind: str = "number", style: Style = "plain") -> str:
    """Return ``value`` with three significant digits.

    From 1000 to 99999 all integer digits are kept; below 0.001 and from 100000 on the number is in powers of ten.
    None and NaN are "–". A p-value of exactly 0 is an underflow of floats and shown as "<1e-300".
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        infinity = r"\infty" if style == "latex" else "∞"
        return infinity if value > 0 else _minus(style) + infinity
    if value == 0:
        return "<" + _scientific("1", -300, style) if kind == "p_value" else "0"
    mantissa, exponent = f"{abs(value):.2e}".split("e")
    power = int(exponent)
    sign = _minus(style) if value < 0 else ""
    if -3 <= power < 5:
        return f"{sign}{abs(value):.{max(0, 2 - power)}f}"
    return sign + _scientific(mantissa, power, style)


def _minus(style: Style) -> str:
    return "−" if style == "html" else "-"


def _scientific(mantissa: str, power: int, style: Style) -> str:
    if style == "html":
        return f"{mantissa}×10{str(power).translate(_SUPERSCRIPT)}"
    if style == "latex":
        return rf"{mantissa}\times10^{{{power}}}"
    return f"{mantissa}e{power:+03d}"


def format_interval(cell: MetricCell, *, kind: str = "number", style: Style = "plain") -> str:
    """Return the cell's interval as ``[a, b]``, or an empty string where there is none."""
    if cell.interval is None:
        return ""
    low, high = (format_number(end, kind=kind, style=style) for end in cell.interval)
    return f"[{low}, {high}]"


def goal_text(row: MetricRow, report: Report) -> str:
    """Say in words where the metric should go."""
    if row.higher_is_better is not None:
        return _GOAL[row.higher_is_better]
    owner = f"the {report.reference}" if report.has_reference else "a retain model"
    return f"goal: {owner}'s value"


def movement(row: MetricRow, report: Report, model: str) -> tuple[str, str]:
    """Compare ``model`` with the model before; return ``(tone, words)``, both empty where nothing can be said.

    tone is "good", "bad" or "flat". Goal "the retain model's value": its value inside the model's interval is
    "level with ..."; otherwise the smaller distance is "closer". Where the intervals of before and after overlap the
    words say so and claim nothing.
    """
    old, new = row.cell(report.before), row.cell(model)
    if model not in report.unlearned or old.missing or new.missing or old.value is None or new.value is None:
        return "", ""
    if row.higher_is_better is None:
        return _toward_reference(row, report, old, new)
    if _overlap(old, new):
        return "flat", "no clear change"
    if old.value == new.value:
        return "flat", "unchanged"
    return ("good", "better") if (new.value > old.value) == row.higher_is_better else ("bad", "worse")


def _toward_reference(row: MetricRow, report: Report, old: MetricCell, new: MetricCell) -> tuple[str, str]:
    goal = row.cell(report.reference)
    if goal.missing or goal.value is None or old.value is None or new.value is None:
        return "", ""
    if new.interval is not None and new.interval[0] <= goal.value <= new.interval[1]:
        return "good", f"level with {report.reference}"
    distances = abs(old.value - goal.value), abs(new.value - goal.value)
    if _overlap(old, new) or distances[0] == distances[1]:
        return "flat", "no clear change"
    return ("good", "closer") if distances[1] < distances[0] else ("bad", "farther")


def _overlap(left: MetricCell, right: MetricCell) -> bool:
    if left.interval is None or right.interval is None:
        return False
    return left.interval[0] <= right.interval[1] and right.interval[0] <= left.interval[1]


class Notes:
    """Numbers each distinct cell note in order of first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, cell: MetricCell) -> str:
        """Return the number of the cell's note as text, or an empty string."""
        note = " ".join(printable(cell.note).split())
        if not cell.note and cell.missing:
            note = "not measured"
        if not note:
            return ""
        if note not in self.texts:
            self.texts.append(note)
        return str(self.texts.index(note) + 1)


def _legend(report: Report, rows: tuple[MetricRow, ...]) -> list[str]:
    """What arrows and brackets mean, naming only what the table uses."""
    goals = {row.higher_is_better for row in rows}
    parts = [f"{ARROWS[goal]} {_GOAL[goal]}" for goal in (True, False) if goal in goals]
    if None in goals:
        owner = f"the {report.reference}" if report.has_reference else "a retain model"
        parts.append(f"{ARROWS[None]} goal: {owner}'s value")
    if any(cell.interval for row in rows for cell in row.cells.values()):
        parts.append(f"[a, b] {100 * report.confidence:g}% interval")
    return parts


def console_table(report: Report, keys: Iterable[str] | None = None) -> Table:
    """Return the metric table for the terminal, readable at 80 columns.

    Up to three models stand side by side with the interval under the value; more stand under each other, metric by
    metric. Raises UserError for an unknown metric key.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows, notes = report.rows(keys), Notes()
    table = Table(title=Text(one_line(report.title)), box=box.SIMPLE_HEAD, title_style="bold", caption_justify="left")
    if len(report.models) <= _MAX_WIDE_MODELS:
        _fill_wide(table, report, rows, notes)
    else:
        _fill_long(table, report, rows, notes)
    caption = [*_legend(report, rows), *(f"{index}) {note}" for index, note in enumerate(notes.texts, 1))]
    table.caption = Text("\n".join(filter(None, caption)), justify="left")
    return table


def models_table(report: Report, keys: Iterable[str] | None = None) -> Table:
    """Return a table with a line for each model and a column for each metric: many methods at a glance.

    Values only; the report page holds the intervals. Metrics that no model has are left out.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wanted = None if keys is None else [key for key in keys if any(row.key == key for row in report.metrics)]
    rows = report.rows(wanted)
    table = Table(title=Text(one_line(report.title)), box=box.SIMPLE_HEAD, title_style="bold")
    table.add_column("model", overflow="fold")
    for row in rows:
        table.add_column(
            Text(f"{one_line(row.label)} {ARROWS[row.higher_is_better]}"), justify="right", overflow="fold"
        )
    for model in report.models:
        values = (format_number(row.cell(model).value, kind=row.kind) for row in rows)
        table.add_row(Text(one_line(model)), *values)
    return table


def one_line(text: str) -> str:
    """``text`` on one line, without characters that cannot be shown."""
    return " ".join(printable(text).split())


def _fill_wide(table: Table, report: Report, rows: tuple[MetricRow, ...], notes: Notes) -> None:
    from rich.text import Text

    table.add_column("metric", overflow="fold", max_width=28)
    for model in report.models:
        table.add_column(Text(one_line(model)), justify="right", overflow="fold")
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_row(Text(one_line(group), style="bold cyan"))
        label = Text(f"{one_line(row.label)} {ARROWS[row.higher_is_better]}")
        table.add_row(label, *(_console_cell(row, row.cell(model), notes, "\n") for model in report.models))


def _fill_long(table: Table, report: Report, rows: tuple[MetricRow, ...], notes: Notes) -> None:
    from rich.text import Text

    table.add_column("metric / model", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(f"{one_line(row.label)} {ARROWS[row.higher_is_better]}", style="bold cyan"))
        for model in report.models:
            table.add_row(Text("  " + one_line(model)), _console_cell(row, row.cell(model), notes, " "))


def _console_cell(row: MetricRow, cell: MetricCell, notes: Notes, separator: str) -> Text:
    from rich.text import Text

    mark, interval = notes.mark(cell), format_interval(cell, kind=row.kind)
    text = Text(format_number(cell.value, kind=row.kind) + (f" {mark})" if mark else ""))
    if interval:
        text.append(separator + interval, style="dim")
    return text


def markdown_table(report: Report, keys: Iterable[str] | None = None) -> str:
    """Return the metric table as a GitHub-flavoured Markdown table, legend and notes under it.

    Raises UserError for an unknown metric key.
    """
    rows, notes = report.rows(keys), Notes()
    lines = [
        "| " + " | ".join(["metric", *map(escape_markdown, report.models)]) + " |",
        "|" + "|".join([" :-- ", *[" --: " for _ in report.models]]) + "|",
    ]
    for row in rows:
        cells = [f"{escape_markdown(row.label)} {ARROWS[row.higher_is_better]}"]
        for model in report.models:
            cell = row.cell(model)
            mark, interval = notes.mark(cell), format_interval(cell, kind=row.kind)
            value = escape_markdown(format_number(cell.value, kind=row.kind)) + (f" ({mark})" if mark else "")
            cells.append(f"{value} {escape_markdown(interval)}".strip())
        lines.append("| " + " | ".join(cells) + " |")
    if rows:
        lines += ["", escape_markdown(" · ".join(_legend(report, rows)))]
    lines += (
        ["", *(f"({index}) {escape_markdown(note)}  " for index, note in enumerate(notes.texts, 1))]
        if notes.texts
        else []
    )
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Escape what Markdown or the HTML inside it would read as markup."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for char in "\\`*_|[]":
        line = line.replace(char, "\\" + char)
    return line


def latex_table(report: Report, keys: Iterable[str] | None = None) -> str:
    """Return the metric table as a LaTeX ``tabular`` (needs booktabs), notes under it, the legend as comments.

    Raises UserError for an unknown metric key.
    """
    rows, notes = report.rows(keys), Notes()
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {part}" for part in _legend(report, rows)),
        rf"\begin{{tabular}}{{l{'c' * len(report.models)}}}",
        r"\toprule",
        " & ".join(["metric", *map(escape_latex, report.models)]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cells = [f"{escape_latex(row.label)} {LATEX_ARROWS[row.higher_is_better]}"]
        cells += [_latex_cell(row, row.cell(model), notes) for model in report.models]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if notes.texts:
        lines += [
            "",
            *(
                rf"{{\footnotesize \textsuperscript{{{n}}} {escape_latex(note)}}}\\"
                for n, note in enumerate(notes.texts, 1)
            ),
        ]
    return "\n".join(lines) + "\n"


def _latex_cell(row: MetricRow, cell: MetricCell, notes: Notes) -> str:
    mark = notes.mark(cell)
    number = "--" if cell.missing else f"${format_number(cell.value, kind=row.kind, style='latex')}$"
    interval = format_interval(cell, kind=row.kind, style="latex")
    small = rf" {{\scriptsize ${interval}$}}" if interval else ""
    return number + (rf"\textsuperscript{{{mark}}}" if mark else "") + small


def escape_latex(text: str) -> str:
    """Escape what LaTeX would read as markup."""
    return "".join(_LATEX.get(char, char) for char in one_line(text))


def json_table(report: Report, keys: Iterable[str] | None = None) -> str:
    """Return the metric table as strict JSON text, full precision: ``{"title", "models", "confidence", "metrics"}``.

    ``metrics`` holds a record per row with ``key, label, group, higher_is_better, kind, definition, cells``; each cell
    has ``value, ci_low, ci_high, n, note``. A number that is not finite is null. Raises UserError for an unknown key.
    """
    table = {
        "title": report.title,
        "models": report.models,
        "confidence": report.confidence,
        "metrics": report.rows(keys),
    }
    return json.dumps(plain(table), indent=2, allow_nan=False)
