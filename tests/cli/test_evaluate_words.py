"""What users get wrong when they measure and compare: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_compare import FEW, RETAIN, made_up, write_run

from command_line import cli, done, write_data
from expunge.cli.measure import _names

SUITES = "known: choice, flat, grun, knowundo, leak"


@pytest.fixture(scope="module")
def forget(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))["forget"]


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where a result would lie; after a refused command it must not be there."""
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists(), "something half-written stayed"


@pytest.fixture
def words(model_folder: Path, forget: Path, out: Path) -> list[Any]:
    """A command that would work."""
    options = ["--option", f"forget={forget}", "--max-length", 64, "--device", "cpu"]
    return ["evaluate", model_folder, "--benchmark", "custom", *options, "--out", out]


def refused(command: list[Any], *said: str) -> None:
    line = cli(*command).line
    for part in said:
        assert part in line, line


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--suite", "relern"], ["unknown suite 'relern' (did you mean 'relearn'?)", SUITES]),
        (["--suite", "leak,relern"], ["unknown suite 'relern'"]),
        (["--suite", ""], ["unknown suite ''", SUITES]),
        (["--set", "suite=[leak]"], ["unknown key 'evaluate.suite' (did you mean 'suites'?)"]),
        (["--set", "suites=leak"], ["evaluate.suites", "list", "'leak'"]),
        (["--set", "evaluate.suites=[leak]"], ["unknown key 'evaluate.evaluate'", "suites"]),
        (["--set", "measures=3"], ["evaluate.measures", "dictionary", "got 3"]),
        (["--set", "measures.leak.samples=4"], ["measure 'leak' belongs to suite leak", "--suite leak"]),
        (["--set", "measures.windows.legacy=true"], ["belongs to suite flat or wikitext", "--suite flat"]),
        (["--suite", "leak", "--set", "measures.leek.samples=4"], ["unknown measure 'leek' (did you mean 'leak'?)"]),
        (["--suite", "leak", "--set", "measures.leak.sample=4"], ["'sample' (did you mean 'samples'?)", "threshold"]),
        (["--set", "fluency_model=./nowhere"], ["./nowhere: no such model folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_suites_and_measures(more: list[str], said: list[str], words: list[Any]) -> None:
    refused([*words, *more], *said)


@pytest.mark.parametrize(
    ("also", "said"),
    [
        ("truthfulqaa", ["unknown benchmark 'truthfulqaa' (did you mean 'truthfulqa'?)"]),
        ("truthfulqa.row=5", ["benchmark 'truthfulqa' has no option 'row' (did you mean 'rows'?)"]),
        ("almanac.questions=1", ["data.also: almanac and custom both have probe sets called forget"]),
        ("wikitext.split=train", ["wikitext: split must be test or valid, got 'train'"]),
    ],
)
def test_other_benchmarks_too(also: str, said: list[str], words: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    refused([*words, "--also", also], *said)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("judges.entalment.kind=rules", ["unknown role 'entalment' (did you mean 'entailment'?)"]),
        ("judges.entailment.kind=rulez", ["evaluate.judges.entailment: unknown kind 'rulez' (did you mean 'rules'?)"]),
        ("judges.entailment=hf", ["evaluate.judges.entailment", "dictionary", "'hf'"]),
        ("judges.entailment.kind=hf", ["evaluate.judges.entailment.model: is missing"]),
        ("judges.entailment={kind: hf, model: ./none}", ["./none: no model folder"]),
        ("judges.rater={kind: endpoint, url: ftp://x, model: m}", ["evaluate.judges.rater.url must be http"]),
        ("judges.rater={kind: endpoint, url: http://x/v1, model: m, key_env: NO_KEY_HERE}", ["NO_KEY_HERE is not set"]),
    ],
)
def test_judges(setting: str, said: list[str], words: list[Any]) -> None:
    refused([*words, "--suite", "relearn", "--set", setting], *said)


def test_a_key_in_a_command_is_not_repeated(words: list[Any]) -> None:
    told = "judges.rater={kind: endpoint, url: http://x/v1, model: m, api_key: sk-very-secret}"
    outcome = cli(*words, "--suite", "relearn", "--set", told)
    assert "a key does not belong in a recipe" in outcome.line
    assert "sk-very-secret" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--harness", ""], ["evaluate.harness: tasks must be a list of task or suite names"]),
        (["--set", "harness.limit=3"], ["tasks must be a list", "got None"]),
        (["--set", "harness=arc_easy"], ["evaluate.harness", "dictionary"]),
        (["--harness", "a", "--set", "harness.limt=3"], ["unknown key 'limt' (did you mean 'limit'?)"]),
        (["--harness", "a", "--set", "harness.limit=0"], ["harness: limit must be above 0, got 0"]),
        (["--harness", "a", "--set", "harness.limit=all"], ["harness: limit must be above 0, got 'all'"]),
        (["--harness", "a", "--set", "harness.num_fewshot=few"], ["num_fewshot must be a whole number", "'few'"]),
        (["--harness", "a", "--set", "harness.gen_kwargs=64"], ["gen_kwargs must be a mapping", "got 64"]),
        (["--harness", "a", "--set", "harness.include_path=[./none]"], ["include_path: ./none is no folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_harness(more: list[str], said: list[str], words: list[Any]) -> None:
    refused([*words, *more], *said)


def test_a_task_that_the_harness_does_not_know(words: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("expunge.evaluation.lm_eval_bridge._index", lambda **_: SimpleNamespace(all_tasks=["arc_easy"]))
    refused([*words, "--harness", "arc_easi,wmdp"], "lm-eval knows no task 'arc_easi' (did you mean 'arc_easy'?)")


def test_a_harness_that_is_not_installed(words: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.pipeline.harnessing.find_spec", lambda name: None)
    refused([*words, "--harness", "arc_easy"], "lm-eval", 'pip install "expunge[eval]"')


def test_checkpoints(words: list[Any], model_folder: Path, tmp_path: Path) -> None:
    refused([*words, "--checkpoints", "all"], f"no kept steps in {model_folder}", "unlearn.keep_every=N")
    for step in (5, 10):
        (tmp_path / "run" / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    words[1] = tmp_path / "run"
    refused([*words, "--checkpoints", "7"], "--checkpoints: unknown step '7'", "known: 10, 5")
    refused([*words, "--checkpoints", "5,"], "--checkpoints: unknown step ''")
    refused([*words, "--checkpoints", "latest"], "unknown step 'latest'")


def test_names_may_stand_alone_or_with_commas() -> None:
    assert _names(["relearn, probing", "leak"]) == ["relearn", "probing", "leak"]
    assert _names(["relearn,"]) == ["relearn", ""]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / name, made_up(strength), retain=RETAIN) for name, strength in (("a", 0.3), ("b", 0.6))]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--baseline", "c"], ["--baseline: unknown run 'c'", "known: a, b"]),
        (["--baseline", "bfore"], ["--baseline: unknown run 'bfore'"]),
        (["--metrics", "model_utilty"], ["'model_utilty' (did you mean 'model_utility'?)"]),
        (["--reference", "nowhere"], ["--reference nowhere", "samples.parquet"]),
        (["--resamples", "many"], ["--resamples", "integer"]),
        (["--seed", "x"], ["--seed", "integer"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_compare(more: list[str], said: list[str], runs: list[Path], out: Path) -> None:
    refused(["compare", *runs, *FEW, "--out", out, *more], *said)


def test_suites_are_listed_with_their_metrics() -> None:
    assert "relearn " in done("list", "suites").out
    assert "KFR" in done("list", "metrics").out
    refused(["list", "suite"], "did you mean 'suites'")


@pytest.mark.parametrize(
    ("suite", "setting", "said"),
    [
        ("leak", "leak.samples=0", "evaluate.measures.leak.samples must be a whole number"),
        ("leak", "leak.judge=banana", "unknown judge 'banana'"),
        ("relearn", "entities.alike=7", "evaluate.measures.entities.alike must be a number in [0, 1]"),
        ("probing", "uds.original=models/full", "evaluate.measures.uds.reference is missing"),
        ("muse", "muse_rouge.verbmem_tokens=few", "verbmem_tokens must be a whole number"),
    ],
)
def test_what_a_measure_does_not_allow_is_said_before_any_work(
    suite: str, setting: str, said: str, model_folder: Path, tmp_path: Path
) -> None:
    words = ["evaluate", model_folder, "--benchmark", "almanac", "--suite", suite, "--set", f"measures.{setting}"]
    assert said in cli(*words, "--out", tmp_path / "out").line
    assert not (tmp_path / "out").exists()
