"""Which learning rate stands for a method, or for another role: by rows that no table reports."""

from __future__ import annotations

import re
from collections.abc import Mapping

from results.records import BEFORE, RETAIN_MODEL, Metrics, Record

TOLD, LIKELY, KEPT = "forget_rephrased_Q_A_ROUGE", "forget_rephrased_Q_A_Prob", "retain_other_Q_A_ROUGE"


def probe_score(metrics: Metrics, models: Mapping[str, Metrics]) -> float:
    """``2 f k / (f + k)``, 0 to 1, of what is forgotten and what is kept; 0 where nothing is done, or nothing left.

    ``f`` is how much of the way from the target to the retain model was gone on forget questions in other wordings, the
    mean of ROUGE-L recall and of the answers' probability: beyond the retain model is no merit. ``k`` is ROUGE-L recall
    on other retain rows, over the target's and at most 1.

    Args:
        metrics: of the run.
        models: of the target and the retain model.
    """
    before, goal = models[BEFORE], models[RETAIN_MODEL]
    gone = [_share(_value(metrics, key), _value(before, key), _value(goal, key)) for key in (TOLD, LIKELY)]
    forgotten, kept = sum(gone) / len(gone), _share(_value(metrics, KEPT), 0.0, _value(before, KEPT))
    return 2 * forgotten * kept / (forgotten + kept) if forgotten and kept else 0.0


def _share(value: float, start: float, end: float) -> float:
    """Of the way from ``start`` to ``end``, 0 to 1."""
    return min(max((value - start) / (end - start), 0.0), 1.0) if end != start else 1.0


def role_of(name: str) -> str:
    """What a run stands for: its name without the learning rate."""
    return re.sub(r"-[\d.]+e-\d+$", "", name)


def chosen(runs: Mapping[str, Record], models: Mapping[str, Metrics]) -> dict[str, str]:
    """The run that stands for each role; of equals the first."""
    found: dict[str, str] = {}
    for name, run in runs.items():
        best = found.setdefault(role_of(name), name)
        if not run.failed and (
            runs[best].failed or probe_score(run.metrics, models) > probe_score(runs[best].metrics, models)
        ):
            found[role_of(name)] = name
    return found


def _value(metrics: Metrics, key: str) -> float:
    value = metrics[key][0]
    assert value is not None
    return value
