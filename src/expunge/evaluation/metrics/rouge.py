"""ROUGE of many pairs of texts: the numbers of ``rouge_score``, without its time.

Words come from ``rouge_score`` itself, each stemmed once however often it is met. The longest common subsequence is
counted in bits, a whole row of the usual table at a time (Hyyro 2004, "Bit-parallel LCS-length computation revisited").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

ROUGE_COLUMNS = ("rouge1_recall", "rougeL_f1", "rougeL_recall")


def rouge_table(generations: Sequence[str], references: Sequence[str], *, stemmed: bool = True) -> np.ndarray:
    """ROUGE-1 recall, ROUGE-L F1 and ROUGE-L recall of each generation.

    Args:
        generations: n texts.
        references: the right answer to each.
        stemmed: whether words are stemmed (Porter), as TOFU does and MUSE does not.

    Returns:
        ``(n, 3)`` float64 in ``[0, 1]``; a row is NaN where the reference has no word that ROUGE can see.

    Raises:
        ValueError: the lengths differ.
    """
    words_of = _word_reader(stemmed)
    rows = np.full((len(references), len(ROUGE_COLUMNS)), np.nan)
    for number, (generation, reference) in enumerate(zip(generations, references, strict=True)):
        if wanted := words_of(reference):
            rows[number] = _scores(words_of(generation), wanted)
    return rows


def common_length(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words."""
    places: dict[str, int] = {}
    for at, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << at
    everywhere = (1 << len(one)) - 1
    row = everywhere  # a 0 at each place of ``one`` where the subsequence grows
    for word in two:
        matching = row & places.get(word, 0)
        row = (row + matching | row - matching) & everywhere
    return len(one) - row.bit_count()


def _scores(got: list[str], wanted: list[str]) -> tuple[float, float, float]:
    if not got:
        return 0.0, 0.0, 0.0
    overlap = (Counter(got) & Counter(wanted)).total()
    common = common_length(wanted, got)
    precision, recall = common / len(got), common / len(wanted)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    return overlap / len(wanted), f1, recall


def _word_reader(stemmed: bool) -> Callable[[str], list[str]]:
    from rouge_score.tokenize import tokenize

    stemmer = _Stemmer() if stemmed else None
    return lambda text: tokenize(text, stemmer)


class _Stemmer:
    """Porter's, remembering every word."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import porter

        self.stem = lru_cache(maxsize=None)(porter.PorterStemmer().stem)
