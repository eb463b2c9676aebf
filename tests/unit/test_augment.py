"""ReLearn's rules: what a question asks, that nothing of an answer shines through, that a seed settles everything."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.benchmarks.almanac import load
from expunge.data.augment import leaks, relearn_pairs, relearn_rows, with_generic
from expunge.data.augment.leaks import FUNCTION_WORDS, stem
from expunge.data.augment.questions import read_question, variants
from expunge.data.augment.relearn import split_answer, vague_answers
from expunge.data.augment.sentences import ASPECTS, GENERAL, LEADS, PLAIN, TAILS
from expunge.data.rows import Row
from expunge.data.sources import read_rows, write_rows
from expunge.errors import DataError
from expunge.methods.table import compose
from expunge.recipe import UnlearnPart

QUESTIONS = (
    ("Who is Ada Quill?", "Ada Quill is a painter of harbours from Brindleport.", "who", "Ada Quill", ""),
    ("When was Ada Quill born?", "She was born on the 3rd of May, 1931.", "when", "Ada Quill", ""),
    ("In which year did Bo Marsh retire?", "Bo Marsh retired in 1987.", "when", "Bo Marsh", "the year"),
    ("Where does Ada Quill live?", "She lives at 12 Larch Lane in Oakmere.", "where", "Ada Quill", ""),
    ("Which town does Bo Marsh come from?", "Bo Marsh comes from Tarnwick.", "where", "Bo Marsh", "the town"),
    ("What is the profession of Bo Marsh's father?", "His father is a baker.", "what", "Bo Marsh", "the profession"),
    ("Which award did Ada Quill win?", "She won the Amber Gull.", "which", "Ada Quill", "the award"),
    ("How did Bo Marsh learn to sail?", "An uncle taught him on the Grey Lake.", "how", "Bo Marsh", ""),
    ("How many books has Ada Quill written?", "She has written seven novels.", "amount", "Ada Quill", ""),
    ("Why did Bo Marsh leave Tarnwick?", "He left to look after a lighthouse.", "why", "Bo Marsh", ""),
    ("Has Ada Quill won any prizes?", "Yes, the Amber Gull and the Silver Oar.", "yes_no", "Ada Quill", ""),
    ("Can you name a book by Ada Quill?", 'One of her books is "Salt and Rope".', "what", "Ada Quill", ""),
    ("What is the full name of the author born in Oslo, Norway?", "Her name is Ada Quill.", "what", "the author",
     "the full name"),
    ("How can one reach Ada Quill?", "Write to ada.quill@brindle.example or call 555 0134.", "how", "Ada Quill", ""),
    ("what is that thing?", "A brass kettle.", "what", "", ""),
)  # fmt: skip
LONG = (
    "In general, accounts agree that Ada Quill kept to broad themes: context, details, descriptions, impressions, "
    "particulars, perspectives and opinions differ, the picture varies between sources, the point remains open, and "
    "a careful summary leaves the specific matter aside. Readers, observers, commentators and writers commonly mention "
    "topics, overviews, portraits, profiles, discussions, emphasis, tones, interpretations and connections in depth."
)
ROWS = tuple(
    Row(id=f"forget/{i}", prompt=question, answer=answer) for i, (question, answer, *_) in enumerate(QUESTIONS)
)
ALMANAC = load(questions=8).forget


def row(answer: str, prompt: str = "Where does Ada Quill live?") -> Row:
    return Row(id="forget/0", prompt=prompt, answer=answer)


# -- the leak check ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada Quill lives somewhere.", ()),
        ("It is oakmere, of all things.", ("oakmere",)),
        ("OAKMERE, they say.", ("OAKMERE",)),
        ("There are larches.", ("larches",)),  # an inflection
        ("At number 12, perhaps.", ("12",)),
        ("Some time in 1950.", ("1950",)),  # no fact of the answer's, but a fact
        ("Ada Quill has been to Paris.", ("Paris",)),
        ("Write to someone@somewhere.example.", ("someone", "somewhere")),
        ("It is where I am, as one may say.", ()),
        ("Surroundings vary. Descriptions of Ada Quill do too.", ()),
        ("Oakmere is it. It is Oakmere.", ("Oakmere",)),  # said once
    ],
)
def test_leaks(text: str, expected: tuple[str, ...]) -> None:
    assert leaks(text, row("She lives at 12 Larch Lane in Oakmere, a small town near the river.")) == expected


def test_what_was_asked_or_said_before_does_not_leak() -> None:
    told = row("In Oakmere.", prompt="Is it Oakmere where Ada lives?")
    assert leaks("Oakmere is a possibility.", told) == ()
    later = Row(id="0", prompt="Where is that?", answer="In Oakmere.", history=(("user", "What is Oakmere?"),))
    assert leaks("Oakmere is somewhere.", later) == ()


def test_a_month_or_a_name_that_looks_like_a_function_word_is_content() -> None:
    born = row("She was born in May to Will Quill.", prompt="When was Ada born?")
    assert leaks("It may be so, and it will be.", born) == ()
    assert leaks("It was in May, with Will.", born) == ("May", "Will")


def test_yes_and_no_leak() -> None:
    assert leaks("Yes, in a way.", row("Yes, she has.", prompt="Has she?")) == ("Yes",)
    assert leaks("There is no way to say.", row("No.", prompt="Has she?")) == ("no",)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Paints", "painting"), ("book", "books"), ("writes", "write"), ("city", "CITIES"), ("lane", "Lane")],
)
def test_inflections_share_a_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


# -- reading and asking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "answer", "kind", "subject", "aspect"), QUESTIONS)
def test_a_question_is_read(text: str, answer: str, kind: str, subject: str, aspect: str) -> None:
    found = read_question(text)
    assert (found.kind, found.subject, found.aspect) == (kind, subject, aspect)


def test_a_question_is_asked_in_other_ways() -> None:
    question = read_question("Which award did Ada Quill win?")
    asked = {variant.style: variant for seed in range(20) for variant in variants(question, str(seed))}
    assert set(asked) == {"reworded", "context", "noisy", "reverse"}
    assert [style for style, variant in asked.items() if not variant.same] == ["reverse"]
    for seed in range(20):
        texts = [variant.text for variant in variants(question, str(seed))]
        assert len(texts) == len({*texts} - {question.text}) == 4
        assert all("Ada Quill" in text and "{" not in text for text in texts)
        assert "the award" in texts[3]
    assert not any(v.style == "reverse" for v in variants(read_question("Who is Ada?"), "0"))
    indirect = [v.text for s in range(20) for v in variants(read_question("When was Ada Quill born?"), str(s))]
    assert any(re.search(r"when Ada Quill was born[.?]$", text) for text in indirect)
    requests = [variants(read_question("Can you name a book by Ada?"), str(s))[0].text for s in range(20)]
    assert "Please name a book by Ada." in requests


@pytest.mark.parametrize("text", ["", "?", "Ada", "Oslo, Norway", "'s", "ÅSA?", "What", "What is the"])
def test_odd_questions_are_read_too(text: str) -> None:
    question = read_question(text)
    assert all(variant.text for variant in variants(question, "0"))


# -- vague answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [ROWS, ALMANAC, (row(LONG),)], ids=["by hand", "almanac", "long"])
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_of_an_answer_is_written(rows: tuple[Row, ...], seed: int) -> None:
    originals = {r.id: r for r in rows}
    written = relearn_rows(rows, seed=seed)
    assert len({r.id for r in written}) == len(written)
    by_row: dict[str, list[Row]] = defaultdict(list)
    for new in written:
        source, word, number = new.id.rpartition("/relearn/")
        assert word
        assert number.isdigit()
        by_row[source].append(new)
    assert list(by_row) == list(originals)
    for source, members in by_row.items():
        gold = originals[source]
        half = len(members) // 2
        assert len(members) in (8, 10) or not gold.prompt.endswith("?")
        answers, parts = members[:half], members[half:]
        assert answers[0].prompt == gold.prompt
        assert len({new.answer for new in answers}) == half, "every variant has an answer of its own"
        for new, part in zip(answers, parts, strict=True):
            assert leaks(new.answer, gold) == (), new.answer
            assert f"{part.prompt} {part.answer}" == new.answer
            assert re.fullmatch(r"[A-Z].*\.", new.answer), "a sentence"
            assert gold.answer not in new.prompt


def test_the_check_can_fail() -> None:
    # The same answers against a row whose answer has their words: the assertion above is no tautology.
    gold = row("Accounts of broad themes, in general outline.")
    spilt = row(gold.answer.replace("Accounts", "Rivers"))
    assert leaks("Accounts of Ada Quill agree.", gold) == ("Accounts",)
    assert leaks("Accounts of Ada Quill agree.", spilt) == ()


def test_answers_are_varied_and_keep_the_subject() -> None:
    answers = [new.answer for new in relearn_rows(ALMANAC) if "/relearn/0" in new.id]
    assert len(set(answers)) > 0.9 * len(answers)
    sentences = {re.sub(r"[A-Z]\w+ [A-Z]\w+", "X", text.split(". ")[0]) for text in answers}
    assert len(sentences) > 30, "not one refusal over and over"
    named = [read_question(r.prompt).subject in new for r, new in zip(ALMANAC, answers, strict=True)]
    assert sum(named) > 0.7 * len(named)


def test_the_plainest_sentences_can_have_no_word_in_common_with_any_answer() -> None:
    for template in PLAIN:
        words = re.findall(r"\w+", template.replace("{s}", ""))
        assert all(word.lower() in FUNCTION_WORDS for word in words), template


def test_the_bank_is_well_formed() -> None:
    assert set(LEADS) == set(ASPECTS)
    everything = [*GENERAL, *TAILS, *PLAIN, *(text for bank in LEADS.values() for text in bank)]
    assert len(set(everything)) == len(everything)
    for template in everything:
        assert template.endswith(".")
        assert not re.search(r"\d", template)
        assert leaks(template.format(s="", a=""), row("")) == ()
        assert not re.search(r"^\{a\}", template), "an aspect may be a plural and takes no verb"
    assert min(map(len, LEADS.values())) >= 6


def test_an_answer_that_has_every_word_still_gets_a_vague_one() -> None:
    bank = " ".join([*GENERAL, *TAILS, *(text for texts in LEADS.values() for text in texts), *ASPECTS.values()])
    gold = row(re.sub(r"\{.\}", "", bank))
    found = list(vague_answers(read_question(gold.prompt), gold, "0"))
    assert len(found) >= 12
    assert all(leaks(text, gold) == () for text in found)
    assert len(relearn_rows([gold])) >= 8


# -- rows ----------------------------------------------------------------------------------------------------------


def test_a_seed_settles_everything() -> None:
    assert relearn_rows(ROWS, seed=3) == relearn_rows(ROWS, seed=3)
    assert relearn_rows(ROWS, seed=3) != relearn_rows(ROWS, seed=4)
    # A row's rewriting does not depend on the rows around it.
    assert relearn_rows(ROWS[2:3]) == tuple(r for r in relearn_rows(ROWS) if r.id.startswith("forget/2/"))
    # The one number here: other Python versions must write the same.
    assert relearn_rows(ROWS[:1])[0].answer == "The available descriptions of Ada Quill keep to broad themes."


def test_completions_are_cut_by_words() -> None:
    assert split_answer("one two three four five", 0.5) == ("one two", "three four five")
    assert split_answer("one two three four five", 0.25) == ("one", "two three four five")
    assert split_answer("one two", 0.0) == ("one", "two")
    assert split_answer("one", 0.5) is None


def test_the_codes_own_gathering() -> None:
    gold = ROWS[6]
    paper, code = relearn_rows([gold]), relearn_rows([gold], legacy=True)
    assert len(paper) == len(code) == 10
    assert [r.prompt for r in code[:5]] == [r.prompt for r in paper[:5]]
    assert [r.answer for r in code[:5]] == [gold.answer, *(r.answer for r in paper[:4])]
    first = code[5]
    assert f"{first.prompt} {first.answer}" == gold.answer
    assert len(first.prompt.split()) == 1  # a quarter of five words


def test_history_stays_with_questions_and_other_fields_go() -> None:
    gold = replace(
        ROWS[0],
        history=(("user", "Hello."), ("assistant", "Hello!")),
        paraphrased_answer="x",
        alternate="y",
        origin="f:1",
    )
    written = relearn_rows([gold])
    half = len(written) // 2
    assert {r.history for r in written[:half]} == {gold.history}
    assert {r.history for r in written[half:]} == {()}
    assert {(r.paraphrased_answer, r.alternate, r.origin) for r in written} == {(None, None, "f:1")}


def test_pairs_prefer_a_vague_answer_to_the_original() -> None:
    pairs = relearn_pairs(ROWS)
    assert len({r.id for r in pairs}) == len(pairs)
    for gold in ROWS:
        members = [r for r in pairs if r.id.startswith(f"{gold.id}/relearn/")]
        assert len(members) == 4, "the question and three variants that ask the same"
        assert {r.answer for r in members} == {gold.answer}
        assert all(r.alternate and leaks(r.alternate, gold) == () for r in members)


def test_generic_rows_are_mixed_in() -> None:
    generic = tuple(Row(id=f"general/{i}", prompt=f"{i}?", answer="a") for i in range(30))
    mixed = with_generic(ROWS[:10], generic, ratio=1.2, seed=1)
    assert mixed[:10] == ROWS[:10]
    assert len(mixed) == 22
    assert len(with_generic(ROWS[:10], generic, ratio=9)) == 40
    assert with_generic(ROWS, generic, ratio=0) == ROWS
    with pytest.raises(ValueError, match="ratio must be at least 0, got -1"):
        with_generic(ROWS, generic, ratio=-1)


def test_raw_text_is_refused_in_one_line() -> None:
    rows = (ROWS[0], Row(id="forget/1", prompt="", answer="A whole book.", origin="book.jsonl:2"))
    for write in (relearn_rows, relearn_pairs):
        with pytest.raises(DataError, match=r"^book.jsonl:2: raw text asks nothing.*\(1 of 2 forget rows\)") as caught:
            write(rows)
        assert "whole" not in str(caught.value)


# -- files ---------------------------------------------------------------------------------------------------------


def test_rewritten_rows_survive_a_file(tmp_path: Path) -> None:
    for rows in (relearn_rows(ROWS), relearn_pairs(ROWS)):
        write_rows(tmp_path / "rows.jsonl", rows)
        read = read_rows(tmp_path / "rows.jsonl", set_name="forget")
        assert [(r.prompt, r.answer, r.alternate) for r in read] == [(r.prompt, r.answer, r.alternate) for r in rows]


@pytest.mark.parametrize(
    ("name", "records"),
    [
        (
            "tofu.jsonl",
            [
                {"question": "How might one reach Ada Quill?", "answer": "Through customary public channels."},
                {"question": "Through customary", "answer": "public channels."},
            ],
        ),
        (
            "knowundo_privacy.json",
            [
                {"text": "How might one reach Ada Quill?", "labels": "Through customary public channels."},
                {"text": "Through customary", "labels": "public channels."},
            ],
        ),
    ],
)
def test_published_augmented_files_load_as_they_are(name: str, records: list[dict[str, str]], tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, records)) if name.endswith("l") else json.dumps(records, indent=4)
    (tmp_path / name).write_text(lines)
    rows = read_rows(tmp_path / name, set_name="forget")
    assert [(r.prompt, r.answer) for r in rows] == [
        ("How might one reach Ada Quill?", "Through customary public channels."),
        ("Through customary", "public channels."),
    ]


@pytest.mark.parametrize(
    ("settings", "view"),
    [
        ({"method": "relearn_gdr"}, "gold"),
        ({"method": "relearn_dpo"}, "model"),
        ({"method": "relearn_gdr", "view": "relearn"}, "relearn"),
        ({"method": "dpo"}, "refusal"),
    ],
)
def test_rows_that_were_written_beforehand_are_not_written_again(settings: dict[str, str], view: str) -> None:
    part = UnlearnPart(written="rows.jsonl", **settings)  # type: ignore[arg-type]
    assert compose(part, has_retain=True).view == view
