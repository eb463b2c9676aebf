"""The built-in benchmark: a declared fiction of invented people, made on the spot in TOFU's schema.

Nobody in it exists or existed: names, towns, books and prizes are combined from hand-written lists by a hash of the
seed, so the same seed gives the same rows on every machine and Python version. Only the ``general`` probe is true.

Forty people are dealt to three disjoint sets: 10 to ``forget``, 20 to ``retain`` and 10 to ``holdout``. A fact value
belongs to one person only, and a wrong answer never uses anybody's true value. Row ``i`` of ``forget`` and row ``i``
of ``holdout`` use the same templates, so a membership test compares the facts and not the wording.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from expunge.benchmarks.almanac_facts import KINDS, MEN, SLOTS, SURNAMES, WOMEN, Kind, Slot
from expunge.benchmarks.almanac_general import GENERAL, REFUSALS
from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import refuse, whole_numbers
from expunge.data.draw import draw
from expunge.data.rows import Row
from expunge.errors import UserError

T = TypeVar("T")

SIZES = {"forget": 10, "retain": 20, "holdout": 10}
"""People per set."""
NUM_WRONG = 5
"""Perturbed answers per row about a person."""
NUM_WORDINGS = 6
"""Ways to ask for each kind of fact."""


def load(
    *,
    seed: int = 0,
    questions: int = 4,
    alternates: bool = False,
    rephrased: int = 0,
    retain_other: bool = False,
    eval_rows: int | None = None,
) -> Benchmark:
    """Make the almanac: 10 people to forget, 20 to keep, 10 never seen, ``questions`` rows each.

    Args:
        seed: another seed gives other people, facts and wordings, in the same proportions.
        questions: rows per person, 1 to 8, each about another kind of fact.
        alternates: give every row to forget an ``alternate``: its answer with other facts, which are true of nobody and
            stand together in no other row. Methods that teach another answer use it (AltPO); the probes are as they
            were.
        rephrased: adds the probe ``forget_rephrased``: every question to forget in so many (0 to 5) other wordings,
            with its own answer.
        retain_other: adds the probe ``retain_other``: the retain rows that probe ``retain`` leaves out.
        eval_rows: at most so many rows of the probes ``retain``, ``retain_other`` and ``general``, drawn by ``seed``;
            None asks all.

    Returns:
        Benchmark with ``forget``, ``retain`` and ``holdout``; every row has a paraphrased prompt and answer and five
        perturbed answers in the wording of the paraphrased answer. Probes: ``forget`` and ``holdout`` (whole),
        ``retain`` (half of each person's rows, rounded up) and ``general`` (true facts, three perturbed answers in
        the wording of the answer, no paraphrases).

    Raises:
        UserError: ``questions`` is not from 1 to 8 or ``rephrased`` not from 0 to 5, ``seed`` is not a whole number,
            ``eval_rows`` is below 1, ``alternates`` or ``retain_other`` is not true or false, or there are no other
            retain rows.
    """
    if isinstance(rephrased, bool) or not isinstance(rephrased, int) or not 0 <= rephrased < NUM_WORDINGS:
        raise UserError(
            f"almanac: rephrased must be a whole number from 0 to {NUM_WORDINGS - 1} (other wordings of a question), "
            f"got {rephrased!r}; leave it out for 0"
        )
    for option, value in (("alternates", alternates), ("retain_other", retain_other)):
        if not isinstance(value, bool):
            raise UserError(f"almanac: {option} must be true or false, got {value!r}; leave it out for false")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise UserError(f"almanac: seed must be a whole number, got {seed!r}; leave it out for seed 0")
    if isinstance(questions, bool) or not isinstance(questions, int) or not 1 <= questions <= len(KINDS):
        raise UserError(
            f"almanac: questions must be a whole number from 1 to {len(KINDS)} (one per kind of fact), "
            f"got {questions!r}; leave it out for 4"
        )
    if retain_other and questions == 1:
        raise UserError("almanac: retain_other needs questions of 2 or more: of 1 the probe retain has every row")
    refuse("almanac", whole_numbers(eval_rows=(eval_rows, 1)))
    label = f"almanac/{seed}"
    decks = {name: _Deck(slot, f"{label}/{name}") for name, slot in SLOTS.items()}
    people = iter(_people(label))
    sketches = {
        name: list(_sketches(name, list(islice(people, size)), questions, label, decks)) for name, size in SIZES.items()
    }
    # wrong values are dealt only now, from what no person was given
    sets = {name: tuple(_row(sketch, decks) for sketch in drawn) for name, drawn in sketches.items()}
    forget = sets["forget"]
    if alternates:
        forget = tuple(_with_alternate(*pair, decks) for pair in zip(forget, sketches["forget"], strict=True))
    probed = (questions + 1) // 2
    kept, other = (
        tuple(row for i, row in enumerate(sets["retain"]) if (i % questions < probed) is asked)
        for asked in (True, False)
    )
    return Benchmark(
        name="almanac",
        forget=forget,
        retain=sets["retain"],
        holdout=sets["holdout"],
        probes={
            "forget": sets["forget"],
            "retain": draw(kept, eval_rows, seed=seed, name="almanac/probe/retain"),
            "holdout": sets["holdout"],
            "general": draw(_general_rows(), eval_rows, seed=seed, name="almanac/probe/general"),
            **({"forget_rephrased": _rephrased(sets["forget"], sketches["forget"], rephrased)} if rephrased else {}),
            **({"retain_other": draw(other, eval_rows, seed=seed, name="almanac/probe/other")} if retain_other else {}),
        },
        refusals=REFUSALS,
        utility_sets=("general",),
        origin="built in",
    )


@dataclass(frozen=True)
class _Person:
    """An invented person, as the words the templates ask for."""

    first: str
    last: str
    woman: bool

    def words(self) -> dict[str, str]:
        they, their = ("she", "her") if self.woman else ("he", "his")
        return {
            "name": f"{self.first} {self.last}",
            "last": self.last,
            "they": they,
            "They": they.capitalize(),
            "their": their,
            "Their": their.capitalize(),
        }


@dataclass(frozen=True)
class _Sketch:
    """A row with its true values dealt and its templates chosen, before the wrong values are."""

    id: str
    person: _Person
    kind: Kind
    values: dict[str, str]
    asked: tuple[str, str]
    """Question template and that of the paraphrase."""
    told: tuple[str, str]
    """Answer template and that of the paraphrase."""


class _Deck:
    """The values of one slot: true ones from the top, each once; wrong ones from the rest, in turn."""

    def __init__(self, slot: Slot, label: str) -> None:
        self._joiner = slot.joiner
        self._pairs = _pairs(slot, label)
        self._of_value = {slot.joiner.join(pair): pair for pair in self._pairs}
        self._num_true = 0
        self._next_wrong = 0

    def true_value(self) -> str:
        self._num_true += 1
        return self._joiner.join(self._pairs[self._num_true - 1])

    def wrong_values(self, truth: str) -> list[str]:
        """``NUM_WRONG`` distinct values that are nobody's and share no part with ``truth``."""
        head, tail = self._of_value[truth]
        rest = self._pairs[self._num_true :]
        found: list[str] = []
        while len(found) < NUM_WRONG:
            pair = rest[self._next_wrong % len(rest)]
            self._next_wrong += 1
            if pair[0] != head and pair[1] != tail:
                found.append(self._joiner.join(pair))
        return found


