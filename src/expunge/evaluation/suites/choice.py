"""Multiple choice: WMDP, MMLU and any set whose rows carry options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.errors import RecipeError
from expunge.evaluation.choice import TEXT_LAYOUT, TRUTHFULQA_LAYOUT, ChoiceForm, score_choices
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.choice import CHOICE_COLUMNS, choice_metrics
from expunge.evaluation.probing.settings import MeasureSettings
from expunge.evaluation.suites.base import Measure, Probe, Suite, has_choices
from expunge.progress import bar, say

TRUTHFUL_SETS = ("truthfulqa", "utility_truthfulness")
"""How the names of sets begin that are TruthfulQA's: options are scored as answers, after its six worked examples. All
other sets are asked for a letter, unless told otherwise."""
LONGEST = 10_000_000


def measure_choices(probe: Probe) -> Columns:
    """Score every option of the set's multiple-choice rows; nothing for a set without any.

    Settings: ``form`` (``letters``, ``text``, or one of them by set name), ``layout``, ``description``, ``chat``,
    ``max_length``, ``pack_tokens``; see :class:`~expunge.evaluation.choice.ChoiceForm`.
    """
    if not any(row.choices for row in probe.rows):
        return {}
    settings = MeasureSettings("choice", probe.settings)
    description = probe.settings.get("description")
    if description is not None and not isinstance(description, str):
        raise RecipeError(f"evaluate.measures.choice.description must be a text, got {description!r}")
    truthful = probe.name.startswith(TRUTHFUL_SETS)
    form = ChoiceForm(
        form=_form(probe.settings, probe.name, "text" if truthful else "letters"),
        layout=settings.text("layout") or (TRUTHFULQA_LAYOUT if truthful else TEXT_LAYOUT),
        description=description,
        chat=settings.flag("chat"),
    )
    if probe.loaded.guard:
        say(
            f"note: the guard {probe.loaded.guard.key} does not refuse multiple choice: options are scored, not written"
        )
    with bar(f"{probe.name}: score options") as update:
        return score_choices(
            probe.loaded,
            probe.rows,
            form,
            max_length=settings.whole("max_length", 0, low=1, high=LONGEST) if "max_length" in probe.settings else None,
            pack_tokens=settings.whole("pack_tokens", 512, low=16, high=LONGEST),
            update=update,
        )


def _form(settings: Mapping[str, Any], name: str, usual: str) -> str:
    given = settings.get("form", usual)
    return given.get(name, usual) if isinstance(given, Mapping) else given


SUITE = Suite(
    key="choice",
    title="Multiple choice",
    source="MMLU (arXiv 2009.03300), WMDP (arXiv 2403.03218), prompts of lm-evaluation-harness 0.4",
    metrics=choice_metrics,
    measures=(
        Measure(
            key="choice",
            columns=CHOICE_COLUMNS,
            function=measure_choices,
            fits=has_choices,
            needs_generation=False,
            cost="one pass over the options of its multiple-choice rows",
            settings=("form", "layout", "description", "chat", "max_length", "pack_tokens"),
        ),
    ),
)
