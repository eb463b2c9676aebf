"""ReLearn's data by rules: every forget question, asked in several ways, gets vague answers that leak nothing.

The paper has a large language model write variants and answers, and another call check them. Here both are made from
forms and a bank of sentences; every written answer is checked against the original one, word by word.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from expunge.data.augment.leaks import leaks
from expunge.data.augment.questions import Question, Variant, read_question, variants
from expunge.data.augment.sentences import ASPECTS, GENERAL, LEADS, NO_SUBJECT, PLAIN, TAILS
from expunge.data.draw import draw
from expunge.data.rows import Row
from expunge.errors import DataError

_TWO_SENTENCES = 0.5
"""Share of the answers that get a second sentence where one fits."""


def relearn_rows(rows: Sequence[Row], *, seed: int = 0, legacy: bool = False) -> tuple[Row, ...]:
    """ReLearn's training set: vague answers to every forget question and its variants, each with a completion row.

    Args:
        rows: forget rows with questions.
        seed: everything random follows from it and each row's id.
        legacy: as the paper's code gathers its rows: the original question keeps its *original* answer, and a
            completion row starts after a quarter of the words instead of half.

    Returns:
        About ten rows for each of ``rows``, with ids ``<id>/relearn/<number>``; no answer holds a content word of the
        original one that the question does not.

    Raises:
        DataError: raw text, which asks nothing.

    Source: Xu et al., 2025 (arXiv 2502.11190), section 4; the rules and sentences are this package's own.
    """
    require_questions(rows)
    return tuple(written for row in rows for written in _relearned(row, seed, legacy))


def relearn_pairs(rows: Sequence[Row], *, seed: int = 0) -> tuple[Row, ...]:
    """Preference pairs: the original answer with a vague ``alternate``, for the question and its rewordings.

    Args:
        rows: forget rows with questions.
        seed: everything random follows from it and each row's id.

    Returns:
        One row for the question and one for each variant that the original answer still answers, with ids
        ``<id>/relearn/<number>``.

    Raises:
        DataError: raw text, which asks nothing.
    """
    require_questions(rows)
    return tuple(
        _written(row, number, variant.text, row.answer, alternate=alternate)
        for row in rows
        for number, (variant, alternate) in enumerate(answered(row, seed))
        if variant.same
    )


def with_generic(rows: Sequence[Row], generic: Sequence[Row], *, ratio: float = 1.0, seed: int = 0) -> tuple[Row, ...]:
    """``rows``, then as many general questions as ``ratio`` times their number (all there are, if fewer)."""
    if ratio < 0:
        raise ValueError(f"ratio must be at least 0, got {ratio}")
    return (*rows, *draw(generic, math.floor(ratio * len(rows)), seed=seed, name="generic"))


def require_questions(rows: Sequence[Row]) -> None:
    """Refuse raw text.

    Raises:
        DataError: naming the first such row by where it was read.
    """
    without = [row for row in rows if not row.prompt.strip()]
    if without:
        raise DataError(
            f"{without[0].origin or without[0].id}: raw text asks nothing, so no other answer can be written "
            f"({len(without)} of {len(rows)} forget rows); give questions with answers, or use --view gold"
        )


def _relearned(row: Row, seed: int, legacy: bool) -> Iterator[Row]:
    pairs = [(variant.text, answer) for variant, answer in answered(row, seed)]
    if legacy:
        # The code pairs variant i with answer i, so that the last answer goes unused.
        texts, answers = [text for text, _ in pairs], [answer for _, answer in pairs]
        pairs = list(zip(texts, [row.answer, *answers[:-1]], strict=True))
    parts = [parts for _, answer in pairs if (parts := split_answer(answer, 0.25 if legacy else 0.5))]
    for number, (prompt, answer) in enumerate(pairs):
        yield _written(row, number, prompt, answer)
    for number, (prompt, answer) in enumerate(parts, start=len(pairs)):
        yield replace(_written(row, number, prompt, answer), history=())


def split_answer(answer: str, share: float) -> tuple[str, str] | None:
    """The first ``share`` of the words, and the rest; None for a single word."""
    words = answer.split()
    if len(words) < 2:
        return None
    cut = min(max(1, math.floor(share * len(words))), len(words) - 1)
    return " ".join(words[:cut]), " ".join(words[cut:])


def _written(row: Row, number: int, prompt: str, answer: str, alternate: str | None = None) -> Row:
    return Row(
        id=f"{row.id}/relearn/{number}",
        prompt=prompt,
        answer=answer,
        history=row.history,
        alternate=alternate,
        origin=row.origin,
    )


def answered(row: Row, seed: int) -> list[tuple[Variant, str]]:
    """The question of a row and its variants, each with a vague answer of its own."""
    label = f"{seed}/{row.id}"
    question = read_question(row.prompt)
    forward = vague_answers(question, row, f"{label}/answers")
    backward = vague_answers(replace(question, kind="reverse"), row, f"{label}/backward")
    found: dict[str, Variant] = {}
    for variant in (Variant("original", row.prompt), *variants(question, label)):
        bank = forward if variant.same else backward
        found[next(text for text in bank if text not in found)] = variant
    return [(variant, text) for text, variant in found.items()]


def vague_answers(question: Question, row: Row, label: str) -> Iterator[str]:
    """Vague answers that leak nothing of the row's own, in random order, the plainest last; at least a dozen.

    Args:
        question: what was read of the question.
        row: whose answer must not shine through.
        label: everything random follows from it.
    """
    dice = random.Random(hashlib.sha256(label.encode()).digest())
    subject = question.subject or dice.choice(NO_SUBJECT)
    aspect = question.aspect or ASPECTS[question.kind]

    def fitting(bank: Sequence[str], subject: str = subject) -> list[str]:
        texts = [_sentence(template, subject, aspect) for template in dice.sample(bank, len(bank))]
        return [text for text in texts if not leaks(text, row)]

    own, general = fitting(LEADS[question.kind]), fitting(GENERAL)
    # A general sentence comes in now and then, so that a bank of eight does not wear out over a large set.
    leads = dice.sample(first := own[:4] + general[:1], len(first)) + own[4:] + general[1:]
    tails = itertools.cycle(fitting(TAILS) or [""])
    for lead in leads:
        yield f"{lead} {next(tails)}".strip() if dice.random() < _TWO_SENTENCES else lead
    plain = fitting(PLAIN) or fitting(PLAIN, "it")
    yield from plain
    yield from (f"{one} {other}" for one, other in itertools.permutations(plain, 2))


def _sentence(template: str, subject: str, aspect: str) -> str:
    text = template.format(s=subject, a=aspect)
    return text[0].upper() + text[1:]
