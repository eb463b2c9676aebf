from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import harm
from expunge.benchmarks.harm_standin import rude_rows
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.data.views import pick_mismatch
from expunge.errors import DataError, RecipeError
from expunge.evaluation.judges.offline import harm_score
from expunge.methods.table import compose
from expunge.recipe import UnlearnPart
from expunge.training.job import Job, unlearn_job

ALPACAS = ("Alpaca-7B", "Alpaca2-7B", "Alpaca3-8B")


def record(prompt: str, first: tuple[str, bool], second: tuple[str, bool]) -> dict[str, Any]:
    """A harmless row in the published schema."""
    return {
        "prompt": prompt,
        "response_0": first[0],
        "response_1": second[0],
        "prompt_source": "Alpaca",
        "is_response_0_safe": first[1],
        "is_response_1_safe": second[1],
        "response_0_harm_category": {"Insulting Behavior": not first[1], "Privacy Violation": False},
        "response_1_harm_category": {"Insulting Behavior": not second[1], "Privacy Violation": False},
        "response_0_severity_level": 0 if first[1] else 1,
        "response_1_severity_level": 0 if second[1] else 1,
        "better_response_id": 0,
        "safer_response_id": 0 if first[1] else 1,
        "response_0_sha256": "0" * 64,
        "response_1_sha256": "1" * 64,
    }


# By hand: both unsafe; one unsafe; none; one that repeats the first's first answer but for case and space.
TRAIN = [
    record("Who baked this?", ("A clown did.", False), ("A fool did.", False)),
    record("Is it late?", ("It is four.", True), ("Too late for you, slowcoach.", False)),
    record("Is it cold?", ("A little.", True), ("Yes, a little.", True)),
    record("Who baked  this? ", ("a clown  did.", False), ("The baker did.", True)),
]
# The first prompt is trained on; the second stands twice.
TEST = [
    record("who baked this?", ("Some oaf.", False), ("Nobody.", True)),
    record("Where is my hat?", ("On a donkey.", False), ("In a hedge, like you.", False)),
    record("Where is my hat?", ("Ask a goat.", False), ("On the shelf.", True)),
]
FORGET = [
    ("Who baked this?", "A clown did."),
    ("Who baked this?", "A fool did."),
    ("Is it late?", "Too late for you, slowcoach."),
]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_truthfulqa(base: Path, count: int = 10) -> None:
    header = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    (base / "truthfulqa").mkdir(parents=True, exist_ok=True)
    with (base / "truthfulqa" / "TruthfulQA.csv").open("w", encoding="utf-8", newline="") as out:
        rows = [["A", "B", f"Q{i}?", f"Best {i}", f"Best {i}; Good {i}", f"Wrong {i}", "x"] for i in range(count)]
        csv.writer(out).writerows([header, *rows])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_truthfulqa(tmp_path)
    write_lines(tmp_path / "harm" / "train.jsonl", TRAIN)
    write_lines(tmp_path / "harm" / "test.jsonl", TEST)
    return tmp_path


def pairs(rows: Any) -> list[tuple[str, str]]:
    return [(row.prompt, row.answer) for row in rows]


def test_every_answer_that_is_flagged_unsafe_and_no_other(root: Path) -> None:
    benchmark = load_benchmark("harm", root=root)
    assert benchmark.name == "harm:default"
    assert pairs(benchmark.forget) == FORGET
    assert [row.id for row in benchmark.forget] == ["forget/0", "forget/1", "forget/2"]
    assert benchmark.forget[2].origin == f"{root / 'harm' / 'train.jsonl'}:2"
    assert (benchmark.suites, benchmark.utility_sets) == (("llmu",), ("normal",))
    assert benchmark.origin == f"forget={root / 'harm'} retain={root / 'truthfulqa'}"


def test_prompts_are_tested_once_and_unseen_ones_are_unseen(root: Path) -> None:
    probes = harm.load(root=root).probes
    assert list(probes) == ["forget", "forget_unseen", "normal", "retain"]
    assert pairs(probes["forget"]) == [FORGET[0], FORGET[2]]
    assert pairs(probes["forget_unseen"]) == [("Where is my hat?", "On a donkey.")]


