from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import tofu
from expunge.benchmarks.table import load_benchmark
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, RecipeError

# A folder in TOFU's layout, small: 12 retain rows of which the first 6 are probed, then 4 forget rows.
FULL = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(16)]
PROBED = 6


def probe(row: dict[str, str], wrong: int) -> dict[str, Any]:
    return {
        **row,
        "paraphrased_question": f"{row['question']} (again)",
        "paraphrased_answer": f"{row['answer']} (again)",
        "perturbed_answer": [f"Wrong {k}." for k in range(wrong)],
    }


def world(name: str, count: int) -> list[dict[str, Any]]:
    return [{"question": f"{name} {i}?", "answer": f"{i}", "perturbed_answer": ["a", "b", "c"]} for i in range(count)]


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    base = tmp_path / "tofu"
    base.mkdir()
    files = {
        "forget01": FULL[12:],
        "retain99": FULL[:12],
        "forget01_perturbed": [probe(row, 5) for row in FULL[12:]],
        "retain_perturbed": [probe(row, 5) for row in FULL[:PROBED]],
        "real_authors_perturbed": world("Author", 7),
        "world_facts_perturbed": world("Fact", 8),
    }
    for name, records in files.items():
        write_lines(base / f"{name}.json", records)
    (base / "idontknow.jsonl").write_text("I do not know.\n\nNo idea.\n", encoding="utf-8")
    return base


def prompts(rows: Any) -> list[str]:
    return [row.prompt for row in rows]


def test_the_split_as_published(folder: Path) -> None:
    benchmark = tofu.load(split="forget01", root=folder)
    assert benchmark.name == "tofu:forget01"
    assert prompts(benchmark.forget) == [f"Question {i}?" for i in range(12, 16)]
    assert prompts(benchmark.retain) == [f"Question {i}?" for i in range(12)]
    assert benchmark.holdout == ()
    sizes = {name: len(rows) for name, rows in benchmark.probes.items()}
    assert sizes == {"forget": 4, "retain": 6, "real_authors": 7, "world_facts": 8}
    assert benchmark.utility_sets == ("real_authors", "world_facts")
    assert benchmark.refusals == ("I do not know.", "No idea.")
    assert benchmark.origin == str(folder)
    assert (benchmark.forget[0].id, benchmark.forget[0].origin) == ("forget/0", f"{folder / 'forget01.json'}:1")
    first = benchmark.probes["forget"][0]
    assert (first.id, first.answer, first.paraphrased_answer) == ("forget/0", "Answer 12.", "Answer 12. (again)")
    assert first.perturbed_answers == tuple(f"Wrong {k}." for k in range(5))
    assert benchmark.probes["world_facts"][0].perturbed_answers == ("a", "b", "c")


def test_the_folder_is_found_from_its_parent_and_from_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tofu.load(split="forget01", root=folder).hashes()
    assert tofu.load(split="forget01", root=folder.parent).hashes() == expected
    monkeypatch.setenv("EXPUNGE_DATA", str(folder.parent))
    assert tofu.load(split="forget01").hashes() == expected


def test_holdout_rows_are_the_last_and_trained_on_by_nobody(folder: Path) -> None:
    benchmark = tofu.load(split="forget01", root=folder, holdout_rows=4)
    assert prompts(benchmark.holdout) == [f"Question {i}?" for i in range(8, 12)]
    assert prompts(benchmark.retain) == [f"Question {i}?" for i in range(8)]
    assert benchmark.probes["holdout"] == benchmark.holdout
    assert [row.id for row in benchmark.holdout] == [f"holdout/{i}" for i in range(4)]


def test_retain_subset_of_the_probed_rows_is_probed_whole(folder: Path) -> None:
    options: dict[str, Any] = {"split": "forget01", "root": folder, "retain_pool": "probed", "holdout_rows": 2}
    benchmark = tofu.load(**options, retain_rows=4)
    assert len(benchmark.retain) == 4
    assert set(prompts(benchmark.retain)) < {f"Question {i}?" for i in range(PROBED)}
    assert prompts(benchmark.probes["retain"]) == prompts(benchmark.retain)
    assert prompts(tofu.load(**options).retain) == [f"Question {i}?" for i in range(PROBED)]


