"""From planned rows to token sequences: the streams that one training step carries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from expunge.data.formats import Format
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.data.views import pick_refusal
from expunge.methods.terms import Term
from expunge.training.plan import StepPlan


@dataclass(frozen=True)
class Unit:
    """One row of one stream in one step: the sequences that its loss needs together."""

    stream: str
    answers: dict[str, TokenSequence]
    """By kind: ``answer``, ``alternate``."""


@dataclass
class Streams:
    """Rows of every stream with the terms that will read them."""

    format: Format
    rows: dict[str, tuple[Row, ...]]
    """Stream name (``forget``, ``retain``) to rows."""
    terms: dict[str, Term]
    """Stream name to the term that reads it."""
    plan: StepPlan
    seed: int = 0
    refusals: tuple[str, ...] = ()
    _encoded: dict[tuple[str, int, str], TokenSequence] = field(default_factory=dict)

    def units(self, step: int) -> list[Unit]:
        """All units of a step, forget rows first."""
        return [
            Unit(name, self._answers(name, row, epoch))
            for name, drawn in self.plan.step(step).items()
            for row, epoch in drawn
        ]

    def _answers(self, stream: str, index: int, epoch: int) -> dict[str, TokenSequence]:
        needs = self.terms[stream].needs
        row = self.rows[stream][index]
        answers = {}
        if "answer" in needs:
            answers["answer"] = self._encode(stream, index, row.answer)
        if "alternate" in needs:
            answers["alternate"] = self._encode(stream, index, pick_refusal(row, epoch, self.seed, self.refusals))
        return answers

    def _encode(self, stream: str, index: int, text: str) -> TokenSequence:
        key = (stream, index, text)
        if key not in self._encoded:
            self._encoded[key] = self.format.encode(self.rows[stream][index], answer=text)
        return self._encoded[key]

    def all_sequences(self, need: str) -> Iterator[TokenSequence]:
        """Every sequence of the whole run whose term needs ``reference_logps`` or ``reference_logits``."""
        for step in range(self.plan.num_steps):
            for unit in self.units(step):
                if need in self.terms[unit.stream].needs:
                    yield from unit.answers.values()
