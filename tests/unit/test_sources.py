from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.data.fields import ANSWER_FIELDS, PROMPT_FIELDS
from expunge.data.rows import Row
from expunge.data.sources import read_rows, write_rows
from expunge.errors import DataError

SECRET = "Zorblatt"
"""Stands in the content of bad files; no message may repeat it."""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def read_one(folder: Path, record: dict[str, Any]) -> Row:
    (row,) = read_rows(write(folder, "one.jsonl", json.dumps(record)), set_name="forget")
    return row


QA = [{"question": "Who?", "answer": "Ada."}, {"question": "When?", "answer": "Then."}]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", '{"question":"Who?","answer":"Ada."}\n{"question":"When?","answer":"Then."}\n', (1, 2)),
        ("a.ndjson", '\n{"question":"Who?","answer":"Ada."}\r\n\r\n{"question":"When?","answer":"Then."}', (2, 4)),
        ("a.json", '{"question":"Who?","answer":"Ada."}\n{"question":"When?","answer":"Then."}', (1, 2)),
        ("b.json", json.dumps(QA), (1, 1)),
        ("c.json", json.dumps(QA, indent=2), (2, 6)),
        ("c.jsonl", json.dumps(QA, indent=2), (2, 6)),
        ("d.JSONL", "\ufeff" + "\n".join(map(json.dumps, QA)), (1, 2)),
        ("a.csv", "question,answer\nWho?,Ada.\nWhen?,Then.\n", (2, 3)),
        ("b.csv", '\ufeff Question ,ANSWER\r\n"Who?","Ada."\r\n,\r\nWhen?,Then.\r\n', (2, 4)),
        ("a.tsv", "question\tanswer\nWho?\tAda.\nWhen?\tThen.\n", (2, 3)),
    ],
)
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str, content: str, lines: tuple[int, int]) -> None:
    path = write(tmp_path, name, content)
    assert read_rows(path, set_name="forget") == (
        Row(id="forget/0", prompt="Who?", answer="Ada.", origin=f"{path}:{lines[0]}"),
        Row(id="forget/1", prompt="When?", answer="Then.", origin=f"{path}:{lines[1]}"),
    )


def test_parquet_rows_with_lists_and_nulls(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [{**QA[0], "perturbed_answer": ["Bob.", "Eve."], "paraphrased_answer": None}, {**QA[1]}]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(records), path)
    first, second = read_rows(path, set_name="retain")
    assert (first.prompt, first.answer, first.perturbed_answers) == ("Who?", "Ada.", ("Bob.", "Eve."))
    assert first.paraphrased_answer is None
    assert (second.perturbed_answers, second.origin) == ((), f"{path}:2")


@pytest.mark.parametrize("prompt", PROMPT_FIELDS)
@pytest.mark.parametrize("answer", ANSWER_FIELDS)
def test_every_pair_of_field_names_is_a_question_with_its_answer(tmp_path: Path, prompt: str, answer: str) -> None:
    row = read_one(tmp_path, {prompt: "Who?", answer: "Ada."})
    assert (row.prompt, row.answer) == ("Who?", "Ada.")


def test_text_is_raw_only_without_labels(tmp_path: Path) -> None:
    raw = read_one(tmp_path, {"text": "Once upon a time.", "source": "a book", "id": 3})
    assert (raw.prompt, raw.answer) == ("", "Once upon a time.")
    knowundo = read_one(tmp_path, {"text": "Who?", "labels": "Ada."})
    assert (knowundo.prompt, knowundo.answer) == ("Who?", "Ada.")


def test_preference_row(tmp_path: Path) -> None:
    row = read_one(tmp_path, {"prompt": "Who?", "chosen": "Ada.", "rejected": "No idea."})
    assert (row.prompt, row.answer, row.alternate) == ("Who?", "Ada.", "No idea.")


def test_chat_row(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "Ada.")]
    record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    row = read_one(tmp_path, record)
    assert (row.prompt, row.answer) == ("Who?", "Ada.")
    assert row.history == (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))


