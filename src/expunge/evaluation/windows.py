"""Perplexity of whole documents in windows that do not overlap, as lm-evaluation-harness measures WikiText.

Every token of a document is predicted once. A document that is longer than the model's window is cut into windows of
that many tokens, each of which sees one token of the window before; only the last, which is shorter, is filled up with
more of them. The first begins after the tokenizer's beginning token (or its end token, without one).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np

from expunge.data.rows import Row
from expunge.evaluation.continuations import encode_text, loglikelihoods, model_length, prefix_token
from expunge.evaluation.metrics.tokens import Columns
from expunge.models.load import LoadedModel
from expunge.progress import Bar

LONGEST_WINDOW = 2048
"""Tokens of a window, unless told otherwise, in models that could be given more."""


def rolling_windows(
    ids: SequenceOf[int], *, prefix: int, max_length: int
) -> Iterator[tuple[SequenceOf[int], SequenceOf[int]]]:
    """Cut a document into windows.

    Args:
        ids: the document's T tokens.
        prefix: the token that stands before the first.
        max_length: most tokens that the model is given at once, at least 1.

    Yields:
        ``ceil(T / max_length)`` pairs of context and continuation; the continuations together are ``ids``. The model is
        given both but for the last token: at most ``max_length`` tokens.
    """
    for start in range(0, len(ids), max_length):
        end = min(start + max_length, len(ids))
        context = ids[max(end - max_length - 1, 0) : start] if start else [prefix]
        yield context, ids[start:end]


def rolling_columns(
    loaded: LoadedModel,
    texts: SequenceOf[str],
    *,
    originals: SequenceOf[str] | None = None,
    max_length: int | None = None,
    pack_tokens: int = 512,
    legacy: bool = False,
    update: Bar | None = None,
) -> Columns:
    """Score documents in windows.

    Args:
        loaded: the model.
        texts: the documents as the model reads them.
        originals: the documents whose words and bytes are counted; None: ``texts``.
        max_length: tokens of a window; None: the model's own limit, but at most ``LONGEST_WINDOW``.
        pack_tokens: most unique tokens in one pass; a longer window has a pass of its own.
        legacy: also score the beginning token that a tokenizer writes before a text, after another one, as the
            harness does.
        update: progress, in windows.

    Returns:
        ``loss_sum`` (nats, at least 0), ``num_window_tokens``, ``num_words`` and ``num_bytes``, each ``(n,)``; NaN for
        an empty document. Words are counted as the harness does: white space at either end makes one more.
    """
    length = max_length or min(model_length(loaded) or LONGEST_WINDOW, LONGEST_WINDOW)
    # A padded pass is also given the last token, which a packed one only predicts.
    length = max(length - (not loaded.packed), 1)
    prefix = prefix_token(loaded.tokenizer)
    documents = [encode_text(loaded.tokenizer, text, special=legacy) for text in texts]
    windows = [list(rolling_windows(ids, prefix=prefix, max_length=length)) for ids in documents]
    found = iter(
        loglikelihoods(
            loaded,
            [pair for pairs in windows for pair in pairs],
            max_length=length + (not loaded.packed),
            pack_tokens=pack_tokens,
            update=update,
        )
    )
    # abs: the negative of nothing lost is 0, and not -0
    losses = [abs(sum(next(found)[0] for _ in pairs)) if pairs else np.nan for pairs in windows]
    counted = texts if originals is None else originals
    empty = np.array([not ids for ids in documents], dtype=bool)
    columns = {
        "loss_sum": losses,
        "num_window_tokens": [len(ids) for ids in documents],
        "num_words": [len(re.split(r"\s+", text)) for text in counted],
        "num_bytes": [len(text.encode()) for text in counted],
    }
    return {name: np.where(empty, np.nan, np.array(values, dtype=np.float64)) for name, values in columns.items()}


def joined_pieces(rows: SequenceOf[Row]) -> list[list[int]]:
    """Rows that evaluation cut from one text, as lists of their indices: ``x#0``, ``x#1`` ... are one document."""
    documents: list[list[int]] = []
    before = ""
    for index, row in enumerate(rows):
        name, mark, part = row.id.rpartition("#")
        follows = bool(mark) and part.isdigit() and int(part) > 0 and name == before
        if follows:
            documents[-1].append(index)
        else:
            documents.append([index])
        before = name if mark and part.isdigit() else ""
    return documents


_MARKS = (("s '", "s'"), *((f" @{mark}@ ", mark) for mark in "-,."), *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"))
_PAIRS = tuple(
    (re.compile(rf"{re.escape(left)}\s*([^{re.escape(right)}]*?)\s*{re.escape(right)}"), rf"{left}\1{right}")
    for left, right in ("()", "[]", "{}", '""', "''")
)
_REST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


def detokenised(text: str) -> str:
    """WikiText written as people write: punctuation joined to its word, brackets and quotes closed up.

    The rules and their order are those of the harness's task, so that perplexities agree.
    """
    for old, new in _MARKS:
        text = text.replace(old, new)
    for pattern, replacement in _PAIRS:
        text = pattern.sub(replacement, text)
    for old, new in _REST:
        text = text.replace(old, new)
    return text
