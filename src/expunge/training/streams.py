"""From planned rows to token sequences: the streams that one training step carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

from expunge.data.formats import Format
from expunge.data.lazy import LazyRows
from expunge.data.rows import Row
from expunge.data.spans import spare_question
from expunge.data.tree import TokenSequence
from expunge.data.views import VIEWS, View, ViewContext
from expunge.training.plan import StepPlan

KEPT_SEQUENCES = 4096
"""Encoded answers that are kept where a stream is too large for all of them; the oldest goes first."""


@dataclass(frozen=True)
class Unit:
    """One row of one stream in one step: the sequences that its losses need together."""

    stream: str
    answers: dict[str, TokenSequence]
    """By kind: ``answer``, ``alternate``."""
    entropy: tuple[int, ...] = ()
    """Seed, step and row: what randomness inside a term follows from."""


@dataclass
class Streams:
    """Rows of every stream with what the terms that read them need."""

    format: Format
    rows: dict[str, Sequence[Row]]
    """Stream name (``forget``, ``retain``) to rows."""
    needs: dict[str, frozenset[str]]
    """Stream name to everything that its terms need."""
    plan: StepPlan
    seed: int = 0
    view: View = field(default_factory=lambda: VIEWS["gold"])
    context: ViewContext = field(default_factory=ViewContext)
    spare_question: bool = False
    """Whether the forget rows' own answers are supervised only where they say more than their question."""
    _encoded: dict[tuple[str, int, str, bool], TokenSequence] = field(default_factory=dict)

    def units(self, step: int) -> list[Unit]:
        """All units of a step, forget rows first."""
        return [
            Unit(name, self._answers(name, row, epoch), (self.seed, step, row))
            for name, drawn in self.plan.step(step).items()
            for row, epoch in drawn
        ]

    def _answers(self, stream: str, index: int, epoch: int) -> dict[str, TokenSequence]:
        needs = self.needs[stream]
        row = self.rows[stream][index]
        answers = {}
        # Terms that read prompts alone need a sequence all the same.
        if "answer" in needs or "alternate" not in needs:
            spare = self.spare_question and stream == "forget"
            answers["answer"] = self._encode(stream, index, row.answer, spare=spare)
        if "alternate" in needs:
            assert self.view.alternate is not None
            answers["alternate"] = self._encode(stream, index, self.view.alternate(row, epoch, self.context))
        return answers

    def _encode(self, stream: str, index: int, text: str, *, spare: bool = False) -> TokenSequence:
        key = (stream, index, text, spare)
        if key not in self._encoded:
            row = self.rows[stream][index]
            sequence = self.format.encode(row, answer=text)
            if spare:
                sequence = spare_question(sequence, self.format.tokenizer, row.prompt, self.format.end_id)
            self._encoded[key] = sequence
            if self._is_large and len(self._encoded) > KEPT_SEQUENCES:
                del self._encoded[next(iter(self._encoded))]
        return self._encoded[key]

    @cached_property
    def _is_large(self) -> bool:
        return any(isinstance(rows, LazyRows) for rows in self.rows.values())

    def every(self, stream: str) -> list[Unit]:
        """Each row of a stream once, with its first epoch's answers."""
        rows = range(len(self.rows.get(stream, ())))
        return [Unit(stream, self._answers(stream, row, 0), (self.seed, 0, row)) for row in rows]

    def all_sequences(self, need: str, beside: Iterable[Unit] = ()) -> Iterator[TokenSequence]:
        """Every sequence of the whole run, and of units ``beside`` it, that a term needs something of."""
        planned = (unit for step in range(self.plan.num_steps) for unit in self.units(step))
        for unit in chain(planned, beside):
            if need in self.needs[unit.stream]:
                yield from unit.answers.values()
