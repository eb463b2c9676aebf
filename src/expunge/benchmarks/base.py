"""What a benchmark hands to the rest of the house: which rows to learn, forget, keep and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from expunge.data.lazy import joined
from expunge.data.rows import Row, rows_hash
from expunge.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class AnswerLimit:
    """How a benchmark generates answers to one of its sets."""

    max_new_tokens: int | None = None
    """Longest answer, where it is shorter than the run's own limit."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; what follows them is cut off."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What the model itself is asked to write, where a benchmark names what must go and has no rows about it."""

    requests: tuple[str, ...]
    """They take turns until there are enough texts."""
    texts: int
    """How many are wanted."""
    max_new_tokens: int = 512
    """Longest text."""
    temperature: float = 1.0
    """Of the draws."""
    keep_requests: bool = False
    """The request becomes the row's prompt; otherwise the row is raw text."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The sets of one unlearning problem.

    Training sets: the *target* model is finetuned on ``forget + retain``, the *retain model* on ``retain`` alone, and
    unlearning sees ``forget`` and ``retain``. ``holdout`` is never trained on by any of them. Sets are tuples, or where
    they are too large for memory lie on disk (:mod:`expunge.data.stored`).
    ``probes`` are the test rows by set name (``forget``, ``retain``, ``holdout``, ``real_authors`` ...); their rows may
    carry paraphrases and perturbed answers.
    """

    name: str
    forget: Sequence[Row]
    retain: Sequence[Row] = ()
    holdout: Sequence[Row] = ()
    learnt: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """What finetuning learns besides the training sets: its ``forget`` rows are learnt by the target model alone, its
    ``retain`` rows by the retain model too. Unlearning sees neither; they are there to be probed."""
    probes: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    """Refusal sentences for the ``refusal`` data view; empty means the built-in list."""
    pool: tuple[str, ...] = ()
    """Answers that the ``mismatch`` data view draws from; empty means those of the retain rows."""
    writing: Writing | None = None
    """Where ``forget`` is empty: what the model to be unlearned writes first, to become the forget rows."""
    utility_sets: tuple[str, ...] = ()
    """Probe sets besides ``retain`` that model utility averages over."""
    suites: tuple[str, ...] = ()
    """Suites of metrics that belong to it, besides those that every benchmark gets."""
    limits: dict[str, AnswerLimit] = field(default_factory=dict)
    """By probe set, where answers are not generated as the run says."""
    origin: str = ""
    """Where the rows came from: a folder, a Hub id with its revision, or ``built in``."""
    notes: tuple[str, ...] = ()
    """What the user should know of these sets; said once they are loaded."""

    def target_rows(self) -> Sequence[Row]:
        """What the target model is finetuned on."""
        return joined(self.forget, self.retain, self.learnt.get("forget", ()), self.learnt.get("retain", ()))

    def retain_rows(self) -> Sequence[Row]:
        """What the retain model is finetuned on."""
        return joined(self.retain, self.learnt.get("retain", ()))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every set: ``forget``, ``retain``, ``holdout``, ``learnt:<name>`` and ``probe:<name>``."""
        sets = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        sets |= {f"learnt:{name}": rows for name, rows in self.learnt.items()}
        sets |= {f"probe:{name}": rows for name, rows in self.probes.items()}
        return {name: rows_hash(rows) for name, rows in sets.items()}


def with_probes_of(benchmark: Benchmark, other: Benchmark) -> Benchmark:
    """The benchmark, with the probe sets and suites of another one beside its own; training is not touched.

    Raises:
        RecipeError: the other one has nothing to probe, or a probe set of a name that is taken.
    """
    if not other.probes:
        raise RecipeError(f"data.also: {other.name} has no probe sets")
    if taken := sorted(set(benchmark.probes) & set(other.probes)):
        raise RecipeError(
            f"data.also: {other.name} and {benchmark.name} both have probe sets called {', '.join(taken)}; "
            "evaluate one of them by itself"
        )
    return replace(
        benchmark,
        probes={**benchmark.probes, **other.probes},
        suites=tuple(dict.fromkeys((*benchmark.suites, *other.suites))),
        limits=benchmark.limits | other.limits,
        origin="; ".join((benchmark.origin, other.origin)),
        notes=(*benchmark.notes, *other.notes),
    )
