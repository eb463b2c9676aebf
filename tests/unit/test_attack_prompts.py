"""What each prompt attack asks, and what it must not give away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from conftest import city_rows, colour_rows
from expunge.attacks.prompts import LEAD, NUM_OPTIONS, NUM_SHOTS, PERSONA, PROMPTS, PromptContext
from expunge.benchmarks.almanac import load
from expunge.data.rows import Row
from expunge.evaluation.choice import score_choices
from expunge.models.load import LoadedModel

Load = Callable[..., LoadedModel]
ALMANAC = load(questions=1)
CONTEXT = PromptContext(ALMANAC.forget, ALMANAC.retain)
RAW = Row(id="t", prompt="", answer="The river runs past the old mill.")


def ask(key: str, row: Row, context: PromptContext = CONTEXT) -> tuple[Row, ...]:
    return PROMPTS.get(key).ask(row, context)


def test_names_of_the_field_are_understood() -> None:
    assert PROMPTS.names() == ("few_shot", "mcq", "paraphrase", "prefill", "reverse", "role")
    assert {PROMPTS.canonical(name) for name in ("AIM", "few-shot", "multiple choice", "reversed", "prefix")} == {
        "role", "few_shot", "mcq", "reverse", "prefill",
    }  # fmt: skip


@pytest.mark.parametrize("key", PROMPTS.names())
def test_an_attack_is_the_same_each_time_and_its_rows_have_names_of_their_own(key: str) -> None:
    attack = PROMPTS.get(key)
    found = attack.asked(ALMANAC.forget, CONTEXT)
    assert found == attack.asked(ALMANAC.forget, CONTEXT)
    assert len({row.id for _, row in found}) == len(found) > 0
    assert {at for at, _ in found} <= set(range(len(ALMANAC.forget)))


@pytest.mark.parametrize("key", ["prefill", "few_shot", "paraphrase", "role"])
def test_the_answer_stays_and_is_not_told(key: str) -> None:
    for row in ALMANAC.forget:
        (asked,) = ask(key, row)
        assert asked.answer == row.answer
        said = " ".join([asked.prompt, asked.lead, *(text for _, text in asked.history)])
        assert row.answer not in said


def test_a_prefilled_answer_goes_on_from_the_lead(load_tiny: Load) -> None:
    form = load_tiny().format
    (asked,) = ask("prefill", colour_rows()[0])
    sequence = form.encode(asked)
    assert form.tokenizer.decode(list(sequence.ids[: sequence.first_label])).endswith(LEAD)
    assert form.tokenizer.decode(sequence.labels) == " Ada likes red.<|end|>"


def test_examples_are_of_the_retain_rows_and_never_the_question_itself() -> None:
    row = colour_rows()[0]
    own = replace(row, id="retain/x")
    (asked,) = ask("few_shot", row, PromptContext((row,), (*city_rows(), own)))
    questions = [text for role, text in asked.history if role == "user"]
    assert len(questions) == NUM_SHOTS
    assert set(questions) <= {r.prompt for r in city_rows()}
    assert [role for role, _ in asked.history[:2]] == ["user", "assistant"]
    assert ask("few_shot", row, PromptContext((row,))) == ()


def test_the_role_holds_the_question_as_it_is() -> None:
    odd = replace(colour_rows()[0], prompt="Who likes {red} & {0}?")
    (asked,) = ask("role", odd)
    assert "{red} & {0}" in asked.prompt
    assert asked.prompt.startswith(PERSONA[:20])


def test_the_paraphrase_is_the_rows_own_if_it_has_one() -> None:
    row = ALMANAC.forget[0]
    assert ask("paraphrase", row)[0].prompt == row.paraphrased_prompt
    (made,) = ask("paraphrase", replace(row, paraphrased_prompt=None))
    assert made.prompt != row.prompt
    assert made.made == ("paraphrase",)


def test_options_are_worded_alike_and_the_right_one_moves(load_tiny: Load) -> None:
    asked = [ask("mcq", row)[0] for row in ALMANAC.forget]
    for row, one in zip(ALMANAC.forget, asked, strict=True):
        assert len(set(one.choices)) == NUM_OPTIONS
        assert one.correct is not None
        assert one.choices[one.correct] == row.paraphrased_answer
    assert len({one.correct for one in asked}) > 1
    bare = replace(ALMANAC.forget[0], perturbed_answers=(), paraphrased_answer=None)
    (made,) = ask("mcq", bare)
    assert made.correct is not None
    assert made.choices[made.correct] == bare.answer
    assert len(score_choices(load_tiny(max_length=256), asked[:2])) > 0


def test_the_reverse_asks_for_the_name() -> None:
    found = [ask("reverse", row) for row in ALMANAC.forget]
    some = [(row, asked[0]) for row, asked in zip(ALMANAC.forget, found, strict=True) if asked]
    assert len(some) >= 8
    assert all(asked.answer in f"{row.prompt} {row.answer}" and asked.answer not in asked.prompt for row, asked in some)


def test_raw_text_has_no_question_to_ask_otherwise() -> None:
    assert [key for key in PROMPTS.names() if ask(key, RAW)] == []
