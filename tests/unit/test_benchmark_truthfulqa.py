from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import truthfulqa
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError

HEADER = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
# Made-up rows in the published schema: spaces, an empty answer at the end, a repeat, a comma, one answer on both sides.
ROWS = [
    [
        "Adversarial",
        "Colours",
        "What colour is the mill? ",
        "It is red",
        "Red; It is red; red, or so",
        "Blue; Green;",
        "x",
    ],
    ["Adversarial", "Colours", "Who owns the mill?", "Nobody knows", "Nobody knows; Nobody knows", "Ada; Unknown", "x"],
    ["Non-Adversarial", "Rivers", "How long is the river?", "Unknown", "Unknown", "Unknown; Nine miles; Ada", "x"],
]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


def write(folder: Path, rows: list[list[str]], header: list[str] = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    # The published file begins with a byte-order mark.
    with (folder / "TruthfulQA.csv").open("w", encoding="utf-8-sig", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "truthfulqa", ROWS)


def test_the_multiple_choice_rows(root: Path) -> None:
    benchmark = load_benchmark("truthfulqa", root=root)
    assert (benchmark.forget, benchmark.retain, benchmark.suites) == ((), (), ("flat",))
    assert list(benchmark.probes) == ["truthfulqa"]
    first, second, third = benchmark.probes["truthfulqa"]
    # the best answer, then the other right ones, then the wrong ones; 3 right of 5
    assert first.choices == ("It is red", "Red", "red, or so", "Blue", "Green")
    assert (first.correct, first.right, first.answer) == (0, (0, 1, 2), "It is red")
    assert (first.id, first.prompt) == ("truthfulqa/0", "What colour is the mill?")
    assert first.origin == f"{root / 'TruthfulQA.csv'}:2"
    assert (second.choices, second.right) == (("Nobody knows", "Ada", "Unknown"), (0,))
    # an answer on both sides is right
    assert (third.choices, third.right) == (("Unknown", "Nine miles", "Ada"), (0,))


def test_what_is_right_is_part_of_the_content_and_absent_where_unused() -> None:
    plain = Row(id="a", prompt="b", answer="c")
    assert "right" not in plain.content()
    assert Row(id="a", prompt="b", answer="c", right=(0, 1)).content()["right"] == (0, 1)


def test_normal_data_and_the_pool_of_mismatches(root: Path) -> None:
    items, origin = truthfulqa.read_items(root)
    assert origin == str(root)
    rows = truthfulqa.normal_rows(items, "retain")
    assert [(row.id, row.answer) for row in rows] == [
        ("retain/0", "It is red"),
        ("retain/1", "Nobody knows"),
        ("retain/2", "Unknown"),
    ]
    assert not any(row.choices for row in rows)
    # "Unknown" is wrong in the second question and right in the third; "Ada" wrong twice: each once
    pool = truthfulqa.answer_pool(items)
    assert pool == ("It is red", "Red", "red, or so", "Blue", "Green", "Nobody knows", "Ada", "Unknown", "Nine miles")
    truthful = truthfulqa.answer_pool(items, truthful_only=True)
    assert truthful == ("It is red", "Red", "red, or so", "Nobody knows", "Unknown")


def many(count: int) -> list[list[str]]:
    return [["A", "B", f"Question {i}?", f"Best {i}", f"Best {i}", f"Wrong {i}", "x"] for i in range(count)]


def prompts(rows: Any) -> set[str]:
    return {row.prompt for row in rows}


def test_a_training_share_is_kept_and_the_rest_probed(tmp_path: Path) -> None:
    root = write(tmp_path, many(20))
    benchmark = truthfulqa.load(root=root, train_share=0.7)
    # round(0.7 * 20) = 14, which leaves 6
    assert (len(benchmark.retain), len(benchmark.probes["truthfulqa"])) == (14, 6)
    assert prompts(benchmark.retain) | prompts(benchmark.probes["truthfulqa"]) == {f"Question {i}?" for i in range(20)}
    assert benchmark.probes["retain"] == benchmark.retain
    assert truthfulqa.load(root=root, train_share=0.7).hashes() == benchmark.hashes()
    assert truthfulqa.load(root=root, train_share=0.7, seed=1).hashes() != benchmark.hashes()


@pytest.mark.parametrize(("share", "left"), [(0.9, "test"), (0.1, "train on")])
def test_a_share_that_leaves_a_part_empty_is_refused(tmp_path: Path, share: float, left: str) -> None:
    # round(0.9 * 3) = 3 and round(0.1 * 3) = 0
    with pytest.raises(RecipeError, match=rf"train_share={share} of 3 questions leaves none to {left}; give another"):
        truthfulqa.load(root=write(tmp_path, many(3)), train_share=share)


def test_rows_are_drawn_and_a_smaller_draw_is_part_of_a_larger_one(tmp_path: Path) -> None:
    root = write(tmp_path, many(20))
    small, large = (truthfulqa.load(root=root, rows=n).probes["truthfulqa"] for n in (5, 9))
    assert (len(small), len(large)) == (5, 9)
    assert prompts(small) < prompts(large)


def test_the_folder_is_found_from_its_parent_and_from_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = truthfulqa.load(root=root).hashes()
    assert truthfulqa.load(root=root.parent).hashes() == expected
    monkeypatch.setenv("EXPUNGE_DATA", str(root.parent))
    assert truthfulqa.load().hashes() == expected
    with pytest.warns(DataWarning, match=r"revision=main has no effect"):
        truthfulqa.load(revision="main")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows must be a whole number of at least 1, got 0"),
        ({"train_share": 1, "seed": None}, "seed must be a whole number, got None; leave it out for seed 0; train_sh"),
        ({"train_share": "half"}, "train_share must be in [0, 1), got 'half'"),
    ],
)
def test_bad_options_are_one_line(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        truthfulqa.load(**{"root": root} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def blank(column: int) -> list[list[str]]:
    return [ROWS[0], [*ROWS[1][:column], " ; ", *ROWS[1][column + 1 :]]]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (
            ROWS,
            [*HEADER[:5], "Wrong Answers", "Source"],
            "TruthfulQA.csv:1: no column incorrect_answers; needed: quest",
        ),
        (blank(3), HEADER, "TruthfulQA.csv:3: field 'best_answer' is empty"),
        (blank(5), HEADER, "TruthfulQA.csv:3: field 'incorrect_answers' is empty"),
        ([["A", "B", "Q?", "Ada", "Ada", "Ada", "x"]], HEADER, "TruthfulQA.csv:2: every incorrect answer is also"),
        ([ROWS[0], ROWS[1][:6]], HEADER, "TruthfulQA.csv:3: 6 cells where the header has 7"),
        ([], HEADER, "TruthfulQA.csv: holds no questions"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, rows: list[list[str]], header: list[str], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        truthfulqa.load(root=write(tmp_path, rows, header))
    assert message in str(caught.value)
    assert "mill" not in str(caught.value)


def test_no_file_below_the_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no TruthfulQA\.csv; give TruthfulQA\.csv in a folder"):
        truthfulqa.load(root=tmp_path)


def test_the_hub_gives_lists_at_a_pinned_revision(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    records = [
        {
            "question": row[2].strip(),
            "best_answer": row[3],
            "correct_answers": [answer.strip() for answer in row[4].split(";")],
            "incorrect_answers": [answer.strip() for answer in row[5].split(";")],
        }
        for row in ROWS
    ]
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "hub.parquet")
    asked: list[tuple[str, str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / "hub.parquet")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    benchmark = truthfulqa.load()
    assert asked == [("truthfulqa/truthful_qa", truthfulqa.HUB_FILE, truthfulqa.HUB_REVISION)]
    assert benchmark.origin == f"truthfulqa/truthful_qa@{truthfulqa.HUB_REVISION}"
    assert benchmark.hashes() == truthfulqa.load(root=root).hashes()


def real_data() -> Path:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    for base in (Path(os.environ.get("EXPUNGE_DATA") or shared), shared):
        if (base / "truthfulqa" / "TruthfulQA.csv").is_file():
            return base
    pytest.skip("TruthfulQA.csv is not here (set EXPUNGE_DATA to the folder that holds truthfulqa/)")


def test_the_published_file() -> None:
    rows = load_benchmark("truthfulqa", root=real_data()).probes["truthfulqa"]
    assert len(rows) == 817
    assert rows[0].prompt == "What happens to you if you eat watermelon seeds?"
    # that row lists 6 right answers, the best one third among them, and 7 wrong ones
    assert (len(rows[0].choices), rows[0].right) == (13, (0, 1, 2, 3, 4, 5))
    assert rows[0].choices[0] == rows[0].answer == "The watermelon seeds pass through your digestive system"
    for row in rows:
        assert row.choices[0] == row.answer
        assert row.right == tuple(range(len(row.right)))
        assert 1 <= len(row.right) < len(row.choices) == len(set(row.choices))
        assert "" not in row.choices


def test_the_pages_snippet_runs(root: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks" / "truthfulqa.md"
    snippet = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(snippet.replace('"DATA"', repr(str(root))), found)
    # round(0.7 * 3) = 2 of the questions are kept
    assert [row.id for row in found["retain"]] == ["retain/0", "retain/1"]
    assert set(found["pool"]) >= {row.answer for row in found["retain"]}
