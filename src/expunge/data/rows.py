"""One example of a set, whatever file or benchmark it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


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
    origin: str = ""
    """Where it was read, as ``file:line``, for messages; no part of the content."""

    def content(self) -> dict[str, object]:
        """Everything a result can depend on, for hashing (``origin`` is left out)."""
        fields = asdict(self)
        del fields["origin"]
        return fields


def rows_hash(rows: Iterable[Row]) -> str:
    """SHA-256 (hex) over the content of the rows, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row.content(), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
