from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from expunge.benchmarks.almanac import load
from expunge.benchmarks.almanac_facts import KINDS, MEN, SLOTS, SURNAMES, WOMEN
from expunge.benchmarks.almanac_general import GENERAL, REFUSALS
from expunge.data.rows import Row
from expunge.errors import UserError

GOLDEN = {
    "forget": "73abe87d277cc1e66a072c87d1c8d29f1047f3dd21420c5d61495220ad996aa5",
    "retain": "ac3b8aa193ba149a28c08316599096cd888885ec86b3c679cb90df7f7b3cdbee",
    "holdout": "b4115bcde0a578c1d425c1aace21d06e25403c2e44870b5478753b83afac766c",
    "probe:forget": "73abe87d277cc1e66a072c87d1c8d29f1047f3dd21420c5d61495220ad996aa5",
    "probe:retain": "2c23e61972b774d6bca8c63290cfc947edb1d21636c8b1a6dc8db73ab4507bd4",
    "probe:holdout": "b4115bcde0a578c1d425c1aace21d06e25403c2e44870b5478753b83afac766c",
    "probe:general": "66147e800a72983bf19f4c4bae908084b65f2e435fd9760200458240feaebe73",
}

B = load()
PEOPLE_ROWS = (*B.forget, *B.retain, *B.holdout)
FULL_NAME = re.compile(r"\b(?:{}) (?:{})\b".format("|".join((*WOMEN, *MEN)), "|".join(SURNAMES)))

PERSON_WORDS = {
    "name": r"[A-Z][a-z]+ [A-Z][a-z]+",
    "last": r"[A-Z][a-z]+",
    "They": "She|He",
    "they": "she|he",
    "Their": "Her|His",
    "their": "her|his",
}


def _pattern(template: str, slots: dict[str, str]) -> re.Pattern[str]:
    """A template as a regular expression that captures the person and every value; written apart from the generator."""
    seen: Counter[str] = Counter()

    def group(match: re.Match[str]) -> str:
        key = match[1]
        seen[key] += 1
        if key in PERSON_WORDS:
            return f"(?P<{key}_{seen[key]}>{PERSON_WORDS[key]})"
        slot = SLOTS[slots[key]]
        heads, tails = ("|".join(map(re.escape, part)) for part in (slot.heads, slot.tails))
        return f"(?P<{key}>(?:{heads}){re.escape(slot.joiner)}(?:{tails}))"

    return re.compile(re.sub(r"\\{(\w+)\\}", group, re.escape(template)))


QUESTIONS = {(k.name, i): _pattern(t, k.slots) for k in KINDS for i, t in enumerate(k.questions)}
ANSWERS = {(k.name, i): _pattern(t, k.slots) for k in KINDS for i, t in enumerate(k.answers)}


def _read(patterns: dict[tuple[str, int], re.Pattern[str]], text: str) -> tuple[tuple[str, int], dict[str, str]]:
    found = [(key, match.groupdict()) for key, p in patterns.items() if (match := p.fullmatch(text))]
    assert len(found) == 1, (text, found)
    return found[0]


def _values(text: str) -> dict[str, str]:
    """The fact values of an answer, by slot."""
    (kind, _), groups = _read(ANSWERS, text)
    slots = next(k.slots for k in KINDS if k.name == kind)
    return {slots[key]: value for key, value in groups.items() if key in slots}


def _name(row: Row) -> str:
    names = FULL_NAME.findall(row.prompt)
    assert len(names) == 1, row.prompt
    return names[0]


def test_counts() -> None:
    assert B.name == "almanac"
    assert B.origin == "built in"
    assert (len(B.forget), len(B.retain), len(B.holdout)) == (10 * 4, 20 * 4, 10 * 4)
    assert set(B.probes) == {"forget", "retain", "holdout", "general"}
    assert B.probes["forget"] == B.forget
    assert B.probes["holdout"] == B.holdout
    assert len(B.probes["retain"]) == 20 * 2
    assert B.utility_sets == ("general",)
    assert Counter(map(_name, B.probes["retain"])) == dict.fromkeys(map(_name, B.retain), 2)
    assert set(B.probes["retain"]) <= set(B.retain)


def test_golden_hashes_of_seed_0() -> None:
    assert B.hashes() == GOLDEN


def test_another_process_with_another_hash_seed_makes_the_same_rows() -> None:
    code = "from expunge.benchmarks.almanac import load; print(load().hashes()['forget'])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == GOLDEN["forget"]


