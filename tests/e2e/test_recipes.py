"""Every recipe that ships is one that the pipeline takes, now and after the next one is added."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from expunge.api import find_recipe, shipped_recipes
from expunge.data.rows import Row
from expunge.methods.table import compose
from expunge.pipeline.checks import check_recipe
from expunge.recipe import parse_recipe, read_recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_recipes_and_all_of_them_ship() -> None:
    assert {path.stem for path in FILES} == set(shipped_recipes())
    assert "demo" in shipped_recipes()
    assert not list(FOLDER.glob("*.yml")), "a recipe ends in .yaml, or it would not ship"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    check_recipe(recipe)
    assert find_recipe(path.stem).read_text() == path.read_text()
    assert recipe.name == path.stem, "its runs lie in a folder of its name"
    assert path.read_text().startswith("# "), "its first line is what `expunge list recipes` says of it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_survives_being_written_and_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.as_dict()))) == recipe


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_recipe_has_no_setting_without_effect(path: Path) -> None:
    part = read_recipe(path).unlearn
    if part:
        notes = compose(part, has_retain=True).notes
        assert not [note for note in notes if "no effect" in note], notes


def test_the_demo_is_about_built_in_data_only() -> None:
    from expunge.benchmarks.table import load_benchmark

    recipe = read_recipe(find_recipe("demo"))
    benchmark = load_benchmark(recipe.data.benchmark, **recipe.data.options)
    assert benchmark.origin == "built in"
    assert all(isinstance(row, Row) for row in (*benchmark.forget, *benchmark.retain))
    assert recipe.model.path == "smollm2"
