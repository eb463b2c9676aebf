"""What a gradient rule is: settings, a place in the one order, and hooks that the step calls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from expunge.errors import RecipeError

if TYPE_CHECKING:
    from expunge.training.objective import Objective
    from expunge.training.streams import Streams

Gradient = dict[str, Tensor]
"""By parameter name, at least float32; a parameter that is missing has a gradient of zero."""


@dataclass
class Memory:
    """What a rule keeps from step to step, and what it says about the last one."""

    state: dict[str, Tensor] = field(default_factory=dict)
    """Goes into every resume point."""
    numbers: dict[str, float] = field(default_factory=dict)
    """Of one step, for the log."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule's settings are its fields; every hook does nothing unless a rule says otherwise.

    A rule changes no settings of its own: what it must remember lives in the :class:`Memory` that each hook is given.
    """

    key: ClassVar[str]
    place: ClassVar[int]
    """Rules act in ascending order of it, however a recipe orders them."""
    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    """Streams without which it is refused."""
    splits: ClassVar[bool] = True
    """Whether it wants the forget and the retain gradient apart."""
    exact: ClassVar[bool] = False
    """Whether it moves weights by so little that lower precision rounds it away."""

    def begin(self, memory: Memory, objective: Objective, model: Any, streams: Streams) -> None:
        """Set the memory up at the starting weights, before the first step."""

    def weights(self, memory: Memory) -> Mapping[str, float]:
        """Factors on whole streams' losses for the coming step, by stream."""
        return {}

    def displacement(self, forget: Gradient) -> Gradient:
        """How far to move the weights before the forget gradient is taken again; empty for not at all."""
        return {}

    def combine(self, memory: Memory, forget: Gradient, retain: Gradient) -> Gradient:
        """The forget gradient to go on with; it may change ``forget`` in place, and never ``retain``."""
        return forget

    def drops_retain(self) -> bool:
        """Whether the retain gradient only constrains, and is left out of the step."""
        return False

    def end(self, memory: Memory, losses: Mapping[str, float]) -> None:
        """Look at the step's losses by stream, without this step's :meth:`weights`."""


def require_in(rule: str, name: str, value: float, low: float, high: float = math.inf, *, closed: bool = False) -> None:
    """Refuse a setting outside ``(low, high]``, or ``[low, high]`` if ``closed``; infinity is always outside.

    Raises:
        RecipeError: with the range.
    """
    if (value == low and closed) or low < value <= min(high, math.nextafter(math.inf, 0)):
        return
    floor = f"{'at least' if closed else 'above'} {low:g}"
    allowed = f"{floor} and finite" if high == math.inf else f"{floor} and at most {high:g}"
    raise RecipeError(f"gradient rule {rule}: {name} must be {allowed}, got {value}")


def dot(left: Gradient, right: Gradient) -> float:
    """Inner product over all parameters jointly; each tensor is summed in its own precision, the sums in float64."""
    return math.fsum(float((left[name] * right[name]).sum()) for name in left.keys() & right.keys())


def running_mean(memory: Memory, gradient: Gradient, newest: float) -> Gradient:
    """``newest * gradient + (1 - newest) * mean so far``, from zero.

    It is all that the memory holds, and not even that where there is no past to it (``newest`` is 1). It starts out too
    short by a common factor, to which neither a direction nor a sign minds.
    """
    if newest == 1:
        return gradient
    for mean in memory.state.values():
        mean.mul_(1 - newest)
    for name, value in gradient.items():
        if _MEAN + name not in memory.state:
            memory.state[_MEAN + name] = torch.zeros_like(value)
        memory.state[_MEAN + name].add_(value, alpha=newest)
    return {name.removeprefix(_MEAN): mean for name, mean in memory.state.items()}


_MEAN = "mean/"


def trained(model: Any) -> dict[str, Tensor]:
    """Trainable parameters by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def take_gradient(parameters: Mapping[str, Tensor]) -> Gradient:
    """Move the gradient out of ``.grad``, which is empty afterwards."""
    taken = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    for parameter in parameters.values():
        parameter.grad = None
    return {name: gradient if gradient.dtype == torch.float64 else gradient.float() for name, gradient in taken.items()}


def put_gradient(parameters: Mapping[str, Tensor], gradients: Sequence[Gradient]) -> None:
    """Write the sum of gradients into ``.grad``; a parameter that none of them names keeps none."""
    for name, parameter in parameters.items():
        shares = [gradient[name] for gradient in gradients if name in gradient]
        if shares:
            # Summed before it is rounded to the parameter's own precision.
            parameter.grad = sum(shares[1:], start=shares[0]).to(parameter.dtype)
