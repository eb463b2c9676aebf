"""The report as one offline HTML page: no script, no outside resource, light and dark, phone and paper."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import UserError
from expunge.reporting.comparison import ComparedCell, ComparisonTable
from expunge.reporting.comparison_tables import caption, difference_text, p_text, value_text
from expunge.reporting.content import AnswerPair, MetricCell, MetricRow, Report, plain, printable
from expunge.reporting.figures import figures_available, panel_svg, scatter_svg
from expunge.reporting.forest import forest_svg
from expunge.reporting.tables import ARROWS, format_interval, format_number, goal_text, movement

if TYPE_CHECKING:
    from jinja2 import Template

NO_FIGURES = 'Figures need matplotlib: pip install "expunge[report]", then write the report again.'
# More pairs of one set than this wait behind a "show more".
PAIRS_IN_VIEW = 6
_LEVEL = {"good": ("✓", "Good"), "mixed": ("◐", "Mixed"), "bad": ("✕", "Bad")}
_WORD = re.compile(r"\w+")
# Words of four letters and more that tell nothing about a fact.
_COMMON = frozenset(_WORD.findall(
    "about after also because been before being between both could does during each from have having into just known "
    "made many more most much often only other over same should since some such than that their them then there these "
    "they this those through under until upon very well were what when where which while will with within would your"
))  # fmt: skip


@dataclass(frozen=True)
class _CellView:
    """One table cell as the page shows it."""

    model: str
    value: str
    interval: str
    note: str
    count: str
    tone: str
    words: str


@dataclass(frozen=True)
class _RowView:
    """One table row as the page shows it."""

    label: str
    arrow: str
    goal: str
    count: str
    definition: str
    cells: tuple[_CellView, ...]


def render_html(report: Report, comparison: ComparisonTable | None = None) -> str:
    """Return the whole page as text; the same report gives the same bytes.

    With ``comparison`` the page shows its paired differences too, as a figure and a table. All text is escaped.
    Without matplotlib the page says how to get the figures and shows all the rest.
    """
    return page_template().render(page_values(report, comparison))


def page_values(report: Report, comparison: ComparisonTable | None = None) -> dict[str, Any]:
    """What the page's template shows."""
    return {
        "report": report,
        "level": _LEVEL[report.verdict.level] if report.verdict else None,
        "groups": [
            (group, [_row_view(row, report) for row in report.rows() if row.group == group]) for group in report.groups
        ],
        "moved": any(movement(row, report, model)[1] for row in report.metrics for model in report.models),
        "figures": _figures(report, comparison),
        "comparison": _comparison_view(comparison) if comparison else None,
        "no_figures": NO_FIGURES,
        "points": _points(report),
        "sets": _answer_sets(report),
        "provenance": plain(report.provenance),
    }


def write_report(report: Report, path: str | Path, comparison: ComparisonTable | None = None) -> Path:
    """Write the page to ``path``, whole or not at all, and return the path; folders are made as needed.

    Raises UserError where ``path`` is a folder or cannot be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(
            f"report path {str(target)!r} is a folder; name a file, such as {str(target / 'report.html')!r}"
        )
    page = render_html(report, comparison).encode("utf-8")
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(page)
        os.replace(partial, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write the report to {str(target)!r}: {reason}; choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return target


@cache
def page_template(name: str = "template.html.j2") -> Template:
    """A page's template, every value escaped and every unknown name an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Text is rid of the characters HTML forbids on its way into the page; Markup, a subclass, is ours.
        finalize=lambda value: printable(value) if type(value) is str else value,
        loader=FunctionLoader(lambda file: files("expunge.reporting").joinpath(file).read_text(encoding="utf-8")),
    )
    return environment.get_template(name)


def _row_view(row: MetricRow, report: Report) -> _RowView:
    counts = {row.cell(model).n for model in report.models if not row.cell(model).missing}
    shared = counts.pop() if len(counts) == 1 else None
    cells = []
    for model in report.models:
        cell = row.cell(model)
        tone, words = movement(row, report, model)
        cells.append(
            _CellView(
                model=model,
                value=format_number(cell.value, kind=row.kind, style="html"),
                interval=format_interval(cell, kind=row.kind, style="html"),
                note=cell.note or ("not measured" if cell.missing else ""),
                count="" if cell.missing or shared is not None else _count(cell.n),
                tone=tone,
                words=words,
            )
        )
    arrow = {True: "↑", False: "↓", None: "≈"}[row.higher_is_better]
    return _RowView(row.label, arrow, goal_text(row, report), _count(shared), row.definition, tuple(cells))


def _count(n: int | None) -> str:
    return "" if n is None else f"n = {n}"


