"""Which learning rate stands for a method, or for another role: by rows that no table reports."""

from __future__ import annotations

import re
from collections.abc import Mapping

from results.records import Metrics, Record

TOLD, KEPT = "forget_rephrased_Q_A_ROUGE", "retain_other_Q_A_ROUGE"


def probe_score(metrics: Metrics, retain_model: Metrics) -> float:
    """``kept - max(0, told - told by the retain model)``, at most 1.

    ``told`` is ROUGE-L recall on forget questions in other wordings, ``kept`` that on other retain rows. Less than the
    retain model tells is no merit.
    """
    told, goal, kept = (_value(m, key) for m, key in ((metrics, TOLD), (retain_model, TOLD), (metrics, KEPT)))
    return kept - max(0.0, told - goal)


def role_of(name: str) -> str:
    """What a run stands for: its name without the learning rate."""
    return re.sub(r"-[\d.]+e-\d+$", "", name)


def chosen(runs: Mapping[str, Record], retain_model: Metrics) -> dict[str, str]:
    """The run that stands for each role; of equals the first."""
    found: dict[str, str] = {}
    for name, run in runs.items():
        best = found.setdefault(role_of(name), name)
        if not run.failed and (
            runs[best].failed or probe_score(run.metrics, retain_model) > probe_score(runs[best].metrics, retain_model)
        ):
            found[role_of(name)] = name
    return found


def _value(metrics: Metrics, key: str) -> float:
    value = metrics[key][0]
    assert value is not None
    return value
