"""Data views: which answers the forget stream carries besides, or instead of, the gold ones.

Everything drawn here is a pure function of (seed, row, epoch), so that the reference can be computed beforehand and an
interrupted run sees the same answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import numpy as np

from expunge.data.augment import relearn_pairs, relearn_rows, require_questions
from expunge.data.lazy import LazyRows
from expunge.data.overlap import fingerprint
from expunge.data.rows import Row
from expunge.errors import DataError

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
TEMPLATE = REFUSALS[1]


@dataclass(frozen=True)
class ViewContext:
    """What a view may draw from."""

    seed: int = 0
    refusals: tuple[str, ...] = ()
    """The benchmark's refusal sentences; empty means the built-in ones."""
    pool: Sequence[str] = ()
    """Answers to other prompts: the benchmark's own, else the retain rows', or the other forget rows' where nothing is
    retained."""
    template: str = TEMPLATE
    """The one answer of the ``template`` view."""


@dataclass(frozen=True)
class View:
    """What a data view provides to terms, and where it takes it from."""

    key: str
    about: str
    provides: frozenset[str] = frozenset({"answer", "alternate"})
    alternate: Callable[[Row, int, ViewContext], str] | None = None
    """``(row, epoch, context)`` to the other answer shown beside the row's own."""
    rows: Callable[[Sequence[Row], ViewContext], Sequence[Row]] | None = None
    """Rewrites the forget rows once, before training; None leaves them."""
    check: Callable[[Sequence[Row]], None] | None = None
    """Refuses forget rows that it could do nothing with, before any work."""
    gold: bool = True
    """Whether the answers it shows are the rows' own, which there is something to forget in."""
    as_written: str | None = None
    """The view of its rows where they were written beforehand; None: its own."""
    options: frozenset[str] = field(default_factory=frozenset)
    """Which optional fields of :class:`ViewContext` it reads: ``template``."""


class Answers(Sequence[str]):
    """The answers of a set too large for memory; of each only a fingerprint is held."""

    def __init__(self, rows: LazyRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(row.answer for row in self.rows[index])
        return self.rows[index].answer

    @cached_property
    def _fingerprints(self) -> np.ndarray:
        found = (fingerprint(row.answer) for row in self.rows)
        return np.fromiter(found, dtype=np.uint64, count=len(self.rows))

    def places(self, text: str) -> list[int]:
        """Where a text stands among them, ascending."""
        like_it = np.flatnonzero(self._fingerprints == np.uint64(fingerprint(text)))
        return [place for place in like_it.tolist() if self[place] == text]


def answers_of(rows: Sequence[Row]) -> Sequence[str]:
    """The answers of a set: a tuple, unless they are too many for that."""
    return Answers(rows) if isinstance(rows, LazyRows) else tuple(row.answer for row in rows)


def _number(row: Row, epoch: int, seed: int, count: int) -> int:
    """A number below ``count`` for this row and epoch."""
    digest = hashlib.sha256(f"{seed}/{row.id}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % count


def _draw(row: Row, epoch: int, seed: int, pool: Sequence[str]) -> str:
    return pool[_number(row, epoch, seed, len(pool))]


def pick_refusal(row: Row, epoch: int, context: ViewContext) -> str:
    """The row's own alternate if it has one, else a refusal drawn anew each epoch."""
    return row.alternate or _draw(row, epoch, context.seed, context.refusals or REFUSALS)


def pick_mismatch(row: Row, epoch: int, context: ViewContext) -> str:
    """The answer to some other prompt, drawn anew each epoch; never the row's own."""
    pool = context.pool
    if isinstance(pool, Answers):
        own = pool.places(row.answer)
    else:
        own = [place for place, text in enumerate(pool) if text == row.answer]
    if len(own) == len(pool):
        return _draw(row, epoch, context.seed, context.refusals or REFUSALS)
    place = _number(row, epoch, context.seed, len(pool) - len(own))
    # Counted among the others: each of its own that stands before it moves it on by one.
    for passed in own:
        place += passed <= place
    return pool[place]


def fixed_template(row: Row, epoch: int, context: ViewContext) -> str:
    """One answer for every row and epoch."""
    return context.template


def own_alternate(row: Row, epoch: int, context: ViewContext) -> str:
    """The row's own alternate; the views that use it see to it that every row has one."""
    assert row.alternate is not None
    return row.alternate


def need_alternates(rows: Sequence[Row], context: ViewContext) -> Sequence[Row]:
    """The rows as they are, if each has an alternate.

    Raises:
        DataError: naming the first that has none by where it was read.
    """
    without = [row for row in rows if row.alternate is None]
    if without:
        raise DataError(
            f"{without[0].origin or without[0].id}: no alternate answer ({len(without)} of {len(rows)} forget rows "
            "have none); give the rows a field 'alternate', or use --view refusal"
        )
    return rows


VIEWS: dict[str, View] = {
    view.key: view
    for view in (
        View("gold", "the forget rows' own answers", frozenset({"answer"})),
        View("refusal", "their own answers, each with a refusal beside it", alternate=pick_refusal),
        View("mismatch", "their own answers, each with one to another prompt beside it", alternate=pick_mismatch),
        View(
            "template", "their own answers, each with the same fixed one beside it", alternate=fixed_template,
            options=frozenset({"template"}),
        ),
        View(
            "relearn", "vague answers, written by rules, to their questions and variants", frozenset({"answer"}),
            rows=lambda rows, context: relearn_rows(rows, seed=context.seed), check=require_questions, gold=False,
            as_written="gold",
        ),
        View(
            "relearn_pair", "their own answers to variants of their questions, each with a vague one beside it",
            alternate=own_alternate, rows=lambda rows, context: relearn_pairs(rows, seed=context.seed),
            check=require_questions, as_written="model",
        ),
        View(
            "model", "their own answers, each with one that the model made up beforehand beside it",
            alternate=own_alternate, rows=need_alternates,
            check=lambda rows: require_questions([row for row in rows if row.alternate is None]),
        ),
    )
}  # fmt: skip
