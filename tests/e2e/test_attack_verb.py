"""`expunge attack` from end to end: attacks on a model that forgot, its original, and one that never saw the data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import expunge
from command_line import cli
from conftest import NAMES, city_rows, colour_rows, save_model
from expunge.attacks.base import Site
from expunge.attacks.relearn import area_under, relearn, steps_to_half, taught_rows
from expunge.attacks.table import ATTACKS, FAMILIES, attacks_named
from expunge.data.rows import Row
from expunge.errors import RecipeError, UserError
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import AttackPart

Load = Callable[..., LoadedModel]
MODEL = ("--max-length", 64, "--set", "num_resamples=50")


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
        (("--quick", "--set", "share=0"), "share must be in (0, 1), got 0"),
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
    assert FAMILIES == ("precision", "prompts", "quantise", "relearn")
    assert [a.key for a in attacks_named(["quantise", "quantise:int4"])] == ["none", "quantise:int4", "quantise:int8"]
    assert len(attacks_named(["all"])) == 1 + len(ATTACKS.names())
    assert attacks_named(["prompts:few-shot"])[1].key == "prompts:few_shot"


# -- relearning ------------------------------------------------------------------------------------------------------


def site(**changes: Any) -> Site:
    part = AttackPart(steps=[2, 4], lr=0.01, batch_size=2, **changes)
    return Site(forget=colour_rows(), retain=city_rows(), benign=city_rows(), part=part)


def test_rows_that_are_taught_are_not_looked_at(load_tiny: Load) -> None:
    place = site(share=0.34)
    taught = taught_rows(place, "subset")
    found = relearn(load_tiny, place, source="subset")
    assert len(taught) == 2
    missing = {row.id for row, value in zip(place.forget, found.scores, strict=True) if np.isnan(value)}
    assert missing == {row.id for row in taught}
    assert sorted(found.curve) == [2, 4]
    np.testing.assert_array_equal(found.curve[4], found.scores)


def test_what_is_seen_on_the_way_does_not_depend_on_where_it_ends(load_tiny: Load, tmp_path: Path) -> None:
    from dataclasses import replace

    place = replace(site(), work=tmp_path / "whole")
    whole = relearn(load_tiny, place, source="benign")
    cut = replace(place, work=tmp_path / "cut")
    short = replace(cut, part=replace(cut.part, steps=[2]))
    seen = relearn(load_tiny, short, source="benign")
    np.testing.assert_array_equal(seen.scores, whole.curve[2])


def test_low_rank_relearning_looks_at_what_it_trains(load_tiny: Load) -> None:
    full, low = (
        relearn(load_tiny, site(scope=scope), source="benign")
        for scope in ({"kind": "full"}, {"kind": "lora", "rank": 4})
    )
    assert full.scores.shape == low.scores.shape == (6,)


def test_steps_to_half_and_area_by_hand() -> None:
    curve = [(0, 0.1), (10, 0.3), (20, 0.7)]
    assert steps_to_half(curve, 0.1, 0.9) == pytest.approx(15)  # half way is 0.5, half way between 10 and 20
    assert steps_to_half(curve, 0.1, 0.5) == pytest.approx(10)
    assert steps_to_half(curve, 0.1, 2.0) == math.inf
    assert math.isnan(steps_to_half(curve, 0.9, 0.9))
    assert area_under(curve) == pytest.approx((10 * 0.2 + 10 * 0.5) / 20)
    assert math.isnan(area_under([(0, 0.1)]))
