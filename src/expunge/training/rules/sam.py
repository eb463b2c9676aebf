"""SAM: the forget gradient where forgetting is undone most easily."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from expunge.training.rules.base import Gradient, Rule, dot, require_in


@dataclass(frozen=True, kw_only=True)
class Sam(Rule):
    """Sharpness-aware unlearning: take the forget gradient at the worst weights nearby.

    ``g_f = grad L_f(theta + rho g / ||g||)`` with ``g = grad L_f(theta)``, over all trainable parameters jointly; the
    retain gradient stays at theta, and the weights are put back bit by bit. It costs one more forward and backward
    pass over the forget rows, and a copy of the trainable weights.

    Source: Fan et al., 2025 (arXiv 2502.05374), smoothness by SAM, rho = 0.01.
    """

    key: ClassVar[str] = "sam"
    place: ClassVar[int] = 10
    needs: ClassVar[frozenset[str]] = frozenset({"forget"})
    exact: ClassVar[bool] = True

    rho: float = 0.01
    """Length of the displacement, above 0."""

    def __post_init__(self) -> None:
        require_in(self.key, "rho", self.rho, 0)

    def displacement(self, forget: Gradient) -> Gradient:
        """``rho g / ||g||``; nowhere, where there is no slope."""
        length = math.sqrt(dot(forget, forget))
        if not 0 < length < math.inf:
            return {}
        return {name: value * (self.rho / length) for name, value in forget.items()}
