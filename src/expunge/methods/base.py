"""A method: one composition with a name, a paper and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """A published point in forget term x retain term x data view, as a preset."""

    key: str
    title: str
    forget: str
    """Key of the forget term."""
    retain: Literal["none", "nll", "kl"] = "none"
    """Key of the retain term."""
    retain_needed: bool = True
    """Whether a run without retain rows is refused; otherwise the retain term is dropped, visibly."""
    view: str = "gold"
    """Key of the data view."""
    gamma: float = 1.0
    """Weight of the forget term."""
    alpha: float = 1.0
    """Weight of the retain term."""
    settings: Mapping[str, float] = field(default_factory=dict)
    """Hyperparameters of the forget term that differ from the term's own defaults."""
    lr_factor: float = 1.0
    """Multiplies the learning rate that suits the scope and the model's size."""
    epochs: float = 5.0
    """Passes over the forget set."""
    paper: str
    """Authors, year, arXiv number."""
    section: str
    """Where in the paper, or in which code base, the composition and its defaults stand."""
    claim: Literal["forgets", "keeps", "control"] = "forgets"
    """What the method is said to do, and its test must show."""
