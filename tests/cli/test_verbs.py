"""Every verb on tiny models: what it prints, what it writes, that one's result is the next one's input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import expunge
from command_line import FORGET, Outcome, cli, done, write_data, write_jsonl, write_recipe
from conftest import make_llama, make_tokenizer, save_model
from expunge.models.load import load_model

FAST = ("--steps", 2, "--batch-size", 4, "--device", "cpu", "--max-length", 64)
RUN_FILES = {"recipe.yaml", "run.json", "metrics.json", "samples.parquet", "log.jsonl", "report.html"}


@pytest.fixture(scope="module", autouse=True)
def small_numbers() -> Iterator[None]:
    """Short answers and few resamples: what the verbs on users' files leave at their defaults."""
    from expunge.pipeline import evidence

    def few(*args: Any, num_resamples: int, **kwargs: Any) -> Any:
        return compute(*args, num_resamples=20, **kwargs)

    compute = evidence.compute
    with mock.patch("expunge.api.GENERATED_TOKENS", 8), mock.patch.object(evidence, "compute", few):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finetuned(model_folder: Path, data: dict[str, Path], runs: Path) -> tuple[Path, Outcome]:
    """A LoRA finetuning run."""
    out = runs / "finetuned"
    return out, done(
        "finetune", model_folder, "--data", data["forget"], "--scope", "lora", "--lr", 5e-2, "--out", out, *FAST
    )


@pytest.fixture(scope="module")
def unlearned(memorised_folder: Path, data: dict[str, Path], runs: Path) -> tuple[Path, Outcome]:
    """A LoRA unlearning run on all four files."""
    out = runs / "unlearned"
    files = [word for name in ("forget", "retain", "holdout", "general") for word in (f"--{name}", data[name])]
    return out, done("unlearn", memorised_folder, *files, "--scope", "lora", "--lr", 1e-2, "--out", out, *FAST)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([[40, 41, 42, 43]])).logits


# -- finetune, unlearn ---------------------------------------------------------------------------------------------


def test_finetune_teaches_and_says_how(finetuned: tuple[Path, Outcome], model_folder: Path) -> None:
    out, outcome = finetuned
    assert "target: 2 steps at learning rate 0.05" in " ".join(outcome.out.split())
    assert {p.name for p in out.iterdir()} == {"adapter", "stages", "recipe.yaml", "run.json", "log.jsonl"}
    assert not torch.allclose(logits(expunge.load(out).model), logits(expunge.load(model_folder).model), atol=1e-3)


def test_unlearn_ends_with_a_table_answers_and_a_page(unlearned: tuple[Path, Outcome]) -> None:
    out, outcome = unlearned
    assert {p.name for p in out.iterdir()} - {"stages", "adapter"} == RUN_FILES | {
        "metrics_before.json",
        "samples_before.parquet",
    }
    for words in ("Forget: answer probability", "before", "after", FORGET[0]["question"], f"report: {out}"):
        assert words in outcome.out
    assert "<html" in (out / "report.html").read_text()


def test_an_adapter_loads_with_peft_transformers_and_us(
    unlearned: tuple[Path, Outcome], memorised_folder: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out, _ = unlearned
    base = AutoModelForCausalLM.from_pretrained(memorised_folder)
    theirs = logits(PeftModel.from_pretrained(base, out / "adapter"))
    ours = logits(expunge.load(out).model)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(out / "adapter")), ours, atol=1e-5)
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(memorised_folder.resolve())