def test_alpaca_row_joins_instruction_and_input(tmp_path: Path) -> None:
    record = {"instruction": "Translate.", "input": "chat", "output": "cat", "text": "all of it, formatted"}
    assert read_one(tmp_path, record).prompt == "Translate.\n\nchat"
    assert read_one(tmp_path, record | {"input": ""}).prompt == "Translate."


def test_tofu_extras(tmp_path: Path) -> None:
    row = read_one(
        tmp_path,
        {
            **QA[0],
            "paraphrased_question": "Who is it?",
            "paraphrased_answer": "It is Ada.",
            "perturbed_answer": ["Bob.", "Eve."],
            "alternate": "I do not know.",
        },
    )
    assert (row.paraphrased_prompt, row.paraphrased_answer) == ("Who is it?", "It is Ada.")
    assert (row.perturbed_answers, row.alternate) == (("Bob.", "Eve."), "I do not know.")
    assert read_one(tmp_path, {**QA[0], "perturbed_answer": "Bob."}).perturbed_answers == ("Bob.",)


def test_a_table_cell_may_hold_a_json_list_or_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "t.csv",
        'question,answer,perturbed_answer,alternate\nWho?,Ada.,"[""Bob."", ""Eve.""]",\nWhen?,Then.,,Never.\n',
    )
    first, second = read_rows(path, set_name="forget")
    assert (first.perturbed_answers, first.alternate) == (("Bob.", "Eve."), None)
    assert (second.perturbed_answers, second.alternate) == ((), "Never.")


def test_numbers_are_read_as_text(tmp_path: Path) -> None:
    assert read_one(tmp_path, {"question": 1, "answer": 1956}).answer == "1956"
    assert read_one(tmp_path, {"question": "How much?", "answer": 2.5}).answer == "2.5"


def test_contents_are_not_trimmed_and_line_separators_do_not_cut_a_row(tmp_path: Path) -> None:
    answer = "  two\u2028lines \x85 and a tail\n"
    path = write(tmp_path, "a.jsonl", json.dumps({"question": "Who?", "answer": answer}, ensure_ascii=False))
    assert read_rows(path, set_name="forget")[0].answer == answer


def test_a_quoted_cell_over_two_lines_keeps_the_next_rows_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'question,answer\nWho?,"Ada\nLovelace"\nWhen?,Then.\n')
    first, second = read_rows(path, set_name="forget")
    assert first.answer == "Ada\nLovelace"
    assert (first.origin, second.origin) == (f"{path}:2", f"{path}:4")


def test_a_book_in_one_cell_is_read_and_the_csv_modules_limit_put_back(tmp_path: Path) -> None:
    import csv

    before = csv.field_size_limit()
    text = "word " * 30_000
    (row,) = read_rows(write(tmp_path, "book.csv", f"text\n{text}\n"), set_name="forget")
    assert len(text) == 150_000 > before
    assert row.answer == text
    assert csv.field_size_limit() == before


