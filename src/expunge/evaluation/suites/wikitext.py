"""Perplexity of running text: WikiText, and any general text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.benchmarks.wikitext import WIKITEXT
from expunge.data.rows import Row
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.windows import TEXT_SETS, WINDOW_COLUMNS, window_metrics
from expunge.evaluation.probing.settings import MeasureSettings
from expunge.evaluation.suites.base import Measure, Probe, Suite
from expunge.evaluation.windows import detokenised, joined_pieces, rolling_columns
from expunge.progress import bar

LONGEST = 10_000_000


def is_running_text(rows: Sequence[Row]) -> bool:
    """Whether no row asks anything."""
    return bool(rows) and not any(row.prompt or row.history for row in rows)


def measure_windows(probe: Probe) -> Columns:
    """Score every document of a set in windows; nothing for a set with prompts.

    Rows that evaluation cut from one text are one document again: its values stand in the first of them, and the others
    have none. WikiText's rows are detokenised; their words and bytes are those of the original.
    Settings: ``max_length``, ``pack_tokens``, ``legacy``; see :func:`~expunge.evaluation.windows.rolling_columns`.
    """
    if not is_running_text(probe.rows):
        return {}
    settings = MeasureSettings("windows", probe.settings)
    documents = joined_pieces(probe.rows)
    originals = ["".join(probe.rows[i].answer for i in pieces) for pieces in documents]
    texts = [
        detokenised(text) if probe.rows[pieces[0]].id.startswith(WIKITEXT) else text
        for text, pieces in zip(originals, documents, strict=True)
    ]
    with bar(f"{probe.name}: score windows") as update:
        found = rolling_columns(
            probe.loaded,
            texts,
            originals=originals,
            max_length=settings.whole("max_length", 0, low=2, high=LONGEST) if "max_length" in probe.settings else None,
            pack_tokens=settings.whole("pack_tokens", 512, low=16, high=LONGEST),
            legacy=settings.flag("legacy"),
            update=update,
        )
    first = [pieces[0] for pieces in documents]
    columns: Columns = {}
    for name, values in found.items():
        columns[name] = np.full(len(probe.rows), np.nan)
        columns[name][first] = values
    return columns


SUITE = Suite(
    key="wikitext",
    title="Perplexity of running text",
    source="FLAT (arXiv 2410.11143), lm-evaluation-harness 0.4 (task wikitext)",
    metrics=window_metrics,
    measures=(
        Measure(
            key="windows",
            columns=WINDOW_COLUMNS,
            function=measure_windows,
            sets=TEXT_SETS,
            fits=is_running_text,
            needs_generation=False,
            cost="one pass over its documents in windows of the model's length",
            settings=("max_length", "pack_tokens", "legacy"),
        ),
    ),
)