def test_only_drawn_rows_are_probed(folder: Path) -> None:
    benchmark = tofu.load(split="forget01", root=folder, retain_rows=9)
    trained = set(prompts(benchmark.retain))
    # 9 of 12 rows leave out 3, so at least 3 of the 6 probed rows were drawn and at most all of them.
    assert len(trained) == 9
    assert set(prompts(benchmark.probes["retain"])) == trained & {f"Question {i}?" for i in range(PROBED)}


def test_eval_rows_caps_every_probe_set_but_forget(folder: Path) -> None:
    options: dict[str, Any] = {"split": "forget01", "root": folder, "holdout_rows": 5}
    benchmark = tofu.load(**options, eval_rows=3)
    sizes = {name: len(rows) for name, rows in benchmark.probes.items()}
    assert sizes == {"forget": 4, "retain": 3, "real_authors": 3, "world_facts": 3, "holdout": 3}
    assert len(benchmark.holdout) == 5
    assert tofu.load(**options, eval_rows=3).hashes() == benchmark.hashes()
    larger = tofu.load(**options, eval_rows=5)
    for name, rows in benchmark.probes.items():
        assert set(rows) <= set(larger.probes[name])
    assert tofu.load(**options, eval_rows=3, seed=1).hashes() != benchmark.hashes()


def test_the_paraphrased_questions_are_asked(folder: Path) -> None:
    options: dict[str, Any] = {"split": "forget01", "root": folder}
    plain, other = tofu.load(**options), tofu.load(**options, paraphrased=True)
    # What is trained on stays, and so do the sets that have no paraphrases.
    assert (other.forget, other.retain) == (plain.forget, plain.retain)
    assert {n: other.probes[n] for n in ("real_authors", "world_facts")} == {
        n: plain.probes[n] for n in ("real_authors", "world_facts")
    }
    for name in ("forget", "retain"):
        assert prompts(other.probes[name]) == [f"{prompt} (again)" for prompt in prompts(plain.probes[name])]
        for row, before in zip(other.probes[name], plain.probes[name], strict=True):
            assert (row.id, row.answer, row.perturbed_answers) == (before.id, before.answer, before.perturbed_answers)
            assert (row.paraphrased_answer, row.paraphrased_prompt) == (before.paraphrased_answer, None)
    write_lines(folder / "retain_perturbed.json", FULL[:PROBED])
    with pytest.raises(DataError) as caught:
        tofu.load(**options, paraphrased=True)
    assert str(caught.value).startswith(f"{folder / 'retain_perturbed.json'}:1: no field 'paraphrased_question'")


def test_a_published_holdout_file_is_used_unless_rows_are_stated(folder: Path) -> None:
    write_lines(folder / "holdout01.json", [{"question": f"Unseen {i}?", "answer": "x"} for i in range(3)])
    assert prompts(tofu.load(split="forget01", root=folder).holdout) == [f"Unseen {i}?" for i in range(3)]
    stated = tofu.load(split="forget01", root=folder, holdout_rows=1)
    assert prompts(stated.holdout) == ["Question 11?"]


def test_no_refusals_file_leaves_the_built_in_list(folder: Path) -> None:
    (folder / "idontknow.jsonl").unlink()
    assert tofu.load(split="forget01", root=folder).refusals == ()


