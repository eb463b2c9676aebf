"""One micro-batch's share of the objective: a forward pass over its units, then each stream's term."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.data.tree import pack_units
from expunge.methods.terms import AnswerValues, Term, weighted_sum
from expunge.models.forward import LabelledRows, labelled_rows
from expunge.models.reference import Reference
from expunge.training.streams import Unit


@dataclass(frozen=True)
class WeightedTerm:
    """A term with its weight and hyperparameters, reading one stream."""

    term: Term
    weight: float
    settings: Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    """``sum over streams of weight * (sum of the term over the effective batch) / (its count)``."""

    terms: Mapping[str, WeightedTerm]
    """By stream."""
    reference: Reference
    packed: bool
    max_tokens: int

    def backward(self, model: Any, units: list[Unit], run_backward: Callable[[Tensor], None]) -> dict[str, float]:
        """Accumulate the gradient of one whole step, micro-batch by micro-batch.

        Args:
            model: the policy, possibly wrapped.
            units: the effective batch.
            run_backward: called with each micro-batch's scalar loss.

        Returns:
            The loss of each stream, weighted, over the effective batch.
        """
        counts = self._counts(units)
        totals = dict.fromkeys(self.terms, 0.0)
        for pack in pack_units([list(u.answers.values()) for u in units], self.max_tokens):
            losses = self.micro_batch(model, [units[i] for i in pack], counts)
            run_backward(torch.stack(list(losses.values())).sum())
            for stream, loss in losses.items():
                totals[stream] += float(loss.detach())
        return totals

    def _counts(self, units: list[Unit]) -> dict[str, int]:
        """Tokens or sequences of the effective batch, by stream."""
        counts = dict.fromkeys(self.terms, 0)
        for unit in units:
            term = self.terms[unit.stream].term
            counts[unit.stream] += unit.answers[term.counted].num_labels if term.unit == "tokens" else 1
        return counts

    def micro_batch(self, model: Any, units: list[Unit], counts: Mapping[str, int]) -> dict[str, Tensor]:
        """The streams' losses on some units of a step whose effective counts are given."""
        groups = _group(units)
        sequences = [unit.answers[kind] for (_, kind), members in groups.items() for unit in members]
        rows = labelled_rows(model, sequences, packed=self.packed)
        answers: dict[str, dict[str, AnswerValues]] = {}
        first = 0
        for (stream, kind), members in groups.items():
            part = rows.select(first, first + len(members)) if len(groups) > 1 else rows
            first += len(members)
            answers.setdefault(stream, {})[kind] = self._values(stream, kind, members, part)
        return {
            stream: weighted_sum(
                self.terms[stream].term,
                kinds,
                weight=self.terms[stream].weight,
                count=counts[stream],
                settings=self.terms[stream].settings,
            )
            for stream, kinds in answers.items()
        }

    def _values(self, stream: str, kind: str, members: list[Unit], rows: LabelledRows) -> AnswerValues:
        needs = self.terms[stream].term.needs
        sequences = [unit.answers[kind] for unit in members]
        logps = self.reference.sequence_logps(sequences, rows.labels.device) if "reference_logps" in needs else None
        return AnswerValues(
            logits=rows.logits,
            per_token_logps=rows.per_token_logps,
            logps=rows.logps,
            num_tokens=rows.num_tokens,
            reference_logps=logps,
            reference_logits=(lambda: self.reference.logits(sequences)) if "reference_logits" in needs else None,
        )


def _group(units: list[Unit]) -> dict[tuple[str, str], list[Unit]]:
    """Units by (stream, kind of answer), so that each group's sequences stand together."""
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        for kind in unit.answers:
            groups.setdefault((unit.stream, kind), []).append(unit)
    return groups
