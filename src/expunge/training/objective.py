"""One micro-batch's share of the objective: a forward pass over its units, then each stream's terms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.tree import TokenSequence, pack_units
from expunge.errors import RecipeError
from expunge.methods.terms import AnswerValues, WeightedTerm, weighted_sum
from expunge.models.forward import LabelledRows, labelled_rows
from expunge.models.frozen_prefix import FrozenPrefix
from expunge.models.reference import Reference
from expunge.parallel import num_processes, summed
from expunge.training.distributed import announce_pass, own_passes, share_out, sum_gradients, summed_tensors
from expunge.training.streams import Unit

Answers = Mapping[str, Mapping[str, AnswerValues]]
"""Values by stream, then by kind of answer."""


@dataclass(frozen=True)
class Objective:
    """``sum over streams and their terms of weight * (sum over the effective batch) / (its count)``."""

    terms: Mapping[str, tuple[WeightedTerm, ...]]
    """By stream."""
    reference: Reference
    packed: bool
    max_tokens: int
    layer: int | None = None
    """The block whose output hidden-state terms read."""
    watch: frozenset[str] = frozenset()
    """Streams whose ``token_nll`` is wanted."""
    token_nll: dict[str, float] = field(default_factory=dict)
    """Mean token loss of the watched streams' own answers; that of the first pass since the trainer last cleared it,
    which is the one at the step's own weights."""
    prefix: FrozenPrefix | None = None
    """What the blocks that no step changes put out."""

    @cached_property
    def head(self) -> bool:
        """Whether any term reads the head; otherwise the forward pass ends at the layer."""
        return any(weighted.term.head for _, weighted in self._named())

    def backward(
        self,
        model: Any,
        units: list[Unit],
        run_backward: Callable[[Tensor], None],
        streams: Collection[str] | None = None,
        scale: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Accumulate the gradient of one whole step, micro-batch by micro-batch.

        Where several processes train, each runs a share of the units; all return the whole step's losses, and
        ``.grad``, which must be empty before, holds the whole step's gradient.

        Args:
            model: the policy, possibly wrapped.
            units: the effective batch.
            run_backward: called with each micro-batch's scalar loss.
            streams: only these streams' terms; None means all.
            scale: factors on whole streams, by stream; the gradient carries them, what is returned does not.

        Returns:
            The loss of each stream (of each of its terms, where it has several), weighted, over the effective batch.
        """
        units = [unit for unit in units if streams is None or unit.stream in streams]
        counts = self._counts(units)
        passes = self._passes(model, units)
        statistics = self._statistics(model, passes, counts)
        totals = {name: 0.0 for name, _ in self._named() if name in counts}
        factors = {name: factor for stream, factor in (scale or {}).items() for name in self.names(stream)}
        seen: dict[str, Tensor] = {}
        for number, (members, counted) in enumerate(passes, start=1):
            announce_pass(model, last=number == len(passes))
            losses = self.micro_batch(model, members, counts, statistics, seen if counted else None)
            run_backward(torch.stack([loss * factors.get(name, 1.0) for name, loss in losses.items()]).sum() * counted)
            for name, loss in losses.items() if counted else ():
                totals[name] += float(loss.detach())
        sum_gradients(model)
        for stream, (logps, tokens) in summed_tensors(seen, model).items():
            self.token_nll.setdefault(stream, float(-logps / tokens))
        found = summed(totals)
        return {name: found[name] for name in totals}

    def names(self, stream: str) -> list[str]:
        """What a stream's losses are called."""
        return [name for name, _ in self._named(stream)]

    def _passes(self, model: Any, units: list[Unit]) -> list[tuple[list[Unit], float]]:
        """This process's micro-batches of a step, each with the factor that its loss carries; 0 counts for nothing."""
        shares = share_out(units, _num_tokens, num_processes())
        return own_passes(model, [[[share[i] for i in pack] for pack in self._packs(share)] for share in shares])

    def _packs(self, units: list[Unit]) -> list[list[int]]:
        begin = self.prefix.begin if self.prefix else None
        return pack_units([list(u.answers.values()) for u in units], self.max_tokens, begin)

    def _named(self, stream: str | None = None) -> Iterator[tuple[str, WeightedTerm]]:
        """Terms with the names that their losses are logged under."""
        for owner, members in self.terms.items():
            for weighted in members:
                if stream in (None, owner):
                    yield owner if len(members) == 1 else f"{owner}_{weighted.term.key}", weighted

    def _counts(self, units: list[Unit]) -> dict[str, int]:
        """Tokens or sequences of the effective batch, by name of term."""
        counts: dict[str, int] = {}
        for unit in units:
            for name, weighted in self._named(unit.stream):
                # A term that reads prompts alone takes whichever answer there is.
                read = unit.answers.get(weighted.term.counted) or next(iter(unit.answers.values()))
                num_labels = read.num_labels
                counts[name] = counts.get(name, 0) + weighted.term.amount(num_labels, weighted.settings)
        return counts

    @torch.no_grad()
    def _statistics(
        self, model: Any, passes: list[tuple[list[Unit], float]], counts: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """Means over the effective batch that some terms want beforehand, by name of term."""
        wanted = {
            (stream, name): weighted
            for stream in self.terms
            for name, weighted in self._named(stream)
            if weighted.term.statistic_sum and name in counts
        }
        sums: dict[str, Tensor] = {}
        for members, counted in passes if wanted else []:
            answers = self._answers(model, members)
            for (stream, name), weighted in wanted.items() if counted else ():
                if stream in answers and weighted.term.statistic_sum:
                    share = weighted.term.statistic_sum(answers[stream], **weighted.settings)
                    sums[name] = sums[name] + share if name in sums else share
        return {name: total / counts[name] for name, total in summed_tensors(sums, model).items()}

    def micro_batch(
        self,
        model: Any,
        units: list[Unit],
        counts: Mapping[str, int],
        statistics: Mapping[str, Tensor] | None = None,
        seen: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The terms' losses on some units of a step whose effective counts are given.

        ``seen`` gathers the watched streams' (summed log-prob, number of tokens).
        """
        answers = self._answers(model, units)
        if seen is not None:
            self._watch(answers, seen)
        return {
            name: weighted_sum(
                weighted.term,
                kinds,
                weight=weighted.weight,
                count=counts[name],
                settings=weighted.settings,
                statistic=(statistics or {}).get(name),
            )
            for stream, kinds in answers.items()
            for name, weighted in self._named(stream)
        }

    def _watch(self, answers: Answers, seen: dict[str, Tensor]) -> None:
        for stream in self.watch & answers.keys():
            values = answers[stream]["answer"]
            both = torch.stack([values.logps.detach().sum(), values.num_tokens.sum().to(values.logps.dtype)])
            seen[stream] = seen[stream] + both if stream in seen else both

    def _answers(self, model: Any, units: list[Unit]) -> Answers:
        """One forward pass over the units, sorted into streams and kinds of answer."""
        groups = _group(units)
        sequences = [unit.answers[kind] for (_, kind), members in groups.items() for unit in members]
        rows = labelled_rows(model, sequences, packed=self.packed, layer=self.layer, head=self.head, prefix=self.prefix)
        parts = rows.parts([len(members) for members in groups.values()])
        answers: dict[str, dict[str, AnswerValues]] = {}
        for ((stream, kind), members), part in zip(groups.items(), parts, strict=True):
            answers.setdefault(stream, {})[kind] = self._values(stream, kind, members, part)
        return answers

    def _values(self, stream: str, kind: str, members: list[Unit], rows: LabelledRows) -> AnswerValues:
        needs = frozenset().union(*(weighted.term.needs for weighted in self.terms[stream]))
        sequences = [unit.answers[kind] for unit in members]
        device = rows.labels.device
        nothing = rows.labels.new_empty(0, dtype=torch.float32)
        return AnswerValues(
            logits=rows.logits,
            per_token_logps=rows.per_token_logps if self.head else nothing,
            logps=rows.logps if self.head else nothing,
            num_tokens=rows.num_tokens,
            reference_logps=self.reference.sequence_logps(sequences, device) if "reference_logps" in needs else None,
            reference_logits=partial(self.reference.logits, sequences) if "reference_logits" in needs else None,
            labels=rows.labels,
            sequence=rows.sequence,
            hidden=rows.hidden,
            reference_hidden=(self.reference.layer_states(sequences, device) if "reference_hidden" in needs else None),
            random=_random(members, sequences).to(device) if "random" in needs else None,
            gates=_all_gates(rows) if "gates" in needs else None,
        )


def _all_gates(rows: LabelledRows) -> Tensor:
    if rows.gates is None:
        raise RecipeError(
            "scope gated edits blocks above the one that the hidden-state terms read, where nothing teaches them; "
            "raise unlearn.layer to the last gated block, or lower the scope's layers"
        )
    return rows.gates


def _num_tokens(unit: Unit) -> int:
    return sum(len(sequence.ids) for sequence in unit.answers.values())


def _random(members: list[Unit], sequences: list[TokenSequence]) -> Tensor:
    """One integer a label: the same whatever micro-batch the row falls into."""
    draws = [
        np.random.default_rng(unit.entropy).integers(0, 2**62, size=sequence.num_labels)
        for unit, sequence in zip(members, sequences, strict=True)
    ]
    return torch.from_numpy(np.concatenate(draws))


def _group(units: list[Unit]) -> dict[tuple[str, str], list[Unit]]:
    """Units by (stream, kind of answer), so that each group's sequences stand together."""
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        for kind in unit.answers:
            groups.setdefault((unit.stream, kind), []).append(unit)
    return groups