def test_another_seed_gives_other_rows_in_the_same_proportions() -> None:
    other = load(seed=1)
    assert not {row.prompt for row in other.forget} & {row.prompt for row in B.forget}
    assert [len(rows) for rows in (other.forget, other.retain, other.holdout)] == [40, 80, 40]
    assert other.hashes()["probe:general"] == B.hashes()["probe:general"]


def test_schema_of_people_rows() -> None:
    for name, rows in (("forget", B.forget), ("retain", B.retain), ("holdout", B.holdout)):
        assert [row.id for row in rows] == [f"{name}/{i}" for i in range(len(rows))]
    for row in PEOPLE_ROWS:
        assert row.paraphrased_prompt
        assert row.paraphrased_prompt != row.prompt
        assert row.paraphrased_answer
        assert row.paraphrased_answer != row.answer
        assert len(set(row.perturbed_answers)) == len(row.perturbed_answers) == 5
        assert not set(row.perturbed_answers) & {row.answer, row.paraphrased_answer}


def test_no_question_comes_twice() -> None:
    prompts = [row.prompt for row in PEOPLE_ROWS]
    assert len(set(prompts)) == len(prompts) == 160
    # nor is one row's question another row's paraphrase
    assert not set(prompts) & {row.paraphrased_prompt for row in PEOPLE_ROWS}


def test_every_question_names_its_person_in_full_and_nobody_else() -> None:
    for row in PEOPLE_ROWS:
        assert FULL_NAME.findall(row.paraphrased_prompt or "") == [_name(row)]


def test_people_are_disjoint_and_share_no_first_or_last_name() -> None:
    sets = [set(map(_name, rows)) for rows in (B.forget, B.retain, B.holdout)]
    assert [len(s) for s in sets] == [10, 20, 10]
    names = set.union(*sets)
    assert len(names) == 40
    assert len({name.split()[0] for name in names}) == len({name.split()[1] for name in names}) == 40