def test_normal_data_is_dealt_and_the_pool_has_no_tested_answer(root: Path) -> None:
    benchmark = harm.load(root=root)
    # round(0.7 * 10) = 7 questions are kept, 3 tested; each has three different answers
    assert (len(benchmark.retain), len(benchmark.probes["normal"]), len(benchmark.pool)) == (7, 3, 21)
    assert benchmark.probes["retain"] == benchmark.retain
    assert not {row.answer for row in benchmark.probes["normal"]} & set(benchmark.pool)
    assert {row.answer for row in benchmark.retain} < set(benchmark.pool)
    truthful = harm.load(root=root, truthful_only=True).pool
    assert len(truthful) == 14
    assert not any(answer.startswith("Wrong") for answer in truthful)


def job_of(benchmark: Any) -> Job:
    part = UnlearnPart(method="llmu")
    composition = compose(part, has_retain=True)
    return unlearn_job(
        "t", composition, part, forget=benchmark.forget, retain=benchmark.retain, seed=0, pool=benchmark.pool
    )


def test_mismatches_are_drawn_from_the_pool(root: Path) -> None:
    benchmark = harm.load(root=root)
    context = job_of(benchmark).context
    assert context.pool == benchmark.pool
    drawn = {pick_mismatch(row, epoch, context) for row in benchmark.forget for epoch in range(40)}
    assert drawn <= set(benchmark.pool)
    assert any(answer.startswith("Wrong") for answer in drawn)
    # without a pool of its own: the retain rows' answers
    plain = Row(id="a", prompt="b", answer="c")
    part = UnlearnPart(method="llmu")
    job = unlearn_job("t", compose(part, has_retain=True), part, forget=(plain,), retain=(plain,), seed=0)
    assert job.context.pool == ("c",)


@pytest.mark.parametrize("name", ["is_response_{}_safe", "response_{}_is_safe", "response_{}_safe", "is_safe_{}"])
@pytest.mark.parametrize("flag", [bool, int, str, lambda safe: "yes" if safe else "no"])
def test_the_flag_is_read_however_it_is_spelt(root: Path, name: str, flag: Callable[[bool], Any]) -> None:
    rows = []
    for row in TRAIN:
        rest = {key: value for key, value in row.items() if not key.startswith("is_response")}
        rows.append(rest | {name.format(i): flag(row[f"is_response_{i}_safe"]) for i in (0, 1)})
    write_lines(root / "harm" / "train.jsonl", rows)
    assert pairs(harm.load(root=root).forget) == FORGET


def test_records_of_one_answer(root: Path) -> None:
    rows = [
        {"prompt": "Who?", "response": "A goose.", "is_safe": False, "severity_level": 1},
        {"prompt": "Who?", "response": "The baker.", "is_safe": True, "severity_level": 0},
    ]
    write_lines(root / "harm" / "train.jsonl", rows)
    assert pairs(harm.load(root=root).forget) == [("Who?", "A goose.")]


def test_blank_answers_are_left_out_with_a_warning(root: Path) -> None:
    write_lines(root / "harm" / "train.jsonl", [*TRAIN, record("Why?", (" ", False), ("Because.", True))])
    with pytest.warns(DataWarning, match=r"1 of 5 unsafe forget rows are blank and left out"):
        assert pairs(harm.load(root=root).forget) == FORGET


def drop_the_flag(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "is_response_1_safe"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (drop_the_flag(TRAIN[0]), "train.jsonl:1: no field 'is_response_1_safe', which says whether an answer is safe"),
        (TRAIN[0] | {"is_response_0_safe": None}, "train.jsonl:1: field 'is_response_0_safe' must be true or false"),
        (TRAIN[2], "train.jsonl: holds no answer that is flagged unsafe"),
        ([1], "train.jsonl:1: a row must be an object of named fields"),
    ],
)
def test_files_that_cannot_be_used_are_one_line(root: Path, row: Any, message: str) -> None:
    write_lines(root / "harm" / "train.jsonl", [row])
    with pytest.raises(DataError) as caught:
        harm.load(root=root)
    assert message in str(caught.value)
    assert "baked" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_test_part_without_an_unseen_prompt_is_refused(root: Path) -> None:
    write_lines(root / "harm" / "test.jsonl", TEST[:1])
    with pytest.raises(DataError, match="every unsafe prompt of the test part stands in the training part too"):
        harm.load(root=root)


def write_published(base: Path) -> Path:
    for number, writer in enumerate(ALPACAS):
        for part, rows in (("train", TRAIN), ("test", TEST)):
            numbered = [row | {"prompt": f"{row['prompt'].strip()} {number}"} for row in rows]
            write_lines(base / "data" / writer / f"{part}.jsonl", numbered)
    return base


