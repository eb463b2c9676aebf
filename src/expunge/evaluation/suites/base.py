"""A suite: the metrics of one benchmark or paper, and the measures that fill the columns they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.benchmarks.base import AnswerLimit
from expunge.data.rows import Row
from expunge.evaluation.judges.base import Judges
from expunge.evaluation.metrics import Columns, Metric, MetricValue, Scores, TokenScores
from expunge.models.load import LoadedModel


@dataclass(frozen=True)
class Probe:
    """One probe set and what one model made of it: all that a measure may read."""

    name: str
    rows: Sequence[Row]
    gold: tuple[TokenScores, ...]
    """The teacher-forced pass over each row's answer."""
    generations: tuple[str, ...] | None
    """The model's answers, in row order; None where none were generated."""
    loaded: LoadedModel
    judges: Judges
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The measure's own settings, from ``evaluate.measures.<key>``."""
    seed: int = 0
    limit: AnswerLimit = field(default_factory=AnswerLimit)
    """How the answers were generated, for measures that generate others."""

    @property
    def prompts(self) -> list[str]:
        """What was asked, in row order."""
        return [row.prompt for row in self.rows]

    @property
    def answers(self) -> list[str]:
        """The reference answers, in row order."""
        return [row.answer for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Something that fills columns of a set beyond what the scoring and the generation pass give by themselves."""

    key: str
    columns: tuple[str, ...]
    """What it fills; each column has a value or NaN per row."""
    function: Callable[[Probe], Columns]
    sets: tuple[str, ...] | None = None
    """Sets it looks at; None: all."""
    fits: Callable[[Sequence[Row]], bool] | None = None
    """Whether it finds anything to measure in a set's rows; None: always."""
    needs_generation: bool = True
    """Left out where nothing was generated."""
    roles: tuple[str, ...] = ()
    """Judges it asks."""
    asks: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Judges it asks only where a setting has a value, both by role: ``{"entailment": ("judge", "entailment")}``. Its
    function runs in every process, and sees to it that the first one alone asks."""
    cost: str = ""
    """What it costs beyond the two passes, said before it runs: ``one backward pass per row``. Empty: text work."""
    settings: tuple[str, ...] = ()
    """Keys of ``evaluate.measures.<key>`` that it reads."""
    read: Callable[[Mapping[str, Any]], object] | None = None
    """Reads these settings as its function does, and raises :class:`RecipeError` for what it does not allow."""

    def judges(self, settings: Mapping[str, Any]) -> set[str]:
        """The roles that it asks under these settings."""
        return {*self.roles, *(role for role, (key, value) in self.asks.items() if settings.get(key) == value)}


def has_choices(rows: Sequence[Row]) -> bool:
    """Whether any row is a multiple-choice question."""
    return any(row.choices for row in rows)


@dataclass(frozen=True, kw_only=True)
class JointMetrics:
    """Metrics that compare a model with the one before unlearning, on the same rows."""

    described: tuple[Metric, ...]
    """What each is; their functions are not called."""
    function: Callable[..., dict[str, MetricValue]]
    """``(scores, before, retain, *, utility_sets, num_resamples, seed)`` to the values, by key."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Metrics that belong together."""

    key: str
    title: str
    source: str
    """Paper or code."""
    metrics: Callable[[Sequence[str]], list[Metric]]
    """The metrics for the sets at hand; one whose set is not there is left out."""
    measures: tuple[Measure, ...] = ()
    joint: JointMetrics | None = None


def described(key: str, label: str, definition: str) -> Metric:
    """What a joint metric is, for tables; all of them are better the higher."""
    return Metric(key=key, label=label, definition=definition, higher_is_better=True, function=_elsewhere, needs={})


def _elsewhere(scores: Scores, reference: Scores | None) -> float:
    raise NotImplementedError("a joint metric is computed with the model before unlearning, not from one model's rows")
