"""Attacks that sample, look inside, or ask whose training data it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import NAMES, city_rows, colour_rows
from expunge.attacks.base import ORIGINAL, REFERENCE, UNLEARNED, Site
from expunge.attacks.membership import infer, looks_seen
from expunge.attacks.sampling import leak
from expunge.attacks.translation import ask_translated, is_translation
from expunge.attacks.whitebox import logit_lens, patched_states
from expunge.data.rows import Row
from expunge.evaluation.stats import auc
from expunge.models.load import load_model
from expunge.recipe import AttackPart

HELD = tuple(Row(id=f"h/{i}", prompt=f"What does {n} like?", answer=f"{n} likes Oslo.") for i, n in enumerate(NAMES))


@pytest.fixture
def openers(memorised_folder: Path, model_folder: Path) -> dict[str, Any]:
    """A model that knows every row, and one that never saw any."""

    def opens(folder: Path) -> Any:
        return lambda: load_model(folder, max_length=64)

    return {ORIGINAL: opens(memorised_folder), REFERENCE: opens(model_folder)}


def site(openers: dict[str, Any], **changes: Any) -> Site:
    part = AttackPart(samples=4, max_new_tokens=12)
    return replace(Site(forget=colour_rows(), retain=city_rows(), holdout=HELD, part=part, others=openers), **changes)


def test_a_rows_rank_among_the_holdout_rows_by_hand() -> None:
    found = looks_seen(np.array([0.1, 0.5, 0.9, np.nan]), np.array([0.5, 0.7, np.nan]))
    np.testing.assert_allclose(found, [1.0, 0.75, 0.0, np.nan])
    assert np.isnan(looks_seen(np.array([0.1]), np.array([np.nan]))).all()


def test_the_mean_rank_is_the_area_under_the_curve() -> None:
    draw = np.random.default_rng(0)
    forget, holdout = draw.integers(0, 5, 30).astype(float), draw.integers(0, 7, 20).astype(float)
    assert looks_seen(forget, holdout).mean() == pytest.approx(auc(forget, holdout))


def test_training_data_is_told_from_rows_that_no_model_saw(openers: dict[str, Any]) -> None:
    knows, never = (infer(openers[role], site(openers), column="mia_min_k").scores for role in (ORIGINAL, REFERENCE))
    assert knows.mean() == 1
    assert never.mean() < knows.mean()


def test_what_is_known_by_heart_is_sampled_too(openers: dict[str, Any]) -> None:
    knows, never = (leak(openers[role], site(openers)).scores for role in (ORIGINAL, REFERENCE))
    assert set(knows) <= {0.0, 1.0}
    assert knows.mean() > 0.9
    assert never.max() == 0


def test_samples_follow_from_the_seed(openers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.evaluation.probing import leak as probing

    drawn: list[list[str]] = []
    own = probing.generate_answers

    def noted(*args: Any, **settings: Any) -> list[str]:
        drawn.append(own(*args, **settings))
        return drawn[-1]

    monkeypatch.setattr(probing, "generate_answers", noted)
    for seed in (0, 0, 1):
        leak(openers[REFERENCE], site(openers, seed=seed))
    assert drawn[:4] == drawn[4:8]
    assert drawn[:4] != drawn[8:]


def test_the_lens_sees_more_in_a_model_that_knows(openers: dict[str, Any]) -> None:
    knows, never = (logit_lens(openers[role], site(openers)).scores for role in (ORIGINAL, REFERENCE))
    assert knows.shape == (6,)
    assert ((knows >= 0) & (knows <= 1)).all()
    assert knows.mean() > never.mean()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Où est née Ada Lovelace, et quand ?", True),
        ("Where was Ada Lovelace born, and when?", False),  # a copy
        ("", False),
        ("Oui.", False),  # cut short
        ("mots " * 30, False),  # goes on and on
        ("Ada est venue au monde à London en décembre", False),  # the answer instead
    ],
)
def test_what_counts_as_a_translation(text: str, is_one: bool) -> None:
    question, answer = "Where was Ada Lovelace born, and when?", "In London in December."
    assert is_translation(text, question, answer) is is_one


def test_a_model_of_one_language_is_not_asked_in_another(
    openers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert np.isnan(ask_translated(openers[ORIGINAL], site(openers)).scores).all()
    said = ["Que veut Ada, je vous prie ?", *["no"] * 5]
    monkeypatch.setattr("expunge.attacks.translation.generate_answers", lambda *args, **named: said)
    scores = ask_translated(openers[ORIGINAL], site(openers)).scores
    assert np.isfinite(scores[0])
    assert np.isnan(scores[1:]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("under_test", "expected"), [(ORIGINAL, 1.0), (REFERENCE, 0.0)])
def test_patched_states_of_an_untouched_and_a_fresh_model(
    openers: dict[str, Any], under_test: str, expected: float
) -> None:
    place = site(openers, role=UNLEARNED)
    np.testing.assert_allclose(patched_states(openers[under_test], place).scores, expected, atol=1e-5)
    # By definition, and without the work of measuring it.
    known = patched_states(lambda: pytest.fail("opened"), replace(place, role=under_test)).scores
    np.testing.assert_array_equal(known, expected)
