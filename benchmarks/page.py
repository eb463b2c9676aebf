"""The results page: tables and a plot from what was measured, written between its marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES, GROUPS, Case, Order
from benchmarks.summary import Line, share_of_rate, summarise
from expunge.reporting.figures import SERIES, figure_bytes, figures_available
from results.pages import DOCS, markdown_table, put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = DOCS / "performance.md"
PEER_SHARE = 0.37
"""Share of the default route's matrix rate that the measured peer reached in its NPO step, at 8 + 8."""
PEER_CASE = "npo-8"
Results = Mapping[str, Any]
"""The content of a results file: ``machine`` and ``cases``."""


def measured_cases(results: Results, group: str | None = None) -> list[tuple[Case, list[Line]]]:
    """The cases that have numbers to report, with the settings that they were measured with, in the table's order."""
    found = []
    for name, case in CASES.items():
        kept = results.get("cases", {}).get(name, {"rounds": []})
        if group in (None, case.group) and kept["rounds"] and not kept["refused"]:
            case = replace(case, sides={label: Order(**order) for label, order in kept["orders"].items()})
            found.append((case, summarise(case, kept["rounds"])))
    return found


def markdown(results: Results) -> str:
    """Everything that stands between the marks."""
    if not results.get("cases"):
        return "Nothing has been measured yet.\n"
    parts = [_machine(results["machine"]), _materials(results)]
    for group, title in GROUPS.items():
        if found := measured_cases(results, group):
            table = _suite_table(found) if group == "suite" else _step_table(found)
            parts.append(f"### {title}\n\n{table}")
    if shares := _shares(results):
        parts.append(f"### Share of the matrix rate\n\n{shares}")
    if foreseen := _foreseen(results):
        parts.append(f"### What a dry run says\n\n{foreseen}")
    if refused := _refused(results):
        parts.append(f"### Not reported\n\n{refused}")
    return "\n\n".join(parts) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    flags = ", ".join(machine["flags"]) or "none of the instruction sets that matter here"
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    rows = []
    for route, rates in machine["rates"].items():
        rows.append([route, *(f"{rate / 1e9:.0f}" for rate in rates.values())])
    shapes = list(next(iter(machine["rates"].values())))
    table = markdown_table(["route, GF/s", *shapes], rows)
    return (
        f"{machine['cpu']}, {machine['cores']} cores ({flags}), {machine['memory_gb']} GB{gpu}; "
        f"{machine['threads']} threads; {versions}.\n\n{table}"
    )


def _materials(results: Results) -> str:
    """Models and rows of everything that was measured."""
    cases = results["cases"].values()
    models = {order["model"]: None for kept in cases for order in kept["orders"].values()}
    rows = {answer["rows"]: None for kept in cases for found in kept["rounds"] for answer in found.values()}
    return f"Models: {', '.join(models)}. Rows: {', '.join(rows)}."


def _step_table(found: Sequence[tuple[Case, list[Line]]]) -> str:
    head = ["case", "side", "s/step", "useful tokens/s", "faster", "once, s", "whole run", "peak GB", "memory", "error"]
    rows = []
    for case, lines in found:
        for number, line in enumerate(lines):
            rows.append(
                [
                    case.title if number == 0 else "",
                    line.label,
                    f"{line.seconds:.2f}",
                    f"{line.tokens_per_second:.0f}",
                    "" if number == 0 else _times(line),
                    f"{line.setup:.1f}",
                    "" if number == 0 else f"{line.all_in:.2f}x of {case.sides[line.label].run_steps} steps",
                    f"{line.peak / 2**30:.2f}",
                    "" if number == 0 else f"{line.memory:.2f}x",
                    "" if line.loss_error == 0 else f"{line.loss_error:.0e}",
                ]
            )
    return markdown_table(head, rows)


def _times(line: Line) -> str:
    """How many times faster, with the range over rounds."""
    return f"**{line.ratio:.2f}x** [{line.lowest:.2f}, {line.highest:.2f}]"


def _suite_table(found: Sequence[tuple[Case, list[Line]]]) -> str:
    head = ["case", "side", "s", "teacher-forced", "generation", "faster", "peak GB", "memory", "same answers", "error"]
    rows = []
    for case, lines in found:
        for number, line in enumerate(lines):
            rows.append(
                [
                    case.title if number == 0 else "",
                    line.label,
                    f"{line.seconds:.1f}",
                    *(f"{line.parts.get(part, 0.0):.1f}" for part in ("teacher-forced", "generation")),
                    "" if number == 0 else _times(line),
                    f"{line.peak / 2**30:.2f}",
                    "" if number == 0 else f"{line.memory:.2f}x",
                    "" if number == 0 else f"{line.same_answers:.1%}",
                    "" if line.loss_error == 0 else f"{line.loss_error:.0e}",
                ]
            )
    return markdown_table(head, rows)


