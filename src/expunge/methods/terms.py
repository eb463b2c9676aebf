"""Terms of the objective: a loss, the unit it is normalised by, and what it needs to be legal.

A term sees numbers, never a model, a batch or a trainer. Its sum over a micro-batch is divided by the unit's count over
the whole effective batch, so that 1 x 8 and 8 x 1 are the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from expunge.errors import RecipeError, nearest
from expunge.losses import dpo_loss, ga_loss, kl_divergence_loss, nll_loss, npo_loss, simnpo_loss

Unit = Literal["tokens", "sequences"]


@dataclass(frozen=True)
class AnswerValues:
    """What a forward pass says of one kind of answer (the gold ones, or the alternates) of B rows."""

    logits: Tensor
    """``(N, V)`` on labelled rows."""
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


@dataclass(frozen=True)
class Term:
    """One summand of the objective."""

    key: str
    side: Literal["forget", "retain"]
    unit: Unit
    needs: frozenset[str]
    """Of ``answer``, ``alternate`` (by data views), ``reference_logps``, ``reference_logits``, ``retain``."""
    loss_sum: Callable[..., Tensor]
    """``(answers by kind, **settings) -> scalar``, summed over the unit."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Hyperparameters with their defaults."""
    source: str = ""

    @property
    def counted(self) -> str:
        """The kind of answer whose tokens or sequences are counted."""
        return "answer" if "answer" in self.needs else "alternate"

    def resolve(self, given: Mapping[str, float]) -> dict[str, float]:
        """Defaults overridden by ``given``.

        Raises:
            RecipeError: for a setting that this term does not have.
        """
        for name in given:
            if name not in self.settings:
                known = ", ".join(sorted(self.settings)) or "none"
                raise RecipeError(
                    f"term {self.key!r} has no setting {name!r}{nearest(name, self.settings)}; it has: {known}"
                )
        return {**self.settings, **given}


def _npo(answers: Mapping[str, AnswerValues], beta: float) -> Tensor:
    values = answers["answer"]
    assert values.reference_logps is not None
    return npo_loss(values.logps, values.reference_logps, beta=beta, reduction="sum")


def _simnpo(answers: Mapping[str, AnswerValues], beta: float, delta: float) -> Tensor:
    values = answers["answer"]
    return simnpo_loss(values.logps, values.num_tokens, beta=beta, delta=delta, reduction="sum")


def _dpo(answers: Mapping[str, AnswerValues], beta: float) -> Tensor:
    chosen, rejected = answers["alternate"], answers["answer"]
    assert chosen.reference_logps is not None
    assert rejected.reference_logps is not None
    return dpo_loss(
        chosen.logps, chosen.reference_logps, rejected.logps, rejected.reference_logps, beta=beta, reduction="sum"
    )


def _kl(answers: Mapping[str, AnswerValues]) -> Tensor:
    values = answers["answer"]
    assert values.reference_logits is not None
    return kl_divergence_loss(values.logits, values.reference_logits(), reduction="sum")


def _forget(key: str, unit: Unit, needs: set[str], loss: Callable[..., Tensor], source: str, **settings: float) -> Term:
    return Term(key, "forget", unit, frozenset(needs), loss, settings, source)


FORGET_TERMS: dict[str, Term] = {
    term.key: term
    for term in (
        _forget(
            "ga", "tokens", {"answer"}, lambda a: ga_loss(a["answer"].per_token_logps, reduction="sum"),
            "Jang et al., 2023",
        ),
        _forget("npo", "sequences", {"answer", "reference_logps"}, _npo, "Zhang et al., 2024", beta=0.1),
        _forget("simnpo", "sequences", {"answer"}, _simnpo, "Fan et al., 2024", beta=4.5, delta=0.0),
        _forget(
            "dpo", "sequences", {"answer", "alternate", "reference_logps"}, _dpo,
            "Rafailov et al., 2023; IdkDPO in TOFU", beta=0.1,
        ),
        _forget(
            "idk", "tokens", {"alternate"}, lambda a: nll_loss(a["alternate"].per_token_logps, reduction="sum"),
            "preference optimisation in TOFU (Maini et al., 2024)",
        ),
    )
}  # fmt: skip

RETAIN_TERMS: dict[str, Term] = {
    "nll": Term(
        "nll", "retain", "tokens", frozenset({"answer", "retain"}),
        lambda a: nll_loss(a["answer"].per_token_logps, reduction="sum"), {}, "GDR",
    ),
    "kl": Term("kl", "retain", "tokens", frozenset({"answer", "retain", "reference_logits"}), _kl, {}, "KLR"),
}  # fmt: skip


def weighted_sum(
    term: Term,
    answers: Mapping[str, AnswerValues],
    *,
    weight: float,
    count: int,
    settings: Mapping[str, float],
) -> Tensor:
    """``weight * sum / count``: a micro-batch's share of a term normalised over the effective batch.

    Args:
        term: which one.
        answers: values by kind of answer.
        weight: gamma for the forget term, alpha for the retain term.
        count: tokens or sequences of the *effective* batch, at least 1.
        settings: all hyperparameters of the term.
    """
    return term.loss_sum(answers, **settings) * (weight / count)
