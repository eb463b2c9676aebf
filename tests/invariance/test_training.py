"""What must not change a training: how it is cut into micro-batches, whether it was interrupted, what was cached."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.errors import NonFiniteLossError, RecipeError
from expunge.losses import kl_divergence_loss
from expunge.methods.table import METHODS, compose
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel, load_model
from expunge.models.reference import compute_reference
from expunge.recipe import BudgetPart, TrainPart, UnlearnPart
from expunge.scopes.full import FullScope
from expunge.scopes.lora import LoraScope
from expunge.training import run as run_module
from expunge.training.job import Job, finetune_job, unlearn_job
from expunge.training.objective import Objective
from expunge.training.run import StepLog, prepare, train
from expunge.training.streams import Streams
from expunge.training.trainer import COMPLETE, close_tracker, last_resume_point, training_arguments

Load = Callable[..., LoadedModel]
FORGET, RETAIN = colour_rows(), city_rows()


def part(method: str = "npo", **settings: Any) -> UnlearnPart:
    defaults: dict[str, Any] = {"lr": 2e-3, "batch_size": 4, "epochs": 3, "checkpoint_minutes": 60}
    return UnlearnPart(method=method, **defaults | settings)


def job(settings: UnlearnPart, retain: tuple[Row, ...] = RETAIN, **more: Any) -> Job:
    composition = compose(settings, has_retain=bool(retain))
    return unlearn_job(
        "test", composition, settings, forget=FORGET, retain=retain, seed=0, budget=settings.budget, **more
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.name}/{name}": tensor for f in files for name, tensor in load_file(f).items()}


def fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights(folder).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def objective_of(loaded: LoadedModel, method: str, max_tokens: int) -> tuple[Objective, Streams]:
    # Terms that read gates need the scope that has them.
    kind = "gated" if METHODS.get(method).scope["kind"] == "gated" else "full"
    part = UnlearnPart(method=method, scope={"kind": kind}, batch_size=6, epochs=1, micro_batch_tokens=max_tokens)
    composition = compose(part, has_retain=True)
    forget = colour_rows(alternates=composition.view == "model")
    prepared = prepare(loaded, unlearn_job("t", composition, part, forget=forget, retain=RETAIN, seed=0))
    return prepared.objective, prepared.streams


def shake(model: Any) -> None:
    """Move the weights, so that no loss sits at its stationary start."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.03 * torch.randn(p.shape, generator=draw))


# -- the effective batch -------------------------------------------------------------------------------------------


TRAINED = [key for key in METHODS.names() if METHODS.get(key).epochs]


@pytest.mark.parametrize("method", TRAINED)
def test_cutting_a_step_into_micro_batches_changes_nothing(load_tiny: Load, method: str) -> None:
    loaded = load_tiny(max_length=192)
    whole, streams = objective_of(loaded, method, 100_000)
    shake(loaded.model)
    found = []
    # All rows in one pass; a few; every row alone (16 tokens hold none of them); and the same as a padded batch.
    for max_tokens, packed in ((100_000, True), (48, True), (16, True), (100_000, False)):
        objective = Objective(whole.terms, whole.reference, packed, max_tokens, whole.layer)
        passes: list[torch.Tensor] = []
        loaded.model.zero_grad()

        def run(loss: torch.Tensor, passes: list[torch.Tensor] = passes) -> None:
            passes.append(loss)
            loss.backward()

        losses = objective.backward(loaded.model, streams.units(0), run)
        gradient = torch.cat([p.grad.flatten() for p in loaded.model.parameters() if p.grad is not None])
        found.append((losses, gradient, len(passes)))
    losses, gradient, num_passes = found[0]
    assert num_passes == 1
    assert found[1][2] > 1
    assert found[2][2] == len(streams.units(0))
    for other_losses, other_gradient, _ in found[1:]:
        assert other_losses == pytest.approx(losses, rel=1e-5, abs=1e-6)
        assert float((other_gradient - gradient).norm() / gradient.norm()) < 1e-6 * 5