def _shares(results: Results) -> str:
    """Useful operations a second of every step, over what a plain product reaches on this machine."""
    rates = results["machine"]["rates"]
    rows = []
    for case, lines in measured_cases(results):
        for line in lines:
            share = share_of_rate(line, rates)
            if share is not None:
                of_default = share_of_rate(line, rates, "default")
                shown = "" if of_default is None else f"{of_default:.0%}"
                rows.append(
                    [case.name, line.label, f"{line.flops_per_second / 1e9:.0f}", line.route, f"{share:.0%}", shown]
                )
    if not rows:
        return ""
    table = markdown_table(["case", "side", "GF/s", "route", "of its route", "of the default route"], rows)
    return f"{table}\n\n{_peer_line(results)}".rstrip()


def _foreseen(results: Results) -> str:
    """Estimates of ours over what was measured between them; of each the fastest, since what disturbs a machine makes
    it slower."""
    rows = []
    for case, lines in measured_cases(results):
        kept = results["cases"][case.name].get("foreseen", {})
        for line in lines:
            if found := kept.get(line.label):
                cells = []
                for key, unit, pick in (("seconds", 1, min), ("memory", 2**30, max)):
                    told, truth = (pick(one[key] for one in found[side]) for side in ("told", "measured"))
                    cells += [f"{told / unit:.1f}", f"{truth / unit:.1f}", f"{told / truth:.2f}"]
                rows.append([case.name, line.label, *cells])
    head = ["case", "side", "foreseen, s", "measured, s", "ratio", "foreseen, GB", "measured, GB", "ratio"]
    return markdown_table(head, rows) if rows else ""


def _peer_line(results: Results) -> str:
    """Whether the plain side is at least as good as the peer that it stands for."""
    lines = next((lines for case, lines in measured_cases(results) if case.name == PEER_CASE), [])
    share = share_of_rate(lines[0], results["machine"]["rates"], "default") if lines else None
    if share is None:
        return ""
    verdict = "at least as well as" if share >= PEER_SHARE else "worse than"
    return (
        f"The plain NPO step at 8 + 8 reaches {share:.0%} of the default route's rate. The peer that it stands for was "
        f"measured at {PEER_SHARE:.0%} of it on another machine: the plain side uses this one {verdict} that."
    )


def _refused(results: Results) -> str:
    kept = results["cases"]
    lines = [f"- {name}: {kept[name]['refused']}" for name in CASES if kept.get(name, {}).get("refused")]
    return "\n".join(lines)


def plot(results: Results) -> bytes | None:
    """An SVG of how many times faster ours is, case by case; None where there is nothing to draw, or no matplotlib."""
    bars = [(case.title, lines[-1]) for case, lines in measured_cases(results) if lines[0].label == "plain"]
    if not bars or not figures_available():
        return None

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(bars), 0, -1)
        ratios = [line.ratio for _, line in bars]
        spread = [[line.ratio - line.lowest for _, line in bars], [line.highest - line.ratio for _, line in bars]]
        axes.barh(list(places), ratios, xerr=spread, color=SERIES[0], height=0.6, capsize=2)
        axes.axvline(1.0, color=SERIES[1], linewidth=1)
        axes.set_yticks(list(places), [title for title, _ in bars])
        axes.set_xlabel("times faster than the plain way (median and range over pairs)")
        axes.grid(axis="y", visible=False)

    return figure_bytes(paint, "svg", (7.5, 1.0 + 0.28 * len(bars)))


def write_page(results: Results, page: Path = PAGE) -> list[Path]:
    """Put the tables between the marks of their section of the page, and the plot beside it.

    Returns:
        The files written.

    Raises:
        UserError: if the page is not there, or has no marks.
    """
    section = "gpu" if any(CASES[name].group == "gpu" for name in results.get("cases", {})) else "cpu"
    drawing = plot(results)
    figure = page.with_name(f"{page.stem}{'-gpu' if section == 'gpu' else ''}.svg")
    shown = f"![How many times faster, case by case]({figure.name})\n\n" if drawing else ""
    put(page, section, shown + markdown(results))
    if drawing is None:
        return [page]
    figure.write_bytes(drawing)
    return [page, figure]