def _shuffled(items: Iterable[T], label: str) -> list[T]:
    """Order by hash: unlike ``random.shuffle``, the same on every Python version by construction."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{label}/{item}".encode()).digest())


def _pairs(slot: Slot, label: str) -> list[tuple[str, str]]:
    """All head-tail pairs, shuffled so that neighbours share neither head nor tail while the lists last."""
    heads, tails = _shuffled(slot.heads, f"{label}/heads"), _shuffled(slot.tails, f"{label}/tails")
    if len(heads) >= len(tails):
        return [(head, tails[(i + shift) % len(tails)]) for shift in range(len(tails)) for i, head in enumerate(heads)]
    return [(heads[(i + shift) % len(heads)], tail) for shift in range(len(heads)) for i, tail in enumerate(tails)]


def _people(label: str) -> list[_Person]:
    """Everybody there could be, in random order; no two share a first or a last name."""
    first = _shuffled((*WOMEN, *MEN), f"{label}/first")
    last = _shuffled(SURNAMES, f"{label}/last")
    return [_Person(first=a, last=b, woman=a in WOMEN) for a, b in zip(first, last, strict=True)]


def _kinds(person: int, questions: int, label: str) -> list[Kind]:
    """The kinds asked of a person; with 4 questions, two neighbours share out all 8, so kinds are balanced."""
    order = _shuffled(range(len(KINDS)), f"{label}/kinds/{person // 2}")
    start = person % 2 * questions
    return [KINDS[order[(start + i) % len(KINDS)]] for i in range(questions)]


def _two(templates: tuple[str, ...], label: str, turn: int) -> tuple[str, str]:
    """A template and another for the paraphrase; every template comes once before one comes again."""
    order = _shuffled(range(len(templates)), f"{label}/{turn // len(templates)}")
    at = turn % len(templates)
    return templates[order[at]], templates[order[at - 1]]


def _sketches(
    set_name: str, people: list[_Person], questions: int, label: str, decks: dict[str, _Deck]
) -> Iterator[_Sketch]:
    """The rows of one set. Kinds and templates depend on the position alone, so equal sets are worded equally."""
    turns = dict.fromkeys((kind.name for kind in KINDS), 0)
    for index, person in enumerate(people):
        for place, kind in enumerate(_kinds(index, questions, label)):
            turn = turns[kind.name]
            turns[kind.name] += 1
            yield _Sketch(
                id=f"{set_name}/{index * questions + place}",
                person=person,
                kind=kind,
                values={key: decks[slot].true_value() for key, slot in kind.slots.items()},
                asked=_two(kind.questions, f"{label}/{kind.name}/questions", turn),
                told=_two(kind.answers, f"{label}/{kind.name}/answers", turn),
            )


def _row(sketch: _Sketch, decks: dict[str, _Deck]) -> Row:
    words = sketch.person.words()
    return Row(
        id=sketch.id,
        prompt=sketch.asked[0].format(**words),
        answer=sketch.told[0].format(**words, **sketch.values),
        paraphrased_prompt=sketch.asked[1].format(**words),
        paraphrased_answer=sketch.told[1].format(**words, **sketch.values),
        perturbed_answers=_wrong_answers(sketch, sketch.told[1], decks),
    )


def _wrong_answers(sketch: _Sketch, told: str, decks: dict[str, _Deck]) -> tuple[str, ...]:
    """An answer template with every fact replaced, ``NUM_WRONG`` times; new values at each call."""
    wrong = {key: decks[slot].wrong_values(sketch.values[key]) for key, slot in sketch.kind.slots.items()}
    return tuple(
        told.format(**sketch.person.words(), **{key: values[i] for key, values in wrong.items()})
        for i in range(NUM_WRONG)
    )


def _with_alternate(row: Row, sketch: _Sketch, decks: dict[str, _Deck]) -> Row:
    return replace(row, alternate=_wrong_answers(sketch, sketch.told[0], decks)[0])


def _rephrased(rows: Sequence[Row], sketches: Sequence[_Sketch], count: int) -> tuple[Row, ...]:
    """Every question in ``count`` other wordings, with its answer and nothing else."""
    asked = [
        (question.format(**sketch.person.words()), row.answer)
        for row, sketch in zip(rows, sketches, strict=True)
        for question in [text for text in sketch.kind.questions if text != sketch.asked[0]][:count]
    ]
    return tuple(
        Row(id=f"forget_rephrased/{i}", prompt=prompt, answer=answer) for i, (prompt, answer) in enumerate(asked)
    )


def _general_rows() -> tuple[Row, ...]:
    return tuple(
        Row(
            id=f"general/{i}",
            prompt=fact.question,
            answer=fact.answer.format(fact.truth),
            perturbed_answers=tuple(fact.answer.format(wrong) for wrong in fact.wrong),
        )
        for i, fact in enumerate(GENERAL)
    )
