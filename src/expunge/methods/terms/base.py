"""What a term of the objective is: a loss, the unit it is normalised by, and what it needs to be legal.

A term sees numbers, never a model, a batch or a trainer. Its sum over a micro-batch is divided by the unit's count over
the whole effective batch, so that 1 x 8 and 8 x 1 are the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from expunge.errors import RecipeError, nearest

Unit = Literal["tokens", "sequences"]
Setting = bool | float | str


@dataclass(frozen=True)
class AnswerValues:
    """What a forward pass says of one kind of answer (the gold ones, or the alternates) of B rows, N labels in all."""

    logits: Tensor
    """``(N, V)`` on labelled rows; empty where no term of the run reads the head. The backward pass leaves the gradient
    in their place."""
    per_token_logps: Tensor
    """``(N,)``."""
    logps: Tensor
    """``(B,)`` sums."""
    num_tokens: Tensor
    """``(B,)``."""
    reference_logps: Tensor | None = None
    """``(B,)``, where the term needs it."""
    reference_logits: Callable[[], Tensor] | None = None
    """Gives ``(N, V)``, where the term needs it; called late so that it lives shortly."""
    labels: Tensor | None = None
    """``(N,)`` token ids."""
    sequence: Tensor | None = None
    """``(N,)`` which of the B rows a label belongs to; ascending."""
    hidden: Tensor | None = None
    """``(N, d)`` output of the run's layer at the positions that predict the labels, where a term needs it."""
    reference_hidden: Tensor | None = None
    """``(N, d)`` the same under the starting model, where the term needs it."""
    random: Tensor | None = None
    """``(N,)`` integers in ``[0, 2**62)``, a pure function of seed, step, row and position, where the term needs it."""
    gates: Tensor | None = None
    """``(B, L)`` logits of the gates of a gated scope, where the term needs them."""


@dataclass(frozen=True)
class Term:
    """One summand of the objective."""

    key: str
    side: Literal["forget", "retain"]
    unit: Unit
    needs: frozenset[str]
    """Of ``answer``, ``alternate`` (by data views), ``reference_logps``, ``reference_logits``, ``hidden``,
    ``reference_hidden``, ``random``, ``retain``, ``gates`` (by the gated scope)."""
    loss_sum: Callable[..., Tensor]
    """``(answers by kind, **settings) -> scalar``, summed over the unit."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Hyperparameters with their defaults."""
    source: str = ""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Allowed values of the settings that are words."""
    positive: tuple[str, ...] = ("beta",)
    """Settings that must be above 0."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Lowest allowed value of the settings that may be 0, or that count something."""
    whole: tuple[str, ...] = ()
    """Settings that are whole numbers."""
    kept: Callable[..., int] | None = None
    """``(labels of one answer, **settings) -> int``: how many of them the loss reads, where it does not read all."""
    head: bool = True
    """Whether it reads logits or log-probs; a run none of whose terms does never computes above its layer."""
    statistic_sum: Callable[..., Tensor] | None = None
    """``(answers by kind, **settings) -> scalar``: a sum whose mean over the effective batch the loss wants as its
    argument ``statistic``; it costs a pass without gradients before each step."""

    @property
    def counted(self) -> str:
        """The kind of answer whose tokens or sequences are counted."""
        return "answer" if "answer" in self.needs else "alternate"

    def amount(self, num_labels: int, settings: Mapping[str, Setting]) -> int:
        """What one answer of so many labels adds to the unit's count."""
        if self.unit == "sequences":
            return 1
        return self.kept(num_labels, **settings) if self.kept else num_labels

    def resolve(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        """Defaults overridden by ``given``, which holds this term's settings alone.

        Raises:
            RecipeError: for a value that a setting cannot take.
        """
        return {**self.settings, **{name: self._checked(name, value) for name, value in given.items()}}

    def _checked(self, name: str, value: Setting) -> Setting:
        default = self.settings[name]
        number = isinstance(value, int | float)
        if isinstance(default, bool):
            if value not in (0, 1):
                raise RecipeError(f"term.{name} must be true or false, got {value!r}")
            return bool(value)
        if isinstance(default, str):
            allowed = self.choices.get(name, (value,))
            if value not in allowed:
                hint = nearest(str(value), map(str, allowed))
                raise RecipeError(f"term.{name} must be one of {', '.join(map(str, allowed))}, got {value!r}{hint}")
        elif not number:
            raise RecipeError(f"term.{name} must be a number, got {value!r}")
        if name in self.positive and not (isinstance(value, int | float) and value > 0):
            raise RecipeError(f"term.{name} must be above 0, got {value}")
        self._check_least(name, value)
        return value

    def _check_least(self, name: str, value: Setting) -> None:
        if name in self.least and not (isinstance(value, int | float) and value >= self.least[name]):
            raise RecipeError(f"term.{name} must be at least {self.least[name]:g}, got {value}")
        if name in self.whole and not float(value).is_integer():
            raise RecipeError(f"term.{name} must be a whole number, got {value}")


@dataclass(frozen=True)
class WeightedTerm:
    """A term with its weight and all its hyperparameters."""

    term: Term
    weight: float
    settings: Mapping[str, Setting]


def forget_term(
    key: str, unit: Unit, needs: set[str], loss: Callable[..., Tensor], source: str, **settings: Setting
) -> Term:
    """A term of the forget side."""
    return Term(key, "forget", unit, frozenset(needs), loss, settings, source)


def weighted_sum(
    term: Term,
    answers: Mapping[str, AnswerValues],
    *,
    weight: float,
    count: int,
    settings: Mapping[str, Setting],
    statistic: Tensor | None = None,
) -> Tensor:
    """``weight * sum / count``: a micro-batch's share of a term normalised over the effective batch.

    Args:
        term: which one.
        answers: values by kind of answer.
        weight: gamma for the forget side, alpha for the retain side, times the term's own share.
        count: tokens or sequences of the *effective* batch; 0 where a term skips them all, and its sum is 0.
        settings: all hyperparameters of the term.
        statistic: the effective batch's mean that the term asked for.
    """
    extra = {} if statistic is None else {"statistic": statistic}
    return term.loss_sum(answers, **settings, **extra) * (weight / max(count, 1))