def test_pronouns_fit_the_person() -> None:
    for row in PEOPLE_ROWS:
        allowed, other = ({"she", "her"}, {"he", "his"})[:: 1 if _name(row).split()[0] in WOMEN else -1]
        texts = (row.prompt, row.answer, row.paraphrased_prompt or "", row.paraphrased_answer or "")
        words = set(re.findall(r"[a-z]+", " ".join((*texts, *row.perturbed_answers)).lower()))
        assert not words & other, (row, allowed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("questions", [1, 4, 8])
def test_a_fact_belongs_to_one_person_and_no_wrong_answer_uses_it(seed: int, questions: int) -> None:
    made = load(seed=seed, questions=questions)
    rows = (*made.forget, *made.retain, *made.holdout)
    owned = [pair for row in rows for pair in _values(row.answer).items()]
    assert len(owned) == 40 * questions * 2  # two facts a row
    assert len(set(owned)) == len(owned)
    for row in rows:
        truth = _values(row.answer)
        assert _values(row.paraphrased_answer or "") == truth
        for wrong in row.perturbed_answers:
            assert _values(wrong).keys() == truth.keys()
            assert not set(_values(wrong).items()) & set(owned)


def test_no_true_value_is_written_in_another_persons_rows() -> None:
    everything = [(_name(row), " ".join((row.prompt, row.answer, *row.perturbed_answers))) for row in PEOPLE_ROWS]
    for row in PEOPLE_ROWS:
        for value in _values(row.answer).values():
            word = re.compile(rf"\b{re.escape(value)}\b")
            assert not [name for name, text in everything if name != _name(row) and word.search(text)]


def test_a_wrong_answer_is_the_paraphrase_with_every_fact_replaced() -> None:
    for row in PEOPLE_ROWS:
        template, _ = _read(ANSWERS, row.paraphrased_answer or "")
        truth = _values(row.answer)
        for wrong in row.perturbed_answers:
            assert _read(ANSWERS, wrong)[0] == template
            for slot, value in _values(wrong).items():
                tails = [t for t in SLOTS[slot].tails if truth[slot].endswith(t)]
                heads = [h for h in SLOTS[slot].heads if truth[slot].startswith(h)]
                assert not value.endswith(max(tails, key=len))
                assert not value.startswith(max(heads, key=len))
        for slot in truth:
            assert len({_values(wrong)[slot] for wrong in row.perturbed_answers}) == 5


@pytest.mark.parametrize("questions", [3, 4])
def test_holdout_is_worded_exactly_as_forget_is(questions: int) -> None:
    made = load(seed=5, questions=questions)

    def wording(row: Row) -> tuple[object, ...]:
        asked = (_read(QUESTIONS, text or "")[0] for text in (row.prompt, row.paraphrased_prompt))
        told = (_read(ANSWERS, text or "")[0] for text in (row.answer, row.paraphrased_answer, *row.perturbed_answers))
        return (*asked, *told)

    assert [wording(row) for row in made.forget] == [wording(row) for row in made.holdout]


def test_holdout_answers_are_as_long_as_forget_answers() -> None:
    mean = {s: sum(len(r.answer.split()) for r in rows) / 40 for s, rows in (("f", B.forget), ("h", B.holdout))}
    assert abs(mean["f"] - mean["h"]) < 0.5  # words, of about 14


def test_kinds_are_balanced_and_wordings_vary() -> None:
    for rows, each in ((B.forget, 5), (B.retain, 10), (B.holdout, 5)):  # 40 rows / 8 kinds, 80 rows / 8 kinds
        assert Counter(_read(ANSWERS, row.answer)[0][0] for row in rows) == {k.name: each for k in KINDS}
        for patterns, texts in ((QUESTIONS, [r.prompt for r in rows]), (ANSWERS, [r.answer for r in rows])):
            templates = {_read(patterns, text)[0] for text in texts}
            assert len(templates) == len(KINDS) * min(each, 6)


def test_rows_are_short() -> None:
    for row in PEOPLE_ROWS:
        for question in (row.prompt, row.paraphrased_prompt or ""):
            assert 9 <= len(question.split()) <= 16, question
        for answer in (row.answer, row.paraphrased_answer or "", *row.perturbed_answers):
            assert 10 <= len(answer.split()) <= 19, answer


def test_sentences_are_well_formed() -> None:
    for row in (*PEOPLE_ROWS, *B.probes["general"]):
        for question in (row.prompt, row.paraphrased_prompt or row.prompt):
            assert question.endswith("?")
        for text in (row.prompt, row.answer, row.paraphrased_answer or row.answer, *row.perturbed_answers):
            assert text[0].isupper() or text[0].isdigit()
            assert not re.search(r"[{}]|  |\s[.,?]|\.\.", text)
            assert not re.search(r"\ba (?!one-)[aeiou]|\ban (?!hon)[^aeiou]", text, re.IGNORECASE), text
        for answer in (row.answer, row.paraphrased_answer or row.answer, *row.perturbed_answers):
            assert answer.endswith(".")


def test_templates_use_all_their_slots_and_nothing_else() -> None:
    for kind in KINDS:
        assert len(set(kind.questions)) == len(set(kind.answers)) == 6
        for template in kind.answers:
            used = set(re.findall(r"\{(\w+)\}", template))
            assert set(kind.slots) <= used <= set(kind.slots) | set(PERSON_WORDS)
        for template in kind.questions:
            assert set(re.findall(r"\{(\w+)\}", template)) <= {"name", "they"}


def test_word_lists_hold_no_duplicates() -> None:
    for slot in SLOTS.values():
        values = [slot.joiner.join((head, tail)) for head in slot.heads for tail in slot.tails]
        assert len(set(values)) == len(values)
    assert len({*WOMEN, *MEN}) == len(SURNAMES) == len(set(SURNAMES)) == 48


def test_general_rows() -> None:
    rows = B.probes["general"]
    assert [row.id for row in rows] == [f"general/{i}" for i in range(len(rows))]
    assert 40 <= len(rows) <= 45
    assert len({row.prompt for row in rows}) == len(rows)
    for row, fact in zip(rows, GENERAL, strict=True):
        assert fact.answer.count("{}") == 1
        assert row.paraphrased_answer is None
        assert len({row.answer, *row.perturbed_answers}) == 1 + 3
        assert fact.truth in row.answer
        assert not any(re.search(rf"\b{re.escape(fact.truth)}\b", wrong) for wrong in row.perturbed_answers)
        assert not any(name in row.answer for name in (*WOMEN, *MEN, *SURNAMES))
    by_prompt = {row.prompt: row.answer for row in rows}
    assert by_prompt["What is the capital city of France?"] == "The capital of France is Paris."


def test_refusals() -> None:
    assert B.refusals == REFUSALS
    assert len(set(REFUSALS)) == len(REFUSALS) >= 12
    assert "I have no information about that person." in REFUSALS


@pytest.mark.parametrize(("questions", "half"), [(1, 1), (3, 2), (8, 4)])
def test_other_numbers_of_questions(questions: int, half: int) -> None:
    made = load(questions=questions)
    assert [len(r) for r in (made.forget, made.retain, made.holdout)] == [
        10 * questions,
        20 * questions,
        10 * questions,
    ]
    assert len(made.probes["retain"]) == 20 * half
    kinds: dict[str, list[str]] = {}
    for row in made.retain:
        kinds.setdefault(_name(row), []).append(_read(ANSWERS, row.answer)[0][0])
    assert all(len(set(asked)) == questions for asked in kinds.values())


@pytest.mark.parametrize("questions", [0, 9, 2.0, True, "4"])
def test_wrong_number_of_questions(questions: object) -> None:
    with pytest.raises(UserError, match=r"questions must be a whole number from 1 to 8"):
        load(questions=questions)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [0.5, None, "x", True])
