"""From the rounds of a case to what is reported: equal losses first, then medians and ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Order

Answer = Mapping[str, Any]
"""What one process measured: the fields of ``Measured``."""
Round = Mapping[str, Answer]
"""One process of each side, by label, run one after the other."""

TOLERANCE = {"float32": 1e-4, "bf16": 2e-2}
"""Largest relative difference of a loss between two ways; right ones are a percent apart in bfloat16."""
NORM_FACTOR = 10
"""How many times that gradient norms may differ: they are sums of squares over every weight."""
COMPARED_STEPS = 3
"""The first losses, two updates among them, so that gradients are compared too."""
LEAST_EQUAL_ANSWERS = 0.95
"""Share of generated answers that must be the same text: a tie between two tokens may fall either way."""
RATE_SHAPE = "block"
"""The product whose rate the shares are of."""


def precision(order: Order) -> str:
    """``float32`` or ``bf16``: what can be compared with what."""
    return "bf16" if order.bf16 or order.dtype != "float32" else "float32"


def difference(case: Case, found: Round) -> str:
    """Why the sides of a round did not do the same work, in one line; empty where they did.

    A side is compared with the first one of its method and precision.
    """
    anchors: dict[tuple[str, str], str] = {}
    for label, order in case.sides.items():
        if label not in found:
            continue
        anchor = anchors.setdefault((order.method, precision(order)), label)
        if anchor != label and (reason := _differ(found[anchor], found[label], TOLERANCE[precision(order)])):
            return f"{label} against {anchor}: {reason}"
    return ""


def _differ(one: Answer, other: Answer, tolerance: float) -> str:
    for what, allowed in (("losses", tolerance), ("norms", NORM_FACTOR * tolerance)):
        left, right = one[what][:COMPARED_STEPS], other[what][:COMPARED_STEPS]
        if len(left) != len(right) or (worst := _worst(left, right)) > allowed:
            return f"{what} {_shown(left)} and {_shown(right)} differ by more than {allowed:g}"
    scores = one["scores"].keys() & other["scores"].keys()
    for name in sorted(scores):
        written = name.endswith("rougeL_recall")
        if not written and (worst := _worst([one["scores"][name]], [other["scores"][name]])) > tolerance:
            return f"{name} differs by {worst:.1e}, more than {tolerance:g}"
    share = equal_answers(one, other)
    return f"only {share:.0%} of the answers are the same" if share < LEAST_EQUAL_ANSWERS else ""


def _worst(left: Sequence[float], right: Sequence[float]) -> float:
    """Largest relative difference; infinite where a number is not finite."""
    pairs = list(zip(left, right, strict=True))
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        return math.inf
    return max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs if a != b), default=0.0)


def _shown(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"


def equal_answers(one: Answer, other: Answer) -> float:
    """Share of generated answers that are the same text; 1 where nothing was generated."""
    pairs = list(zip(one["answers"], other["answers"], strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """One side of a case over all its rounds."""

    label: str
    seconds: float
    """Median over rounds of the median timed step, or of the suite."""
    setup: float
    """Median seconds that a run pays once."""
    peak: float
    """Median of the most bytes held."""
    ratio: float
    """How many times faster than the first side: the median over rounds of the ratio within a round."""
    lowest: float
    highest: float
    """Range of that ratio over rounds."""
    all_in: float
    """The same ratio for a whole run, one-off costs and slow first steps included."""
    run_seconds: float
    """Median over rounds of a whole run."""
    memory: float
    """Peak over the first side's: median over rounds."""
    loss_error: float
    """Largest relative difference of a compared loss from the first side of its method and precision."""
    tokens_per_second: float
    """Useful tokens."""
    flops_per_second: float
    route: str
    parts: Mapping[str, float]
    """Median seconds of the suite's parts."""
    same_answers: float
    """Share of answers that are the first side's."""


def step_seconds(order: Order, answer: Answer) -> float:
    """Median of the timed steps."""
    return statistics.median(answer["seconds"][_untimed(order) :])


def _untimed(order: Order) -> int:
    return order.warmup if order.kind == "steps" else 0


def run_seconds(order: Order, answer: Answer) -> float:
    """``setup + sum of the steps taken + (planned - taken) * median step``: a whole run, saving left out."""
    if order.kind != "steps":
        return sum(answer["seconds"])
    left = max(order.run_steps - len(answer["seconds"]), 0)
    return answer["setup"] + sum(answer["seconds"]) + left * step_seconds(order, answer)


def summarise(case: Case, rounds: Sequence[Round]) -> list[Line]:
    """One line a side, in the case's order.

    Raises:
        ValueError: if there are no rounds.
    """
    if not rounds:
        raise ValueError(f"case {case.name} has no rounds")
    return [_line(case, rounds, label) for label in case.sides]


def _line(case: Case, rounds: Sequence[Round], label: str) -> Line:
    first = next(iter(case.sides))
    rounds = [found for found in rounds if label in found]
    order, base = case.sides[label], case.sides[first]
    anchor = next(name for name, other in case.sides.items() if _alike(order, other))
    seconds = [step_seconds(order, found[label]) for found in rounds]
    ratios = [step_seconds(base, found[first]) / own for found, own in zip(rounds, seconds, strict=True)]
    whole = [run_seconds(base, found[first]) / run_seconds(order, found[label]) for found in rounds]
    median, own = statistics.median, [found[label] for found in rounds]
    return Line(
        label=label,
        seconds=median(seconds),
        setup=median(answer["setup"] for answer in own),
        peak=median(answer["peak"] for answer in own),
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        all_in=median(whole),
        run_seconds=median(run_seconds(order, answer) for answer in own),
        memory=median(found[label]["peak"] / found[first]["peak"] for found in rounds),
        loss_error=max(_loss_error(found[anchor], found[label]) for found in rounds if anchor in found),
        tokens_per_second=own[0]["tokens"] / median(seconds),
        flops_per_second=own[0]["flops"] / median(seconds),
        route=own[0]["route"],
        parts={part: median(answer["parts"][part] for answer in own) for part in own[0]["parts"]},
        same_answers=min(equal_answers(found[first], found[label]) for found in rounds),
    )


def _alike(order: Order, other: Order) -> bool:
    return (order.method, precision(order)) == (other.method, precision(other))


def _loss_error(one: Answer, other: Answer) -> float:
    scores = sorted(one["scores"].keys() & other["scores"].keys())
    scores = [name for name in scores if not name.endswith("rougeL_recall")]
    left = [*one["losses"][:COMPARED_STEPS], *(one["scores"][name] for name in scores)]
    right = [*other["losses"][:COMPARED_STEPS], *(other["scores"][name] for name in scores)]
    return _worst(left, right)


def share_of_rate(line: Line, rates: Mapping[str, Mapping[str, float]], route: str | None = None) -> float | None:
    """Useful operations a second over this machine's rate by the side's own route, or another; None if not known."""
    rate = rates.get(route or line.route, {}).get(RATE_SHAPE)
    return line.flops_per_second / rate if rate and line.flops_per_second else None
