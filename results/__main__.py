"""``python -m results PART...``: run what is missing of a part, and write its page; without a part say what there is.

Every run's numbers stand in ``docs/results/data``; so a part that was cut off goes on where it stopped, on another
machine too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from expunge.errors import UserError, unknown
from results.pages import DOCS
from results.parts import PARTS, Part
from results.records import Records
from results.running import Place


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m results", description="Make the pages of docs/results.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}, or all")
    parser.add_argument("--only", default="", help="comma-separated methods or runs")
    parser.add_argument("--out", type=Path, default=Path("results-runs"), help="where the runs lie meanwhile")
    parser.add_argument("--data-root", help="folder with published benchmark files; default: EXPUNGE_DATA")
    parser.add_argument("--write", action="store_true", help="write the pages of what there is, and run nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 the input is wrong."""
    options = parse(arguments)
    try:
        parts = _parts(options.parts)
        if not parts:
            for name, part in PARTS.items():
                print(_state(name, part))
            return 0
        only = [name for name in options.only.split(",") if name]
        for name, part in parts.items():
            records = _records(name)
            if not options.write:
                part.run(records, Place(options.out / name, options.out / "stages", options.data_root), only)
            print("wrote " + ", ".join(str(path.relative_to(DOCS.parents[1])) for path in part.write(records)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parts(names: Sequence[str]) -> dict[str, Part]:
    for name in names:
        if name not in (*PARTS, "all"):
            raise UserError(unknown("part", name, [*PARTS, "all"]))
    return {name: part for name, part in PARTS.items() if name in names or "all" in names}


def _records(name: str) -> Records:
    return Records(DOCS / "data" / f"{name}.json")


def _state(name: str, part: Part) -> str:
    total = len(part.names())
    done = total - len(part.missing(_records(name)))
    return f"{name:<12} {done:>3} of {total} runs  budget {part.minutes} min  {part.title}"


if __name__ == "__main__":
    sys.exit(main())
