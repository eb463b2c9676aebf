"""ReLearn's data as a language model writes it: variants, vague answers, and rounds of checking.

Every text stays tied to the row and the variant that it was written for, and only a text that passed both checks is
used. So neither an original answer nor the answer to another variant can come into the training set; the paper's code
lets both in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from expunge.data.augment.leaks import FUNCTION_WORDS, leaks, stem
from expunge.data.augment.prompts import STYLES
from expunge.data.augment.questions import Style, Variant
from expunge.data.augment.relearn import answered, require_questions, split_answer
from expunge.data.rows import Row

NOT_WRITTEN = "no answer was written"
NOT_CHECKED = "it was not checked"
"""Reasons that lie with the writer and not with the text: another attempt later may do better."""
_WORD = re.compile(r"[^\W_]+")
ROUNDS = 3
"""Attempts at each answer, as published."""


@dataclass(frozen=True)
class Asked:
    """A question that wants a vague answer."""

    row: Row
    variant: Variant
    attempt: int = 1
    avoid: tuple[str, ...] = ()
    """Words that earlier attempts gave away."""


class Writer(Protocol):
    """Who writes. A text that could not be had is None; it is never taken for one that passed."""

    name: str

    def variants(self, rows: Sequence[Row]) -> list[dict[Style, str]]:
        """The question of each row in other ways, without sight of its answer."""

    def vague(self, asked: Sequence[Asked]) -> list[str | None]:
        """A vague answer to each question."""

    def tells(self, asked: Sequence[Asked], texts: Sequence[str]) -> list[bool | None]:
        """Whether each text tells something of the original answer."""


@dataclass(frozen=True)
class Written:
    """What a writer made of the forget rows."""

    answers: tuple[tuple[Row, Variant, str], ...]
    """The row, the variant of its question, and the vague answer written for just that."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """How many questions stayed without an answer, by the reason of the last round."""
    unwritten_variants: int = 0
    """How many variants the writer failed to give."""
    useless_variants: int = 0
    """How many were no other question about the same thing, or told of the answer."""

    def rows(self, *, completions: bool = True) -> tuple[Row, ...]:
        """Training rows: question and vague answer, and each answer's second half after its first.

        Args:
            completions: whether the halves are added.
        """
        out: list[Row] = []
        for row, members in self._by_row():
            texts: list[tuple[str, str, str]] = [(variant.style, variant.text, answer) for variant, answer in members]
            if completions:
                halves = [(f"{style}/completion", split_answer(answer, 0.5)) for style, _, answer in texts]
                texts += [(kind, *parts) for kind, parts in halves if parts]
            out += [
                Row(
                    id=f"{row.id}/relearn/{number}",
                    prompt=prompt,
                    answer=answer,
                    history=() if kind.endswith("/completion") else row.history,
                    kind=kind,
                    origin=row.origin,
                )
                for number, (kind, prompt, answer) in enumerate(texts)
            ]
        return tuple(out)

    def pairs(self) -> tuple[Row, ...]:
        """Preference pairs: the original answer with the vague one as ``alternate``, where it answers the variant."""
        return tuple(
            Row(
                id=f"{row.id}/relearn/{number}",
                prompt=variant.text,
                answer=row.answer,
                history=row.history,
                alternate=answer,
                kind=variant.style,
                origin=row.origin,
            )
            for row, members in self._by_row()
            for number, (variant, answer) in enumerate(members)
            if variant.same
        )

    def _by_row(self) -> Iterable[tuple[Row, list[tuple[Variant, str]]]]:
        found: dict[Row, list[tuple[Variant, str]]] = {}
        for row, variant, answer in self.answers:
            found.setdefault(row, []).append((variant, answer))
        return found.items()


def written_by_rules(rows: Sequence[Row], *, seed: int = 0) -> Written:
    """What forms of questions and a bank of sentences make of the rows; no model is asked.

    Raises:
        DataError: raw text, which asks nothing.
    """
    require_questions(rows)
    return Written(tuple((row, variant, text) for row in rows for variant, text in answered(row, seed)))


def write_all(rows: Sequence[Row], writer: Writer, *, rounds: int = ROUNDS) -> Written:
    """Have every forget question asked in other ways, and every way answered vaguely.

    Args:
        rows: forget rows with questions.
        writer: who writes.
        rounds: attempts at each answer; what still tells something after the last is dropped.

    Returns:
        The answers that passed: not empty, without the original or a word of it that the question has not
        (:func:`leaks`), and telling nothing in the writer's own judgement.

    Raises:
        DataError: raw text, which asks nothing.
    """
    require_questions(rows)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    asked: list[Asked] = []
    unwritten = useless = 0
    for row, found in zip(rows, writer.variants(rows), strict=True):
        ways = _ways(row, found)
        unwritten += len(STYLES) - len(found)
        useless += len(found) + 1 - len(ways)
        asked += [Asked(row, variant) for variant in ways]
    passed: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for _ in range(rounds):
        pending = [i for i in range(len(asked)) if i not in passed]
        if not pending:
            break
        texts = writer.vague([asked[i] for i in pending])
        for i, (text, reason, avoid) in zip(pending, _judged(asked, pending, texts, writer), strict=True):
            if text is not None and not reason:
                passed[i] = text
            else:
                reasons[i] = reason
                words = tuple(dict.fromkeys((*asked[i].avoid, *avoid)))
                asked[i] = replace(asked[i], attempt=asked[i].attempt + 1, avoid=words)
    answers = tuple((asked[i].row, asked[i].variant, passed[i]) for i in sorted(passed))
    dropped = Counter(reasons[i] for i in range(len(asked)) if i not in passed)
    return Written(answers, dict(dropped), unwritten, useless)


def _ways(row: Row, found: Mapping[Style, str]) -> list[Variant]:
    """The question itself, and each other way to ask about the same thing, once; none that tells of the answer."""
    content = [word for word in _WORD.findall(row.prompt) if word.casefold() not in FUNCTION_WORDS]
    about = _stems(" ".join(content)) or _stems(row.prompt)
    ways = {_even(row.prompt): Variant("original", row.prompt)}
    for style, text in found.items():
        text = " ".join(text.split())
        if about & _stems(text) and not _tells(text, row):
            ways.setdefault(_even(text), Variant(style, text))
    return list(ways.values())


def _tells(text: str, row: Row) -> bool:
    """Whether a question gives away a word of the answer; unlike an answer, it may bring in words of its own."""
    answer = _stems(row.answer)
    return any(stem(word) in answer for word in leaks(text, row))


def _stems(text: str) -> set[str]:
    return {stem(word) for word in _WORD.findall(text)}


def _judged(
    asked: Sequence[Asked], pending: Sequence[int], texts: Sequence[str | None], writer: Writer
) -> list[tuple[str | None, str, tuple[str, ...]]]:
    """Each text with the reason why it does not pass (empty: it does) and the words that it gave away."""
    judged: list[tuple[str | None, str, tuple[str, ...]]] = []
    for i, text in zip(pending, texts, strict=True):
        even = " ".join((text or "").split())
        if not any(letter.isalnum() for letter in even):
            judged.append((None, NOT_WRITTEN, ()))
        elif _bare(asked[i].row.answer) in _bare(even):
            # An answer whose words all stand in the question holds no word that could leak.
            judged.append((even, "it has the original answer in it", ()))
        elif words := leaks(even, asked[i].row):
            judged.append((even, "it has words of the original, or facts", words))
        else:
            judged.append((even, "", ()))
    open_ = [at for at, (_, reason, _) in enumerate(judged) if not reason]
    verdicts = writer.tells([asked[pending[at]] for at in open_], [judged[at][0] or "" for at in open_])
    for at, verdict in zip(open_, verdicts, strict=True):
        if verdict is not False:
            reason = "the check found that it tells something" if verdict else NOT_CHECKED
            judged[at] = (judged[at][0], reason, ())
    return judged


def _bare(text: str) -> str:
    """Words alone, with a blank on either side."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def _even(text: str) -> str:
    return " ".join(text.casefold().split())
