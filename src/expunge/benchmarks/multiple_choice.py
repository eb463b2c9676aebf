"""Multiple choice as MMLU and WMDP publish it: ``question``, ``choices``, and the right one's index as ``answer``."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from expunge.benchmarks.setfiles import HubSets, SetFiles, local_set, rows_of, shard_names
from expunge.data.draw import draw
from expunge.data.fields import BadRecord, whole
from expunge.data.rows import Row

MMLU_HUB_ID = "cais/mmlu"
MMLU_REVISION = "c30699e8356da336a370243923dbaf21066bb9fe"
MMLU_NAMES = ("mmlu/all/test", "mmlu/test", "mmlu", "mmlu_test", "all/test")
"""Where MMLU's test questions are looked for in a folder."""
MMLU_LAYOUT = "give MMLU's test questions as mmlu/all/test-00000-of-00001.parquet or mmlu/test.jsonl in the data root"


def choice_row(record: object, row_id: str, origin: str, *, subject: str = "") -> Row:
    """A multiple-choice row; its answer is the right option's text, its kind ``subject`` or the record's own.

    Raises:
        BadRecord: a field is missing or of the wrong type, or the right option is not among the others.
    """
    if not isinstance(record, Mapping):
        raise BadRecord("a row must be an object with 'question', 'choices' and 'answer'")
    question, choices = record.get("question"), record.get("choices")
    if not isinstance(question, str) or not whole(question, "question").strip():
        raise BadRecord("field 'question' must be a text")
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(string.ascii_uppercase):
        raise BadRecord("field 'choices' must be a list of 2 to 26 texts")
    if not all(isinstance(choice, str | int | float) and not isinstance(choice, bool) for choice in choices):
        raise BadRecord("field 'choices' must hold texts or numbers")
    options = tuple(whole(str(choice), "choices") for choice in choices)
    correct = _place(record.get("answer"), len(options))
    kind = subject or str(record.get("subject") or "")
    return Row(
        id=row_id, prompt=question, answer=options[correct], choices=options, correct=correct, kind=kind, origin=origin
    )


def _place(answer: object, count: int) -> int:
    """The right option's index, given as it is or as a letter."""
    letters = string.ascii_uppercase[:count]
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip().upper() in letters:
        return letters.index(answer.strip().upper())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < count:
        return answer
    raise BadRecord(f"field 'answer' must be a whole number from 0 to {count - 1} or a letter from A to {letters[-1]}")


def choice_rows(
    files: SetFiles, set_name: str, *, subject: str = "", count: int | None = None, seed: int = 0
) -> tuple[Row, ...]:
    """All questions of a set, or ``count`` of them drawn by seed."""
    rows = rows_of(files, set_name, partial(choice_row, subject=subject))
    return draw(rows, count, seed=seed, name=f"choice/{set_name}")


def mmlu_files(base: Path | None, *, local_only: bool) -> SetFiles | None:
    """MMLU's test questions in the folder, else on the Hub; None where a folder was to have them and has not."""
    found = local_set(base, MMLU_NAMES) if base is not None else None
    if found is not None or local_only:
        return found
    return HubSets(MMLU_HUB_ID, MMLU_REVISION, MMLU_LAYOUT).files(*shard_names("all/test"))
