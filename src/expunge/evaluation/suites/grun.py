"""GRUN's suite: its gates, its own truth ratio, and multiple choice with shuffled options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.errors import DataError
from expunge.evaluation.metrics.grun import LETTERS, grun_metrics, multiple_choice_prompt, shuffled_choices
from expunge.evaluation.metrics.tokens import Columns
from expunge.evaluation.scorer import score_sequences
from expunge.evaluation.suites.base import Measure, Probe, Suite, has_choices


def shuffled_accuracy(probe: Probe) -> Columns:
    """``shuffled_correct_legacy``: 1 where the right letter is the likeliest after the prompt, else 0.

    ``(n,)``; NaN for a row without options, no column where none has any. The prompt goes to the model as it is,
    without a chat template; the letters share it, and each is scored by its first token. The right option's place is
    drawn by ``probe.seed`` and row id.

    Raises:
        DataError: a row names no right option, has more options than letters, or two letters share their first token.
    """
    asked = {n: _lettered(row, probe.seed) for n, row in enumerate(probe.rows) if row.choices}
    if not asked:
        return {}
    column = np.full(len(probe.rows), np.nan)
    tokenizer = probe.loaded.tokenizer
    letters = _letter_ids(tokenizer, max(len(probe.rows[n].choices) for n in asked))
    sequences = [s for n, (prompt, _) in asked.items() for s in _options(tokenizer, prompt, letters, probe.rows[n])]
    logps = iter([float(scores.logps[0]) for scores in score_sequences(probe.loaded, sequences)])
    for n, (_, place) in asked.items():
        found = [next(logps) for _ in probe.rows[n].choices]
        column[n] = float(int(np.argmax(found)) == place)
    return {"shuffled_correct_legacy": column}


def _lettered(row: Row, seed: int) -> tuple[str, int]:
    """The prompt of a row with its options shuffled, and where the right one stands."""
    where, count = row.origin or row.id, len(row.choices)
    if row.correct is None or not 0 <= row.correct < count:
        raise DataError(f"{where}: its right option is {row.correct}, and it has {count} options, counted from 0")
    if count > len(LETTERS):
        raise DataError(f"{where}: it has {count} options; at most {len(LETTERS)} can be lettered")
    options, place = shuffled_choices(row.choices, row.correct, seed=seed, row_id=row.id)
    return multiple_choice_prompt(row.prompt, options), place


def _letter_ids(tokenizer: Any, count: int) -> list[int]:
    """First token of each of the first ``count`` letters."""
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in LETTERS[:count]]
    if len(set(ids)) < count:
        raise DataError(f"this tokenizer gives two of the letters {LETTERS[:count]} the same first token")
    return ids


def _options(tokenizer: Any, prompt: str, letters: Sequence[int], row: Row) -> list[TokenSequence]:
    ids = list(tokenizer(prompt)["input_ids"])
    # some tokenizers end every text; a prompt must stay open
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return [TokenSequence((*ids, letter), len(ids)) for letter in letters[: len(row.choices)]]


SUITE = Suite(
    key="grun",
    title="GRUN",
    source="arXiv 2502.17823",
    metrics=grun_metrics,
    measures=(
        Measure(
            key="grun_shuffled",
            columns=("shuffled_correct_legacy",),
            function=shuffled_accuracy,
            fits=has_choices,
            needs_generation=False,
            cost="one pass over the prompts of its multiple-choice rows",
        ),
    ),
)
