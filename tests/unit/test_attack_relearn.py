"""Finetuning as an attack: what is taught, what is looked at, and the figures of its curve."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import city_rows, colour_rows
from expunge.attacks.base import Site, knowledge
from expunge.attacks.relearn import area_under, relearn, steps_to_half, taught_rows
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import AttackPart


def site(**changes: Any) -> Site:
    part = AttackPart(**{"steps": [2, 4], "lr": 0.01, "batch_size": 2, **changes})
    return Site(forget=colour_rows(), retain=city_rows(), benign=city_rows(), part=part)


@pytest.fixture
def opener(memorised_folder: Path) -> Any:
    """Opens a model that knows every row: what finetuning does to it is seen in the scores."""

    def load() -> LoadedModel:
        return load_model(memorised_folder, max_length=64)

    return load


def test_rows_that_are_taught_are_not_looked_at(opener: Any) -> None:
    place = site(share=0.34)
    taught = taught_rows(place, "subset")
    found = relearn(opener, place, source="subset")
    assert len(taught) == 2
    missing = {row.id for row, value in zip(place.forget, found.scores, strict=True) if np.isnan(value)}
    assert missing == {row.id for row in taught}
    assert sorted(found.curve) == [2, 4]
    np.testing.assert_array_equal(found.curve[4], found.scores)


@pytest.mark.slow
def test_what_is_seen_on_the_way_does_not_depend_on_where_it_ends(opener: Any, tmp_path: Path) -> None:
    place = replace(site(lr=0.02), work=tmp_path / "whole")
    whole = relearn(opener, place, source="benign")
    assert np.nanmean(whole.curve[2]) < 0.9  # the steps do something, or the rest of this test says nothing
    assert not np.array_equal(whole.curve[2], whole.curve[4])
    short = replace(place, work=tmp_path / "cut", part=replace(place.part, steps=[2]))
    np.testing.assert_array_equal(relearn(opener, short, source="benign").scores, whole.curve[2])


@pytest.mark.parametrize("scope", [{"kind": "full"}, {"kind": "lora", "rank": 4}])
def test_what_is_trained_is_what_is_looked_at(opener: Any, scope: dict[str, Any]) -> None:
    place = site(scope=scope, lr=0.05)
    before = knowledge(opener(), place.forget, place)
    assert before.mean() > 0.9
    after = relearn(opener, place, source="benign").scores
    assert after.mean() < before.mean() - 0.1


def test_steps_to_half_and_area_by_hand() -> None:
    curve = [(0, 0.1), (10, 0.3), (20, 0.7)]
    assert steps_to_half(curve, 0.1, 0.9) == pytest.approx(15)  # half way is 0.5, half way between 10 and 20
    assert steps_to_half(curve, 0.1, 0.5) == pytest.approx(10)
    assert steps_to_half(curve, 0.1, 2.0) == math.inf
    assert math.isnan(steps_to_half(curve, 0.9, 0.9))
    assert area_under(curve) == pytest.approx((10 * 0.2 + 10 * 0.5) / 20)
    assert math.isnan(area_under([(0, 0.1)]))