def write_comparison(table: ComparisonTable, path: str | Path) -> Path:
    """Write a page over a comparison to ``path``; raises as :func:`write_report` does."""
    return write_report(_as_report(table), path, table)


def _as_report(table: ComparisonTable) -> Report:
    """The comparison's values as a report; the words that compare with the model before are left to the differences."""
    rows = tuple(
        MetricRow(
            row.key,
            row.label,
            "measurements",
            row.higher_is_better,
            {
                label: MetricCell(cell.value, cell.ci_low, cell.ci_high, cell.n, _with_spread(cell))
                for label, cell in row.cells.items()
            },
            row.definition,
        )
        for row in table.rows
    )
    warnings = [f"{c.label}: {c.warning}; low scores are no evidence of forgetting" for c in table.columns if c.warning]
    return Report(
        title=table.title,
        verdict=None,
        models=table.labels,
        metrics=rows,
        warnings=(*warnings, *table.notes),
        footnotes=tuple(caption(table)),
        provenance={"columns": {column.label: plain(column) for column in table.columns}},
        before="",
        reference=table.reference or "retain model",
        confidence=table.confidence,
    )


def _with_spread(cell: ComparedCell) -> str:
    spread = f"{value_text(cell)} over {len(cell.seeds)} seeds" if cell.sd is not None else ""
    return "; ".join(filter(None, [spread, cell.note]))


def _comparison_view(table: ComparisonTable) -> dict[str, Any]:
    """Every difference as text, metric by metric."""
    rows = [
        {
            "metric": f"{row.label} {ARROWS[row.higher_is_better]}",
            "column": label,
            "difference": difference_text(found, "html"),
            "p": p_text(found.p),
            "p_holm": p_text(found.p_holm),
            "test": found.test,
            "n": found.n,
        }
        for row, label, found in table.differences
    ]
    return {"baseline": table.baseline, "rows": rows, "said": caption(table)}


def _figures(report: Report, comparison: ComparisonTable | None) -> dict[str, Any]:
    """The SVGs as markup (they escape their own text), or nothing where matplotlib is missing."""
    from markupsafe import Markup

    wanted = bool(report.scatter or report.panels or (comparison and comparison.differences))
    if not wanted or not figures_available():
        return {"missing": wanted, "scatter": "", "panels": [], "forest": ""}
    forest = Markup(forest_svg(comparison, "forest")) if comparison else ""
    panels = [(panel.title, Markup(panel_svg(panel, f"panel{i}"))) for i, panel in enumerate(report.panels, 1)]
    scatter = Markup(scatter_svg(report, "scatter"))
    return {"missing": False, "scatter": scatter, "panels": panels, "forest": forest}


def _points(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """The plot's numbers as text, for those who cannot see it: label, then value and interval for x and for y."""
    points = []
    for point in report.scatter:
        x = MetricCell(point.forget, point.forget_low, point.forget_high)
        y = MetricCell(point.utility, point.utility_low, point.utility_high)
        texts = [(format_number(cell.value, style="html"), format_interval(cell, style="html")) for cell in (x, y)]
        points.append((point.label, texts))
    return points


def _answer_sets(report: Report) -> list[dict[str, Any]]:
    """The pairs by set, in order of first appearance, split into those in view and those behind "show more"."""
    names = dict.fromkeys(pair.set_name for pair in report.pairs)
    sets = []
    for name in names:
        views = [_pair_view(pair, report) for pair in report.pairs if pair.set_name == name]
        sets.append({"name": name, "shown": views[:PAIRS_IN_VIEW], "rest": views[PAIRS_IN_VIEW:]})
    return sets


def _pair_view(pair: AnswerPair, report: Report) -> dict[str, Any]:
    marks = _telling_words(pair.truth) - _telling_words(pair.question)
    answers = [
        (model, mark_words(pair.answers[model], marks) if model in pair.answers else None) for model in report.models
    ]
    return {"question": pair.question, "truth": pair.truth, "answers": answers}


def _telling_words(text: str) -> set[str]:
    """Words that can carry a fact: with a digit, or of four letters and more and not a common function word."""
    words = {word.casefold() for word in _WORD.findall(text)}
    return {word for word in words if (len(word) >= 4 or any(map(str.isdigit, word))) and word not in _COMMON}


def mark_words(text: str, words: set[str]) -> list[tuple[str, bool]]:
    """Cut ``text`` into ``(piece, marked)``; a piece is marked where it is one of ``words`` (casefolded).

    Joined in order, the pieces give the text back.
    """
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group().casefold() in words:
            pieces += [(text[end : match.start()], False), (match.group(), True)]
            end = match.end()
    pieces.append((text[end:], False))
    return [piece for piece in pieces if piece[0]]
