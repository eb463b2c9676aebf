"""What an attack is: something done to a model or to its questions, and how much of the forget rows is known then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from expunge.benchmarks.base import AnswerLimit
from expunge.data.rows import Row
from expunge.evaluation.metrics import Columns, answer_columns
from expunge.evaluation.scorer import score_sequences
from expunge.models.load import LoadedModel
from expunge.progress import bar
from expunge.recipe import AttackPart

Opener = Callable[[], LoadedModel]
"""Loads the attacked model afresh: an attack may change it as it likes."""


UNLEARNED, ORIGINAL, REFERENCE = "unlearned", "original", "reference"
"""The three models: under test, before unlearning, and one that never saw the forget rows."""


@dataclass(frozen=True)
class Site:
    """Everything an attack may use besides the model."""

    forget: Sequence[Row]
    """What was to be forgotten, and is asked for."""
    retain: Sequence[Row] = ()
    """From the same source, and no secret."""
    kept: Sequence[Row] = ()
    """The retain rows that are looked at: whether the model still knows what it should."""
    holdout: Sequence[Row] = ()
    """From the same source, and never learnt by any of the models."""
    benign: Sequence[Row] = ()
    """Of something else altogether."""
    part: AttackPart = field(default_factory=AttackPart)
    seed: int = 0
    limit: AnswerLimit = field(default_factory=AnswerLimit)
    """How the benchmark generates answers to the forget rows."""
    role: str = UNLEARNED
    """Which of the three models is attacked."""
    others: Mapping[str, Opener] = field(default_factory=dict)
    """The models that were given, by role, for attacks that compare."""
    work: Path | None = None
    """A folder to leave resume points in."""
    title: str = "attack"


@dataclass(frozen=True)
class Found:
    """What is known of each forget row under an attack."""

    scores: np.ndarray
    """``(n,)`` in [0, 1]; NaN for a row that the attack does not ask for."""
    curve: Mapping[int, np.ndarray] = field(default_factory=dict)
    """The same after so many steps, for an attack that takes steps."""
    kept: np.ndarray = field(default_factory=lambda: np.empty(0))
    """``(m,)`` the same of ``site.kept``; empty unless looked at."""


@dataclass(frozen=True)
class Attack:
    """One attack."""

    key: str
    """``family:name``."""
    about: str
    run: Callable[[Opener, Site], Found]
    needs: tuple[str, ...] = ()
    """Sets of :class:`Site` that it reads besides ``forget``; empty ones rule it out."""
    models: tuple[str, ...] = ()
    """Roles of other models that it reads; one that was not given rules it out."""
    settings: tuple[str, ...] = ()
    """Fields of :class:`~expunge.recipe.AttackPart` that it reads besides ``pack_tokens``."""
    comparable: bool = True
    """Whether its scores are on the scale of the unattacked model's: the same answers, scored alike."""
    counts: bool = True
    """Whether its residual counts towards durability: not where it tells that rows were seen, and not what they say."""
    scored: str = "extraction strength: the share of an answer that the model finishes once the rest is given"
    """What its scores are."""


def knowledge(loaded: LoadedModel, rows: Sequence[Row], site: Site, *, shown: bool = True) -> np.ndarray:
    """``(n,)`` extraction strength of each row's answer, ``shown`` by a progress bar.

    ``1 - k / T``, where ``k`` of the answer's ``T`` tokens must be given before the model's likeliest continuation is
    the rest.
    """
    return row_columns(loaded, rows, site, shown=shown)["extraction_strength"]


def row_columns(loaded: LoadedModel, rows: Sequence[Row], site: Site, *, shown: bool = True) -> Columns:
    """Everything that one teacher-forced pass says of each row's answer, by column."""
    sequences = [loaded.format.encode(row) for row in rows]
    with bar(f"{site.title}: score") if shown else nullcontext() as update:
        scored = score_sequences(loaded, sequences, pack_tokens=site.part.pack_tokens, update=update)
    return answer_columns(scored, [row.answer for row in rows])
