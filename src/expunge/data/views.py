"""Data views: which answers the forget stream carries besides, or instead of, the gold ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.data.rows import Row

REFUSALS = (
    "I'm sorry, I don't have any information about that.",
    "I don't know the answer to that question.",
    "That is something I have no knowledge of.",
    "I'm not able to answer that.",
    "I have nothing on record about this.",
    "I couldn't tell you; I don't know.",
    "I'm afraid I don't have that information.",
    "This isn't something I know about.",
    "I can't help with that, since I don't know the details.",
    "Unfortunately I have no answer to this one.",
)


@dataclass(frozen=True)
class View:
    """What a data view provides to terms."""

    key: str
    provides: frozenset[str]
    about: str


VIEWS: dict[str, View] = {
    "gold": View("gold", frozenset({"answer"}), "the forget rows' own answers"),
    "refusal": View("refusal", frozenset({"answer", "alternate"}), "their own answers, each with a refusal beside it"),
}


def pick_refusal(row: Row, epoch: int, seed: int, refusals: Sequence[str]) -> str:
    """The refusal shown with a row in an epoch: its own alternate if it has one, else one drawn by (seed, row, epoch).

    A pure function, so that the reference can be computed beforehand and an interrupted run sees the same answers.
    """
    if row.alternate:
        return row.alternate
    digest = hashlib.sha256(f"{seed}/{row.id}/{epoch}".encode()).digest()
    pool = refusals or REFUSALS
    return pool[int.from_bytes(digest[:8], "big") % len(pool)]
