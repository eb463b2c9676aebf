"""Gradient rules inside a training: micro-batches, masks, clipping, adapters and interruptions change nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import city_rows, colour_rows
from expunge.methods.table import compose
from expunge.models.load import LoadedModel
from expunge.recipe import UnlearnPart
from expunge.scopes.full import FullScope
from expunge.training.job import Job, unlearn_job
from expunge.training.objective import Objective
from expunge.training.protection import Protection
from expunge.training.rules import Rules
from expunge.training.run import Prepared, StepLog, prepare, train

pytestmark = pytest.mark.slow

Load = Callable[..., LoadedModel]
FORGET, RETAIN = colour_rows(), city_rows()
ALL = [{"kind": "sam", "rho": 0.05}, {"kind": "gru"}, {"kind": "sign_agreement"}]
DUAL = {"kind": "primal_dual", "rise": 0.05, "warmup": 0.0}


def job(rules: list[dict[str, Any]], **settings: Any) -> Job:
    defaults: dict[str, Any] = {
        "method": "grad_diff",
        "lr": 2e-3,
        "batch_size": 4,
        "epochs": 3,
        "checkpoint_minutes": 0,
    }
    part = UnlearnPart(rules=rules, **defaults | settings)
    return unlearn_job("t", compose(part, has_retain=True), part, forget=FORGET, retain=RETAIN, seed=0)


def ready(loaded: LoadedModel, **settings: Any) -> Prepared:
    prepared = prepare(loaded, job([], batch_size=6, **settings))
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in prepared.model.parameters():
            if p.requires_grad:
                p.add_(0.03 * torch.randn(p.shape, generator=draw))
    return prepared


def gradient(
    prepared: Prepared, rules: list[dict[str, Any]], steps: int = 1, **more: Any
) -> tuple[Tensor, dict, Rules]:
    """The gradient that the rules leave at the last of some steps, at the same weights."""
    active = Rules(rules)
    active.begin(prepared.objective, prepared.model, prepared.streams)
    prepared.model.train()
    losses: dict[str, float] = {}
    for step in range(steps):
        prepared.model.zero_grad()
        units = prepared.streams.units(step)
        losses = active.accumulate(prepared.objective, prepared.model, units, lambda loss: loss.backward(), **more)
    return flat(prepared.model), losses, active


def flat(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def stream_gradient(prepared: Prepared, stream: str, step: int = 0) -> Tensor:
    prepared.model.zero_grad()
    units = prepared.streams.units(step)
    prepared.objective.backward(prepared.model, units, lambda loss: loss.backward(), streams={stream})
    return flat(prepared.model)


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


# -- one step ------------------------------------------------------------------------------------------------------


def test_gru_never_points_against_the_retain_gradient(load_tiny: Load) -> None:
    prepared = ready(load_tiny(max_length=64), forget_term="ga", retain_term="nll")
    retain = stream_gradient(prepared, "retain")
    assert float(stream_gradient(prepared, "forget") @ retain) < -0.1, "there must be a conflict to resolve"
    rectified, _, rules = gradient(prepared, [{"kind": "gru", "ema": 1.0, "constraint_only": True}])
    assert float(rectified @ retain) >= -1e-6
    assert rules.numbers["gru_cosine"] < -0.1
    whole, _, _ = gradient(prepared, [{"kind": "gru", "ema": 1.0}])
    torch.testing.assert_close(whole, rectified + retain)


def test_gru_is_plain_training_where_the_gradients_agree(load_tiny: Load) -> None:
    prepared = ready(load_tiny(max_length=64), forget_term="learn")
    plain, plain_losses, _ = gradient(prepared, [])
    found, losses, rules = gradient(prepared, [{"kind": "gru"}])
    assert rules.numbers["gru_cosine"] > 0
    assert distance(found, plain) < 1e-5
    assert losses == pytest.approx(plain_losses)


@pytest.mark.parametrize(
    ("rules", "tolerance"),
    [
        ([{"kind": "gru"}], 1e-5),
        ([{"kind": "sam", "rho": 0.05}], 1e-5),
        ([DUAL], 1e-5),
        # A sign near zero may turn with the last bit of a sum; few entries are that near.
        ([{"kind": "sign_agreement"}], 1e-2),
        ([*ALL, DUAL], 1e-2),
    ],
    ids=lambda value: "+".join(rule["kind"] for rule in value) if isinstance(value, list) else None,
)
def test_cutting_a_step_into_micro_batches_changes_nothing(
    load_tiny: Load, rules: list[dict[str, Any]], tolerance: float
) -> None:
    prepared = ready(load_tiny(max_length=64), method="npo_klr")
    whole = prepared.objective
    found = []
    for max_tokens in (100_000, 48, 16):
        objective = Objective(whole.terms, whole.reference, True, max_tokens, whole.layer)
        cut = Prepared(**{**vars(prepared), "objective": objective})
        found.append(gradient(cut, rules, steps=2))
    for other, losses, active in found[1:]:
        assert distance(other, found[0][0]) < tolerance
        assert losses == pytest.approx(found[0][1], rel=1e-4)
        assert active.numbers == pytest.approx(found[0][2].numbers, rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "scope"),
    [("npo", {"kind": "full"}), ("ga_kl", {"kind": "full"}), ("dpo", {"kind": "lora", "rank": 2})],
    ids=["npo", "ga_kl", "dpo"],
)
def test_rules_compose_with_every_term_and_scope_in_any_written_order(
    load_tiny: Load, method: str, scope: dict[str, Any]
) -> None:
    prepared = ready(load_tiny(max_length=64), method=method, scope=scope)
    before = [p.detach().clone() for p in prepared.model.parameters()]
    found = [gradient(prepared, list(order), steps=2)[0] for order in itertools.permutations(ALL, 3)]
    assert all(torch.equal(other, found[0]) for other in found[1:])
    assert all(torch.equal(p, kept) for p, kept in zip(prepared.model.parameters(), before, strict=True))
    assert distance(found[0], gradient(prepared, [], steps=2)[0]) > 1e-3


def test_the_dual_weight_scales_the_retain_gradient_alone(load_tiny: Load) -> None:
    prepared = ready(load_tiny(max_length=64), method="npo", alpha=2.0)
    forget, retain = (stream_gradient(prepared, stream) for stream in ("forget", "retain"))
    rules = Rules([DUAL])
    rules.begin(prepared.objective, prepared.model, prepared.streams)
    rules.memories["primal_dual"].state["lambda"] = torch.tensor(5.0, dtype=torch.float64)
    prepared.model.zero_grad()
    units = prepared.streams.units(0)
    losses = rules.accumulate(prepared.objective, prepared.model, units, lambda loss: loss.backward())
    # The objective's own weight is alpha = 2; lambda = 5 stands in its place.
    assert distance(flat(prepared.model), forget + 2.5 * retain) < 1e-5
    _, plain, _ = gradient(prepared, [])
    assert losses == pytest.approx({"forget": plain["forget"], "retain": 2.5 * plain["retain"]})


# -- a whole training ----------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, Tensor]:
    return {k: v for f in sorted(folder.rglob("*.safetensors")) for k, v in load_file(f).items()}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_rules_then_mask_then_clip(load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = "model.layers.1.mlp.down_proj.weight"

    def masks(self: FullScope, model: Any) -> dict[str, Tensor]:
        held = {name: torch.tensor(False) for name, _ in model.named_parameters()}
        held[inside] = (torch.arange(32) < 16)[:, None]
        return held

    monkeypatch.setattr(FullScope, "masks", masks)
    loaded = load_tiny(max_length=64)
    start = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    rules = [{"kind": "gru", "ema": 1.0}, {"kind": "sam"}]
    limited = job(rules, max_steps=2, weight_decay=0.1, max_grad_norm=1e-3)
    train(loaded, limited, work=tmp_path / "work", out=tmp_path)
    for name, parameter in loaded.model.named_parameters():
        moved = (parameter != start[name]).any(dim=-1) if name == inside else (parameter != start[name]).any()
        assert moved.tolist() == ([True] * 16 + [False] * 16 if name == inside else False), name

    # The norm that clipping saw at the first step is that of the ruled and masked gradient.
    again = load_tiny(max_length=64)
    prepared = prepare(again, limited)
    protection = Protection(prepared.model, masks(FullScope(), prepared.model))
    expected, _, _ = gradient(prepared, rules, mask=protection.mask_gradients)
    assert log_of(tmp_path / "work")[0]["grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)
    rest = [p.grad for n, p in prepared.model.named_parameters() if n != inside and p.grad is not None]
    assert not any(g.any() for g in rest)


class PulledPlugError(RuntimeError):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "scope"),
    [
        ([*ALL, DUAL], {"kind": "full"}),
        ([{"kind": "gru"}, DUAL], {"kind": "lora", "rank": 4, "dropout": 0.3}),
    ],
    ids=["full", "lora"],
)
def test_resumed_is_uninterrupted_bit_by_bit(
    load_tiny: Load, rules: list[dict[str, Any]], scope: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(rules, method="npo", scope=scope, micro_batch_tokens=64, epochs=2)
    train(load_tiny(max_length=64), asked, work=tmp_path / "straight/work", out=tmp_path / "straight")
    plain = StepLog.on_log
    for step in (2, 3):

        def dies(self: StepLog, args: Any, state: Any, control: Any, step: int = step, **kwargs: Any) -> None:
            plain(self, args, state, control, **kwargs)
            if state.global_step == step:
                raise PulledPlugError

        monkeypatch.setattr(StepLog, "on_log", dies)
        with pytest.raises(PulledPlugError):
            train(load_tiny(max_length=64), asked, work=tmp_path / "broken/work", out=tmp_path / "broken")
    assert list((tmp_path / "broken/work").glob("checkpoint-*/rules.safetensors"))
    monkeypatch.setattr(StepLog, "on_log", plain)
    train(load_tiny(max_length=64), asked, work=tmp_path / "broken/work", out=tmp_path / "broken")
    assert log_of(tmp_path / "broken/work") == log_of(tmp_path / "straight/work")
    straight, broken = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert straight.keys() == broken.keys()
    assert all(torch.equal(straight[name], broken[name]) for name in straight)
    assert {path.name for path in (tmp_path / "broken/work").rglob("*")} == {"log.jsonl"}


def test_what_the_rules_say_is_logged(load_tiny: Load, tmp_path: Path) -> None:
    asked = job([*ALL, {**DUAL, "warmup": 0.5}], method="npo")
    train(load_tiny(max_length=64), asked, work=tmp_path / "work", out=tmp_path)
    entries = log_of(tmp_path / "work")
    assert len(entries) == 6
    for entry in entries:
        assert -1 <= entry["gru_cosine"] <= 1
        assert 0 <= entry["sign_agreement_kept"] <= 1
        assert entry["retain_loss"] >= 0
    # alpha 5, three steps of rest, then lambda <- max(0, lambda + 5 excess).
    expected = [5.0] * 4
    for entry in entries[3:5]:
        expected.append(max(0.0, expected[-1] + 5 * entry["retain_excess"]))
    assert [entry["retain_weight"] for entry in entries] == pytest.approx(expected)
