"""Weights that a recipe does not keep: what stays, and what makes them anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from command_line import write_data
from expunge.api import run
from expunge.errors import UserError
from expunge.pipeline import RunResult
from expunge.pipeline.export import export_model
from expunge.pipeline.folder import has_weights

STEPS = {"lr": 3e-3, "max_steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def recipe(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = write_data(tmp_path_factory.mktemp("data"))
    return {
        "name": "tiny",
        "model": {"path": str(model_folder), "max_length": 64},
        "data": {"benchmark": "custom", "options": {name: str(file) for name, file in files.items()}},
        "retain_reference": "none",
        "unlearn": {"method": "npo_gdr", "keep_weights": False, **STEPS},
        "evaluate": {"max_new_tokens": 4, "num_resamples": 20, "fluency": False},
    }


@pytest.fixture(scope="module")
def result(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run(recipe, out=tmp_path_factory.mktemp("runs") / "tiny")


def manifest(result: RunResult) -> dict[str, Any]:
    return json.loads((result.folder / "run.json").read_text())


def made(result: RunResult) -> set[str]:
    return {name for name, stage in result.stages.items() if not stage.reused}


def with_part(recipe: Mapping[str, Any], part: str, **settings: Any) -> dict[str, Any]:
    return {**recipe, part: {**recipe[part], **settings}}


def test_numbers_stay_and_weights_go(result: RunResult) -> None:
    assert result.metrics["after"]
    assert not has_weights(result.folder)
    assert not has_weights(result.stages["unlearn"].path)
    assert (result.folder / "metrics.json").is_file()


def test_they_are_the_same_weights_as_those_that_are_kept(
    result: RunResult, recipe: dict[str, Any], tmp_path: Path
) -> None:
    kept = run(with_part(recipe, "unlearn", keep_weights=True), out=tmp_path / "kept")
    assert has_weights(kept.folder)
    assert kept.stages["unlearn"].key == result.stages["unlearn"].key
    assert manifest(kept)["result"] == manifest(result)["result"]


def test_twice_makes_nothing(result: RunResult, recipe: dict[str, Any]) -> None:
    before = manifest(result)
    again = run(recipe, out=result.folder)
    assert made(again) == set()
    assert manifest(again) == before


def test_what_is_measured_later_makes_them_anew(result: RunResult, recipe: dict[str, Any], tmp_path: Path) -> None:
    store = result.folder / "stages"
    other = with_part(recipe, "evaluate", max_new_tokens=5)
    again = run(other, out=tmp_path / "other", store=store)
    assert made(again) == {"evaluate before", "evaluate after", "report"}
    assert manifest(again)["result"] == manifest(result)["result"]
    assert not has_weights(again.stages["unlearn"].path)


def test_asking_to_keep_them_makes_them_anew(result: RunResult, recipe: dict[str, Any], tmp_path: Path) -> None:
    store = result.folder / "stages"
    kept = run(with_part(recipe, "unlearn", keep_weights=True), out=tmp_path / "kept", store=store)
    assert has_weights(kept.folder)
    run(recipe, out=tmp_path / "again", store=store)


def test_what_needs_them_says_where_they_went(result: RunResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not keep its weights"):
        export_model(result.folder, tmp_path / "out")
