"""One example of a set, whatever file or benchmark it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

_LATER = ("choices", "correct", "right", "kind", "made", "lead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A prompt with its answer, and what TOFU-style benchmarks add to test it.

    ``prompt`` is empty for raw text: then every token of ``answer`` is supervised.
    ``history`` holds earlier chat turns as ``(role, content)`` pairs; ``prompt`` is the last user turn.
    ``alternate`` is another answer to the same prompt (a refusal, a rejected answer).
    """

    id: str
    """Stable within its set, for instance ``"forget/12"``."""
    prompt: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    paraphrased_prompt: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    alternate: str | None = None
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question, the right one among them."""
    correct: int | None = None
    """Index into ``choices``."""
    right: tuple[int, ...] = ()
    """Index of every right choice, where several are right (``correct`` among them); empty: ``correct`` alone is."""
    lead: str = ""
    """Words put into the model's mouth: its answer goes on from them. Neither supervised nor scored."""
    kind: str = ""
    """What sort of probe it is, where a set mixes several (a level, an attack, a subject)."""
    made: tuple[str, ...] = ()
    """What of it rules made, where a file gave none: names of fields, or the rule that made all of it."""
    origin: str = ""
    """Where it was read, as ``file:line``, for messages; no part of the content."""

    def content(self) -> dict[str, object]:
        """Everything a result can depend on, for hashing.

        ``origin`` is left out, and so are the fields of multiple choice, ``kind``, ``made`` and ``lead`` where not set:
        what does not use them keeps the hash that it had before they came.
        """
        every = ((name, getattr(self, name)) for name in _CONTENT)
        return {name: value for name, value in every if name not in _LATER or value not in ((), None, "")}


# Not asdict, which walks into every value: it would take most of the time that a large set is hashed in.
_CONTENT = tuple(field.name for field in fields(Row) if field.name != "origin")


def content_line(row: Row) -> str:
    """The content of a row as one line of JSON: what is hashed, and what is kept of a row on disk."""
    return json.dumps(row.content(), sort_keys=True, ensure_ascii=False)


def row_from_line(line: str, origin: str) -> Row:
    """The row that :func:`content_line` was given."""
    content: dict[str, Any] = {name: _frozen(value) for name, value in json.loads(line).items()}
    return Row(**content, origin=origin)


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) over the content of the rows, in order; rows that are kept on disk know theirs."""
    known = getattr(rows, "content_hash", None)
    return known if isinstance(known, str) else lines_hash(map(content_line, rows))


def lines_hash(lines: Iterable[str]) -> str:
    """The same over what :func:`content_line` made of them."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()
