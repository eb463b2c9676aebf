"""What is said before a long job: a dry run makes nothing and knows what is kept; the doctor finds what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import FORGET, RETAIN, cli, done, tree, write_data, write_recipe
from conftest import make_llama, save_model
from expunge.pipeline import doctor, foresee
from expunge.pipeline.doctor import _packages_at_fault
from expunge.training import cost

SHORT = ("--steps", 3, "--batch-size", 4, "--max-length", 64, "--device", "cpu")


@pytest.fixture(autouse=True)
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that multiplies at a rate known beforehand."""
    monkeypatch.setattr(cost, "matmul_rate", lambda *shape, **kinds: 1e9)
    monkeypatch.setattr(cost, "copy_rate", lambda device: 1e9)
    monkeypatch.setattr(cost, "touch_rate", lambda device: 1e9)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    return write_data(tmp_path / "data")


def states(outcome: Any) -> dict[str, str]:
    return {stage["title"]: stage["state"] for stage in outcome.data["stages"]}


def costs(outcome: Any) -> dict[str, dict[str, Any]]:
    return {stage["title"]: stage["cost"] for stage in outcome.data["stages"]}


def test_a_dry_run_says_what_each_stage_takes_and_makes_nothing(
    model_folder: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data)
    before = tree(tmp_path)
    found = done("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json")
    assert tree(tmp_path) == before
    order = [
        "target",
        "retain model",
        "unlearn",
        "evaluate before",
        "evaluate after",
        "evaluate retain model",
        "report",
    ]
    assert list(states(found)) == order
    assert set(states(found).values()) == {"to do"}
    stages = costs(found)
    assert [stages[name]["steps"] for name in order[:3]] == [3, 3, 3]
    assert stages["target"]["rows"] == len(FORGET) + len(RETAIN)
    assert stages["retain model"]["rows"] == len(RETAIN)
    assert stages["unlearn"]["tokens"] > stages["target"]["tokens"] > 100
    assert all(stage["seconds"] > 0 for stage in stages.values())
    assert found.data["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages.values()))
    assert found.data["memory_bytes"] == max(stages[name]["memory"] for name in order[:6])
    (machine,) = found.data["machines"].values()
    assert machine["device"] == "cpu"
    assert machine["free_bytes"] > 0
    shown = done("run", recipe, "--out", tmp_path / "out", "--dry-run").out
    assert "in all: about" in shown
    assert "GB at most" in shown
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_a_dry_run_knows_what_is_kept(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data)
    out = tmp_path / "out"
    words = ("run", recipe, "--out", out)
    foreseen = done(*words, "--dry-run", "--json")
    done(*words)
    before = tree(tmp_path)
    again = done(*words, "--dry-run", "--json")
    assert set(states(again).values()) == {"kept"}
    assert [s["key"] for s in again.data["stages"]] == [s["key"] for s in foreseen.data["stages"]]
    assert again.data["seconds"] == 0
    changed = done(*words, "--dry-run", "--json", "--set", "unlearn.lr=1e-4")
    assert [title for title, state in states(changed).items() if state == "to do"] == [
        "unlearn",
        "evaluate after",
        "report",
    ]
    assert tree(tmp_path) == before


def test_the_verbs_on_own_files_foresee_too(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    before = tree(tmp_path)
    words = ("--out", tmp_path / "out", *SHORT, "--dry-run", "--json")
    found = done("unlearn", model_folder, "--forget", data["forget"], "--general", data["general"], *words)
    assert list(states(found)) == ["unlearn", "evaluate before", "evaluate after", "report"]
    learnt = done("finetune", model_folder, "--data", data["forget"], *words)
    assert costs(learnt)["target"]["steps"] == 3
    assert tree(tmp_path) == before


def test_several_runs_share_what_they_have_in_common(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    variants = {"a": {"method": "npo"}, "b": {"method": "grad_diff"}}
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data, evaluate=None, variants=variants)
    found = done("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json")
    stages = [(stage["run"], stage["title"]) for stage in found.data["stages"]]
    assert stages == [("a", "target"), ("a", "retain model"), ("a", "unlearn"), ("b", "unlearn")]


def test_what_a_model_must_write_first_is_not_estimated(
    model_folder: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    unlearn = {"method": "altpo", "max_steps": 2, "batch_size": 4}
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data, finetune=None, unlearn=unlearn, evaluate=None)
    found = done("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json")
    stages = costs(found)
    assert stages["alternates"]["seconds"] is None
    assert stages["unlearn"]["tokens"] > 0
    shown = done("run", recipe, "--out", tmp_path / "out", "--dry-run").out
    assert "alternates: not estimated" in shown
    assert "and what is not estimated" in " ".join(shown.split())


@pytest.mark.parametrize("scope", [{"kind": "lora", "rank": 2}, {"kind": "gated"}, {"kind": "qlora"}])
def test_what_is_trained_decides_what_it_takes(
    scope: dict[str, Any], data: dict[str, Path], tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.scopes.lora.find_spec", lambda name: object())
    # Wide enough that weights weigh more than what everything else takes.
    folder = save_model(tmp_path / "wide", make_llama(hidden_size=256, intermediate_size=1024), tokenizer)
    unlearn = {"method": "npo", "max_steps": 2, "batch_size": 4}
    needs = {}
    for name, chosen in (("full", {"kind": "full"}), ("adapter", scope)):
        recipe = write_recipe(
            tmp_path / f"{name}.yaml", folder, data, finetune=None, unlearn={**unlearn, "scope": chosen}, evaluate=None
        )
        found = done("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json")
        needs[name] = costs(found)["unlearn"]
    weights = 4 * sum(p.numel() for p in make_llama(hidden_size=256, intermediate_size=1024).parameters())
    assert needs["full"]["memory"] - needs["adapter"]["memory"] > 2 * weights
    assert needs["full"]["seconds"] > needs["adapter"]["seconds"]


def test_a_dry_run_refuses_what_the_run_would(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert "--out" in cli("run", recipe, "--out", tmp_path / "taken", "--dry-run").line
    nowhere = cli("run", recipe, "--out", tmp_path / "o", "--dry-run", "--set", "model.path=/no/such/model")
    assert "no such model folder" in nowhere.line
    wrong = cli("run", recipe, "--out", tmp_path / "o", "--dry-run", "--set", "unlearn.method=npoo")
    assert "did you mean 'npo'" in wrong.line


def test_a_half_made_stage_resumes(model_folder: Path, data: dict[str, Path], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data, finetune=None, evaluate=None)
    found = done("run", recipe, "--out", tmp_path / "out", "--dry-run", "--json")
    (stage,) = found.data["stages"]
    point = tmp_path / "out" / "stages" / f"unlearn-{stage['key']}.work" / "checkpoint-2"
    point.mkdir(parents=True)
    half = tmp_path / "store" / f"unlearn-{stage['key']}.work" / "checkpoint-2"
    half.mkdir(parents=True)
    (half / foresee.COMPLETE).touch()
    words = ("run", recipe, "--dry-run", "--json", "--out", tmp_path / "new", "--store")
    assert states(done(*words, tmp_path / "store")) == {"unlearn": "resumes"}
    assert states(done(*words, tmp_path / "out" / "stages")) == {"unlearn": "to do"}
    assert point.is_dir(), "nothing is tidied up either"


# -- doctor --------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast_doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(doctor, "matmul_rate", lambda *shape, **kinds: 5e10)
    monkeypatch.setattr(doctor, "copy_rate", lambda device: 2e10)
    monkeypatch.setattr(doctor, "touch_rate", lambda device: 3e9)
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    return lambda *words: cli("doctor", *words)


def test_the_doctor_names_what_the_machine_has(
    fast_doctor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "tofu").mkdir(parents=True)
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    outcome = fast_doctor("--json")
    assert outcome.code == 0
    facts = outcome.data
    assert facts["matmul_gflops"]["float32"] == 50.0
    assert facts["memory_gb"]["total"] >= facts["memory_gb"]["free"] > 0
    assert facts["by_default"] == {"bf16": False, "micro_batch_tokens": 1536}
    assert facts["data"]["folders"] == ["tofu"]
    assert facts["cached"] == []
    assert facts["problems"] == []
    shown = fast_doctor().out
    for word in ("matmul_gflops", "memory_gb", "bf16_in_hardware", "EXPUNGE_DATA"):
        assert word in shown
    assert not (tmp_path / "cache").exists()


def test_what_is_wrong_makes_the_doctor_fail(
    fast_doctor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "nowhere"))
    outcome = fast_doctor()
    assert outcome.code == 1
    assert "problem: EXPUNGE_DATA=" in outcome.out
    assert "error" not in outcome.err


def test_packages_that_are_missing_or_old_are_named() -> None:
    from importlib.metadata import PackageNotFoundError

    def installed(name: str) -> str:
        if name == "gone":
            raise PackageNotFoundError(name)
        return "1.2"

    wanted = ["gone>=1", "old>=2", "fine>=1", "gguf>=9; extra == 'demo'"]
    assert _packages_at_fault(wanted, installed) == [
        'gone is missing: pip install "gone>=1"',
        'old is 1.2: pip install "old>=2"',
    ]
