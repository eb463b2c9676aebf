"""The plain way's losses, written anew from their formulas, so that equal numbers say something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain_forward import Answer
from expunge.errors import RecipeError
from expunge.methods.terms.representation import rmu_direction


@dataclass(frozen=True)
class Stream:
    """The answers of one stream in one step, by kind (``answer``, ``alternate``)."""

    policy: Mapping[str, Answer]
    reference: Mapping[str, Answer]
    """The same under the frozen copy of the model; empty where no term asks it."""


def _nll(stream: Stream) -> Tensor:
    return stream.policy["answer"].nll


def _ga(stream: Stream) -> Tensor:
    return -stream.policy["answer"].nll


def _log_ratio(stream: Stream, kind: str) -> Tensor:
    return stream.policy[kind].logps - stream.reference[kind].logps


def _npo(stream: Stream, beta: float) -> Tensor:
    return -(2 / beta) * F.logsigmoid(-beta * _log_ratio(stream, "answer")).mean()


def _dpo(stream: Stream, beta: float) -> Tensor:
    preference = _log_ratio(stream, "alternate") - _log_ratio(stream, "answer")
    return -(2 / beta) * F.logsigmoid(beta * preference).mean()


def _kl(stream: Stream) -> Tensor:
    policy, reference = stream.policy["answer"], stream.reference["answer"]
    spoken, expected = (a.logits.float().log_softmax(-1) for a in (policy, reference))
    per_token = F.kl_div(spoken, expected, log_target=True, reduction="none").sum(-1)
    return per_token[policy.labelled].mean()


def _flat(stream: Stream, divergence: str, score: str, **legacy: bool) -> Tensor:
    if (divergence, score) != ("tv", "arithmetic") or any(legacy.values()):
        raise RecipeError("the plain way of FLAT knows total variation of mean probabilities alone")
    template, forget = (_mean_probability(stream.policy[kind]) for kind in ("alternate", "answer"))
    return 0.5 * (forget.tanh() - template.tanh()).mean()


def _mean_probability(answer: Answer) -> Tensor:
    return (answer.token_logps.exp() * answer.labelled).sum(-1) / answer.lengths


def _rmu(stream: Stream, steering_coeff: float, direction_seed: float) -> Tensor:
    states = _labelled_states(stream.policy["answer"])
    target = steering_coeff * rmu_direction(direction_seed, states.shape[-1]).to(states.device)
    return (states.float() - target).square().mean(-1).mean()


def _hidden_mse(stream: Stream) -> Tensor:
    states, before = (_labelled_states(side["answer"]) for side in (stream.policy, stream.reference))
    return (states.float() - before.float()).square().mean(-1).mean()


def _labelled_states(answer: Answer) -> Tensor:
    """``(N, d)``."""
    assert answer.hidden is not None
    return answer.hidden[answer.labelled]


def _gate(stream: Stream) -> Tensor:
    return F.softplus(-_gate_logits(stream)).mean(-1).mean()


def _gate_retain(stream: Stream) -> Tensor:
    return F.softplus(_gate_logits(stream)).mean(-1).mean()


def _gate_logits(stream: Stream) -> Tensor:
    gates = next(iter(stream.policy.values())).gates
    assert gates is not None
    return gates.float()


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "nll": _nll,
    "ga": _ga,
    "npo": _npo,
    "dpo": _dpo,
    "kl": _kl,
    "flat": _flat,
    "rmu": _rmu,
    "hidden_mse": _hidden_mse,
    "gate": _gate,
    "gate_retain": _gate_retain,
}
"""By the key of the term: means over a whole batch."""


def plain_loss(key: str, stream: Stream, settings: Mapping[str, Any]) -> Tensor:
    """The mean loss of a term.

    Raises:
        RecipeError: for a term that has no plain form here.
    """
    if key not in LOSSES:
        raise RecipeError(f"term {key!r} has no plain form to compare with; known: {', '.join(LOSSES)}")
    return LOSSES[key](stream, **settings)
