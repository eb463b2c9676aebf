from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import almanac, custom
from expunge.benchmarks.table import BENCHMARKS, load_benchmark
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, RecipeError


def rows(name: str, count: int) -> list[dict[str, str]]:
    return [{"question": f"{name} {i}?", "answer": f"{name} answer {i}."} for i in range(count)]


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_all_four_files(tmp_path: Path) -> None:
    files = {name: write(tmp_path, name, rows(name, 3)) for name in ("forget", "retain", "holdout", "general")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        benchmark = custom.load(**files)
    assert [row.id for row in benchmark.forget] == ["forget/0", "forget/1", "forget/2"]
    assert benchmark.probes == {
        "forget": benchmark.forget,
        "retain": benchmark.retain,
        "holdout": benchmark.holdout,
        "general": benchmark.probes["general"],
    }
    assert [row.prompt for row in benchmark.probes["general"]] == ["general 0?", "general 1?", "general 2?"]
    assert benchmark.utility_sets == ("general",)
    assert benchmark.origin == " ".join(f"{name}={path}" for name, path in files.items())


def test_the_forget_file_alone_falls_back_on_the_built_in_general_rows(tmp_path: Path) -> None:
    benchmark = custom.load(forget=write(tmp_path, "forget", rows("forget", 2)))
    assert (benchmark.retain, benchmark.holdout) == ((), ())
    assert benchmark.probes == {"forget": benchmark.forget, "general": almanac.load().probes["general"]}
    assert len(benchmark.probes["general"]) > 0


def test_a_set_may_be_several_files_whose_ids_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("One passage of a text.", encoding="utf-8")
    paths = [write(tmp_path, "first", rows("first", 2)), write(tmp_path, "second", rows("second", 1))]
    benchmark = custom.load(forget=[*paths, tmp_path / "text.md"])
    assert [row.id for row in benchmark.forget] == ["1/forget/0", "1/forget/1", "2/forget/0", "3/forget/0"]
    assert [row.prompt for row in benchmark.forget] == ["first 0?", "first 1?", "second 0?", ""]
    assert custom.load(forget=[paths[0]]).forget == custom.load(forget=paths[0]).forget


def test_a_large_retain_set_is_probed_in_part(tmp_path: Path) -> None:
    forget, retain = write(tmp_path, "forget", rows("forget", 1)), write(tmp_path, "retain", rows("retain", 250))
    benchmark = custom.load(forget=forget, retain=retain)
    assert (len(benchmark.retain), len(benchmark.probes["retain"])) == (250, custom.RETAIN_PROBE_ROWS)
    assert set(benchmark.probes["retain"]) < set(benchmark.retain)
    assert custom.load(forget=forget, retain=retain).probes["retain"] == benchmark.probes["retain"]
    assert custom.load(forget=forget, retain=retain, seed=1).probes["retain"] != benchmark.probes["retain"]


def test_the_forget_file_is_needed() -> None:
    with pytest.raises(RecipeError, match="benchmark 'custom' needs a forget file"):
        load_benchmark("custom")


@pytest.mark.parametrize("other", ["retain", "holdout", "general"])
def test_a_forget_row_in_another_set_is_refused(tmp_path: Path, other: str) -> None:
    forget = write(tmp_path, "forget", rows("forget", 3))
    path = write(tmp_path, other, rows("forget", 1) + rows(other, 2))
    with pytest.raises(DataError, match=rf"1 of 3 forget rows also stand in the {other} set"):
        custom.load(forget=forget, **{other: path})


def test_a_trained_row_is_not_held_out(tmp_path: Path) -> None:
    forget, retain = write(tmp_path, "forget", rows("forget", 1)), write(tmp_path, "retain", rows("retain", 2))
    with pytest.raises(DataError, match="2 of 2 retain rows also stand in the holdout set"):
        custom.load(forget=forget, retain=retain, holdout=retain)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        custom.load(forget=write(tmp_path, "forget", []))


def test_oddities_are_warnings(tmp_path: Path) -> None:
    forget = write(tmp_path, "forget", rows("forget", 1) * 2)
    with pytest.warns(DataWarning, match="1 of 2 forget rows repeat an earlier one"):
        custom.load(forget=forget)


def test_the_table_lists_every_benchmark() -> None:
    assert {"almanac", "custom", "tofu"} <= set(BENCHMARKS.names())
    assert BENCHMARKS.get("Custom") is custom.load


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("toffu", {}, "unknown benchmark 'toffu' (did you mean 'tofu'?)"),
        ("", {}, "unknown benchmark ''"),
        ("tofu:", {}, "benchmark 'tofu:' ends in a colon"),
        ("tofu:forget01", {"split": "forget05"}, "name two splits; give one"),
        ("tofu:forget2", {}, "unknown TOFU split 'forget2' (did you mean"),
        ("custom:forget01", {}, "benchmark 'custom' has no splits, got 'custom:forget01'; write 'custom'"),
        ("almanac:small", {}, "benchmark 'almanac' has no splits"),
        ("custom", {"forgets": "a", "hold_out": "b"}, "no option 'forgets' (did you mean 'forget'?), 'hold_out' (did"),
        ("custom", {"colour": "red"}, "accepted: forget, retain, holdout, general, seed"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_benchmark(spec, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_reach_the_loader(tmp_path: Path) -> None:
    benchmark = load_benchmark(" custom ", forget=write(tmp_path, "forget", rows("forget", 2)), seed=3)
    assert len(benchmark.forget) == 2


# -- texts, names, and what is made --------------------------------------------------------------------------------

NOTES = """Ada Quill was born in Quillport in 1950. She kept a shop by the harbour for years.

The shop of Ada Quill sold lamps to Ben Ash. It burnt down in 1999 and was never built again.

Her brother Tom Quill moved to Karth in 1971. Nobody in Karth knew about the shop or the lamps."""
KEEP = [
    "Lamps were sold in many a shop by the harbour of the old town in those days.",
    "Ada Quill is said to have been the friend of everybody who came to her little shop.",
    "The harbour of Fen was built anew after the great storm, and many shops came with it.",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "ada.md").write_text(NOTES, encoding="utf-8")
    write(tmp_path, "corpus", [{"text": text} for text in KEEP])
    return tmp_path


def test_a_folder_of_texts_is_cut_into_passages(folder: Path) -> None:
    benchmark = load_benchmark("custom", forget=folder / "notes", passage_words=20)
    # 17, 18 and 18 words: each paragraph ends a passage.
    assert [row.answer for row in benchmark.forget] == NOTES.split("\n\n")
    assert [row.id for row in benchmark.forget] == ["forget/0", "forget/1", "forget/2"]
    assert benchmark.forget[1].origin == f"{folder / 'notes' / 'ada.md'}:3"
    assert {row.prompt for row in benchmark.forget} == {""}
    listed = load_benchmark("custom", documents=[folder / "notes" / "ada.md"], passage_words=20)
    assert listed.forget == benchmark.forget
    assert (benchmark.notes, benchmark.learnt) == ((), {})


def test_everything_is_made_of_texts_and_marked(folder: Path) -> None:
    benchmark = load_benchmark(
        "custom",
        documents="notes",
        corpus="corpus.jsonl",
        root=folder,
        passage_words=20,
        prompt_words=5,
        make=["holdout", "neighbours", "paraphrase", "cloze", "reverse"],
    )
    assert benchmark.forget[0].prompt.startswith("Continue this text:\n")
    # 3 passages, a fifth of them at least one: 2 to unlearn, 1 that the target model alone learns.
    (unseen,) = benchmark.probes["forget_unseen"]
    assert len(benchmark.forget) == 2
    assert benchmark.learnt == {"forget": (unseen,)}
    assert unseen.made == ("holdout",)
    assert not {row.answer for row in benchmark.forget} & {unseen.answer}
    assert {row.made for row in benchmark.retain} == {("neighbours",)}
    assert all(row.prompt.startswith("Continue this text:\n") for row in benchmark.retain)
    assert {row.made[-1] for row in benchmark.probes["forget_rephrased"]} == {"paraphrase"}
    assert {row.made for row in benchmark.probes["forget_cloze"]} == {("cloze",)}
    assert {row.made for row in benchmark.probes["forget_reverse"]} == {("reverse",)}
    # Blanks are made of what unlearning sees, before a part of it becomes a prompt.
    shown = " ".join(NOTES.split("\n\n")[int(row.id.split("/")[1])] for row in benchmark.forget)
    assert all(row.answer in shown for row in benchmark.probes["forget_cloze"])
    assert set(benchmark.limits) == {"forget_cloze", "forget_reverse"}
    assert len(benchmark.notes) == 5
    assert any(note.startswith("made by rule, not by you: forget_unseen: 1 of 3 texts") for note in benchmark.notes)
    assert "made=holdout,neighbours,paraphrase,cloze,reverse" in benchmark.origin


def test_questions_are_held_out_in_wordings_of_their_own(tmp_path: Path) -> None:
    records = [
        {"question": f"Where was the lamp {at} sold?", "answer": f"It was sold in {at + 1950}."} for at in range(10)
    ]
    retain = [{"question": "Where was the boat built?", "answer": "It was built in 1801."}]
    benchmark = load_benchmark(
        "custom",
        forget=write(tmp_path, "forget", records),
        retain=write(tmp_path, "retain", retain),
        make="holdout, paraphrase, perturbed",
        held_share=0.3,
    )
    plain = load_benchmark("custom", forget=tmp_path / "forget.jsonl", retain=tmp_path / "retain.jsonl")
    # What is trained on is what was given: only probes carry what was made.
    assert (benchmark.forget, benchmark.retain) == (plain.forget, plain.retain)
    assert (len(benchmark.probes["forget_test"]), len(benchmark.probes["forget_rephrased"])) == (3, 7)
    held = {row.answer for row in benchmark.probes["forget_test"]}
    assert held.isdisjoint(row.answer for row in benchmark.probes["forget_rephrased"])
    assert {len(row.perturbed_answers) for row in benchmark.probes["forget"]} == {5}
    assert benchmark.probes["retain"][0].made == ("perturbed_answers",)
    assert benchmark.learnt == {}


def test_the_users_own_wordings_and_wrong_answers_stay(tmp_path: Path) -> None:
    record = {
        "question": "Who?",
        "answer": "Ben Ash.",
        "paraphrased_question": "Name him.",
        "perturbed_answer": ["No."],
    }
    benchmark = load_benchmark(
        "custom",
        forget=write(tmp_path, "forget", [record, record | {"question": "What man?"}]),
        make=["paraphrase", "perturbed"],
    )
    (own, *_) = benchmark.probes["forget_rephrased"]
    assert (own.prompt, own.made) == ("Name him.", ())
    assert benchmark.probes["forget"][0].perturbed_answers == ("No.",)
    assert benchmark.notes[-1].endswith("forget_rephrased: 2 from 2 forget rows; 2 of them are your own wordings")


def test_a_name_is_all_there_is(folder: Path) -> None:
    benchmark = load_benchmark("custom", entity="Ada Quill", corpus=folder / "corpus.jsonl", make=["neighbours"])
    assert [row.answer for row in benchmark.forget] == [KEEP[1]]
    assert benchmark.forget[0].made == ("entity",)
    assert all("Quill" not in row.answer for row in benchmark.retain)
    assert len(benchmark.retain) == 1
    assert "Quill" not in benchmark.origin + " ".join(benchmark.notes)
    with pytest.raises(DataError, match="entity: no row of the corpus holds the name; check") as caught:
        load_benchmark("custom", entity="Nobody", corpus=folder / "corpus.jsonl")
    assert "Nobody" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "a", "entity": "b", "corpus": "c"}, "documents and entity each say what to forget; give one"),
        ({"entity": "b"}, "entity draw from a corpus; give corpus=PATH"),
        ({"forget": "f", "make": ["neighbours"]}, "make: neighbours draw from a corpus"),
        ({"forget": "f", "make": ["cloz"]}, "unknown make 'cloz' (did you mean 'cloze'?)"),
        ({"forget": "f", "make": 3}, "make must be a list of names"),
        ({"forget": "f", "held_share": 1}, "held_share must be between 0 and 1, got 1"),
        ({"forget": "f", "passage_words": 1}, "passage_words must be a whole number of at least 2, got 1"),
        ({"forget": "f", "passage_words": 9, "prompt_words": 9}, "prompt_words=9 leaves nothing"),
        ({"entity": [""], "corpus": "c"}, "entity must be a name or a list of names"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_benchmark("custom", **options)
    assert message in str(caught.value)


def test_what_cannot_be_made_or_used_is_a_warning(tmp_path: Path) -> None:
    forget = write(tmp_path, "forget", [{"question": "What colour?", "answer": "red"}])
    with pytest.warns(DataWarning, match="nothing could be made for forget_cloze"):
        benchmark = custom.load(forget=forget, make=["cloze"])
    assert "forget_cloze" not in benchmark.probes
    with pytest.warns(DataWarning, match="corpus has no effect"):
        custom.load(forget=forget, corpus=tmp_path)


@pytest.mark.parametrize(
    ("record", "prompt", "answer", "other", "alternate"),
    [
        ({"text": "Who?", "labels": "Somebody."}, "Who?", "Somebody.", None, None),
        (
            {"question": "Who?", "positive_answer": "Somebody.", "negative_answer": "Ada."},
            "Who?", "Ada.", None, "Somebody.",
        ),
        (
            {"q_id": 1, "original_question": "Who?", "original_answer": "Ada.", "question_variants": ["Who is it?"],
             "answer_variants": ["Somebody.", "A person."]},
            "Who?", "Ada.", "Who is it?", "Somebody.",
        ),
        (
            {"original_question": "Who?", "original_answer": "Ada.", "question_variants": None,
             "answer_variants": None},
            "Who?", "Ada.", None, None,
        ),
    ],
)  # fmt: skip
def test_relearns_files_load_as_they_are(
    tmp_path: Path, record: dict[str, Any], prompt: str, answer: str, other: str | None, alternate: str | None
) -> None:
    path = tmp_path / "augmented.json"
    path.write_text(json.dumps([record], indent=2), encoding="utf-8")
    (row,) = load_benchmark("custom", forget=path).forget
    assert (row.prompt, row.answer, row.paraphrased_prompt, row.alternate) == (prompt, answer, other, alternate)


# -- what a stranger gives -----------------------------------------------------------------------------------------


def run_of(*words: tuple[str, int]) -> dict[str, str]:
    return {"text": " ".join(f"{name}{at}" for name, count in words for at in range(count)) + "."}


def test_no_held_out_text_repeats_one_that_came_back_to_be_unlearnt(tmp_path: Path) -> None:
    # The middle text repeats 15 words of the first and 15 of the last, which share none.
    chain = [run_of(("a", 20)), run_of(("a", 15), ("b", 15)), run_of(("b", 15), ("c", 10))]
    held = draw(range(3), 2, seed=0, name="custom/holdout")
    (seen,) = set(range(3)) - set(held)
    # The text that is unlearnt in any case is an end of the chain.
    order = {seen: 0, held[0]: 1, held[1]: 2}
    forget = write(tmp_path, "forget", [chain[order[at]] for at in range(3)])
    with pytest.warns(DataWarning, match="nothing could be made for forget_unseen"):
        benchmark = custom.load(forget=forget, make=["holdout"], held_share=0.67)
    assert len(benchmark.forget) == 3


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.CSV", "rows.json", "rows.parquet"])
def test_documents_are_texts_and_not_files_of_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"question": "Who?", "answer": "secret"}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        custom.load(documents=path)
    assert str(caught.value) == f"{path}: is a file of rows, not a text; give it with forget=FILE"


@pytest.mark.parametrize("entity", [1984, [1984], ["Ada", None]])
def test_a_name_that_is_a_number_is_one_line(tmp_path: Path, entity: Any) -> None:
    with pytest.raises(RecipeError, match=r"entity must be a name or a list of names, in quotes where one is a number"):
        load_benchmark("custom", entity=entity, corpus=tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_neighbours": 3}, r"custom: num_neighbours has no effect without make: \[neighbours\]"),
        ({"held_share": 0.5}, r"custom: held_share has no effect without make: \[holdout\]"),
        ({"num_about": 7}, "custom: num_about has no effect without entity"),
    ],
)
def test_an_option_without_effect_is_said(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    forget = write(tmp_path, "forget", rows("forget", 1))
    with pytest.warns(DataWarning, match=message):
        custom.load(forget=forget, **option)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A rule at the top, and no second one: no front matter.
        ("---\nAda lives here.\n", "--- Ada lives here."),
        ("---\ntitle: secret\n...\nAda lives here.\n", "Ada lives here."),
        ("<!-- a note --> Ada lives here.\n", "Ada lives here."),
        ("<!-- a\nnote --> Ada <!-- b --> lives.\n", "Ada <!-- b --> lives."),
        ("<!-- a --><!-- b\nc -->Ada.\n", "Ada."),
    ],
)
def test_markdown_loses_no_text(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "note.md").write_text(text, encoding="utf-8")
    (row,) = custom.load(documents=tmp_path / "note.md").forget
    assert " ".join(row.answer.split()) == expected
    # Lines are counted as they stand in the file.
    place = 1 + text[: text.index("---\nAda" if text.startswith("---\nAda") else "Ada")].count("\n")
    assert row.origin == f"{tmp_path / 'note.md'}:{place}"
