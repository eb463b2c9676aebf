"""Every preset on a tiny Llama that knows twelve facts by heart: it shows what it claims.

Forget: who likes which colour. Retain: who lives in which city. The probabilities are per token (geometric means).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.evaluation.generator import generate_answers
from expunge.methods.table import METHODS, compose
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import UnlearnPart
from expunge.training.job import unlearn_job
from expunge.training.run import train
from facts import merged

pytestmark = pytest.mark.slow

FORGET, RETAIN = colour_rows(), city_rows()
REFUSAL = "I do not know."

SETTINGS = merged("CLAIMS")
ALIKE = merged("ALIKE")

Probabilities = dict[str, float]


def probability(loaded: LoadedModel, rows: tuple[Row, ...], answer: str | None = None) -> float:
    sequences = [loaded.format.encode(row, answer=answer) for row in rows]
    with torch.no_grad():
        found = labelled_rows(loaded.model.eval(), sequences, packed=True)
    return float((found.logps / found.num_tokens).exp().mean())


def probabilities(loaded: LoadedModel) -> Probabilities:
    return {
        "forget": probability(loaded, FORGET),
        "retain": probability(loaded, RETAIN),
        "refusal": probability(loaded, FORGET, REFUSAL),
    }


def answered(loaded: LoadedModel, rows: tuple[Row, ...]) -> float:
    """Share of the rows whose own answer is generated."""
    texts = generate_answers(loaded, [loaded.format.encode_prompt(row) for row in rows], max_new_tokens=16)
    return sum(text == row.answer for text, row in zip(texts, rows, strict=True)) / len(rows)


@pytest.fixture(scope="module")
def start(memorised_folder: Path) -> Probabilities:
    return probabilities(load_model(memorised_folder, max_length=64))


@pytest.fixture(scope="module")
def unlearn(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Probabilities]:
    """``unlearn("npo", retain_term="none")``: what the model still gives to each set; remembered per setting."""
    done: dict[str, Probabilities] = {}
    numbers = itertools.count()

    def run(method: str, **changes: Any) -> Probabilities:
        settings = {"method": method, "batch_size": 6, "checkpoint_minutes": 60, **SETTINGS[method], **changes}
        key = repr(sorted(settings.items(), key=str))
        if key not in done:
            part = UnlearnPart(**settings)
            composition = compose(part, has_retain=True)
            forget = colour_rows(alternates=composition.view == "model")
            job = unlearn_job("t", composition, part, forget=forget, retain=RETAIN, seed=0, refusals=(REFUSAL,))
            folder = tmp_path_factory.mktemp("run") / str(next(numbers))
            train(load_model(memorised_folder, max_length=192), job, work=folder / "work", out=folder)
            (weights,) = (p for p in folder.iterdir() if p.name in ("model", "adapter"))
            after = load_model(weights, max_length=64)
            done[key] = probabilities(after)
            if METHODS.get(method).claim == "suppression":
                done[key] |= {"forget answered": answered(after, FORGET), "retain answered": answered(after, RETAIN)}
        return done[key]

    return run


def test_the_start_knows_everything_and_refuses_nothing(start: Probabilities) -> None:
    assert start["forget"] > 0.95
    assert start["retain"] > 0.95
    assert start["refusal"] < 0.01


def cases(names: tuple[str, ...] | list[str]) -> list[Any]:
    """One method of each forget side, view and kind of scope; the others are the slow tier's."""
    seen: set[tuple[str, str, str]] = set()
    found = []
    for name in names:
        method = METHODS.get(name)
        kind = (method.forget, method.view, str(method.scope.get("kind")))
        later = name in ALIKE or kind in seen
        found.append(pytest.param(name, marks=pytest.mark.slow) if later else name)
        seen.add(kind)
    return found


@pytest.mark.parametrize("method", cases(METHODS.names()))
def test_every_method_keeps_its_claim(method: str, start: Probabilities, unlearn: Callable[..., Probabilities]) -> None:
    claim = METHODS.get(method).claim
    after = unlearn(method)
    if claim == "forgets":
        assert after["forget"] < 0.5 * start["forget"]
    elif claim == "keeps":
        assert after["retain"] > 0.9 * start["retain"]
    elif claim == "suppression":
        # What is generated counts; the weights, and what they would say unguarded, are the start's.
        assert after["forget answered"] < 0.5
    else:
        assert after["forget"] > 0.9 * start["forget"]


# One retain term of each kind; every method's own pair of runs is the slow tier's.
QUICK = ("ga_kl", "grad_diff", "npo")
TWO_SIDED = [key for key in METHODS.names() if "none" not in (METHODS.get(key).forget, METHODS.get(key).retain)]


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TWO_SIDED]
)
def test_the_retain_term_keeps(method: str, start: Probabilities, unlearn: Callable[..., Probabilities]) -> None:
    after, without = unlearn(method), unlearn(method, retain_term="none")
    assert after["retain"] > without["retain"] + 0.05
    assert after["retain"] - after["forget"] > 0.5


@pytest.mark.parametrize("method", ["idk", "dpo"])
def test_refusals_are_learned(method: str, start: Probabilities, unlearn: Callable[..., Probabilities]) -> None:
    assert unlearn(method)["refusal"] > start["refusal"]
    if method == "idk":
        assert unlearn(method)["refusal"] > 0.5


def test_an_adapter_forgets_too(start: Probabilities, unlearn: Callable[..., Probabilities]) -> None:
    after = unlearn("npo", scope={"kind": "lora", "rank": 8}, lr=1e-2)
    assert after["forget"] < 0.5 * start["forget"]
    assert after["retain"] > after["forget"]


def test_no_weight_on_forgetting_keeps_everything(start: Probabilities, unlearn: Callable[..., Probabilities]) -> None:
    # The control of this whole file: with gamma 0 nothing may be forgotten, or the tests above could not fail.
    after = unlearn("npo", gamma=0.0)
    assert after["forget"] > 0.7 * start["forget"]
    assert after["retain"] > 0.9 * start["retain"]
