"""How requests that came one after the other share a model: what each starts from, and what makes up the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expunge.errors import UserError, unknown
from expunge.requests.ledger import Application


@dataclass(frozen=True)
class Strategy:
    """One way to carry out requests in sequence."""

    key: str
    about: str
    from_base: bool
    """Whether every application starts from the base model; otherwise from the result of the one before."""


STRATEGIES = {
    strategy.key: strategy
    for strategy in (
        Strategy("chain", "each request starts from the model that the one before it left", from_base=False),
        Strategy("compose", "each request trains a gated adapter on the base model; they answer side by side", True),
        Strategy("merge", "each request starts from the base model; what each changed is added up", True),
    )
}


def strategy_for(key: str, live: Sequence[Application]) -> Strategy:
    """The strategy of this name, if the applications that the model rests on were made the same way.

    Raises:
        UserError: an unknown name, or a mixture.
    """
    if key not in STRATEGIES:
        raise UserError(unknown("strategy", key, STRATEGIES))
    before = {application.strategy for application in live}
    if before - {key}:
        raise UserError(
            f"the model rests on requests carried out by strategy {', '.join(sorted(before))!s}; go on with it, or "
            f"begin another ledger for {key}"
        )
    return STRATEGIES[key]


def undone_with(request: int, live: Sequence[Application]) -> tuple[Application, ...]:
    """Live applications that can no longer stand when a request is revoked: its own, and those trained on top of it."""
    own = [at for at, application in enumerate(live) if request in application.requests]
    if not own:
        return ()
    chained = not STRATEGIES[live[own[0]].strategy].from_base
    return tuple(live[own[0] :]) if chained else (live[own[0]],)
