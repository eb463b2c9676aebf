"""One example of a set, whatever file or benchmark it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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
        fields = asdict(self)
        del fields["origin"]
        return {name: value for name, value in fields.items() if name not in _LATER or value not in ((), None, "")}


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) over the content of the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.content(), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
