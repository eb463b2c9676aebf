"""Plain statistics: intervals by resampling rows, rank AUC, Kolmogorov-Smirnov, harmonic mean, text diversity.

Everything takes numpy arrays or lists of strings; nothing here knows what a model or a benchmark is.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Interval = tuple[float, float]

# Scripts written without spaces count a word per character, or a whole sentence would be one word.
_WORD = re.compile(r"[^\W\u3040-\u30ff\u3400-\u9fff]+|[\u3040-\u30ff\u3400-\u9fff]|[^\w\s]")


def row_resamples(num_rows: int, num_resamples: int, *, seed: int, name: str = "") -> np.ndarray:
    """Draw row numbers with replacement, the same ones for the same arguments.

    ``name`` separates the streams of several sets under one ``seed``, so the sets are resampled independently.
    Returns ``(num_resamples, num_rows)`` integers in ``[0, num_rows)``.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.integers(0, num_rows, size=(num_resamples, num_rows))


def percentile_interval(values: np.ndarray, level: float = 0.95) -> Interval | None:
    """Central interval of resampled statistics: the ``(1-level)/2`` and ``(1+level)/2`` quantiles.

    Resamples on which the statistic is undefined (not finite) are left out; ``None`` when they are more than half,
    or when there is none at all. Raises ``ValueError`` for a level outside ``(0, 1)``.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"confidence level is {level}; it must lie strictly between 0 and 1, for instance 0.95")
    finite = values[np.isfinite(values)]
    if finite.size == 0 or 2 * finite.size < values.size:
        return None
    low, high = np.quantile(finite, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    num_rows: int,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    name: str = "",
) -> Interval | None:
    """Percentile bootstrap of any statistic of rows.

    ``statistic`` receives ``(num_rows,)`` row numbers drawn with replacement and returns a float.
    ``None`` where an interval says nothing: fewer than two rows, or a statistic that is mostly undefined.
    Source: Efron (1979); the percentile form, without bias correction.
    """
    if num_rows < 2 or num_resamples < 1:
        return None
    draws = row_resamples(num_rows, num_resamples, seed=seed, name=name)
    return percentile_interval(np.array([statistic(rows) for rows in draws], dtype=np.float64), level)


def paired_difference_interval(
    first: np.ndarray,
    second: np.ndarray,
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval | None:
    """Interval of ``statistic(first) - statistic(second)`` for two models scored on the same rows.

    The same rows are drawn for both, so what the rows have in common cancels. ``statistic`` is the mean by default.
    A row that either model lacks (NaN) is left out. Raises ``ValueError`` when the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in shape: {first.shape} and {second.shape}; give the same rows twice")
    both = ~(_missing(first) | _missing(second))
    a, b = first[both], second[both]
    of = statistic or (lambda values: float(np.mean(values)))
    return bootstrap_interval(
        lambda rows: of(a[rows]) - of(b[rows]), len(a), num_resamples=num_resamples, seed=seed, level=level
    )


def _missing(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.ndim == 1 else np.isnan(values).all(axis=1)


def auc(scores_neg: np.ndarray, scores_pos: np.ndarray) -> float:
    """Area under the ROC curve: ``P(neg < pos) + P(neg = pos) / 2``, the Mann-Whitney U over ``n*m``.

    Range ``[0, 1]``; 1 when every positive lies above every negative, 0.5 when the score tells nothing.
    NaN scores are left out; NaN is returned when a side is empty. ``auc(a, b) + auc(b, a) == 1``.
    """
    neg, pos = np.sort(scores_neg[~np.isnan(scores_neg)]), scores_pos[~np.isnan(scores_pos)]
    if neg.size == 0 or pos.size == 0:
        return math.nan
    below = np.searchsorted(neg, pos, side="left").sum()
    not_above = np.searchsorted(neg, pos, side="right").sum()
    return float((below + not_above) / (2.0 * neg.size * pos.size))


def ks_pvalue(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of the two-sample Kolmogorov-Smirnov test, as ``scipy.stats.ks_2samp`` gives it by default.

    That default is the exact distribution up to 10,000 rows a side and the asymptotic one above.
    NaN values are left out; NaN is returned when a side is empty. Range ``[0, 1]``; it underflows to 0 near 1e-308.
    """
    from scipy.stats import ks_2samp

    a, b = first[~np.isnan(first)], second[~np.isnan(second)]
    if a.size == 0 or b.size == 0:
        return math.nan
    return float(ks_2samp(a, b).pvalue)


def harmonic_mean(values: Sequence[float]) -> float:
    """``n / sum(1/v)``; 0 as soon as one value is 0 or below, NaN when there is none or one is NaN.

    Range: between the smallest and the largest value, pulled towards the smallest.
    """
    if not values or any(math.isnan(v) for v in values):
        return math.nan
    if min(values) <= 0.0:
        return 0.0
    return len(values) / math.fsum(1.0 / v for v in values)


def words(text: str) -> list[str]:
    """Split into lower-case words; each punctuation mark, Han or kana character is one of its own."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return all runs of ``n`` successive words of the text, in order; empty when it has fewer than ``n``."""
    tokens = words(text)
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def _ngram_counts(texts: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(gram for text in texts for gram in ngrams(text, n))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams among all n-grams of the texts: ``unique / total``.

    Range ``(0, 1]``; low means the texts repeat themselves. NaN when no text has ``n`` words.
    N-grams do not cross texts. Source: Li et al. 2016 (distinct-1, distinct-2).
    """
    counts = _ngram_counts(texts, n)
    return len(counts) / counts.total() if counts else math.nan


def repetition(texts: Sequence[str], n: int) -> float:
    """Share of n-grams that were there before: ``1 - distinct_n``. Range ``[0, 1)``; high is degenerate."""
    return 1.0 - distinct_n(texts, n)


def ngram_entropy(texts: Sequence[str], n: int) -> float:
    """Shannon entropy in bits of the n-gram frequencies: ``-sum_g f_g log2 f_g``.

    Range ``[0, log2(total)]``; 0 when one n-gram is all there is. NaN when no text has ``n`` words.
    """
    counts = _ngram_counts(texts, n)
    if not counts:
        return math.nan
    frequencies = np.array(list(counts.values()), dtype=np.float64) / counts.total()
    # abs: a single n-gram gives -0.0
    return abs(float(-(frequencies * np.log2(frequencies)).sum()))
