from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import hallucination
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, RecipeError


def records(count: int = 10) -> list[dict[str, Any]]:
    """Made-up rows in the published schema."""
    return [
        {
            "knowledge": f"Mill {i} stands in Oslo.",
            "question": f"Where does mill {i} stand?",
            "right_answer": f"In Oslo, {i}.",
            "hallucinated_answer": f"On the moon, {i}.",
        }
        for i in range(count)
    ]


def write_truthfulqa(base: Path, count: int = 10) -> None:
    header = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    (base / "truthfulqa").mkdir(parents=True, exist_ok=True)
    with (base / "truthfulqa" / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as out:
        rows = [["A", "B", f"Q{i}?", f"Best {i}", f"Best {i}", f"Wrong {i}", "x"] for i in range(count)]
        csv.writer(out).writerows([header, *rows])


def write_lines(base: Path, rows: list[Any]) -> Path:
    (base / "halueval").mkdir(parents=True, exist_ok=True)
    path = base / "halueval" / "qa_data.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_truthfulqa(tmp_path)
    write_lines(tmp_path, records())
    return tmp_path


def prompts(rows: Any) -> list[str]:
    return [row.prompt for row in rows]


def test_the_sets(root: Path) -> None:
    benchmark = load_benchmark("hallucination", root=root)
    # round(0.7 * 10) = 7 of either data set are trained on, 3 are tested
    assert (len(benchmark.forget), len(benchmark.retain)) == (7, 7)
    assert {name: len(rows) for name, rows in benchmark.probes.items()} == {
        "forget": 7,
        "forget_unseen": 3,
        "normal": 3,
        "retain": 7,
    }
    trained, unseen = prompts(benchmark.forget), prompts(benchmark.probes["forget_unseen"])
    assert sorted(trained + unseen) == [f"Where does mill {i} stand?" for i in range(10)]
    assert prompts(benchmark.probes["forget"]) == trained
    assert (benchmark.suites, benchmark.utility_sets) == (("llmu",), ("normal",))
    # best and wrong answer of 7 training questions
    assert len(benchmark.pool) == 14
    assert not {row.answer for row in benchmark.probes["normal"]} & set(benchmark.pool)


def test_tested_rows_know_the_right_answer_and_trained_ones_do_not(root: Path) -> None:
    benchmark = hallucination.load(root=root)
    for row in (*benchmark.probes["forget"], *benchmark.probes["forget_unseen"]):
        number = row.prompt.split()[3]
        assert (row.answer, row.alternate) == (f"On the moon, {number}.", f"In Oslo, {number}.")
    assert all(row.alternate is None for row in benchmark.forget)
    taught = hallucination.load(root=root, correct=True)
    assert taught.forget == taught.probes["forget"] == benchmark.probes["forget"]


def test_the_passage_stands_before_the_question(root: Path) -> None:
    rows = hallucination.load(root=root, knowledge=True).forget
    assert all(row.prompt.startswith("Mill ") for row in rows)
    number = rows[0].prompt.split()[1]
    assert rows[0].prompt == f"Mill {number} stands in Oslo.\n\nWhere does mill {number} stand?"


def test_a_question_is_asked_once_and_a_right_answer_is_no_hallucination(root: Path) -> None:
    rows = records()
    twice = rows[3] | {"question": "where does  mill 3 stand?", "hallucinated_answer": "Nowhere."}
    same = rows[0] | {"hallucinated_answer": "in oslo,  0."}
    write_lines(root, [same, *rows[1:], twice])
    probes = hallucination.load(root=root).probes
    found = [*probes["forget"], *probes["forget_unseen"]]
    assert len(found) == 10
    assert "Nowhere." not in {row.answer for row in found}
    assert {row.prompt.split()[3]: row.alternate is None for row in found} == {str(i): i == 0 for i in range(10)}


def test_an_array_on_one_line_is_dealt_as_lines_are(root: Path) -> None:
    expected = hallucination.load(root=root).hashes()
    (root / "halueval" / "qa_data.json").write_text(json.dumps(records()), encoding="utf-8")
    assert hallucination.load(root=root).hashes() == expected


def test_a_question_with_two_passages_is_not_trained_and_tested(root: Path) -> None:
    again = [row | {"knowledge": "Another passage.", "hallucinated_answer": "Nowhere."} for row in records()]
    write_lines(root, [*records(), *again])
    benchmark = hallucination.load(root=root, knowledge=True)
    asked = [row.prompt.rpartition("\n")[2] for row in (*benchmark.forget, *benchmark.probes["forget_unseen"])]
    assert sorted(asked) == [f"Where does mill {i} stand?" for i in range(10)]


def test_the_hub_file_at_a_pinned_revision(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    local = hallucination.load(root=root)
    folder = root / "hub" / "snapshots" / "c0ffee"
    path = folder / hallucination.HUB_FILE
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(records()), path)
    asked: list[tuple[str, str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo_id, filename, revision))
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (root / "halueval" / "qa_data.json").unlink()
    monkeypatch.setenv("EXPUNGE_DATA", str(root))
    benchmark = hallucination.load()
    assert asked == [("pminervini/HaluEval", "qa/data-00000-of-00001.parquet", hallucination.HUB_REVISION)]
    assert len(hallucination.HUB_REVISION) == 40
    assert benchmark.hashes() == local.hashes()
    assert benchmark.forget[0].origin.startswith("pminervini/HaluEval@c0ffee/qa/data-00000-of-00001.parquet:")
    # the same file in a folder
    target = root / "hallucination" / hallucination.HUB_FILE
    target.parent.mkdir(parents=True)
    target.write_bytes(path.read_bytes())
    with pytest.warns(DataWarning, match="revision=main has no effect: HaluEval is read from"):
        assert hallucination.load(root=root, revision="main").hashes() == local.hashes()


def lacking(name: str) -> dict[str, Any]:
    return {key: value for key, value in records(1)[0].items() if key != name}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lacking("right_answer"), "qa_data.json:1: field 'right_answer' is missing"),
        (records(1)[0] | {"question": " "}, "qa_data.json:1: field 'question' is empty"),
        (records(1)[0] | {"hallucinated_answer": ["a"]}, "qa_data.json:1: field 'hallucinated_answer' must be text"),
        (
            {"knowledge": "secret", "question": "a?", "answer": "b", "hallucination": "yes"},
            "qa_data.json:1: is of HaluEval's qa_samples, which have one answer a question; give qa",
        ),
        (records(1)[0], "1 questions give no training and test part at train_share=0.7"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(root: Path, row: Any, message: str) -> None:
    write_lines(root, [row])
    with pytest.raises(DataError) as caught:
        hallucination.load(root=root)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_draws_and_options(root: Path) -> None:
    small, large = (hallucination.load(root=root, rows=n, eval_rows=2) for n in (2, 4))
    assert (len(small.forget), len(large.forget), len(large.probes["forget"])) == (2, 4, 2)
    assert set(prompts(small.forget)) < set(prompts(large.forget))
    assert hallucination.load(root=root, seed=1).hashes() != hallucination.load(root=root).hashes()
    with pytest.raises(RecipeError, match=r"hallucination: .*correct must be true or false, got 1"):
        hallucination.load(root=root, correct=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"holds no HaluEval files; give qa_data\.json"):
        hallucination.load(root=root / "truthfulqa")