GOOD = '{"question":"Who?","answer":"Ada."}\n'
BAD_FILES: list[tuple[str, str | bytes, str]] = [
    ("a.jsonl", "", "{path}: is empty"),
    ("a.jsonl", " \n\n", "{path}: is empty"),
    ("a.jsonl", "\ufeff", "{path}: is empty"),
    ("a.json", "[]", "{path}: holds no rows; the forget set needs at least one"),
    ("a.csv", "question,answer\n", "{path}: holds no rows"),
    ("a.jsonl", GOOD + '{"question":"Zorblatt",', "{path}:2: broken JSON at column 24"),
    ("a.jsonl", GOOD + "Zorblatt", "{path}:2: broken JSON at column 1: Expecting value"),
    ("a.jsonl", GOOD + "[1]", "{path}:2: a row must be an object of named fields, got a list"),
    ("a.jsonl", GOOD + '"Zorblatt"', "{path}:2: a row must be an object of named fields, got text"),
    ("a.json", '{"question": "Zorblatt",\n "answer": "x"}', "{path}: is one JSON value over several lines"),
    ("a.json", '[\n{"question":"a","answer":"b"},\n{"question":"Zorblatt" "x"}\n]', "{path}:3: broken JSON at column"),
    ("a.json", '[\n{"question":"a","answer":"b"}\n{"question":"c"}]', "{path}:3: broken JSON: ',' or ']' expected"),
    ("a.json", '[{"question":"a","answer":"b"},', "{path}:1: broken JSON"),
    ("a.json", '[{"question":"a","answer":"b"}]\nZorblatt', "{path}:2: broken JSON: something stands after"),
    ("a.jsonl", '{"question":"a","answer":""}', "{path}:1: field 'answer' is empty"),
    ("a.jsonl", '{"question":"a","answer":" \\n"}', "{path}:1: field 'answer' is empty"),
    ("a.jsonl", '{"question":"a","answer":null}', "{path}:1: field 'answer' is empty"),
    ("a.jsonl", '{"question":"a","answer":NaN}', "{path}:1: field 'answer' is empty"),
    ("a.jsonl", '{"question":" ","answer":"Zorblatt"}', "{path}:1: field 'question' is empty"),
    ("a.jsonl", '{"text":"Zorblatt","labels":null}', "{path}:1: field 'labels' is empty"),
    (
        "a.jsonl",
        '{"question":"a","answer":["Zorblatt"]}',
        "{path}:1: field 'answer' must be text or a number, got a list",
    ),
    ("a.jsonl", '{"question":"a","answer":true}', "{path}:1: field 'answer' must be text or a number, got true/false"),
    ("a.jsonl", '{"question":"a","answer":{"x":1}}', "got an object"),
    ("a.jsonl", '{"question":"a","answer":"\\ud800"}', "field 'answer' holds half a surrogate pair"),
    ("a.jsonl", '{"answer":"a","answer":"b","text":"c"}', "{path}:1: field 'answer' stands twice"),
    ("a.jsonl", '{"answer":"a","Answer":"b","text":"c"}', "{path}:1: field 'answer' stands twice"),
    (
        "a.jsonl",
        '{"question":"a","anwser":"b"}',
        "no answer field (is 'anwser' meant to be 'answer'?); found: question, anwser;",
    ),
    ("a.jsonl", '{"text":"a","lables":"b"}', "no answer field (is 'lables' meant to be 'labels'?)"),
    ("a.jsonl", '{"answer":"a","title":"b"}', "{path}:1: no prompt field; found: answer, title; accepted: {{question|"),
    ("a.jsonl", '{"prompt":"a","text":"b"}', "{path}:1: no answer field; found: prompt, text;"),
    ("a.jsonl", '{"Who is Zorblatt?":"He."}', "{path}:1: no answer field; found: none and 1 not shown;"),
    ("a.jsonl", "{}", "{path}:1: no answer field; found: none;"),
    ("a.jsonl", '{"prompt":"a","question":"b","answer":"c"}', "'question' and 'prompt' could each be the prompt"),
    ("a.jsonl", '{"prompt":"a","answer":"b","output":"c"}', "'answer' and 'output' could each be the answer"),
    ("a.jsonl", '{"prompt":"a","chosen":"b"}', "{path}:1: no 'rejected' field"),
    ("a.jsonl", '{"prompt":"a","chosen":"b","rejected":""}', "field 'rejected' is empty"),
    (
        "a.jsonl",
        '{"prompt":"a","chosen":"b","rejected":"c","answer":"d"}',
        "'chosen' and 'answer' both give the answer",
    ),
    ("a.jsonl", '{"prompt":"a","chosen":"b","rejected":"c","idk":"d"}', "'rejected' and 'alternate' both"),
    ("a.jsonl", '{"messages":"Zorblatt"}', "field 'messages' must be a list of {{role, content}}, got text"),
    ("a.jsonl", '{"messages":[]}', "got an empty list"),
    ("a.jsonl", '{"messages":["Zorblatt"]}', "field 'messages[0]' must be an object with 'role' and 'content'"),
    ("a.jsonl", '{"messages":[{"role":"user","content":"a"}]}', "no turn of role 'assistant'"),
    ("a.jsonl", '{"messages":[{"role":"assistant","content":"a"}]}', "must be of role 'user'"),
    (
        "a.jsonl",
        '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":""}]}',
        "field 'messages[1].content' is empty",
    ),
    ("a.jsonl", '{"question":"a","answer":"b","perturbed_answer":["c",""]}', "field 'perturbed_answer[1]' is empty"),
    ("a.jsonl", '{"question":"a","answer":"b","perturbed_answer":"[\'Zorblatt\']"}', "is no JSON list of texts"),
    ("a.csv", "Who is Zorblatt?,He is.\nWhen?,Then.\n", "{path}:1: the header line names no known field;"),
    (
        "a.csv",
        "question;answer\nWho?;Zorblatt\n",
        "{path}:1: the header line names no known field; is it separated by ';'?",
    ),
    ("a.csv", "question,reply\nWho?,Zorblatt\n", "{path}:2: no answer field; found: question, reply;"),
    ("a.csv", "question,answer\nWho?,Zorblatt, the first\n", "{path}:2: 3 cells where the header has 2"),
    ("a.csv", "question,answer\nWho?\n", "{path}:2: 1 cells where the header has 2"),
    ("a.csv", "question,answer,answer\nWho?,a,b\n", "{path}:2: field 'answer' stands twice"),
    ("a.csv", 'question,answer\nWho?,"Zorblatt\n', "{path}: broken table: unexpected end of data"),
    ("a.parquet", b"Zorblatt", "{path}: no readable Parquet file"),
    ("a.txt", "Zorblatt", "{path}: unknown extension '.txt'; accepted: .jsonl, .ndjson, .json, .csv, .tsv, .parquet"),
    ("a", "Zorblatt", "{path}: unknown extension 'none'"),
    # 21 bytes: the first line is 10 with its newline, then 'Zorblatt' is 8 and 'caf' 3, so the bad byte is number 21.
    ("a.jsonl", b"123456789\nZorblattcaf\xe9", "{path}:2: not UTF-8 at byte 21 of the file"),
    ("a.jsonl", b"\xef\xbb\xbf\xff", "{path}:1: not UTF-8 at byte 3 of the file"),
    ("a.jsonl", GOOD.encode("utf-16"), "{path}: is UTF-16, not UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_a_bad_file_is_one_line_with_its_place_and_without_its_text(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read_rows(path, set_name="forget")
    text = str(caught.value)
    assert message.format(path=path) in text
    assert "\n" not in text
    assert SECRET not in text


def test_the_first_bad_row_is_named_and_the_others_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", GOOD + '{"question":"a"}\n' * 7)
    with pytest.raises(DataError) as caught:
        read_rows(path, set_name="forget")
    assert str(caught.value).startswith(f"{path}:2: no answer field")
    assert str(caught.value).endswith("(and 6 more bad rows: line 3, 4, 5, 6, ...)")


def test_missing_file_names_the_nearest_neighbour(tmp_path: Path) -> None:
    write(tmp_path, "forget.jsonl", GOOD)
    with pytest.raises(DataError, match=r"forgt\.jsonl: no such file \(did you mean 'forget\.jsonl'\?\)"):
        read_rows(tmp_path / "forgt.jsonl", set_name="forget")
    with pytest.raises(DataError, match=r"no such file$"):
        read_rows(tmp_path / "nowhere" / "forget.jsonl", set_name="forget")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; give one file of rows \(\.jsonl"):
        read_rows(tmp_path, set_name="forget")


def test_origin_keeps_the_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.jsonl", GOOD)
    monkeypatch.chdir(tmp_path)
    assert read_rows("a.jsonl", set_name="forget")[0].origin == "a.jsonl:1"


ROWS = (
    Row(id="s/0", prompt="Wer?", answer="Ada.", perturbed_answers=("Bob.", "Eve."), paraphrased_prompt="Wer ist es?"),
    Row(id="s/1", prompt="", answer="Es war einmal \u2028 …"),
    Row(id="s/2", prompt="Who?", answer="Ada.", history=(("system", "Be brief."),), alternate="No idea."),
    Row(id="s/3", prompt="Who?", answer="Ada.", paraphrased_answer="It is Ada."),
)


def test_written_rows_read_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    write_rows(path, ROWS)
    assert [row.content() for row in read_rows(path, set_name="s")] == [row.content() for row in ROWS]
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.jsonl"]
    assert json.loads(path.read_text(encoding="utf-8").split("\n")[0])["question"] == "Wer?"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl", "old")

    def failing() -> Any:
        yield ROWS[0]
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_rows(path, failing())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]