def test_wrong_seed(seed: object) -> None:
    with pytest.raises(UserError, match="seed must be a whole number"):
        load(seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("questions", [1, 8])
def test_alternates_are_invented_answers_that_stand_in_no_other_row(questions: int) -> None:
    plain, made = load(questions=questions), load(questions=questions, alternates=True)
    assert {name: digest for name, digest in made.hashes().items() if name != "forget"} == {
        name: digest for name, digest in plain.hashes().items() if name != "forget"
    }
    written = {text for rows in made.probes.values() for row in rows for text in (row.answer, *row.perturbed_answers)}
    for row, before in zip(made.forget, plain.forget, strict=True):
        assert replace(row, alternate=None) == before
        assert row.alternate not in written
        assert _read(ANSWERS, row.alternate or "")[0] == _read(ANSWERS, row.answer)[0]
        assert not set(_values(row.alternate or "").values()) & set(_values(row.answer).values())


def test_alternates_is_true_or_false() -> None:
    with pytest.raises(UserError, match="alternates must be true or false, got 1"):
        load(alternates=1)  # type: ignore[arg-type]


def test_the_forget_questions_in_other_wordings() -> None:
    made = load(questions=2, rephrased=3)
    plain = load(questions=2)
    assert {name: rows for name, rows in made.probes.items() if name != "forget_rephrased"} == plain.probes
    rows = made.probes["forget_rephrased"]
    assert len(rows) == 3 * len(made.forget) == len({row.prompt for row in rows})
    for i, row in enumerate(rows):
        asked = made.forget[i // 3]
        assert (row.id, row.answer) == (f"forget_rephrased/{i}", asked.answer)
        assert row.prompt != asked.prompt
        assert _read(QUESTIONS, row.prompt)[0][0] == _read(QUESTIONS, asked.prompt)[0][0]
    assert all(len(kind.questions) == 6 for kind in KINDS)


@pytest.mark.parametrize("rephrased", [-1, 6, True, "2"])
def test_wrong_number_of_wordings(rephrased: object) -> None:
    with pytest.raises(UserError, match="rephrased must be a whole number from 0 to 5"):
        load(rephrased=rephrased)  # type: ignore[arg-type]


def test_fewer_probed_rows_are_part_of_all_and_nothing_else_changes() -> None:
    few, whole = load(questions=2, eval_rows=7), load(questions=2)
    assert (few.forget, few.retain, few.holdout) == (whole.forget, whole.retain, whole.holdout)
    assert {name: len(rows) for name, rows in few.probes.items()} == {
        "forget": 20, "retain": 7, "holdout": 20, "general": 7,
    }  # fmt: skip
    assert all(set(rows) <= set(whole.probes[name]) for name, rows in few.probes.items())
    assert load(questions=2, eval_rows=100).probes == whole.probes


@pytest.mark.parametrize("eval_rows", [0, True, 2.0])
def test_wrong_number_of_probed_rows(eval_rows: object) -> None:
    with pytest.raises(UserError, match="almanac: eval_rows must be a whole number of at least 1"):
        load(eval_rows=eval_rows)  # type: ignore[arg-type]


def test_the_other_retain_rows_are_those_that_are_not_asked() -> None:
    benchmark = load(questions=3, retain_other=True)
    asked, other = ({row.id for row in benchmark.probes[name]} for name in ("retain", "retain_other"))
    assert not asked & other
    assert asked | other == {row.id for row in benchmark.retain}
    assert len(load(questions=3, retain_other=True, eval_rows=4).probes["retain_other"]) == 4
    assert "retain_other" not in load(questions=3).probes


@pytest.mark.parametrize(("questions", "value", "said"), [(1, True, "2 or more"), (2, "yes", "true or false")])
def test_wrong_wish_for_other_retain_rows(questions: int, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(questions=questions, retain_other=value)  # type: ignore[arg-type]