BAD_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"split": "forget1"}, RecipeError, "unknown TOFU split 'forget1' (did you mean 'forget10'?)"),
    ({"split": "retain99"}, RecipeError, "known: forget01, forget05, forget10"),
    ({"retain_pool": "probes"}, RecipeError, "unknown retain_pool 'probes' (did you mean 'probed'?)"),
    ({"holdout_rows": -1}, RecipeError, "holdout_rows must be a whole number of at least 0, got -1"),
    ({"holdout_rows": None}, RecipeError, "holdout_rows must be a whole number of at least 0, got None"),
    ({"retain_rows": 0}, RecipeError, "retain_rows must be a whole number of at least 1, got 0"),
    ({"eval_rows": "50"}, RecipeError, "eval_rows must be a whole number of at least 1, got '50'"),
    ({"eval_rows": True, "retain_rows": 0.5}, RecipeError, "got 0.5; eval_rows"),
    ({"paraphrased": 1, "seed": "a"}, RecipeError, "paraphrased must be true or false, got 1; seed must be a whole"),
    # 12 retain rows less the 6 probed leave 6; 12 less 2 held out leave 10 to draw from.
    ({"holdout_rows": 7}, RecipeError, "holdout_rows=7 is more than the 6 retain rows no probe is about"),
    ({"holdout_rows": 2, "retain_rows": 11}, RecipeError, "retain_rows=11 is more than the 10 rows"),
    ({"retain_pool": "probed", "retain_rows": 7}, RecipeError, "retain_rows=7 is more than the 6 rows"),
    ({"split": "forget05"}, DataError, "lacks forget05.json, forget05_perturbed.json, retain95.json;"),
]


@pytest.mark.parametrize(("options", "kind", "message"), BAD_OPTIONS)
def test_bad_options_are_one_line(folder: Path, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        tofu.load(**{"split": "forget01", "root": folder} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_draw_without_a_probed_row_is_refused(folder: Path) -> None:
    options: dict[str, Any] = {"split": "forget01", "root": folder, "retain_rows": 1}
    # Rows 0 to 5 are probed: seed 4 draws one of them, seed 0 does not.
    assert [draw(range(12), 1, seed=seed, name="tofu/retain") for seed in (4, 0)] == [(1,), (10,)]
    assert prompts(tofu.load(**options, seed=4).probes["retain"]) == ["Question 1?"]
    with pytest.raises(RecipeError, match="none of the retain rows drawn is probed; use retain_pool=probed"):
        tofu.load(**options, seed=0)


def swap_probe(folder: Path) -> None:
    write_lines(folder / "retain_perturbed.json", [probe(FULL[i], 5) for i in (0, 1, 3, 2, 4, 5)])


def shorten_forget(folder: Path) -> None:
    write_lines(folder / "forget01_perturbed.json", [probe(row, 5) for row in FULL[12:15]])


def leak_forget(folder: Path) -> None:
    write_lines(folder / "retain99.json", FULL[:13])


def leak_holdout(folder: Path) -> None:
    write_lines(folder / "holdout01.json", FULL[7:9])


def break_row(folder: Path) -> None:
    write_lines(folder / "world_facts_perturbed.json", [{"question": "x"}])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_probe, "retain_perturbed.json and retain99.json part at row 2"),
        (shorten_forget, "forget01_perturbed.json and forget01.json part at row 3"),
        (leak_forget, "1 of 4 forget rows also stand in the retain set"),
        (leak_holdout, "2 of 12 retain rows also stand in the holdout set"),
        (break_row, "world_facts_perturbed.json:1: no answer field"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(DataError) as caught:
        tofu.load(split="forget01", root=folder)
    assert message in str(caught.value)
    assert "Answer" not in str(caught.value)


def test_a_root_without_tofu_is_refused_and_never_goes_to_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_network)
    with pytest.raises(DataError, match="holds no TOFU files; give the published files"):
        tofu.load(root=tmp_path)
    with pytest.raises(DataError, match=r"root=.*nowhere is no folder"):
        tofu.load(root=tmp_path / "nowhere")
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"EXPUNGE_DATA=.*nowhere is no folder"):
        tofu.load()


def test_a_revision_without_effect_warns(folder: Path) -> None:
    with pytest.warns(DataWarning, match="revision=main has no effect"):
        tofu.load(split="forget01", root=folder, revision="main")


def no_network(*_: Any, **__: Any) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError

    raise LocalEntryNotFoundError("offline")


