"""Recipes: every mistake at once, each with its path and the nearest valid name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.errors import RecipeError
from expunge.recipe import (
    BudgetPart,
    EvaluatePart,
    FinetunePart,
    ModelPart,
    Recipe,
    TrainPart,
    UnlearnPart,
    apply_overrides,
    parse_recipe,
    read_recipe,
)


def errors_of(data: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(data, "run.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_recipe_is_all_defaults() -> None:
    recipe = parse_recipe({})
    assert recipe == Recipe()
    assert recipe.model.path == "smollm2"
    assert recipe.unlearn is None


def test_a_whole_recipe() -> None:
    data = {
        "name": "mine",
        "seed": 3,
        "model": {"path": "m", "format": "qa", "max_length": 64},
        "data": {"benchmark": "tofu:forget10", "options": {"anything": [1, {"x": 2}]}},
        "finetune": {"epochs": 2, "lr": "1e-5"},
        "unlearn": {"method": "simnpo", "term": {"beta": "4.5e0"}, "scope": "lora", "budget": {"kl": 0.1}},
        "evaluate": {"max_new_tokens": 5},
    }
    recipe = parse_recipe(data)
    assert recipe.finetune == FinetunePart(epochs=2, lr=1e-5)
    assert recipe.unlearn is not None
    assert recipe.unlearn.scope == {"kind": "lora"}
    assert recipe.unlearn.term == {"beta": 4.5}
    assert recipe.unlearn.budget == BudgetPart(kl=0.1)
    assert recipe.data.options == {"anything": [1, {"x": 2}]}
    # What is written down reads back the same.
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.as_dict()))) == recipe


def test_parsing_does_not_change_what_it_is_given() -> None:
    data = {"unlearn": {"scope": "lora", "lr": 7, "bata": 1}}
    before = {"unlearn": dict(data["unlearn"])}
    errors_of(data)
    assert data == before


def test_all_mistakes_at_once() -> None:
    message = errors_of(
        {
            "modle": {},
            "model": {"max_length": "long", "dtype": "float64"},
            "unlearn": {"methd": "npo", "lr": 3, "batch_size": 0, "gamma": -1},
            "finetune": {"epochs": -1, "warmup": 2},
            "evaluate": {"pack_tokens": 1},
        }
    )
    for part in (
        "unknown key 'modle' (did you mean 'model'?)",
        "unknown key 'unlearn.methd' (did you mean 'method'?)",
        "model.max_length: ",
        "got 'long'",
        "model.dtype: ",
        "got 'float64'",
        "unlearn.lr must be in (0, 1), got 3",
        "unlearn.batch_size must be at least 1, got 0",
        "unlearn.gamma must be at least 0, got -1",
        "finetune.epochs must be above 0, got -1",
        "finetune.warmup must be in [0, 1), got 2",
        "evaluate.pack_tokens must be at least 16, got 1",
    ):
        assert part in message
    assert message.startswith("run.yaml: ")


def test_an_unknown_key_without_a_value_does_not_hide_other_mistakes() -> None:
    message = errors_of({"unlearn": {"nonsense": None, "lr": 3}})
    assert "unknown key 'unlearn.nonsense' (known: " in message
    assert "unlearn.lr must be in (0, 1), got 3" in message


def test_a_part_that_is_no_mapping() -> None:
    assert "unlearn" in errors_of({"unlearn": "npo"})


def test_budget_needs_a_limit() -> None:
    assert "unlearn.budget.retain_loss or kl must be given" in errors_of({"unlearn": {"budget": {}}})
    assert "unlearn.budget.kl must be above 0" in errors_of({"unlearn": {"budget": {"kl": 0}}})


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (TrainPart, {"lr": 0.0}, r"lr must be in \(0, 1\), got 0.0"),
        (TrainPart, {"lr": float("nan")}, "lr must be in"),
        (TrainPart, {"epochs": 0.0}, "epochs must be above 0"),
        (TrainPart, {"max_steps": 0}, "max_steps must be at least 1"),
        (TrainPart, {"warmup": 1.0}, "warmup must be in"),
        (TrainPart, {"weight_decay": -0.1}, "weight_decay must be at least 0"),
        (TrainPart, {"max_grad_norm": -1.0}, "max_grad_norm must be at least 0"),
        (TrainPart, {"micro_batch_tokens": 15}, "micro_batch_tokens must be at least 16"),
        (TrainPart, {"checkpoint_minutes": -1.0}, "checkpoint_minutes must be at least 0"),
        (TrainPart, {"track": "wand"}, "track must be one of none, .*did you mean 'wandb'"),
        (UnlearnPart, {"alpha": -1.0}, "alpha must be at least 0"),
        (UnlearnPart, {"alpha": -1.0, "lr": 2.0}, "lr must be .*; alpha must be"),
        (BudgetPart, {}, "retain_loss or kl must be given"),
        (BudgetPart, {"kl": 1.0, "every": 0}, "every must be at least 1"),
        (BudgetPart, {"retain_loss": 1.0, "rows": 0}, "rows must be at least 1"),
        (EvaluatePart, {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        (EvaluatePart, {"generation_batch": 0}, "generation_batch must be at least 1"),
        (EvaluatePart, {"num_resamples": 9}, "num_resamples must be at least 10"),
        (ModelPart, {"max_length": 7}, "max_length must be at least 8"),
        (Recipe, {"name": "a/b"}, "name must be a plain file name, got 'a/b'"),
        (Recipe, {"name": ""}, "name must be a plain file name"),
        (Recipe, {"seed": -1}, r"seed must be in \[0, 2\*\*32\), got -1"),
        (Recipe, {"seed": 2**32}, "seed must be in"),
    ],
)
def test_ranges_hold_for_python_callers_too(part: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        part(**settings)


def test_parts_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainPart({"kind": "full"})  # type: ignore[misc]


# -- overrides -----------------------------------------------------------------------------------------------------


def test_overrides() -> None:
    data = {"unlearn": {"lr": 0.1, "term": None}, "seed": 1}
    got = apply_overrides(
        data,
        [
            "unlearn.lr=1e-5",
            "unlearn.term.beta=0.2",
            "seed=7",
            "model.path=a=b",
            "evaluate.legacy=true",
            "name=",
            "finetune=null",
        ],
    )
    assert got == {
        "unlearn": {"lr": 1e-5, "term": {"beta": 0.2}},
        "seed": 7,
        "model": {"path": "a=b"},
        "evaluate": {"legacy": True},
        "name": "",
        "finetune": None,
    }
    assert data == {"unlearn": {"lr": 0.1, "term": None}, "seed": 1}


@pytest.mark.parametrize("item", ["seed", "=3", " =3"])
def test_an_override_is_key_and_value(item: str) -> None:
    with pytest.raises(RecipeError, match=r"--set takes key=value, for instance"):
        apply_overrides({}, [item])


def test_an_override_below_a_value() -> None:
    with pytest.raises(RecipeError, match=r"--set seed.x: 'seed' is not a part with keys of its own"):
        apply_overrides({"seed": 1}, ["seed.x=1"])


def test_an_override_that_is_no_yaml_is_text() -> None:
    assert apply_overrides({}, ["model.path=[a"]) == {"model": {"path": "[a"}}


# -- files ---------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "forget_it.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_names_its_run_and_takes_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "unlearn:\n  lr: 1e-5\n  scope: lora\n")
    recipe = read_recipe(path, ["unlearn.term.beta=1e-2", "unlearn.scope.rank=4"])
    assert recipe.name == "forget_it"
    assert recipe.unlearn == UnlearnPart(lr=1e-5, scope={"kind": "lora", "rank": 4}, term={"beta": 0.01})


def test_an_override_may_be_wrong_too(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"forget_it.yaml: unknown key 'unlearn.bta' \(known: "):
        read_recipe(write(tmp_path, "unlearn: {}\n"), ["unlearn.bta=1"])


def test_broken_yaml_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"forget_it.yaml:3: broken YAML: mapping values"):
        read_recipe(write(tmp_path, "seed: 1\nmodel:\n  path: x: y\nunlearn: {}\n"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", ""])
def test_a_recipe_is_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="a recipe is a mapping of parts"):
        read_recipe(write(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe: No such file"):
        read_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        read_recipe(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"x.yaml"):
        read_recipe(path)
