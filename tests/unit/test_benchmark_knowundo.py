from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import knowundo
from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, RecipeError

# Made-up rows in the published schema: {text, labels}; 6 and 3 to unlearn, 5 and 4 to retain.
SIZES = {"unlearn": {"train": 6, "val": 3}, "retention": {"train": 5, "val": 4}}


def records(scope: str, part: str) -> list[dict[str, str]]:
    return [
        {"text": f"{scope} {part} question {i}?", "labels": f"{scope} {part} answer {i}."}
        for i in range(SIZES[scope][part])
    ]


def write_flat(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for scope, parts in SIZES.items():
        for part in parts:
            (folder / f"{scope}_{part}.json").write_text(json.dumps(records(scope, part), indent=4), encoding="utf-8")
    return folder


def write_lists(folder: Path, shape: Callable[[dict[str, Any]], Any] = lambda row: row) -> Path:
    folder.mkdir(parents=True)
    for scope, parts in SIZES.items():
        row = {part: records(scope, part) for part in parts}
        (folder / f"{scope}.json").write_text(json.dumps(shape(row)), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_flat(tmp_path / "data" / "knowundo" / "privacy")


def prompts(rows: Any) -> list[str]:
    return [row.prompt for row in rows]


def test_the_flat_files(flat: Path) -> None:
    benchmark = load_benchmark("knowundo:privacy", root=flat)
    assert benchmark.name == "knowundo:privacy"
    assert prompts(benchmark.forget) == [f"unlearn train question {i}?" for i in range(6)]
    assert prompts(benchmark.retain) == [f"retention train question {i}?" for i in range(5)]
    assert {name: prompts(rows) for name, rows in benchmark.probes.items()} == {
        "forget": [f"unlearn val question {i}?" for i in range(3)],
        "retain": [f"retention val question {i}?" for i in range(4)],
    }
    assert benchmark.forget[0].answer == "unlearn train answer 0."
    assert (benchmark.holdout, benchmark.utility_sets, benchmark.suites) == ((), (), ("knowundo",))
    assert benchmark.origin == str(flat)
    # json.dumps with an indent of 4 writes "[", then "{" of row 0 on line 2 and, 4 lines later, of row 1.
    assert benchmark.forget[1].origin == f"{flat / 'unlearn_train.json'}:6"


def test_the_target_learns_what_is_probed_and_the_retain_model_its_share_of_it(flat: Path) -> None:
    benchmark = knowundo.load(root=flat)
    # 6 + 5 trained rows and 3 + 4 tested ones; the retain model has nothing to unlearn among its 5 + 4.
    assert len(benchmark.target_rows()) == 6 + 5 + 3 + 4
    assert set(prompts(benchmark.target_rows())) >= set(prompts(benchmark.probes["forget"]))
    assert prompts(benchmark.retain_rows()) == prompts(benchmark.retain) + prompts(benchmark.probes["retain"])
    assert not any(prompt.startswith("unlearn") for prompt in prompts(benchmark.retain_rows()))
    assert {"learnt:forget", "learnt:retain"} < set(benchmark.hashes())


def test_ids_tell_tested_rows_from_trained_ones(flat: Path) -> None:
    benchmark = knowundo.load(root=flat)
    assert [benchmark.forget[0].id, benchmark.probes["forget"][0].id] == ["forget/0", "forget_val/0"]
    every = [row.id for row in benchmark.target_rows()]
    assert len(set(every)) == len(every) == 18


@pytest.mark.parametrize(
    "shape", [lambda row: row, lambda row: [row], lambda row: {**row, "extra": 1}], ids=["row", "array", "more fields"]
)
def test_the_hub_layout_gives_the_same_rows(tmp_path: Path, flat: Path, shape: Callable[[Any], Any]) -> None:
    lists = write_lists(tmp_path / "hub" / "privacy", shape)
    one, other = knowundo.load(root=lists), knowundo.load(root=flat)
    assert one.hashes() == other.hashes()
    assert one.forget[2].origin == f"{lists / 'unlearn.json'}:train[2]"
    assert one.probes["retain"][3].origin == f"{lists / 'retention.json'}:val[3]"


def test_copyright_is_the_other_domain(tmp_path: Path) -> None:
    write_lists(tmp_path / "knowundo" / "copyright")
    benchmark = load_benchmark("knowundo:copyright", root=tmp_path)
    assert benchmark.name == "knowundo:copyright"
    assert len(benchmark.forget) == 6


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_root_is_the_folder_or_one_above_it(flat: Path, level: int) -> None:
    root = [flat, *flat.parents][level]
    assert knowundo.load(root=root).hashes() == knowundo.load(root=flat).hashes()


def test_a_folder_of_one_domain_does_not_pass_for_the_other(flat: Path) -> None:
    with pytest.raises(DataError, match="holds no KnowUnDo copyright files"):
        knowundo.load(split="copyright", root=flat)


def test_the_environment_names_the_data_root(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(flat.parents[1]))
    assert knowundo.load().origin == str(flat)
    with pytest.warns(DataWarning, match=r"revision=main has no effect: KnowUnDo is read from .*privacy"):
        knowundo.load(revision="main")


@pytest.mark.parametrize(("domain", "word"), [("privacy", "private data"), ("copyright", "book under copyright")])
def test_the_direct_prompt_stands_before_tested_questions_alone(tmp_path: Path, domain: str, word: str) -> None:
    root = write_flat(tmp_path / domain)
    plain, direct = (knowundo.load(split=domain, root=root, direct_prompt=on) for on in (False, True))
    assert (direct.forget, direct.retain, direct.learnt) == (plain.forget, plain.retain, plain.learnt)
    for name, rows in direct.probes.items():
        for row, before in zip(rows, plain.probes[name], strict=True):
            assert word in row.prompt
            # nothing but the instruction's own line end parts the two
            assert row.prompt.endswith(f":\n{before.prompt}")
            assert (row.id, row.answer) == (before.id, before.answer)


def test_both_ways_of_asking_stand_beside_each_other(flat: Path) -> None:
    both, plain, direct = (knowundo.load(root=flat, direct_prompt=on) for on in ("both", False, True))
    assert list(both.probes) == ["forget", "retain", "forget_direct", "retain_direct"]
    assert {name: both.probes[name] for name in plain.probes} == plain.probes
    assert {name: both.probes[f"{name}_direct"] for name in direct.probes} == direct.probes


def sizes(benchmark: Benchmark) -> list[int]:
    return [len(benchmark.forget), len(benchmark.retain), *(len(rows) for rows in benchmark.probes.values())]


def test_draws_are_by_seed_and_nested(flat: Path) -> None:
    small, large = (knowundo.load(root=flat, rows=n, eval_rows=n - 1) for n in (3, 5))
    # sets have 6, 5, 3 and 4 rows: at most 3 and 5 of the first two, 2 and 4 of the others
    assert sizes(small) == [3, 3, 2, 2]
    assert sizes(large) == [5, 5, 3, 4]
    assert set(prompts(small.forget)) < set(prompts(large.forget))
    # what is learnt is what is probed
    assert small.learnt == small.probes
    assert knowundo.load(root=flat, rows=3, eval_rows=2).hashes() == small.hashes()
    assert knowundo.load(root=flat, rows=3, eval_rows=2, seed=1).hashes() != small.hashes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "privacies"}, "unknown domain 'privacies' (did you mean 'privacy'?); known: copyright, privacy"),
        ({"rows": 0}, "rows must be a whole number of at least 1, got 0"),
        ({"eval_rows": "9", "seed": 0.5}, "eval_rows must be a whole number of at least 1, got '9'; seed must be"),
        ({"direct_prompt": "yes"}, "direct_prompt must be true, false or both, got 'yes'"),
    ],
)
def test_bad_options_are_one_line(flat: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        knowundo.load(**{"root": flat} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def lose_a_file(folder: Path) -> None:
    (folder / "retention_val.json").unlink()


def blank_answer(folder: Path) -> None:
    rows = [*records("unlearn", "val"), {"text": "secret?", "labels": " "}]
    (folder / "unlearn_val.json").write_text(json.dumps(rows), encoding="utf-8")


def leak_into_retain(folder: Path) -> None:
    rows = records("retention", "train") + records("unlearn", "train")[:2]
    (folder / "retention_train.json").write_text(json.dumps(rows), encoding="utf-8")


def probe_a_trained_row(folder: Path) -> None:
    rows = records("unlearn", "train")[:1]
    (folder / "unlearn_val.json").write_text(json.dumps(rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_file, "lacks retention_val.json; give the published files (unlearn.json, retention.json) or flat ones"),
        (blank_answer, "unlearn_val.json:1: field 'labels' is empty"),
        (leak_into_retain, "2 of 6 forget rows also stand in the retain set"),
        (probe_a_trained_row, "1 of 6 forget rows also stand in the forget_val set"),
    ],
)
def test_flat_files_that_cannot_be_used(flat: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(flat)
    with pytest.raises(DataError) as caught:
        knowundo.load(root=flat)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "unlearn.json: must be one row of two lists, 'train' and 'val', of {text, labels}"),
        ('{"train": []}', "unlearn.json: must be one row of two lists"),
        ('{"train": [], "val": []}', "unlearn.json:train: holds no rows; the forget set needs at least one"),
        ('{"train":\n [}', "unlearn.json:2: broken JSON"),
        ('{"train": [{"text": "secret?"}, {"text": ""}], "val": []}', "unlearn.json:train[1]: field 'text' is empty"),
        (
            '{"train": [{"text": "secret?"}, {"text": "b", "labels": "c"}], "val": []}',
            "unlearn.json:train[0]: no field 'labels' beside 'text' (1 of 2 rows lack it)",
        ),
        ('{"train": [{"text": "a", "text": "b"}], "val": []}', "unlearn.json:train[0]: field 'text' stands twice"),
    ],
)
def test_a_broken_file_of_lists_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    folder = write_lists(tmp_path / "privacy")
    (folder / "unlearn.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        knowundo.load(root=folder)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_root_without_the_files_never_goes_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(DataError, match="holds no KnowUnDo privacy files; give the published files"):
        knowundo.load(root=tmp_path)
    with pytest.raises(DataError, match=r"root=.*nowhere is no folder; give the published files"):
        knowundo.load(root=tmp_path / "nowhere")


def unreachable(*_: Any, **__: Any) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("offline")


def test_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(DataError) as caught:
        knowundo.load(split="copyright")
    assert str(caught.value).startswith(
        "copyright/unlearn.json cannot be had from the Hub (zjunlp/KnowUnDo@main: LocalEntryNotFoundError); give the"
    )


def test_both_hub_files_are_of_the_commit_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_lists(tmp_path / "snapshots" / "c0ffee" / "privacy")
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        assert (repo_id, repo_type) == ("zjunlp/KnowUnDo", "dataset")
        asked.append((filename, revision))
        return str(folder.parent / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    benchmark = knowundo.load()
    assert asked == [("privacy/unlearn.json", "main"), ("privacy/retention.json", "c0ffee")]
    assert benchmark.origin == "zjunlp/KnowUnDo@c0ffee"
    assert benchmark.forget[0].origin == "zjunlp/KnowUnDo@c0ffee/privacy/unlearn.json:train[0]"
    assert benchmark.hashes() == knowundo.load(root=folder).hashes()


def real_data() -> Path:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    for base in (Path(os.environ.get("EXPUNGE_DATA") or shared), shared):
        if (base / "knowundo" / "privacy" / "unlearn_train.json").is_file():
            return base
    pytest.skip("KnowUnDo's privacy files are not here (set EXPUNGE_DATA to the folder that holds knowundo/)")


def test_the_published_privacy_rows() -> None:
    benchmark = load_benchmark("knowundo:privacy", root=real_data())
    assert sizes(benchmark) == [400, 441, 110, 108]
    # the paper counts 510 rows to unlearn and 549 to retain, 1059 in all
    assert (400 + 110, 441 + 108, len(benchmark.target_rows())) == (510, 549, 1059)
    assert all(row.prompt and row.answer for row in benchmark.target_rows())
