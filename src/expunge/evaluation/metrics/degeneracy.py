"""The guard beside every forget score: silence and babble must never read as good forgetting."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from expunge.evaluation.metrics.base import Caution, Metric, exponential, mean_column, nan_mean
from expunge.evaluation.metrics.tokens import Columns, Scores

EMPTY_SHARE = 0.05
"""Above this share of empty, looping or collapsed answers a score that falls with them is called into question."""
LOWEST_DISTINCT = 0.5
"""Below this share of different word pairs an answer is called repetitive; prose lies near 1."""
REWORDED = "forget_rephrased"
"""The set of the forget questions in wordings that were never trained."""
REWARDED = "this score takes that for forgetting"


def collapse_caution(
    scores: Scores, reference: Scores | None = None, *, names: Sequence[str], effect: str = REWARDED
) -> str:
    """Say that a score rewards collapse, where more than 5% of the answers are empty, loops or otherwise collapsed.

    Reads the columns ``empty``, ``distinct_2`` and ``collapsed`` of the named sets where they are there: a loop has
    under half of its word pairs different, and ``collapsed`` also sees one character over and over, which is no pair.
    Empty text: all is well.
    """
    found = [line for name in names for line in _signs(scores.get(name, {}), name)]
    return f"{'; '.join(found)}: {effect}" if found else ""


def _signs(columns: Columns, name: str) -> list[str]:
    empty, distinct, collapsed = (columns.get(c, np.empty(0)) for c in ("empty", "distinct_2", "collapsed"))
    found = []
    if (silent := nan_mean(empty)) > EMPTY_SHARE:
        found.append(f"{silent:.0%} of the {name} answers are empty")
    pairs, loops = nan_mean(distinct), nan_mean(1.0 * (distinct[~np.isnan(distinct)] < LOWEST_DISTINCT))
    if pairs < LOWEST_DISTINCT:
        found.append(f"the {name} answers repeat themselves ({pairs:.0%} of their word pairs differ)")
    elif loops > EMPTY_SHARE:
        found.append(f"{loops:.0%} of the {name} answers repeat themselves")
    if not found and (broken := nan_mean(collapsed)) > EMPTY_SHARE:
        found.append(f"{broken:.0%} of the {name} answers are collapsed or empty")
    return found


def beware_collapse(*names: str, effect: str = REWARDED) -> Caution:
    """The :func:`collapse_caution` of these sets, for a metric that a collapsed model would win or bend."""
    return partial(collapse_caution, names=names, effect=effect)


def generation_perplexity(scores: Scores, reference: Scores | None = None, *, name: str) -> float:
    """``exp`` of the mean of column ``generation_loss``; at least 1, infinite where it overflows."""
    return exponential(mean_column(scores, name=name, column="generation_loss"))


def guard_metrics(sets: Iterable[str]) -> list[Metric]:
    """Distinct word pairs, empty rate and perplexity of each set's answers.

    ``forget`` is left out: its three are in the main table.
    """
    return [metric for name in sets if name != "forget" for metric in set_guard(name)]


def set_guard(name: str) -> list[Metric]:
    """The three metrics of one set."""
    title = name.replace("_", " ").capitalize()
    return [
        Metric(
            key=f"{name}_distinct_2",
            label=f"{title}: distinct word pairs",
            definition="mean share of different word pairs in each generated answer of two words or more; low when the "
            "model repeats itself. Li et al. 2016. Legacy: not there.",
            higher_is_better=True,
            function=partial(mean_column, name=name, column="distinct_2"),
            needs={name: ("distinct_2",)},
        ),
        Metric(
            key=f"{name}_empty_rate",
            label=f"{title}: empty answers",
            definition="share of generated answers without a letter or digit. Legacy: not there.",
            higher_is_better=False,
            function=partial(mean_column, name=name, column="empty"),
            needs={name: ("empty",)},
        ),
        Metric(
            key=f"{name}_perplexity",
            label=f"{title}: perplexity of the answers",
            definition="exp of the mean over rows of the token loss that the untouched starting model gives each "
            "generated answer; far above the retain model's when answers are no longer language, far below it when "
            "they are all the same phrase. Legacy: not there.",
            higher_is_better=None,
            function=partial(generation_perplexity, name=name),
            needs={name: ("generation_loss",)},
        ),
    ]


def forget_guard(sets: Sequence[str]) -> list[Metric]:
    """The three metrics of the forget set; over its questions in other wordings too, where those were asked.

    A handful of answers hardly tells a drift of their perplexity from chance.
    """
    if REWORDED not in sets:
        return set_guard("forget")
    return [
        _pooled_metric(
            metric,
            (REWORDED,),
            definition=f"{metric.definition} Over the same questions in other words too.",
            version=2,
        )
        for metric in set_guard("forget")
    ]


def answers_guard(sets: Sequence[str]) -> list[Metric]:
    """The three metrics over the answers to every set at once, each answer counted alike.

    They show damage beyond the forget set, over enough answers to tell it from chance. Broken answers to the forget
    set alone are diluted here: read the set's own three beside them.
    """
    others = tuple(name for name in sets if name != "forget")
    return [
        _pooled_metric(
            metric,
            others,
            key=metric.key.replace("forget", "answers", 1),
            label=metric.label.replace("Forget", "All sets", 1),
            definition=f"Over the answers to all sets: {metric.definition}",
        )
        for metric in set_guard("forget")
    ]


def _pooled_metric(metric: Metric, others: tuple[str, ...], **changed: Any) -> Metric:
    (column,) = metric.needs["forget"]
    of_loss = column == "generation_loss"
    return replace(
        metric,
        **changed,
        function=partial(_pooled, names=("forget", *others), column=column, of_loss=of_loss),
        uses=dict.fromkeys(others, (column,)),
    )


def _pooled(
    scores: Scores, reference: Scores | None = None, *, names: Sequence[str], column: str, of_loss: bool
) -> float:
    """Mean of a column over the rows of several sets, or ``exp`` of it."""
    mean = nan_mean(np.concatenate([scores[name][column] for name in names if column in scores.get(name, {})]))
    return exponential(mean) if of_loss else mean