@pytest.mark.slow
def test_an_adapter_on_a_finetuned_model_names_a_durable_base(
    model_folder: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base is a finished stage, named by a path that holds from other folders and is not a temporary one."""
    monkeypatch.chdir(tmp_path)
    steps = {"max_steps": 1, "batch_size": 4}
    recipe = write_recipe(
        tmp_path / "r.yaml", model_folder, data, finetune=steps, unlearn={**steps, "scope": "lora"}, evaluate=None
    )
    done("run", recipe, "--out", "out", "--set", "retain_reference=none")
    base = Path(json.loads(Path("out/adapter/adapter_config.json").read_text())["base_model_name_or_path"])
    assert base.is_absolute()
    assert base == tmp_path / "out" / "stages" / base.parent.name / "model"
    assert not {".partial", ".work"} & {base.suffix, base.parent.suffix}
    expected = logits(expunge.load(tmp_path / "out").model)
    monkeypatch.chdir("/")
    assert torch.equal(logits(expunge.load(tmp_path / "out").model), expected)


@pytest.mark.slow
def test_unlearning_what_an_adapter_learnt_keeps_what_it_learnt(
    finetuned: tuple[Path, Outcome], model_folder: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    """A second adapter on a first: with a learning rate of almost nothing, the result is the first one's model."""
    learnt = logits(expunge.load(finetuned[0]).model)
    tiny = ("--lr", 1e-9, "--method", "ga", "--out", tmp_path / "run")
    files = ("--forget", data["forget"], "--general", data["general"])
    done("unlearn", finetuned[0], *files, "--scope", "lora", *tiny, *FAST)
    result = logits(expunge.load(tmp_path / "run").model)
    assert torch.allclose(result, learnt, atol=1e-4)
    assert not torch.allclose(result, logits(expunge.load(model_folder).model), atol=1e-2)


def test_a_moved_run_with_whole_weights_still_loads(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    done("finetune", model_folder, "--data", data["retain"], "--out", tmp_path / "run", *FAST)
    before = logits(expunge.load(tmp_path / "run").model)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert torch.equal(logits(expunge.load(tmp_path / "moved").model), before)


def test_a_budget_stops_keeps_and_says_why(memorised_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    words = ("--forget", data["forget"], "--retain", data["retain"], "--general", data["general"], "--method", "ga")
    steps = ("--lr", 1e-2, "--steps", 20, "--device", "cpu", "--max-length", 64)
    budget = ("--budget", "retain_loss=0.5,every=1", "--out", tmp_path / "r")
    said = " ".join(done("unlearn", memorised_folder, *words, *steps, *budget).out.split())
    assert "budget reached at step" in said
    assert "kept step" in said
    facts = json.loads((tmp_path / "r" / "run.json").read_text())["stages"]["unlearn"]
    assert facts["steps"] < facts["planned_steps"] == 20
    assert "unlearning stopped: budget reached" in (tmp_path / "r" / "report.html").read_text()


def test_json_is_all_that_stands_on_standard_output(
    unlearned: tuple[Path, Outcome], data: dict[str, Path], memorised_folder: Path
) -> None:
    out, _ = unlearned
    files = [word for name in ("forget", "retain", "holdout", "general") for word in (f"--{name}", data[name])]
    again = done("unlearn", memorised_folder, *files, "--scope", "lora", "--lr", 1e-2, "--out", out, *FAST, "--json")
    assert again.data["after"] == json.loads((out / "metrics.json").read_text())
    assert "kept from before" in again.err


# -- evaluate, compare, report -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(model_folder: Path, memorised_folder: Path, data: dict[str, Path], runs: Path) -> tuple[Path, Outcome]:
    out = runs / "evaluated"
    options = [word for name in ("forget", "retain", "general") for word in ("--option", f"{name}={data[name]}")]
    small = ("--set", "max_new_tokens=12", "--set", "num_resamples=20", "--max-length", 64, "--device", "cpu")
    words = ("evaluate", memorised_folder, "--benchmark", "custom", *options, *small, "--reference", model_folder)
    return out, done(*words, "--out", out, "--json")


def test_evaluate_measures_models_and_a_reference(evaluated: tuple[Path, Outcome], memorised_folder: Path) -> None:
    out, outcome = evaluated
    assert set(outcome.data) == {memorised_folder.name, "retain model"}
    assert outcome.data[memorised_folder.name]["forget_Q_A_ROUGE"]["value"] > 0.9, "it knows them by heart"
    assert outcome.data["retain model"]["forget_Q_A_ROUGE"]["value"] < 0.5
    found = {p.name for p in out.iterdir()} - {"stages"}
    assert found == {
        "run.json",
        "recipe.yaml",
        "metrics.json",
        "report.html",
        "samples.parquet",
        "samples_retain_model.parquet",
    }


def test_an_evaluation_serves_as_a_reference(
    evaluated: tuple[Path, Outcome], model_folder: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    options = [word for name in ("forget", "retain", "general") for word in ("--option", f"{name}={data[name]}")]
    small = ("--set", "max_new_tokens=12", "--set", "num_resamples=20", "--max-length", 64, "--device", "cpu")
    words = ("evaluate", model_folder, "--benchmark", "custom", *options, *small)
    found = done(*words, "--reference", evaluated[0], "--out", tmp_path / "e", "--json").data
    assert found["retain model"] == evaluated[1].data["retain model"]


@pytest.mark.slow
def test_compare_prints_runs_side_by_side(unlearned: tuple[Path, Outcome], evaluated: tuple[Path, Outcome]) -> None:
    outcome = done("compare", unlearned[0], evaluated[0])
    for name in ("unlearned", "before", "evaluated/"):
        assert name in outcome.out
    assert set(done("compare", unlearned[0], "--json").data["models"]) == {"unlearned", "before"}
    assert done("compare", unlearned[0], "--markdown").out.startswith("|")
    assert "tabular" in done("compare", unlearned[0], "--latex").out


def test_compare_tells_namesakes_apart(unlearned: tuple[Path, Outcome], tmp_path: Path) -> None:
    twin = tmp_path / "unlearned"
    twin.mkdir()
    (twin / "metrics.json").write_text((unlearned[0] / "metrics.json").read_text())
    models = done("compare", unlearned[0], twin, "--json").data["models"]
    assert {str(unlearned[0]), str(twin)} <= set(models)


def test_report_writes_one_page(
    unlearned: tuple[Path, Outcome], evaluated: tuple[Path, Outcome], tmp_path: Path
) -> None:
    assert done("report", unlearned[0]).out.strip() == str(unlearned[0] / "report.html")
    page = tmp_path / "new" / "both.html"
    done("report", unlearned[0], evaluated[0], "--out", page)
    assert "<html" in page.read_text()
    assert "https://" not in page.read_text()


def test_import_log_and_its_use_as_a_reference(tmp_path: Path) -> None:
    rows = {str(i): {"prob": 0.1 + 0.1 * i, "avg_loss": 2.0 - 0.1 * i} for i in range(4)}
    log = tmp_path / "forget10" / "TOFU_EVAL.json"
    log.parent.mkdir()
    log.write_text(json.dumps({"forget_Q_A_Prob": {"agg_value": 0.25, "value_by_index": rows}}))
    found = done("import-log", log, "--out", tmp_path / "run", "--resamples", 20, "--json").data
    cell = next(iter(found.values()))["forget_Q_A_Prob"]
    assert cell["value"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.4) / 4)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "run.json",
        "metrics.json",
        "samples.parquet",
        "report.html",
    }
    both = done(
        "import-log", log, "--reference", tmp_path / "run", "--out", tmp_path / "two", "--resamples", 20, "--json"
    ).data
    assert both["retain model"]["forget_Q_A_Prob"]["value"] == pytest.approx(0.25)
    assert done("compare", tmp_path / "run").out


# -- verbs that only look ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["methods", "scopes", "benchmarks", "metrics", "recipes"])
def test_list(what: str) -> None:
    names = done("list", what, "--json").data
    assert names
    assert all(name in done("list", what).out for name in names)
    known = {"methods": "npo", "scopes": "lora", "benchmarks": "tofu", "metrics": "model_utility", "recipes": "demo"}
    assert known[what] in names


def test_validate_a_file_and_a_shipped_recipe(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "mine.yaml", model_folder, data)
    assert done("validate", recipe).out == "mine: valid\n"
    assert done("validate", "demo", "--set", "unlearn.lr=1e-5").out == "demo: valid\n"
    assert {p.name for p in tmp_path.iterdir()} == {"mine.yaml"}


def test_doctor() -> None:
    facts = done("doctor", "--json").data
    assert facts["packages"]["transformers"]
    assert set(facts["optional"]) >= {"gguf", "matplotlib"}
    assert "threads" in done("doctor").out


def test_no_words_at_all_print_the_help() -> None:
    outcome = done()
    assert outcome.out == done("--help").out
    for verb in ("demo", "run", "unlearn", "evaluate", "export", "chat", "import-log", "doctor"):
        assert f"  {verb} " in outcome.out
    assert done("--version").out == f"expunge {expunge.__version__}\n"


# -- models that lack something ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_without_template_and_pad_token_works_and_says_so(data: dict[str, Path], tmp_path: Path) -> None:
    bare = save_model(tmp_path / "bare", make_llama(), make_tokenizer(template=None, pad=None))
    out = tmp_path / "run"
    done("unlearn", bare, "--forget", data["forget"], "--general", data["general"], "--out", out, *FAST)
    page = (out / "report.html").read_text()
    assert "no chat template" in page
    assert "no pad token" in page
    assert load_model(out).format.name == "qa"
    assert done("chat", out, "--prompt", "Who is Ada?", "--max-new-tokens", 3).out


def test_a_tracker_that_is_not_installed_is_one_line(
    model_folder: Path, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("expunge.pipeline.checks.find_spec", lambda name: None)
    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    assert 'pip install "expunge[track]"' in cli(*words, "--report-to", "tensorboard").line
    assert not (tmp_path / "run").exists()


def test_tensorboard_files_stay(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    done(*words, "--report-to", "tensorboard")
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))


def test_shared_prompts_only_warn(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    shared = write_jsonl(tmp_path / "retain.jsonl", [{"question": FORGET[0]["question"], "answer": "someone else"}])
    words = ("--forget", data["forget"], "--retain", shared, "--general", data["general"], "--out", tmp_path / "run")
    outcome = done("unlearn", model_folder, *words, *FAST)
    assert "warning: 1 of 6 forget prompts also stand in the retain set" in outcome.err
