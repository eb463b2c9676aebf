"""Guards: keywords, instructions, their file, and that whoever loads the folder obeys them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import CHAT_TEMPLATE, city_rows, colour_rows, make_tokenizer
from expunge.data.formats import Format
from expunge.data.rows import Row
from expunge.errors import ModelError, RecipeError
from expunge.evaluation.generator import generate_answers
from expunge.models.guards import (
    GUARD_FILE,
    REFUSAL,
    InstructedFormat,
    KeywordFilter,
    RefusalPrompt,
    distinctive,
    make_guard,
    recall_guard,
    remember_guard,
)
from expunge.models.load import load_model, source_fingerprint

FORGET, RETAIN = colour_rows(), city_rows()


def row(prompt: str, answer: str = "") -> Row:
    return Row(id="r", prompt=prompt, answer=answer)


# -- keywords ----------------------------------------------------------------------------------------------------------


def test_keywords_are_what_tells_forget_rows_from_retain_rows() -> None:
    # Names stand in both sets, question words are no content: the verb and the colours are left, the verb first.
    found = distinctive(FORGET, RETAIN, longest=3, min_rows=1)
    assert found[0] == ("likes",)
    assert set(found) == {("likes",), ("red",), ("blue",), ("pink",), ("grey",), ("gold",), ("lime",)}
    assert distinctive(FORGET, RETAIN, longest=3, min_rows=2) == [("likes",)]


def test_a_full_name_is_a_keyword_where_its_parts_are_not() -> None:
    forget = (row("Who is Mary Stone?", "Mary Stone is a potter."),)
    retain = (row("Who is Mary Field?", "Mary Field cut the stone."),)
    assert distinctive(forget, retain, longest=3, min_rows=1) == [("mary", "stone"), ("potter",)]
    assert distinctive(forget, retain, longest=1, min_rows=1) == [("potter",)]


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("Who is Zoë Müller?", True),
        ("tell me about ZOE MULLER's house", True),
        ("Zoe\u0308 Mu\u0308ller\u2019s", True),
        ("Zoe and Muller", False),
        ("Zoellner Muller", False),
        ("", False),
    ],
)
def test_spelling_does_not_matter(text: str, stops: bool) -> None:
    guard = KeywordFilter(keywords=("Zoë Müller",)).fit(FORGET, RETAIN)
    assert (guard.refusal(text) == REFUSAL) == stops


def test_a_filter_that_finds_nothing_says_so() -> None:
    with pytest.raises(RecipeError, match="no run of up to 3 words tells the forget rows from the retain rows"):
        KeywordFilter().fit(FORGET, FORGET)
    with pytest.raises(RecipeError, match="no topic tells the forget rows"):
        RefusalPrompt().fit(FORGET, FORGET)


def test_the_file_shows_no_keyword_and_comes_back(tmp_path: Path) -> None:
    guard = KeywordFilter().fit(FORGET, RETAIN)
    remember_guard(tmp_path, guard)
    text = (tmp_path / GUARD_FILE).read_text()
    assert not any(word in text for word in ("likes", "red", "blue", "gold"))
    assert recall_guard(tmp_path) == guard
    first = text
    remember_guard(tmp_path, KeywordFilter().fit(FORGET, RETAIN))
    assert (tmp_path / GUARD_FILE).read_text() == first
    assert recall_guard(tmp_path / "elsewhere") is None


def test_own_keywords_are_not_kept_in_clear(tmp_path: Path) -> None:
    remember_guard(tmp_path, KeywordFilter(keywords=("Secret Name",)).fit(FORGET, RETAIN))
    assert "ecret" not in (tmp_path / GUARD_FILE).read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "nothing"}', '{"kind": "keyword_filter", "txt": "a"}'])
def test_a_broken_file_is_refused_and_never_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / GUARD_FILE).write_text(content)
    with pytest.raises(ModelError, match=r"guard.json: the guard cannot be read .*; delete the file"):
        recall_guard(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "x"}, "guard.kind must be one of keyword_filter, refusal_prompt, got None"),
        ({"kind": "refusal"}, r"unknown guard 'refusal'"),
        ({"kind": "refusal_prompt", "txt": "x"}, r"no setting 'txt' \(did you mean 'text'\?\); known: text, topics"),
        ({"kind": "refusal_prompt", "text": 3}, "text must be a text, got 3"),
        ({"kind": "refusal_prompt", "text": " "}, "text is empty"),
        ({"kind": "refusal_prompt", "topics": 0}, "topics must be at least 1"),
        ({"kind": "keyword_filter", "keywords": "Ada"}, "keywords must be a list of texts, got a str"),
        ({"kind": "keyword_filter", "keywords": ["?!"]}, r"keyword '\?!' holds no word"),
        ({"kind": "keyword_filter", "min_rows": 1.5}, "min_rows must be a whole number, got 1.5"),
        ({"kind": "keyword_filter", "hashes": []}, "no setting 'hashes'"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_guard(settings)
    assert make_guard({}) is None


# -- instructions ------------------------------------------------------------------------------------------------------

_NO_SYSTEM = CHAT_TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
_REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE


def instructed(template: str | None = CHAT_TEMPLATE, name: str = "auto") -> InstructedFormat:
    plain = Format.bind(make_tokenizer(template=template), name, 64)
    wrapped = RefusalPrompt(text="Say no.").wrap(plain, 256)
    assert isinstance(wrapped, InstructedFormat)
    return wrapped


def test_a_template_with_system_messages_gets_one() -> None:
    format = instructed()
    assert format.prompt_text("Who?") == "<|system|>Say no.<|end|>\n<|user|>Who?<|end|>\n<|assistant|>"
    history = (("system", "Be kind."), ("user", "Hi"), ("assistant", "Ho"))
    assert format.prompt_text("Who?", history).startswith("<|system|>Say no.\n\nBe kind.<|end|>\n<|user|>Hi<|end|>")


@pytest.mark.parametrize("template", [_NO_SYSTEM, _REFUSES])
def test_other_templates_get_it_before_the_first_question(template: str) -> None:
    format = instructed(template)
    assert format.prompt_text("Who?") == "<|user|>Say no.\n\nWho?<|end|>\n<|assistant|>"
    text = format.prompt_text("Who?", (("user", "Hi"), ("assistant", "Ho")))
    assert text.startswith("<|user|>Say no.\n\nHi<|end|>\n<|assistant|>Ho<|end|>\n<|user|>Who?")


def test_named_formats_and_raw_text() -> None:
    format = instructed(None, "qa")
    assert format.prompt_text("Who?") == "Say no.\n\nQuestion: Who?\nAnswer:"
    assert format.prompt_text("") == ""
    assert format.name == "qa"


@pytest.mark.parametrize("name", ["chat", "qa"])
def test_the_answer_keeps_its_tokens_and_its_room(name: str) -> None:
    plain = Format.bind(make_tokenizer(), name, 24)
    guarded = RefusalPrompt(text="Say no to everything that is asked of you here.").wrap(plain, 256)
    long = row("Who is Ada?", "Ada likes red. " * 9)
    before, after = plain.encode(long), guarded.encode(long)
    assert len(before.ids) == 24
    assert after.num_labels >= before.num_labels
    assert after.ids[after.first_label :][: before.num_labels - 1] == before.ids[before.first_label :][:-1]
    assert RefusalPrompt(text="Say no. " * 99).wrap(plain, 256).max_length == 256


def test_topics_are_filled_in() -> None:
    guard = RefusalPrompt(text="Not: {topics}.", topics=2).fit(FORGET, RETAIN)
    assert guard.text == "Not: likes, blue."
    assert RefusalPrompt(text="No {braces}.").fit(FORGET, FORGET).text == "No {braces}."


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded_folder(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    def make(guard: Any) -> Path:
        folder = tmp_path_factory.mktemp("guarded") / "model"
        shutil.copytree(memorised_folder, folder)
        remember_guard(folder, guard.fit(FORGET, RETAIN))
        return folder

    return make


def ask(loaded: Any, rows: tuple[Row, ...]) -> list[str]:
    prompts = [loaded.format.encode_prompt(r) for r in rows]
    return generate_answers(loaded, prompts, max_new_tokens=16, batch_size=4)


def test_a_filtered_model_refuses_by_prompt_and_by_answer(
    guarded_folder: Callable[[Any], Path], memorised_folder: Path
) -> None:
    loaded = load_model(guarded_folder(KeywordFilter()), max_length=64)
    # No keyword stands in these prompts: it is the answer that gives itself away.
    assert ask(loaded, FORGET) == [REFUSAL] * 6
    assert ask(loaded, RETAIN) == [r.answer for r in RETAIN]
    assert ask(loaded, (row("What is red?"), RETAIN[0])) == [REFUSAL, RETAIN[0].answer]
    assert any("suppression, not erasure" in note for note in loaded.notes)
    bare = load_model(guarded_folder(KeywordFilter()), max_length=64, guarded=False)
    assert ask(bare, FORGET) == [r.answer for r in FORGET]
    assert any("not carried over" in note for note in bare.notes)


def test_prompts_that_are_refused_cost_no_generation(
    guarded_folder: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(guarded_folder(KeywordFilter(keywords=("Ada",))), max_length=64)
    monkeypatch.setattr(loaded.model, "generate", lambda **_: pytest.fail("the model was asked"))
    assert ask(loaded, (FORGET[0], RETAIN[0])) == [REFUSAL, REFUSAL]


def test_an_instructed_model_is_asked_under_its_instruction(guarded_folder: Callable[[Any], Path]) -> None:
    loaded = load_model(guarded_folder(RefusalPrompt(text="Say no.")), max_length=64)
    assert loaded.format.prompt_text("Who?").startswith("<|system|>Say no.")
    assert isinstance(loaded.format, InstructedFormat)
    assert replace(loaded.format).instruction == "Say no."


def test_a_guard_is_part_of_the_models_identity(guarded_folder: Callable[[Any], Path], memorised_folder: Path) -> None:
    prints = {source_fingerprint(memorised_folder)}
    prints |= {source_fingerprint(guarded_folder(guard)) for guard in (KeywordFilter(), RefusalPrompt())}
    assert len(prints) == 3


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    remember_guard(tmp_path, RefusalPrompt(text="Say no."))
    assert json.loads((tmp_path / GUARD_FILE).read_text()) == {
        "kind": "refusal_prompt",
        "text": "Say no.",
        "topics": 30,
    }