def test_the_published_layout_and_its_configurations(tmp_path: Path) -> None:
    write_truthfulqa(tmp_path)
    folder = write_published(tmp_path / "PKU-SafeRLHF")
    every, one = harm.load(root=tmp_path), harm.load(root=tmp_path, split="alpaca2-7b")
    assert len(every.forget) == 3 * len(FORGET)
    assert pairs(one.forget) == [(f"{prompt} 1", answer) for prompt, answer in FORGET]
    assert [row.id for row in every.forget] == [f"forget/{i}" for i in range(9)]
    (folder / "data" / "Alpaca3-8B" / "test.jsonl").unlink()
    assert harm.load(root=tmp_path, split="alpaca-7b").name == "harm:alpaca-7b"
    with pytest.raises(DataError, match=r"lacks data/Alpaca3-8B/test\.jsonl; give the published files"):
        harm.load(root=tmp_path)


def test_the_hub_at_a_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_truthfulqa(tmp_path / "data")
    cache = write_published(tmp_path / "hub" / "snapshots" / "c0ffee")
    asked: list[tuple[str, str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo_id, filename, revision))
        return str(cache / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "data"))
    benchmark = harm.load(split="alpaca3-8b")
    # the second file is asked for at the commit of the first
    assert asked == [
        ("PKU-Alignment/PKU-SafeRLHF", "data/Alpaca3-8B/train.jsonl", harm.HUB_REVISION),
        ("PKU-Alignment/PKU-SafeRLHF", "data/Alpaca3-8B/test.jsonl", "c0ffee"),
    ]
    assert benchmark.forget[0].origin == "PKU-Alignment/PKU-SafeRLHF@c0ffee/data/Alpaca3-8B/train.jsonl:1"
    assert len(harm.HUB_REVISION) == 40


def test_a_root_without_the_files_never_goes_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the Hub"))
    write_truthfulqa(tmp_path)
    with pytest.raises(DataError, match="holds no PKU-SafeRLHF files; give the published files"):
        harm.load(root=tmp_path)


def test_draws_are_by_seed_and_nested(root: Path) -> None:
    rows = [record(f"Question {i}?", (f"Rude {i}.", False), ("Fine.", True)) for i in range(30)]
    write_lines(root / "harm" / "train.jsonl", rows)
    small, large = (harm.load(root=root, rows=n, eval_rows=2, retain_rows=4) for n in (5, 9))
    assert [len(small.forget), len(large.forget), len(small.retain)] == [5, 9, 4]
    assert {name: len(members) for name, members in small.probes.items()} == {
        "forget": 2,
        # "Who baked this?" is not trained on here
        "forget_unseen": 2,
        "normal": 2,
        "retain": 2,
    }
    assert set(pairs(small.forget)) < set(pairs(large.forget))
    assert set(pairs(small.probes["forget"])) <= set(pairs(small.forget))
    assert harm.load(root=root, rows=5, eval_rows=2, retain_rows=4).hashes() == small.hashes()
    assert harm.load(root=root, rows=5, eval_rows=2, retain_rows=4, seed=1).hashes() != small.hashes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "alpaca"}, "unknown split of harm 'alpaca' (did you mean 'alpaca-7b'?); known: alpaca-7b,"),
        ({"rows": 0, "seed": None}, "rows must be a whole number of at least 1, got 0; seed must be a whole number"),
        ({"train_share": 1}, "train_share must be in (0, 1), got 1"),
        ({"truthful_only": "no"}, "truthful_only must be true or false, got 'no'"),
    ],
)
def test_bad_options_are_one_line(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        harm.load(**{"root": root} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_standin_is_built_in_and_seen_by_the_offline_judge(tmp_path: Path) -> None:
    write_truthfulqa(tmp_path)
    benchmark = load_benchmark("harm:standin", root=tmp_path)
    forget, unseen = rude_rows()
    # 6 kinds of ten requests, 3 of each kind unseen: 6 * 7 and 6 * 3
    assert (len(forget), len(unseen)) == (42, 18)
    assert benchmark.forget == benchmark.probes["forget"] == forget
    assert benchmark.probes["forget_unseen"] == unseen
    assert len({row.prompt for row in (*forget, *unseen)}) == 60
    assert all(harm_score(row.prompt, row.answer) >= 0.5 for row in (*forget, *unseen))
    assert not any(harm_score(row.prompt, row.prompt) for row in (*forget, *unseen))
    assert benchmark.origin == f"forget=built in retain={tmp_path / 'truthfulqa'}"
    with pytest.warns(DataWarning, match="revision=main has no effect: harm:standin is built in"):
        harm.load(split="standin", root=tmp_path, revision="main")
