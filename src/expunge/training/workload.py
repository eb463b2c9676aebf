"""How much a training computes: tokens and labels of its steps, and of the largest pass among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from expunge.data.tree import TokenSequence, count_unique_tokens, pack_units
from expunge.training.streams import Streams, Unit

SAMPLED_STEPS = 24
"""How many steps of a longer plan are looked at; they are spread evenly."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Forward passes over packed rows, all together."""

    passes: float
    tokens: float
    """Unique tokens."""
    labels: float
    """Rows that the head is asked for."""
    pairs: float
    """Token pairs that attention computes: each token, about as many as its sequence is long."""
    largest: tuple[int, int] = (0, 0)
    """Tokens and labels of the pass that needs most memory."""

    @classmethod
    def of_packs(cls, packs: Iterable[list[TokenSequence]]) -> Workload:
        """What passes over these packs compute."""
        found = list(packs)
        sizes = [(count_unique_tokens(pack), sum(s.num_labels for s in pack)) for pack in found]
        return cls(
            passes=len(sizes),
            tokens=sum(tokens for tokens, _ in sizes),
            labels=sum(labels for _, labels in sizes),
            pairs=sum(tokens * _mean_length(pack) for pack, (tokens, _) in zip(found, sizes, strict=True)),
            largest=max(sizes, default=(0, 0)),
        )

    def answers(self) -> Workload:
        """The share of it that computes answers alone: a node for each label, which sees what it saw."""
        share = self.labels / self.tokens if self.tokens else 0.0
        return replace(self, tokens=self.labels, pairs=self.pairs * share)

    def scaled(self, factor: float) -> Workload:
        """So many times as much; the largest pass stays what it is."""
        sums = {name: getattr(self, name) * factor for name in ("passes", "tokens", "labels", "pairs")}
        return replace(self, **sums)


def _mean_length(pack: list[TokenSequence]) -> float:
    """How long the sequence of a token is on average."""
    lengths = [len(s.ids) - 1 for s in pack]
    return sum(length**2 for length in lengths) / sum(lengths)


def sampled_units(streams: Streams) -> list[list[Unit]]:
    """The units of some steps, spread evenly over the plan; of all steps of a short one."""
    total = streams.plan.num_steps
    count = min(total, SAMPLED_STEPS)
    return [streams.units(number * total // count) for number in range(count)]


def training_load(steps: list[list[Unit]], num_steps: int, max_tokens: int) -> Workload:
    """What ``num_steps`` steps like these compute, cut into passes of at most ``max_tokens`` unique tokens."""
    packs: list[list[TokenSequence]] = []
    for units in steps:
        members = [list(unit.answers.values()) for unit in units]
        packs += [[s for i in pack for s in members[i]] for pack in pack_units(members, max_tokens)]
    return Workload.of_packs(packs).scaled(num_steps / len(steps) if steps else 0)


def reference_load(sequences: Iterable[TokenSequence], max_tokens: int) -> Workload:
    """What one pass over each sequence computes; equal ones are met once."""
    unique = list(dict.fromkeys(sequences))
    packs = pack_units([[s] for s in unique], max_tokens)
    return Workload.of_packs([[unique[i] for i in pack] for pack in packs])
