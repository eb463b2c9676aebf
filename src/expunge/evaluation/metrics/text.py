"""Columns from generated text: overlap with the reference answer, and signs of degeneration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from expunge.evaluation.metrics.rouge import ROUGE_COLUMNS, rouge_table
from expunge.evaluation.metrics.tokens import Columns
from expunge.evaluation.stats import distinct_n, words


def rouge_columns(generations: Sequence[str], references: Sequence[str]) -> Columns:
    """ROUGE-1 recall, ROUGE-L F1 and ROUGE-L recall of each generation, words stemmed (Porter).

    Returns three ``(n,)`` columns in ``[0, 1]``; 1 means the reference answer is all there.
    NaN where the reference has no word that ROUGE can see (``rouge_score`` reads Latin letters and digits only), since
    0 would say *forgotten* of an answer that cannot be scored. Raises ``ValueError`` when the lengths differ.
    Source: Lin 2004; ``rouge_score`` with its stemmer, as TOFU and open-unlearning use it (MUSE: without).
    """
    rows = rouge_table(generations, references)
    return {name: rows[:, column].copy() for column, name in enumerate(ROUGE_COLUMNS)}


def fluency_columns(generations: Sequence[str]) -> Columns:
    """Signs that a model forgot how to speak rather than what to say, per generation.

    ``distinct_2``: share of different word pairs, ``(0, 1]``, low when it repeats itself, NaN for fewer than two words;
    ``empty``: 1 when it holds no letter or digit, else 0; ``num_words``: its words, punctuation not counted.
    Each is ``(n,)`` float64.
    """
    counts = [sum(any(c.isalnum() for c in word) for word in words(text)) for text in generations]
    return {
        "distinct_2": np.array([distinct_n([text], 2) for text in generations], dtype=np.float64),
        "empty": np.array([float(count == 0) for count in counts], dtype=np.float64),
        "num_words": np.array(counts, dtype=np.float64),
    }
