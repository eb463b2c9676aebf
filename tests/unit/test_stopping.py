"""The bound on the forget answers' loss: it fires, or not; it is resumed; it is checked; and LLMU, which has one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.views import VIEWS, ViewContext
from expunge.errors import RecipeError
from expunge.methods.table import METHODS, compose
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import BudgetPart, UnlearnPart, apply_overrides, parse_recipe
from expunge.training.job import Job, unlearn_job
from expunge.training.objective import Objective
from expunge.training.run import StepLog, prepare, train

FORGET, RETAIN = colour_rows(), city_rows()


def part(method: str = "ga", **settings: Any) -> UnlearnPart:
    defaults: dict[str, Any] = {"lr": 3e-3, "batch_size": 4, "max_steps": 20, "warmup": 0.0, "schedule": "constant"}
    defaults |= {"checkpoint_minutes": 60}
    return UnlearnPart(method=method, **defaults | settings)


def job(settings: UnlearnPart) -> Job:
    composition = compose(settings, has_retain=True)
    return unlearn_job(
        "t", composition, settings, forget=FORGET, retain=RETAIN, seed=0, budget=settings.budget, probe_rows=RETAIN
    )


def go(folder: Path, settings: UnlearnPart, out: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
    facts = train(load_model(folder, max_length=64), job(settings), work=out / "work", out=out)
    log = [json.loads(line) for line in (out / "work" / "log.jsonl").read_text().splitlines()]
    return facts, log


def mean_loss(loaded: LoadedModel) -> float:
    sequences = [loaded.format.encode(row) for row in FORGET]
    with torch.no_grad():
        return -float(labelled_rows(loaded.model.eval(), sequences, packed=True).per_token_logps.mean())


# -- the rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1.0, 3.0])
def test_it_stops_at_the_first_step_above(memorised_folder: Path, bound: float, tmp_path: Path) -> None:
    facts, log = go(memorised_folder, part(stop_loss=bound), tmp_path)
    seen = [entry["forget_token_nll"] for entry in log]
    # Ascent's loss is the negated mean token loss: both speak of the same numbers.
    assert seen == pytest.approx([-entry["forget_loss"] for entry in log], rel=1e-5)
    assert 1 < facts["steps"] == len(log) < 20
    assert max(seen[:-1]) <= bound < seen[-1]
    assert facts["stopped"] == (
        f"stop_loss of {bound:g} reached at step {len(log)} (mean token loss of the forget answers: {seen[-1]:.3f})"
    )
    assert mean_loss(load_model(tmp_path / "model", max_length=64)) > bound


def test_a_high_bound_changes_nothing(memorised_folder: Path, tmp_path: Path) -> None:
    short = part(max_steps=4, stop_loss=1e6)
    facts, log = go(memorised_folder, short, tmp_path / "bound")
    free, plain = go(memorised_folder, part(max_steps=4), tmp_path / "free")
    assert facts["stopped"] == free["stopped"] == "all steps done"
    assert [entry.pop("forget_token_nll") > 0 for entry in log] == [True] * 4
    assert log == plain


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_resumed_run_stops_at_the_same_step(
    memorised_folder: Path, killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = part(stop_loss=2.0, checkpoint_minutes=0)
    expected, log = go(memorised_folder, settings, tmp_path / "straight")
    assert killed_at < expected["steps"] < 20
    plain = StepLog.on_log

    def deadly(self: StepLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if state.global_step == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepLog, "on_log", deadly)
    with pytest.raises(KeyboardInterrupt):
        go(memorised_folder, settings, tmp_path / "broken")
    monkeypatch.undo()
    facts, again = go(memorised_folder, settings, tmp_path / "broken")
    assert (facts["steps"], facts["stopped"], again) == (expected["steps"], expected["stopped"], log)
    same = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("straight", "broken")]
    assert same[0] == same[1]


def test_killed_after_the_stop_it_stops_again(
    memorised_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The step that stopped must have left no resume point, or training would go on from it.
    settings = part(stop_loss=2.0, checkpoint_minutes=0)
    expected, _ = go(memorised_folder, settings, tmp_path / "straight")

    def die(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.training.run._save", die)
    with pytest.raises(KeyboardInterrupt):
        go(memorised_folder, settings, tmp_path / "broken")
    monkeypatch.undo()
    facts, _ = go(memorised_folder, settings, tmp_path / "broken")
    assert (facts["steps"], facts["stopped"]) == (expected["steps"], expected["stopped"])


@pytest.mark.parametrize("retain_loss", [50.0, 0.001])
def test_the_budget_looks_at_the_step_that_stopped(memorised_folder: Path, retain_loss: float, tmp_path: Path) -> None:
    # It looks every 50 steps, so the stop alone brings it to look at all.
    budget = BudgetPart(retain_loss=retain_loss, every=50)
    facts, _ = go(memorised_folder, part(stop_loss=2.0, budget=budget, max_steps=60), tmp_path)
    if retain_loss > 1:
        assert facts["stopped"].startswith(f"stop_loss of 2 reached at step {facts['steps']} (")
        assert ") within budget (retain_loss " in facts["stopped"]
    else:
        assert facts["stopped"].startswith(f"budget reached at step {facts['steps']}: retain_loss rose to ")
        assert "nothing was changed" in facts["stopped"]
    assert facts["steps"] < 50


def test_the_loss_is_that_of_the_whole_batch_however_it_is_cut(load_tiny: Callable[..., LoadedModel]) -> None:
    loaded = load_tiny(max_length=64)
    found = []
    for tokens in (100_000, 16):
        settings = part("llmu", batch_size=6, max_steps=1, stop_loss=5.0, micro_batch_tokens=tokens)
        prepared = prepare(loaded, job(settings))
        prepared.objective.backward(prepared.model, prepared.streams.units(0), lambda loss: loss.backward())
        found.append(prepared.objective.token_nll)
    assert set(found[0]) == {"forget"}
    assert found[0]["forget"] == pytest.approx(mean_loss(loaded), rel=1e-5)
    assert found[1]["forget"] == pytest.approx(found[0]["forget"], rel=1e-5)


def test_the_first_pass_of_a_step_counts(load_tiny: Callable[..., LoadedModel]) -> None:
    # A rule may look again at weights it has shifted for a moment; those are not the step's.
    prepared = prepare(load_tiny(max_length=64), job(part(batch_size=6, max_steps=1, stop_loss=5.0)))
    objective, units = prepared.objective, prepared.streams.units(0)
    objective.backward(prepared.model, units, lambda loss: None)
    first = dict(objective.token_nll)
    with torch.no_grad():
        for parameter in prepared.model.parameters():
            parameter.mul_(0.5)
    objective.backward(prepared.model, units, lambda loss: None)
    assert objective.token_nll == first
    objective.token_nll.clear()
    objective.backward(prepared.model, units, lambda loss: None)
    assert objective.token_nll != first


def test_nothing_is_watched_unless_asked(load_tiny: Callable[..., LoadedModel]) -> None:
    objective: Objective = prepare(load_tiny(max_length=64), job(part(max_steps=1))).objective
    assert objective.watch == frozenset()


# -- settings ------------------------------------------------------------------------------------------------------


def test_it_is_set_in_the_recipe_or_by_the_method() -> None:
    recipe = parse_recipe(apply_overrides({"unlearn": {"method": "ga"}}, ["unlearn.stop_loss=2.5"]))
    assert recipe.unlearn is not None
    made = compose(recipe.unlearn, has_retain=False)
    assert made.stop_loss == 2.5
    assert made.resolved()["stop_loss"] == 2.5
    assert compose(UnlearnPart(method="ga"), has_retain=False).stop_loss is None
    assert compose(UnlearnPart(method="llmu", stop_loss=7.0), has_retain=True).stop_loss == 7.0
    with pytest.raises(RecipeError, match="stop_loss must be above 0, got 0"):
        UnlearnPart(method="ga", stop_loss=0.0)


def test_it_needs_the_forget_answers_and_says_so() -> None:
    made = compose(UnlearnPart(method="idk", stop_loss=2.0), has_retain=True)
    assert made.stop_loss is None
    assert made.notes == (
        "stop_loss has no effect: no term of this run reads the probability of the forget rows' answers",
    )
    quiet = compose(UnlearnPart(method="llmu", forget_term="mismatch"), has_retain=True)
    assert (quiet.stop_loss, quiet.notes) == (None, ())


# -- LLMU ----------------------------------------------------------------------------------------------------------


def test_llmu_has_three_weights_and_a_largest_loss() -> None:
    made = compose(UnlearnPart(method="llmu"), has_retain=True)
    assert [(w.term.key, w.weight) for w in (*made.forget, *made.retain)] == [("ga", 0.5), ("mismatch", 1), ("kl", 1)]
    assert (made.view, made.stop_loss) == ("mismatch", 100.0)
    # The Llama-2 weights of the hallucination task: 2, 1, 1; and a template in place of random answers.
    part = UnlearnPart(method="llmu", forget_term="2*ga+mismatch", view="template", alpha=3.0)
    other = compose(part, has_retain=True)
    assert [w.weight for w in (*other.forget, *other.retain)] == [2, 1, 3]


def test_llmu_at_its_start_is_the_sum_of_its_parts(load_tiny: Callable[..., LoadedModel]) -> None:
    loaded = load_tiny(max_length=64)
    prepared = prepare(loaded, job(part("llmu", batch_size=6, max_steps=1)))
    losses = prepared.objective.backward(prepared.model, prepared.streams.units(0), lambda loss: None)
    assert losses["forget_ga"] == pytest.approx(-0.5 * mean_loss(loaded), rel=1e-5)
    # The starting model is its own reference.
    assert losses["retain"] == pytest.approx(0, abs=1e-6)
    assert losses["forget_mismatch"] > 0
    shown = {str(unit.answers["alternate"].ids) for unit in prepared.streams.units(0) if unit.stream == "forget"}
    assert len(shown) == 6


@pytest.mark.parametrize("scope", ["full", "lora", "adalora"])
def test_llmu_runs_in_its_scopes(memorised_folder: Path, scope: str, tmp_path: Path) -> None:
    settings = part("llmu", scope={"kind": scope}, lr=1e-3 if scope == "full" else 1e-2, max_steps=12, stop_loss=50.0)
    facts, log = go(memorised_folder, settings, tmp_path)
    assert facts["stopped"] == "all steps done"
    assert {"forget_ga_loss", "forget_mismatch_loss", "retain_loss", "forget_token_nll"} <= set(log[0])
    assert log[-1]["forget_token_nll"] > log[0]["forget_token_nll"] + math.log(2)


def test_mismatched_answers_belong_to_other_prompts() -> None:
    context = ViewContext(seed=0, pool=tuple(row.answer for row in RETAIN))
    pick = VIEWS[METHODS.get("llmu").view].alternate
    assert pick is not None
    drawn = {pick(row, epoch, context) for row in FORGET for epoch in range(20)}
    assert drawn == {row.answer for row in RETAIN}
