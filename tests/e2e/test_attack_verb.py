"""`expunge attack` from end to end: attacks on a model that forgot, its original, and one that never saw the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from command_line import cli
from conftest import NAMES, city_rows, colour_rows, save_model
from expunge.attacks.table import ATTACKS, FAMILIES, attacks_named
from expunge.data.rows import Row
from expunge.errors import RecipeError, UserError
from expunge.models.load import load_model

FEW = ("--set", "num_resamples=50")
MODEL = ("--max-length", 64, *FEW)


def write_rows(path: Path, rows: tuple[Row, ...]) -> Path:
    path.write_text("".join(json.dumps({"question": r.prompt, "answer": r.answer}) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    held = tuple(Row(id=f"h/{i}", prompt=f"What is {n}?", answer=f"{n} was born in Lima.") for i, n in enumerate(NAMES))
    sets = {"forget": colour_rows(), "retain": city_rows(), "holdout": held}
    return {name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory: pytest.TempPathFactory, memorised_folder: Path, tokenizer: Any) -> Path:
    """The model that knows everything, its output head blurred until it says nothing of what it knows."""
    model = load_model(memorised_folder, max_length=64).model
    with torch.no_grad():
        noise = torch.randn(model.get_input_embeddings().weight.shape, generator=torch.Generator().manual_seed(3))
        model.get_input_embeddings().weight.add_(0.12 * noise)
    return save_model(tmp_path_factory.mktemp("unlearned") / "model", model, tokenizer)


def attack(
    out: Path, data: dict[str, Path], model: Path, *words: object, settings: tuple[object, ...] = MODEL
) -> dict[str, Any]:
    done = cli(
        "attack",
        model,
        "--forget",
        data["forget"],
        "--retain",
        data["retain"],
        "--out",
        out,
        "--json",
        *settings,
        *words,
    )
    assert done.code == 0, done.err
    return json.loads(done.out)


def by_key(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["attack"]: one for one in found["attacks"]}


@pytest.mark.slow
def test_every_attack_from_end_to_end(
    tmp_path: Path, data: dict[str, Path], unlearned: Path, memorised_folder: Path, model_folder: Path
) -> None:
    words = ("--original", memorised_folder, "--reference", model_folder, "--holdout", data["holdout"], "--with", "all")
    steps = ("--set", "steps=[4,12]", "--set", "lr=0.001", "--set", "group=16")
    found = attack(tmp_path / "a", data, unlearned, *words, *steps)
    attacks = by_key(found)
    assert set(attacks) == {"none", *ATTACKS.names()}
    assert attacks["none"]["means"]["original"] > 0.9
    assert attacks["none"]["means"]["unlearned"] < attacks["none"]["means"]["original"]
    for key, one in attacks.items():
        if "skipped" in one:
            continue
        residual = one["residual"]["value"]
        assert residual is None or 0 <= residual <= 1, key
    # What it was taught before comes back with a few steps on a part of it, and never in the model that never knew.
    subset = attacks["relearn:subset"]
    assert subset["curves"]["unlearned"]["4"] > subset["curves"]["unlearned"]["0"]
    assert max(subset["curves"]["reference"].values()) < 0.1
    assert set(subset["curves"]) == {"original", "unlearned", "reference"}
    assert 0 <= found["durability"]["value"] <= 1
    assert found["durability"]["worst"] in found["durability"]["counted"]
    page = (tmp_path / "a" / "report.html").read_text()
    assert "durability" in page
    assert "relearn:subset" in page
    assert json.loads((tmp_path / "a" / "attacks.json").read_text()) == found


@pytest.mark.slow
def test_the_same_call_does_nothing_twice(
    tmp_path: Path, data: dict[str, Path], unlearned: Path, memorised_folder: Path
) -> None:
    words = ("--original", memorised_folder, "--with", "quantise:int4,prompts:prefill")
    first = attack(tmp_path / "a", data, unlearned, *words)
    done = cli(
        "attack", unlearned, "--forget", data["forget"], "--retain", data["retain"], "--out", tmp_path / "a", "--json",
        *MODEL, *words, "--with", "prompts:role",
    )  # fmt: skip
    assert done.err.count("kept from before") == 6
    again = json.loads(done.out)
    assert by_key(again)["quantise:int4"] == by_key(first)["quantise:int4"]
    assert "prompts:role" in by_key(again)
    assert any("no --reference" in note for note in again["notes"])


@pytest.mark.slow
def test_another_learning_rate_costs_only_the_relearning(
    tmp_path: Path, data: dict[str, Path], unlearned: Path
) -> None:
    words = ("--with", "quantise:int8,relearn:subset", "--set", "steps=[1]")
    attack(tmp_path / "a", data, unlearned, *words)
    done = cli(
        "attack", unlearned, "--forget", data["forget"], "--retain", data["retain"], "--out", tmp_path / "a", "--json",
        *MODEL, *words, "--set", "lr=0.001",
    )  # fmt: skip
    kept = [line for line in done.err.splitlines() if "kept from before" in line]
    assert len(kept) == 2
    assert not any("relearn" in line for line in kept)


def test_a_model_that_lost_everything_is_not_called_durable(
    tmp_path: Path, data: dict[str, Path], memorised_folder: Path, model_folder: Path
) -> None:
    # It never learnt the retain rows either: nothing can be brought back, and nothing is left.
    words = ("--original", memorised_folder, "--reference", model_folder, "--with", "quantise:int8")
    found = attack(tmp_path / "a", data, model_folder, *words)
    assert found["durability"]["value"] == 1
    assert found["kept"]["value"] < 0.1
    page = (tmp_path / "a" / "report.html").read_text()
    assert "The model lost what it should keep" in page
    assert "Durable against what was tried" not in page


def test_trouble_of_the_machine_is_no_missing_attack(
    tmp_path: Path, data: dict[str, Path], unlearned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*args: object, **kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr("expunge.attacks.weights.quantise", out_of_memory)
    done = cli(
        "attack", unlearned, "--forget", data["forget"], "--retain", data["retain"], "--out", tmp_path / "a",
        *MODEL, "--with", "quantise:int8",
    )  # fmt: skip
    assert done.code == 2
    assert "memory" in done.err
    assert "quantise:int8" in done.err
    assert not (tmp_path / "a" / "attacks.json").exists()


def test_without_original_or_reference_it_says_what_is_missing(
    tmp_path: Path, data: dict[str, Path], unlearned: Path
) -> None:
    found = attack(tmp_path / "a", data, unlearned, "--with", "precision")
    assert found["durability"]["value"] is None
    assert any("no --original" in note for note in found["notes"])
    assert by_key(found)["precision:bf16"]["rise"]["value"] is not None
    assert by_key(found)["precision:bf16"]["recovery"]["note"] == "no original model was given"


def test_what_an_attack_lacks_is_said_and_costs_no_other(
    tmp_path: Path, data: dict[str, Path], unlearned: Path
) -> None:
    found = by_key(attack(tmp_path / "a", data, unlearned, "--with", "relearn:holdout,quantise:int8"))
    assert found["relearn:holdout"]["skipped"] == "needs holdout rows, and there are none"
    assert "means" in found["quantise:int8"]


def test_a_membership_test_is_told_and_does_not_count(
    tmp_path: Path, data: dict[str, Path], memorised_folder: Path, model_folder: Path
) -> None:
    words = ("--original", memorised_folder, "--reference", model_folder, "--holdout", data["holdout"])
    found = attack(tmp_path / "a", data, memorised_folder, *words, "--with", "membership:loss,precision:bf16")
    assert by_key(found)["membership:loss"]["residual"]["value"] == 1
    assert found["durability"]["counted"] == ["none", "precision:bf16"]
    assert "still shows under membership:loss" in (tmp_path / "a" / "report.html").read_text()


@pytest.mark.slow
def test_an_unchanged_model_is_not_durable(
    tmp_path: Path, data: dict[str, Path], memorised_folder: Path, model_folder: Path
) -> None:
    words = ("--original", memorised_folder, "--reference", model_folder, "--with", "precision:bf16")
    found = attack(tmp_path / "a", data, memorised_folder, *words)
    assert found["durability"]["value"] == pytest.approx(0, abs=0.01)
    assert by_key(found)["none"]["residual"]["value"] == 1
    assert any("same weights" in note for note in found["notes"])


def test_a_model_that_never_saw_the_data_is_durable(
    tmp_path: Path, data: dict[str, Path], memorised_folder: Path, model_folder: Path
) -> None:
    words = ("--original", memorised_folder, "--reference", model_folder, "--with", "precision:bf16,quantise:int8")
    assert attack(tmp_path / "a", data, model_folder, *words)["durability"]["value"] == 1


def run_of(path: Path, model: Path, data: dict[str, Path], **parts: Any) -> Path:
    """A finished run, two steps of everything."""
    recipe = {
        "name": "run",
        "model": {"path": str(model), "max_length": 64},
        "data": {"benchmark": "custom", "options": {k: str(data[k]) for k in ("forget", "retain")}},
        "finetune": {"max_steps": 2, "lr": 1e-3, "batch_size": 2},
        "retain_reference": "train",
        "unlearn": {"method": "npo", "max_steps": 2, "lr": 1e-3, "batch_size": 2},
        **parts,
    }
    expunge.run(recipe, out=path)
    return path


@pytest.mark.slow
def test_a_run_knows_its_rows_its_original_and_its_retain_model(
    tmp_path: Path, data: dict[str, Path], model_folder: Path
) -> None:
    run = run_of(tmp_path / "run", model_folder, data)
    done = cli(
        "attack", run, "--with", "precision:bf16", "--set", "num_resamples=50", "--out", tmp_path / "a", "--json"
    )
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert set(by_key(found)["none"]["means"]) == {"unlearned", "original", "reference"}
    assert found["notes"] == []
    models = json.loads((tmp_path / "a" / "run.json").read_text())["models"]
    assert len(set(models.values())) == 3
    # What the user names wins.
    words = ("--original", model_folder, "--forget", data["forget"], "--retain", data["retain"])
    done = cli("attack", run, *words, "--with", "precision:bf16", "--out", tmp_path / "b", *FEW)
    assert done.code == 0, done.err
    other = json.loads((tmp_path / "b" / "run.json").read_text())["models"]
    assert other["original"] != models["original"]
    assert other["reference"] == models["reference"]


@pytest.mark.slow
def test_a_run_without_finetuning_started_from_its_model(
    tmp_path: Path, data: dict[str, Path], model_folder: Path
) -> None:
    run = run_of(tmp_path / "run", model_folder, data, finetune=None, retain_reference="none")
    done = cli(
        "attack", run, "--with", "precision:bf16", "--set", "num_resamples=50", "--out", tmp_path / "a", "--json"
    )
    assert done.code == 0, done.err
    assert set(by_key(json.loads(done.out))["none"]["means"]) == {"unlearned", "original"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--with", "quantize:int3"), "unknown attack 'quantize:int3'"),
        (("--with", "relern"), "did you mean 'relearn'"),
        ((), "name attacks with --with, or give --quick or --full"),
        (("--with", "all", "--benchmark", "almanac"), "both say which rows are asked"),
        (("--quick", "--full"), "--quick and --full: give one of them"),
        (("--quick", "--set", "steps=[5,2]"), "steps must be whole numbers from 1 on, ascending"),
        (("--quick", "--set", "step=5"), "unknown key 'step'"),
        (("--quick", "--set", "samples=0"), "samples must be at least 1, got 0"),
        (("--quick", "--set", "share=0"), "share must be in (0, 1), got 0"),
        (("--quick", "--set", "scope={kind: lora, rnk: 3}"), "scope lora: got an unexpected keyword argument 'rnk'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, data: dict[str, Path], unlearned: Path, words: tuple[str, ...], message: str
) -> None:
    done = cli("attack", unlearned, "--forget", data["forget"], "--out", tmp_path / "a", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert not (tmp_path / "a").exists()


def test_rows_must_be_named(tmp_path: Path, unlearned: Path) -> None:
    with pytest.raises(UserError, match="say what was to be forgotten"):
        expunge.attack(unlearned, out=tmp_path / "a", attacks=["precision"])
    with pytest.raises(RecipeError, match="unknown depth 'quik'"):
        expunge.attack(unlearned, out=tmp_path / "a", depth="quik", forget="x.jsonl")


def test_names_stand_for_families() -> None:
    assert FAMILIES == ("membership", "precision", "prompts", "quantise", "relearn", "sampling", "whitebox")
    kinds = ["quantise:awq", "quantise:fp4", "quantise:gptq", "quantise:int4", "quantise:int8", "quantise:nf4"]
    assert [a.key for a in attacks_named(["quantise", "quantise:int4"])] == ["none", *kinds]
    assert len(attacks_named(["all"])) == 1 + len(ATTACKS.names())
    assert attacks_named(["prompts:few-shot"])[1].key == "prompts:few_shot"


# -- in a recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recipe_attacks_what_it_made(tmp_path: Path, data: dict[str, Path], model_folder: Path) -> None:
    part = {"attacks": ["precision:bf16", "quantise:int8"], "num_resamples": 50}
    run = run_of(tmp_path / "run", model_folder, data, attack=part)
    found = json.loads((run / "attacks" / "attacks.json").read_text())
    assert set(by_key(found)) == {"none", "precision:bf16", "quantise:int8"}
    assert set(by_key(found)["none"]["means"]) == {"unlearned", "original", "reference"}
    assert (run / "attacks" / "report.html").is_file()
    # The verb finds the same models, and so the same stages would serve.
    done = cli("attack", run, "--with", "precision:bf16", *FEW, "--out", tmp_path / "a", "--json")
    assert by_key(json.loads(done.out))["precision:bf16"] == by_key(found)["precision:bf16"]
    # And a certificate counts them without being told.
    (audit,) = json.loads(expunge.certify(run).file.read_text())["attacks"]["audits"]
    assert [one["attack"] for one in audit["tried"]] == ["none", "precision:bf16", "quantise:int8"]


def test_attacks_of_a_recipe_leave_no_trace_where_there_are_none(
    tmp_path: Path, data: dict[str, Path], model_folder: Path
) -> None:
    run = run_of(tmp_path / "run", model_folder, data)
    assert not (run / "attacks").exists()
    assert "attack" not in (run / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"attack": {"attacks": ["quantize:int3"]}}, "unknown attack 'quantize:int3'"),
        ({"attack": {"attack": []}}, r"unknown key 'attack.attack' \(did you mean 'attacks'\?\)"),
        ({"attack": {"scope": {"kind": "lora", "rnk": 3}}}, "unexpected keyword argument 'rnk'"),
        ({"attack": {}, "unlearn": None, "evaluate": {}}, "attack: the recipe unlearns nothing"),
    ],
)
def test_mistakes_of_an_attack_part(
    tmp_path: Path, data: dict[str, Path], model_folder: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run_of(tmp_path / "run", model_folder, data, **parts)
    assert not (tmp_path / "run").exists()
