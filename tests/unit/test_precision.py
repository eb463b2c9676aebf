"""bfloat16 autocast: when it is used, and what stays in float32 under it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import colour_rows
from expunge.losses import token_logps
from expunge.models.load import LoadedModel, load_model
from expunge.models.reference import compute_reference
from expunge.recipe import ModelPart, Recipe, TrainPart, UnlearnPart
from expunge.scopes import make_scope
from expunge.training import precision
from expunge.training.precision import bf16_note, uses_bf16

Load = Callable[..., LoadedModel]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SAM, GRU = ({"kind": "sam"},), ({"kind": "gru"},)


@pytest.mark.parametrize(
    ("asked", "device", "dtype", "rules", "fast", "expected"),
    [
        (None, GPU, torch.float32, (), True, True),
        (None, GPU, torch.float32, (), False, False),
        (None, GPU, torch.bfloat16, (), True, True),
        (None, GPU, torch.float16, (), True, False),
        (None, GPU, torch.float32, SAM, True, False),
        (None, GPU, torch.float32, GRU, True, True),
        (None, CPU, torch.float32, (), True, False),
        (True, CPU, torch.float32, (), False, True),
        (True, GPU, torch.float32, SAM, True, True),
        (False, GPU, torch.float32, (), True, False),
    ],
)
def test_it_is_on_as_asked_or_on_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
    asked: bool | None,
    device: torch.device,
    dtype: torch.dtype,
    rules: Any,
    fast: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: fast)
    assert uses_bf16(asked, device, dtype, rules) is expected


def test_what_was_chosen_or_will_be_slow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bf16=false turns it off" in bf16_note(None, True, GPU)
    assert bf16_note(None, False, CPU) == ""
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    assert bf16_note(True, True, CPU).startswith("warning: bf16 is slow on this CPU")
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    assert bf16_note(True, True, CPU) == ""


def test_log_probs_are_float32_whatever_the_logits_are() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = token_logps(logits, torch.arange(5))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.log_softmax(logits.float(), -1)[torch.arange(5), torch.arange(5)])


def test_gates_are_float32_under_autocast(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    model = make_scope({"kind": "gated", "layers": [1]}).attach(loaded.model).train()
    edit = next(m for m in model.modules() if type(m).__name__ == "GatedEdit")
    states = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = edit(states)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        change, logits = edit(states)
    assert change.dtype == logits.dtype == torch.float32
    assert torch.equal(change, expected[0])
    assert torch.equal(logits, expected[1])


def test_a_reference_is_kept_for_each_precision(load_tiny: Load, tmp_path: Path) -> None:
    loaded = load_tiny(max_length=64)
    rows = [loaded.format.encode(row) for row in colour_rows()]
    plain = compute_reference(loaded, rows, rows, cache=tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = compute_reference(loaded, rows, rows, cache=tmp_path)
        again = compute_reference(loaded, rows, rows, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert half.logps == again.logps != plain.logps
    assert half.logps[rows[0]] == pytest.approx(plain.logps[rows[0]], rel=0.02)


def test_what_is_left_open_leaves_stage_keys_as_they_were(tmp_path: Path, model_folder: Path) -> None:
    from expunge.benchmarks.base import Benchmark
    from expunge.pipeline.run import Plan
    from expunge.pipeline.stages import StageStore

    def key(part: TrainPart) -> dict[str, Any]:
        recipe = Recipe(model=ModelPart(path=str(model_folder), device="cpu"))
        plan = Plan(recipe, Benchmark(name="t", forget=colour_rows()), StageStore(tmp_path))
        return plan._weight_parts(part, "origin")

    usual = key(TrainPart())
    assert usual == key(TrainPart(bf16=False, micro_batch_tokens=384)) == key(TrainPart(checkpoint_activations=True))
    assert usual["part"]["bf16"] is False
    assert usual["part"]["micro_batch_tokens"] == 384
    assert usual != key(TrainPart(bf16=True))


def test_weights_go_into_fewer_bits_on_their_way(model_folder: Path) -> None:
    seen: list[Any] = []
    loaded = load_model(model_folder, device="cpu", quantise=lambda model, device: seen.append((model, device)))
    assert seen == [(loaded.model, CPU)]


def test_an_optimiser_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.errors import RecipeError
    from expunge.pipeline.checks import check_recipe
    from expunge.training import trainer

    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    recipe = Recipe(unlearn=UnlearnPart(optimizer="paged_adamw_8bit"))
    with pytest.raises(RecipeError, match=r"'paged_adamw_8bit' needs the package bitsandbytes: pip install"):
        check_recipe(recipe)
    with pytest.raises(RecipeError, match=r"unknown optimizer 'adamw' \(did you mean"):
        check_recipe(Recipe(unlearn=UnlearnPart(optimizer="adamw")))
    monkeypatch.setattr(trainer, "find_spec", lambda name: object())
    trainer.check_optimizer("paged_adamw_8bit")
    trainer.check_optimizer("adamw_torch_8bit")
