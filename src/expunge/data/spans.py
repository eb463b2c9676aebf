"""Which of an answer's tokens hold certain words of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from expunge.data.tree import TokenSequence

_WORD = re.compile(r"\w+")


def answer_tokens(sequence: TokenSequence, end_id: int) -> tuple[bool, ...]:
    """One per label: all but a closing end-of-sequence token."""
    own = sequence.num_labels - (sequence.ids[-1] == end_id)
    return (True,) * own + (False,) * (sequence.num_labels - own)


def entity_tokens(sequence: TokenSequence, tokenizer: Any, entities: Iterable[str]) -> tuple[bool, ...]:
    """One per label: whether the token holds a character of an entity, wherever the answer names it (case ignored)."""
    wanted = [name for name in entities if name.strip()]
    return _held(
        sequence,
        tokenizer,
        lambda text: (match.span() for name in wanted for match in re.finditer(re.escape(name), text, re.IGNORECASE)),
    )


def question_tokens(sequence: TokenSequence, tokenizer: Any, question: str) -> tuple[bool, ...]:
    """One per label: whether the token holds a character of a word that the question has too (case ignored)."""
    known = {word.casefold() for word in _WORD.findall(question)}
    return _held(
        sequence,
        tokenizer,
        lambda text: (match.span() for match in _WORD.finditer(text) if match.group().casefold() in known),
    )


def spare_question(sequence: TokenSequence, tokenizer: Any, question: str, end_id: int) -> TokenSequence:
    """The sequence without the labels that repeat the question; as it is, if only its end would be left."""
    held = question_tokens(sequence, tokenizer, question)
    spared = frozenset(place for place, known in zip(sequence.label_positions, held, strict=True) if known)
    left = set(sequence.label_positions) - spared
    if sequence.ids[-1] == end_id:
        left.discard(len(sequence.ids) - 1)
    return replace(sequence, spared=sequence.spared | spared) if left else sequence


def _held(
    sequence: TokenSequence, tokenizer: Any, find: Callable[[str], Iterable[tuple[int, int]]]
) -> tuple[bool, ...]:
    """One per label: whether one of the spans that ``find`` gives of the labels' text reaches into the token.

    Characters are counted in the decoded answer, token by token, so that a space that belongs to a token moves nothing.
    """
    labels = sequence.labels
    starts = [len(_text(tokenizer, labels[:count])) for count in range(len(labels) + 1)]
    found = list(find(_text(tokenizer, labels)))
    return tuple(any(start < last and first < end for first, last in found) for start, end in pairwise(starts))


def _text(tokenizer: Any, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False) if ids else ""
