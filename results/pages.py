"""Putting what was measured into a page, between its marks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from expunge.errors import UserError
from expunge.reporting.tables import MISSING
from results.records import Record, Records

ROOT = Path(__file__).parents[1]
DOCS, README = ROOT / "docs" / "results", ROOT / "README.md"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def marks(section: str) -> tuple[str, str]:
    """The lines between which a section's results stand."""
    return f"<!-- {section} results begin -->", f"<!-- {section} results end -->"


def put(page: Path, section: str, text: str) -> None:
    """Replace what stands between a section's marks.

    Raises:
        UserError: if the page is not there, or has no marks.
    """
    whole = page.read_text(encoding="utf-8") if page.is_file() else ""
    begin, end = marks(section)
    before, begun, rest = whole.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise UserError(f"{page}: must hold the lines {begin} and {end}, between which the results go")
    page.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def shown_rate(record: Record) -> str:
    """The learning rate that was set; a run that trains nothing has none."""
    rate = record.settings.get("lr")
    return f"{rate:g}".replace("e-0", "e-") if rate else MISSING


def state(records: Records, names: Collection[str]) -> str:
    """How much of a part has been run, and where."""
    done = sum(name in records.runs for name in names)
    machines = dict.fromkeys(record.machine for record in records.runs.values() if record.machine)
    return f"{done} of {len(names)} runs. Seconds and memory on: {'; '.join(machines) or 'nothing yet'}."