def test_losses_at_the_start_have_their_known_values(load_tiny: Load) -> None:
    for method, stream, expected in (
        ("npo", "forget", 20 * math.log(2)),
        ("dpo", "forget", 20 * math.log(2)),
        ("npo_klr", "retain", 0.0),
        ("ga_kl", "retain", 0.0),
    ):
        loaded = load_tiny(max_length=64)
        objective, streams = objective_of(loaded, method, 64)
        losses = objective.backward(loaded.model.train(), streams.units(0), lambda loss: None)
        assert losses[stream] == pytest.approx(expected, abs=2e-5), method


# -- the reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [FullScope(), LoraScope(rank=2)])
def test_cached_reference_is_a_live_frozen_copy(load_tiny: Load, scope: Any, tmp_path: Path) -> None:
    loaded = load_tiny(max_length=64)
    sequences = [loaded.format.encode(row) for row in RETAIN]
    cache = tmp_path / "cache"
    first = compute_reference(loaded, sequences[:2], sequences[1:], cache=cache)
    frozen = copy.deepcopy(loaded.model)
    second = compute_reference(loaded, sequences[:2], sequences[1:], cache=cache)
    assert len(list(cache.iterdir())) == 1
    model = scope.attach(loaded.model)
    assert first.head is not None
    assert second.head is not None
    second.head.detach_from(model)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1)
        live = labelled_rows(frozen, sequences, packed=True)
    device = torch.device("cpu")
    torch.testing.assert_close(second.sequence_logps(sequences, device), live.logps, rtol=0, atol=1e-4)
    assert torch.equal(first.sequence_logps(sequences, device), second.sequence_logps(sequences, device))
    kept = second.logits(sequences[1:])
    torch.testing.assert_close(kept, live.parts([1, 5])[1].logits, rtol=0, atol=1e-4)
    assert kl_divergence_loss(kept, live.parts([1, 5])[1].logits).item() < 1e-6


