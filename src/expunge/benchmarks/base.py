"""What a benchmark hands to the rest of the house: which rows to learn, forget, keep and test."""

from __future__ import annotations

from dataclasses import dataclass, field

from expunge.data.rows import Row, rows_hash


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The sets of one unlearning problem.

    Training sets: the *target* model is finetuned on ``forget + retain``, the *retain model* on ``retain`` alone, and
    unlearning sees ``forget`` and ``retain``. ``holdout`` is never trained on by any of them.
    ``probes`` are the test rows by set name (``forget``, ``retain``, ``holdout``, ``real_authors`` ...); their rows may
    carry paraphrases and perturbed answers.
    """

    name: str
    forget: tuple[Row, ...]
    retain: tuple[Row, ...] = ()
    holdout: tuple[Row, ...] = ()
    probes: dict[str, tuple[Row, ...]] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    """Refusal sentences for the ``refusal`` data view; empty means the built-in list."""
    utility_sets: tuple[str, ...] = ()
    """Probe sets besides ``retain`` that model utility averages over."""
    origin: str = ""
    """Where the rows came from: a folder, a Hub id with its revision, or ``built in``."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every set, keyed by ``forget``, ``retain``, ``holdout`` and ``probe:<name>``."""
        sets = {"forget": self.forget, "retain": self.retain, "holdout": self.holdout}
        sets |= {f"probe:{name}": rows for name, rows in self.probes.items()}
        return {name: rows_hash(rows) for name, rows in sets.items()}
