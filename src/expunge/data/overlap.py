"""What must not stand in two sets at once: a row to forget that is also a row to keep."""

from __future__ import annotations

import itertools
import unicodedata
import warnings
from collections.abc import Mapping, Sequence

from expunge.data.rows import Row
from expunge.errors import DataError


class DataWarning(UserWarning):
    """The data can be used, but something in it will surprise."""


def check_overlap(forget: Sequence[Row], retain: Sequence[Row]) -> list[str]:
    """Refuse rows that stand in both sets; return a line for each lesser oddity (see :func:`check_sets`)."""
    return check_sets({"forget": forget, "retain": retain})


def check_sets(sets: Mapping[str, Sequence[Row]]) -> list[str]:
    """Refuse rows that stand in two of the sets, named by their keys; return a line for each lesser oddity.

    Two rows are the same when prompt (with its chat history) and answer agree after Unicode, case and white space are
    evened out. Lines are returned for rows repeated inside a set and for prompts that stand in two sets with different
    answers; they give counts and places, never text. Raises :class:`DataError` on a row in two sets.
    """
    lines = [line for name, rows in sets.items() for line in _repeats(rows, name)]
    for (first, left), (second, right) in itertools.combinations(sets.items(), 2):
        _refuse_shared_rows(left, right, first, second)
        lines += _shared_prompts(left, right, first, second)
    return lines


def warn_sets(sets: Mapping[str, Sequence[Row]]) -> None:
    """Run :func:`check_sets` and issue each line it returns as a :class:`DataWarning`."""
    for line in check_sets(sets):
        warnings.warn(line, DataWarning, stacklevel=3)


def _refuse_shared_rows(left: Sequence[Row], right: Sequence[Row], first: str, second: str) -> None:
    others = {_pair(row): row for row in reversed(right)}
    shared = [(row, others[_pair(row)]) for row in left if _pair(row) in others]
    if shared:
        places = ", ".join(f"{_place(row)} = {_place(other)}" for row, other in shared[:3])
        more = ", ..." if len(shared) > 3 else ""
        raise DataError(
            f"{len(shared)} of {len(left)} {first} rows also stand in the {second} set ({places}{more}); "
            "take them out of one of the two"
        )


def _repeats(rows: Sequence[Row], name: str) -> list[str]:
    seen: dict[tuple[str, str], Row] = {}
    repeats = [(row, seen[_pair(row)]) for row in rows if seen.setdefault(_pair(row), row) is not row]
    if not repeats:
        return []
    row, earlier = repeats[0]
    return [f"{len(repeats)} of {len(rows)} {name} rows repeat an earlier one ({_place(row)} = {_place(earlier)})"]


def _shared_prompts(left: Sequence[Row], right: Sequence[Row], first: str, second: str) -> list[str]:
    prompts = {_prompt(row): row for row in reversed(right) if row.prompt}
    shared = [(row, prompts[_prompt(row)]) for row in left if row.prompt and _prompt(row) in prompts]
    if not shared:
        return []
    row, other = shared[0]
    return [
        f"{len(shared)} of {len(left)} {first} prompts also stand in the {second} set with another answer "
        f"(first: {_place(row)} and {_place(other)})"
    ]


def _pair(row: Row) -> tuple[str, str]:
    return _prompt(row), _even(row.answer)


def _prompt(row: Row) -> str:
    return "\n".join(_even(text) for text in (*(f"{role}: {content}" for role, content in row.history), row.prompt))


def _even(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _place(row: Row) -> str:
    return row.origin or row.id
