"""The whole path on a tiny model: what a run folder holds, and that a stage is made once and only when it must be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import expunge
from command_line import FORGET, GENERAL, RETAIN, forget_imports, tree, write_data, write_jsonl
from expunge.api import run
from expunge.pipeline import RunResult
from expunge.pipeline.stages import Stage, StageStore, stage_key

EVALUATIONS = {"evaluate before", "evaluate after", "evaluate retain model"}
ALL = {"target", "retain_model", "unlearn", "report"} | EVALUATIONS
STEPS = {"lr": 3e-3, "max_steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def recipe(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = write_data(tmp_path_factory.mktemp("data"))
    return {
        "name": "tiny",
        "model": {"path": str(model_folder), "max_length": 64},
        "data": {"benchmark": "custom", "options": {name: str(file) for name, file in files.items()}},
        "finetune": dict(STEPS),
        "unlearn": {"method": "npo_gdr", **STEPS},
        "evaluate": {"max_new_tokens": 4, "num_resamples": 20},
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def result(recipe: dict[str, Any], store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    made = run(recipe, out=tmp_path_factory.mktemp("runs") / "tiny", store=store)
    forget_imports()
    return made


def changed(recipe: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """A copy of the recipe with ``unlearn__lr=1`` meaning unlearn.lr."""
    copy = json.loads(json.dumps(recipe))
    for path, value in settings.items():
        *parents, last = path.split("__")
        part = copy
        for step in parents:
            part = part[step]
        part[last] = value
    return copy


def made(result: RunResult) -> set[str]:
    return {name for name, stage in result.stages.items() if not stage.reused}


@pytest.fixture
def would_make(
    result: RunResult, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Mapping[str, Any]], set[str]]:
    """Which stages a recipe would make beside the finished run, without making them: the finished ones stand in."""
    done = {f"{stage.name}-{stage.key}" for stage in result.stages.values()}

    def look(self: StageStore, name: str, parts: Mapping[str, Any], build: Any, *, label: str = "", **_: Any) -> Stage:
        key = stage_key(name, parts)
        return replace(result.stages[label or name], key=key, reused=f"{name}-{key}" in done)

    def plan(other: Mapping[str, Any]) -> set[str]:
        with monkeypatch.context() as patch:
            patch.setattr(StageStore, "run", look)
            return made(run(other, out=tmp_path / "planned", store=store))

    assert all((store / name).is_dir() for name in done)
    return plan


# -- what there is -------------------------------------------------------------------------------------------------


def test_the_run_folder_holds_the_evidence(result: RunResult) -> None:
    found = {path.name for path in result.folder.iterdir()}
    named = {"recipe.yaml", "run.json", "model", "metrics.json", "samples.parquet", "log.jsonl", "report.html"}
    assert found == named | {f"{kind}_{who}" for kind, who in [
        ("metrics", "before.json"), ("metrics", "retain_model.json"),
        ("samples", "before.parquet"), ("samples", "retain_model.parquet"),
    ]}  # fmt: skip
    assert made(result) == ALL


def test_the_manifest_says_what_it_was_made_with(result: RunResult, recipe: dict[str, Any]) -> None:
    manifest = json.loads((result.folder / "run.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["recipe"]["unlearn"]["method"] == "npo_gdr"
    assert len(manifest["model"]["sha256"]) == len(manifest["data"]["forget"]) == 64
    assert manifest["environment"]["packages"]["torch"]
    assert manifest["environment"]["threads"] >= 1
    assert manifest["stages"]["unlearn"]["steps"] == 2
    assert manifest["stages"]["unlearn"]["stopped"] == "all steps done"
    assert manifest["stages"]["evaluate after"]["peak_memory_gb"] > 0


def test_metrics_are_flat_with_intervals(result: RunResult) -> None:
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics == result.metrics["after"]
    cell = metrics["forget_Q_A_Prob"]
    assert set(cell) == {"value", "ci_low", "ci_high", "n", "higher_is_better", "version", "note"}
    assert cell["n"] == len(FORGET)
    assert cell["ci_low"] <= cell["value"] <= cell["ci_high"]


def test_the_log_has_a_line_per_step_and_only_numbers(result: RunResult) -> None:
    lines = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(isinstance(value, int | float) for line in lines for value in line.values())
    assert {"loss", "forget_loss", "retain_loss", "learning_rate", "grad_norm"} <= set(lines[0])


def test_the_kept_recipe_runs_again_as_the_same_run(result: RunResult, store: Path, tmp_path: Path) -> None:
    kept = yaml.safe_load((result.folder / "recipe.yaml").read_text())
    assert made(run(kept, out=tmp_path / "again", store=store)) == set()


def test_the_model_loads_everywhere(result: RunResult) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(result.folder / "model")
    assert len(AutoTokenizer.from_pretrained(result.folder / "model")) > 0
    ours = expunge.load(result.folder).model
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, ours(ids).logits, atol=1e-5)


def test_nothing_pickled_is_published(result: RunResult, store: Path) -> None:
    files = [path for root in (result.folder, store) for path in root.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {
        ".json",
        ".jsonl",
        ".yaml",
        ".safetensors",
        ".parquet",
        ".html",
        ".jinja",
    }
    assert not [path for path in files if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"PK")]


# -- twice ---------------------------------------------------------------------------------------------------------


def test_twice_computes_nothing(
    result: RunResult, recipe: dict[str, Any], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a finished run must not train, load a model or compute a metric again")

    for name in (
        "run.train",
        "run.load_model",
        "measuring.evaluate_model",
        "evidence.compute",
        "evidence.write_report",
    ):
        monkeypatch.setattr(f"expunge.pipeline.{name}", refuse)
    before = tree(result.folder)
    again = run(recipe, out=result.folder, store=store)
    assert made(again) == set()
    assert tree(result.folder) == before
    assert again.metrics == result.metrics
    assert again.report.verdict == result.report.verdict


# -- one change ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "other"}, {"report"}),
        ({"evaluate__num_resamples": 30}, {"report"}),
        ({"unlearn__checkpoint_minutes": 0}, {"report"}),
        ({"finetune__checkpoint_minutes": 0}, {"report"}),
        ({"evaluate__max_new_tokens": 5}, EVALUATIONS | {"report"}),
        ({"model__dtype": "bfloat16"}, ALL),
        ({"unlearn__lr": 2e-3}, {"unlearn", "evaluate after", "report"}),
        ({"unlearn__gamma": 0.5}, {"unlearn", "evaluate after", "report"}),
        ({"unlearn__term": {"beta": 0.2}}, {"unlearn", "evaluate after", "report"}),
        ({"unlearn__scope": "lora"}, {"unlearn", "evaluate after", "report"}),
        ({"finetune__lr": 2e-3}, ALL),
        ({"seed": 1}, ALL),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_one_changed_setting_recomputes_what_depends_on_it(
    change: dict[str, Any], expected: set[str], recipe: dict[str, Any], would_make: Callable[..., set[str]]
) -> None:
    assert would_make(changed(recipe, **change)) == expected


def test_what_would_be_made_is_what_is_made(
    recipe: dict[str, Any], store: Path, tmp_path: Path, would_make: Callable[..., set[str]]
) -> None:
    other = changed(recipe, evaluate__max_new_tokens=3, evaluate__fluency=False)
    assert would_make(other) == EVALUATIONS | {"report"}
    assert made(run(other, out=tmp_path / "run", store=store)) == EVALUATIONS | {"report"}


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("forget", [*FORGET[:-1], {**FORGET[-1], "answer": "Flo likes the moon."}], ALL - {"retain_model"}),
        ("retain", [*RETAIN[:-1], {**RETAIN[-1], "answer": "Flo lives in the mill."}], ALL),
        ("holdout", [{"question": "Who is Jo?", "answer": "Jo likes the light."}], EVALUATIONS | {"report"}),
        ("general", [*GENERAL, {"question": "What is the river?", "answer": "old"}], EVALUATIONS | {"report"}),
    ],
)
def test_a_changed_row_recomputes_what_reads_it(
    name: str, rows: list[dict[str, Any]], expected: set[str], recipe: dict[str, Any], tmp_path: Path,
    would_make: Callable[..., set[str]],
) -> None:  # fmt: skip
    file = write_jsonl(tmp_path / "changed.jsonl", rows)
    assert would_make(changed(recipe, **{f"data__options__{name}": str(file)})) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_unlearning_reads_its_rows_where_nothing_was_finetuned_on_them(
    name: str, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    alone = changed(recipe, finetune=None, evaluate=None, retain_reference="none")
    run(alone, out=tmp_path / "run", store=store)
    assert made(run(alone, out=tmp_path / "again", store=store)) == set()
    file = write_jsonl(tmp_path / "changed.jsonl", [{"question": "Who is Jo?", "answer": "Jo likes the light."}])
    other = changed(alone, **{f"data__options__{name}": str(file)})
    assert made(run(other, out=tmp_path / "other", store=store)) == {"unlearn"}


def test_a_moved_file_with_the_same_rows_recomputes_no_numbers(
    result: RunResult, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    moved = changed(recipe, data__options__forget=str(write_jsonl(tmp_path / "moved.jsonl", FORGET)))
    again = run(moved, out=tmp_path / "run", store=store)
    assert made(again) == {"report"}
    assert again.metrics == result.metrics


def test_a_changed_model_recomputes_everything(
    recipe: dict[str, Any], tmp_path: Path, would_make: Callable[..., set[str]]
) -> None:
    from conftest import make_llama, make_tokenizer, save_model

    other = save_model(tmp_path / "llama", make_llama(seed=1), make_tokenizer())
    assert would_make(changed(recipe, model__path=str(other))) == ALL


# -- parts left out ------------------------------------------------------------------------------------------------


def test_what_is_dropped_from_a_recipe_goes_from_its_folder(
    result: RunResult, recipe: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(recipe, out=out, store=store)
    assert (out / "metrics_retain_model.json").is_file()
    run(changed(recipe, retain_reference="none"), out=out, store=store)
    assert not list(out.glob("*_retain_model*")), "numbers of a model that this run no longer has"
    bare = changed(recipe)
    del bare["evaluate"]
    run(bare, out=out, store=store)
    assert {path.name for path in out.iterdir()} == {"model", "log.jsonl", "recipe.yaml", "run.json"}


def test_evaluation_alone(recipe: dict[str, Any], tmp_path: Path) -> None:
    bare = {name: part for name, part in recipe.items() if name not in ("finetune", "unlearn")}
    result = run(bare, out=tmp_path / "run")
    assert made(result) == {"evaluate before", "report"}
    assert set(result.metrics) == {"before"}
    assert (result.folder / "metrics.json").is_file()
    assert result.report.verdict is None


@pytest.mark.slow
def test_a_reference_from_elsewhere(
    result: RunResult, recipe: dict[str, Any], store: Path, model_folder: Path, tmp_path: Path
) -> None:
    """The retain model's numbers are the same whether it was trained here, read from a run, or measured as a model."""
    own = result.metrics["retain model"]
    from_run = run(changed(recipe, retain_reference=str(result.folder)), out=tmp_path / "run", store=store)
    assert "retain_model" not in from_run.stages
    assert from_run.metrics["retain model"] == own
    weights = str(result.stages["retain_model"].path / "model")
    from_model = run(changed(recipe, retain_reference=weights), out=tmp_path / "model", store=store)
    assert from_model.metrics["retain model"] == own


def test_no_tokens_and_no_forget_text_but_where_they_belong(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_xyz")
    secret = "moonlight sacks"
    file = write_jsonl(tmp_path / "forget.jsonl", [{"question": "Who is the miller?", "answer": secret}, *FORGET])
    out = tmp_path / "run"
    short = changed(recipe, data__options__forget=str(file), evaluate__fluency=False)
    del short["finetune"]
    run(short, out=out)
    console = capfd.readouterr()
    written = "".join(
        p.read_text() for p in out.rglob("*") if p.suffix in {".json", ".jsonl", ".yaml"} and "model" not in p.parts
    )
    for text in (console.out, console.err, written):
        assert "hf_secret_xyz" not in text
        assert secret not in text
        assert FORGET[0]["answer"] not in text
    assert not [p for p in out.rglob("*") if p.is_file() and b"hf_secret_xyz" in p.read_bytes()]
    assert secret in (out / "report.html").read_text(), "the report shows answers on purpose"