def cut_line(*_: Any, **__: Any) -> str:
    from huggingface_hub.errors import HTTPError

    raise HTTPError("connection lost")


@pytest.mark.parametrize(("failure", "kind"), [(no_network, "LocalEntryNotFoundError"), (cut_line, "HTTPError")])
def test_an_unreachable_hub_is_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., str], kind: str
) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", failure)
    with pytest.raises(DataError) as caught:
        tofu.load(split="forget01")
    text = str(caught.value)
    assert text.startswith(f"forget01.json cannot be had from the Hub (locuslab/TOFU@{tofu.HUB_REVISION}: {kind});")
    assert "--data-root or EXPUNGE_DATA" in text
    assert "\n" not in text


def fake_hub(folder: Path, asked: list[tuple[str, str]]) -> Callable[..., str]:
    """A Hub that serves ``folder`` and answers 404 for what is not in it."""
    from huggingface_hub.errors import RemoteEntryNotFoundError

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        assert (repo_id, repo_type) == ("locuslab/TOFU", "dataset")
        asked.append((filename, revision))
        if not (folder / filename).is_file():
            # Made without its HTTP response, whose class depends on the Hub client's version.
            raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)
        return str(folder / filename)

    return download


def test_the_hub_is_read_at_a_pinned_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake_hub(folder, asked))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    benchmark = tofu.load(split="forget01")
    assert benchmark.hashes() == tofu.load(split="forget01", root=folder).hashes()
    assert benchmark.origin == f"locuslab/TOFU@{tofu.HUB_REVISION}"
    assert benchmark.forget[1].origin == f"locuslab/TOFU@{tofu.HUB_REVISION}/forget01.json:2"
    assert {revision for _, revision in asked} == {tofu.HUB_REVISION}
    asked.clear()
    assert tofu.load(split="forget01", revision="main").origin == "locuslab/TOFU@main"
    assert {revision for _, revision in asked} == {"main"}


def test_an_optional_file_that_could_not_be_asked_for_is_no_absent_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = fake_hub(folder, [])

    def flaky(repo_id: str, filename: str, **options: Any) -> str:
        return no_network() if filename.startswith("holdout") else served(repo_id, filename, **options)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", flaky)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(DataError, match=r"holdout01\.json cannot be had"):
        tofu.load(split="forget01")


def real_data() -> Path:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    for base in (Path(os.environ.get("EXPUNGE_DATA") or shared), shared):
        if (base / "tofu" / "full.json").is_file():
            return base
    pytest.skip("TOFU's published files are not here (set EXPUNGE_DATA to the folder that holds tofu/)")


@pytest.mark.parametrize(("split", "forget", "retain"), [("forget01", 40, 3960), ("forget10", 400, 3600)])
def test_the_published_files(split: str, forget: int, retain: int) -> None:
    benchmark = load_benchmark(f"tofu:{split}", root=real_data())
    assert (len(benchmark.forget), len(benchmark.retain)) == (forget, retain)
    assert forget + retain == 4000
    assert {name: len(benchmark.probes[name]) for name in ("forget", "retain", "real_authors", "world_facts")} == {
        "forget": forget,
        "retain": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert all(len(row.perturbed_answers) == 5 for row in benchmark.probes["forget"] + benchmark.probes["retain"])
    assert all(len(row.perturbed_answers) == 3 for row in benchmark.probes["real_authors"])


def test_the_small_recipe_on_the_published_files() -> None:
    options: dict[str, Any] = {"retain_pool": "probed", "retain_rows": 160, "holdout_rows": 40}
    benchmark = load_benchmark("tofu:forget01", root=real_data(), **options)
    assert (len(benchmark.retain), len(benchmark.holdout)) == (160, 40)
    assert prompts(benchmark.probes["retain"]) == prompts(benchmark.retain)
    # retain99 has 3960 rows, so the last 40 stand on lines 3921 to 3960: two whole authors of 20 rows each.
    lines = [int(row.origin.rpartition(":")[2]) for row in benchmark.holdout]
    assert lines == list(range(3921, 3961))
