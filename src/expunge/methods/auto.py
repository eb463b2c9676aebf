"""The method that ``auto`` stands for: one for each situation. docs/unlearn.md says what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from expunge.recipe import UnlearnPart

AUTO = "auto"


@dataclass(frozen=True)
class Situation:
    """What the choice of a method depends on."""

    retain: bool = True
    """Whether there are rows to keep."""
    to_4bit: bool = False
    """Whether what is made will be stored in 4 bits."""


@dataclass(frozen=True)
class Default:
    """The method for a situation, and why."""

    method: str
    reason: str


_FOR_4_BITS = Default("sure", "its large steps on few rows of the weights are made to outlast rounding")
_OTHERWISE = Default("satimp", "the fact goes and the wording around it stays")


def default_for(situation: Situation) -> Default:
    """The method for a situation."""
    return _FOR_4_BITS if situation.to_4bit and situation.retain else _OTHERWISE


def settled(part: UnlearnPart, situation: Situation) -> UnlearnPart:
    """The part with the method that ``auto`` stands for in place of what it was chosen by.

    One that names its method stays as it is.
    """
    if part.method != AUTO:
        return part
    return replace(part, method=default_for(situation).method, to_4bit=False)