def test_the_cache_is_keyed_by_what_matters(load_tiny: Load, tmp_path: Path) -> None:
    loaded = load_tiny(max_length=64)
    sequences = [loaded.format.encode(row) for row in RETAIN]
    for logps_of, hidden_of in ((sequences, []), (sequences[:3], []), (sequences, sequences[:1]), (sequences, [])):
        compute_reference(loaded, logps_of, hidden_of, cache=tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compute_reference(loaded, sequences, [], cache=tmp_path)
    loaded.fingerprint = "other weights"
    compute_reference(loaded, sequences, [], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_reference_of_nothing(load_tiny: Load) -> None:
    reference = compute_reference(load_tiny(), [], [])
    assert reference.logps == {}
    assert reference.head is None


# -- interruption --------------------------------------------------------------------------------------------------


class PulledPlugError(RuntimeError):
    pass


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise once after a step has been logged, as if the machine had died there."""
    plain = StepLog.on_log

    def on_log(self: StepLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if state.global_step == step:
            monkeypatch.setattr(StepLog, "on_log", plain)
            raise PulledPlugError

    monkeypatch.setattr(StepLog, "on_log", on_log)


SCOPES: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.3},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "scope"),
    [
        ("npo_klr", "full"),
        ("dpo", "lora"),
        pytest.param("dpo", "full", marks=pytest.mark.slow),
        pytest.param("npo_klr", "lora", marks=pytest.mark.slow),
    ],
)
def test_resumed_is_uninterrupted_bit_by_bit(
    load_tiny: Load, scope: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = part(method, scope=SCOPES[scope], checkpoint_minutes=0, micro_batch_tokens=64)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    facts = train(load_tiny(max_length=64), job(settings), work=straight / "work", out=straight)
    assert facts["steps"] == facts["planned_steps"] == 6
    for step in (3, 5):
        interrupt_at(step, monkeypatch)
        with pytest.raises(PulledPlugError):
            train(load_tiny(max_length=64), job(settings), work=broken / "work", out=broken)
    # A kill in the middle of writing a resume point, and in the middle of a log line.
    (broken / "work" / "checkpoint-5").mkdir(exist_ok=True)
    (broken / "work" / "checkpoint-5" / COMPLETE).unlink(missing_ok=True)
    with open(broken / "work" / "log.jsonl", "a") as stream:
        stream.write('{"step": 5, "lo')
    left = sorted(p.name for p in (broken / "work").rglob("*") if p.is_file())
    assert "training_args.bin" not in left
    assert "model.safetensors" in left or "adapter_model.safetensors" in left
    resumed = train(load_tiny(max_length=64), job(settings), work=broken / "work", out=broken)
    assert resumed["steps"] == 6
    assert fingerprint(broken / LEFT[scope]) == fingerprint(straight / LEFT[scope])
    assert log_of(broken / "work") == log_of(straight / "work")
    assert not list((broken / "work").glob("checkpoint-*"))


LEFT = {"full": "model", "lora": "adapter"}


def test_a_different_seed_gives_other_weights(load_tiny: Load, tmp_path: Path) -> None:
    from dataclasses import replace

    settings = part()
    for seed in (0, 1):
        train(
            load_tiny(max_length=64), replace(job(settings), seed=seed), work=tmp_path / "w", out=tmp_path / str(seed)
        )
    assert fingerprint(tmp_path / "0") != fingerprint(tmp_path / "1")


def test_half_written_resume_points_are_deleted(tmp_path: Path) -> None:
    for step, complete in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / COMPLETE).touch()
    assert last_resume_point(tmp_path) == tmp_path / "checkpoint-10"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]
    assert last_resume_point(tmp_path / "nothing") is None


# -- what is left behind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
def test_only_safetensors_are_left(load_tiny: Load, scope: str, tmp_path: Path) -> None:
    settings = part(scope=SCOPES[scope], epochs=1, checkpoint_minutes=0)
    train(load_tiny(max_length=64), job(settings), work=tmp_path / "work", out=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [LEFT[scope]]
    suffixes = {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert suffixes <= {".json", ".jinja", ".safetensors", ".md"}
    assert {p.name for p in (tmp_path / "work").rglob("*")} == {"log.jsonl"}


def test_the_log_holds_numbers_and_no_text(load_tiny: Load, tmp_path: Path) -> None:
    facts = train(load_tiny(max_length=64), job(part("npo")), work=tmp_path / "work", out=tmp_path)
    entries = log_of(tmp_path / "work")
    assert [e["step"] for e in entries] == list(range(1, 7))
    for entry in entries:
        assert set(entry) == {"step", "loss", "forget_loss", "retain_loss", "learning_rate", "grad_norm"}
        assert all(isinstance(value, int | float) for value in entry.values())
        assert entry["loss"] == pytest.approx(entry["forget_loss"] + entry["retain_loss"])
    assert entries[0]["forget_loss"] == pytest.approx(20 * math.log(2), abs=1e-4)
    assert facts["lr"] == 2e-3
    assert facts["trainable_share"] == 1.0
    assert facts["stopped"] == "all steps done"


def test_a_single_step_moves_the_weights(load_tiny: Load, model_folder: Path, tmp_path: Path) -> None:
    # With a warm-up of one step its learning rate would be 0 and nothing at all would happen.
    train(load_tiny(max_length=64), job(part(max_steps=1)), work=tmp_path / "work", out=tmp_path)
    assert fingerprint(tmp_path / "model") != fingerprint(model_folder)


def test_the_remembered_format_comes_back(load_tiny: Load, tmp_path: Path) -> None:
    train(load_tiny(max_length=64, format="llmu"), job(part(max_steps=1)), work=tmp_path / "work", out=tmp_path)
    assert load_model(tmp_path / "model").format.name == "llmu"
    assert load_model(tmp_path / "model", format="chat").format.name == "chat"


# -- accidents -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "word"), [("loss", "the loss became nan"), ("gradient", "the gradient became nan")])
def test_not_a_number_stops_and_names_the_last_good_resume_point(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, word: str
) -> None:
    plain = Objective.micro_batch
    steps = {"seen": 0}

    def micro_batch(self: Objective, *args: Any) -> dict[str, torch.Tensor]:
        losses = plain(self, *args)
        steps["seen"] += 1
        if steps["seen"] >= 4:
            value = losses["forget"]
            # The square root of zero has an infinite slope, and 0 * inf is not a number: the loss stays finite.
            losses["forget"] = value * math.nan if spoil == "loss" else value + (value - value).sqrt()
        return losses

    monkeypatch.setattr(Objective, "micro_batch", micro_batch)
    settings = part("npo", checkpoint_minutes=0, micro_batch_tokens=4096)
    with pytest.raises(NonFiniteLossError, match=rf"{word} at step 4; .*checkpoint-3\. Lower the learning rate"):
        train(load_tiny(max_length=64), job(settings), work=tmp_path / "work", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_not_a_number_before_any_resume_point(load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Objective, "backward", lambda self, *args: {"forget": math.inf})
    with pytest.raises(NonFiniteLossError, match="became inf at step 1; no checkpoint had been written yet"):
        train(load_tiny(max_length=64), job(part()), work=tmp_path / "work", out=tmp_path / "out")


def test_an_unknown_optimizer_meets_its_nearest(load_tiny: Load, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"unknown optimizer 'adam_torch' \(did you mean 'adamw_torch'\?\)"):
        train(load_tiny(max_length=64), job(part(optimizer="adam_torch")), work=tmp_path / "work", out=tmp_path)


# -- the budget ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("limit", ["retain_loss", "kl"])
def test_the_budget_stops_and_keeps_the_best_step(
    memorised_folder: Path, scope: str, limit: str, tmp_path: Path
) -> None:
    settings = part(
        "ga",
        lr=1e-3 if scope == "full" else 5e-3,
        scope=SCOPES[scope] | ({"dropout": 0.0} if scope == "lora" else {}),
        max_steps=60,
        budget=BudgetPart(**{limit: 0.05}, every=1),
    )
    loaded = load_model(memorised_folder, max_length=64)
    facts = train(loaded, job(settings, (), probe_rows=RETAIN), work=tmp_path / "work", out=tmp_path)
    assert facts["steps"] < 60
    assert facts["stopped"].startswith(f"budget reached at step {facts['steps']}: {limit} rose to ")
    assert f"kept step {facts['steps'] - 1} " in facts["stopped"]
    before, after = load_model(memorised_folder, max_length=64), load_model(tmp_path / LEFT[scope], max_length=64)
    sequences = [before.format.encode(row) for row in RETAIN]
    with torch.no_grad():
        start, end = (labelled_rows(m.model, sequences, packed=True) for m in (before, after))
    rise = float((start.per_token_logps - end.per_token_logps).mean())
    cost = {"retain_loss": rise, "kl": kl_divergence_loss(end.logits, start.logits).item()}
    assert cost[limit] <= 0.05
    assert not torch.allclose(start.per_token_logps, end.per_token_logps, atol=1e-3)


def test_no_step_within_budget_changes_nothing(memorised_folder: Path, tmp_path: Path) -> None:
    settings = part("ga", lr=0.05, max_steps=9, warmup=0.0, budget=BudgetPart(retain_loss=0.01, every=3))
    facts = train(
        load_model(memorised_folder, max_length=64),
        job(settings, (), probe_rows=RETAIN),
        work=tmp_path / "w",
        out=tmp_path,
    )
    assert "no step stayed within it, so nothing was changed" in facts["stopped"]
    assert fingerprint(tmp_path / "model") == fingerprint(memorised_folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lr", "killed_at", "stops_at"), [(0.05, 2, 3), pytest.param(1e-3, 2, 6, marks=pytest.mark.slow), (1e-3, 4, 6)]
)
def test_the_budget_survives_an_interruption(
    memorised_folder: Path, lr: float, killed_at: int, stops_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Looks at steps 3 and 6. A kill before the first look must not pass the resumed step off as the start.
    budget = BudgetPart(retain_loss=0.02, every=3)
    settings = part("ga", lr=lr, max_steps=6, warmup=0.0, schedule="constant", checkpoint_minutes=0, budget=budget)

    def go(folder: Path) -> str:
        loaded = load_model(memorised_folder, max_length=64)
        return train(loaded, job(settings, (), probe_rows=RETAIN), work=folder / "w", out=folder)["stopped"]

    expected = go(tmp_path / "straight")
    assert expected.startswith(f"budget reached at step {stops_at}: ")
    interrupt_at(killed_at, monkeypatch)
    with pytest.raises(PulledPlugError):
        go(tmp_path / "broken")
    assert go(tmp_path / "broken") == expected
    assert fingerprint(tmp_path / "broken" / "model") == fingerprint(tmp_path / "straight" / "model")


# -- adapters ------------------------------------------------------------------------------------------------------


def logits_of(loaded: LoadedModel) -> torch.Tensor:
    sequences = [loaded.format.encode(row) for row in (*FORGET, *RETAIN)]
    with torch.no_grad():
        return labelled_rows(loaded.model.eval(), sequences, packed=loaded.packed).logits


def test_an_adapter_is_itself_merged_and_reloaded(load_tiny: Load, tmp_path: Path) -> None:
    loaded = load_tiny(max_length=64)
    start = logits_of(loaded).clone()
    train(loaded, job(part(scope={"kind": "lora", "rank": 4}, lr=2e-2)), work=tmp_path / "work", out=tmp_path)
    trained = logits_of(loaded)
    assert float((trained - start).abs().max()) > 0.05
    again = load_model(tmp_path / "adapter", max_length=64)
    assert again.packed
    torch.testing.assert_close(logits_of(again), trained, rtol=0, atol=1e-5)
    again.model = LoraScope().merge(again.model)
    torch.testing.assert_close(logits_of(again), trained, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("second", ["lora", "full"])
def test_training_on_top_of_an_adapter_keeps_both(load_tiny: Load, second: str, tmp_path: Path) -> None:
    lora = {"kind": "lora", "rank": 4}
    learn = TrainPart(scope=lora, lr=2e-2, epochs=4, checkpoint_minutes=60)
    train(
        load_tiny(max_length=64), finetune_job("f", FORGET, learn, epochs=4, seed=0), work=tmp_path / "w1", out=tmp_path
    )
    loaded = load_model(tmp_path / "adapter", max_length=64)
    out = tmp_path / "second"
    train(loaded, job(part(scope=lora if second == "lora" else {"kind": "full"})), work=tmp_path / "w2", out=out)
    trained = logits_of(loaded)
    (folder,) = out.iterdir()
    assert folder.name == "model"
    torch.testing.assert_close(logits_of(load_model(folder, max_length=64)), trained, rtol=0, atol=1e-5)


def test_bfloat16_starts_at_its_own_reference(load_tiny: Load, tmp_path: Path) -> None:
    settings = part("npo_klr", bf16=True, max_steps=1)
    train(load_tiny(max_length=64), job(settings), work=tmp_path / "work", out=tmp_path)
    (entry,) = log_of(tmp_path / "work")
    # Sums of bfloat16 log-probs differ by up to about 0.1 between batches of different shape: 0.1 nats weigh 0.1 here.
    assert entry["forget_loss"] == pytest.approx(20 * math.log(2), abs=0.2)
    assert entry["retain_loss"] < 1e-3


def test_finetuning_learns(load_tiny: Load, tmp_path: Path) -> None:
    learn = TrainPart(lr=5e-3, epochs=30, checkpoint_minutes=60)
    facts = train(
        load_tiny(max_length=64), finetune_job("f", FORGET, learn, epochs=30, seed=0), work=tmp_path / "w", out=tmp_path
    )
    losses = [entry["loss"] for entry in log_of(tmp_path / "w")]
    assert losses[-1] < 0.5 * losses[0]
    assert facts["steps"] == 30
    assert run_module.default_lr(load_tiny().model, "full", finetune=True) == 2e-4
    assert run_module.default_lr(load_tiny().model, "adapter", finetune=False) == 4e-4


def test_wandb_is_kept_from_copying_the_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The console ends with answers to forget questions; a tracker that copies it would carry them away.
    finished: list[bool] = []
    stand_in = SimpleNamespace(finish=lambda: finished.append(True))
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    device = torch.device("cpu")
    training_arguments(TrainPart(track="wandb"), folder=tmp_path, num_steps=1, lr=1e-4, seed=0, device=device)
    assert os.environ["WANDB_CONSOLE"] == "off"
    close_tracker("wandb")
    close_tracker("none")
    assert finished == [True]
