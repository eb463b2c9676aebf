"""Computing activations again, and smaller passes, change no gradient; chosen where memory is short, and said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import city_rows, colour_rows, make_llama
from expunge.data.tree import TokenSequence
from expunge.errors import RecipeError
from expunge.methods.table import compose
from expunge.models.checkpointing import can_checkpoint, compute_again, keep_all
from expunge.models.forward import labelled_rows
from expunge.models.gated import gates_of
from expunge.models.load import LoadedModel
from expunge.models.tree_attention import TREE_ATTENTION
from expunge.recipe import UnlearnPart
from expunge.scopes import make_scope
from expunge.training import sizing
from expunge.training.job import Job, unlearn_job
from expunge.training.memory import CHOSEN
from expunge.training.run import prepare, train

Load = Callable[..., LoadedModel]
# The first prompt is a beginning of the second: gates send the two through different trees.
ROWS = [
    TokenSequence((5, 6, 7, 8, 9, 10), 3),
    TokenSequence((5, 6, 7, 11, 12, 13), 4),
    TokenSequence((14, 15, 16, 17, 18), 2),
]
SCOPES: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "rank": 2},
    "gated": {"kind": "gated", "layers": [0, 1]},
    "layers": {"kind": "layers", "pattern": "mlp", "layers": [1]},
}


def model_with(scope: str) -> Any:
    torch.manual_seed(0)
    model = make_llama(num_hidden_layers=3)
    model.set_attn_implementation(TREE_ATTENTION)
    model = make_scope(SCOPES[scope]).attach(model).train()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return model


def gradients(model: Any, *, layer: int | None = None, packed: bool = True) -> dict[str, torch.Tensor]:
    model.zero_grad()
    rows = labelled_rows(model, ROWS, packed=packed, layer=layer, head=layer is None)
    loss = rows.logps.sum() if rows.hidden is None else rows.hidden.square().sum()
    if rows.gates is not None:
        loss = loss + rows.gates.square().sum()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("scope", SCOPES)
def test_gradients_are_those_without(scope: str) -> None:
    model = model_with(scope)
    for packed in (True, False):
        expected = gradients(model, packed=packed)
        compute_again(model)
        assert_same(gradients(model, packed=packed), expected)
        keep_all(model)
    assert_same(gradients(model), gradients(model))


def test_a_pass_that_ends_at_a_layer_has_the_same_gradient() -> None:
    model = model_with("full")
    expected = gradients(model, layer=1)
    compute_again(model)
    assert_same(gradients(model, layer=1), expected)


def test_each_block_keeps_its_input_alone() -> None:
    model = model_with("full")
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[-1] += tensor.nbytes
        return tensor

    for switch in (keep_all, compute_again):
        switch(model)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            labelled_rows(model, ROWS, packed=True)
    assert kept[1] < 0.3 * kept[0]


def test_no_gradient_is_sent_down_through_frozen_blocks() -> None:
    model = model_with("layers")
    compute_again(model)
    seen: list[torch.Tensor] = []
    hook = model.model.layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    labelled_rows(model, ROWS, packed=True)
    hook.remove()
    assert not seen[0].requires_grad


def test_a_block_that_runs_again_is_edited_where_it_was() -> None:
    # Versions of transformers differ in whether the hooks of a block run again with it.
    edits = gates_of(model_with("gated"))
    assert edits is not None
    edits._where = first = (torch.tensor([0]), torch.tensor([2]), torch.tensor([0]))
    _, again = edits.same_places()
    edits._where = second = (torch.tensor([0]), torch.tensor([4]), torch.tensor([0]))
    edits._logits = {("0", 0): torch.tensor([1.0])}
    with again:
        assert edits._where is first
        edits._logits["0", 0] = torch.tensor([2.0])
    assert edits._where is second
    assert edits._logits["0", 0] == 1.0


def test_an_architecture_that_cannot_is_refused_by_name() -> None:
    model = make_llama()
    model.supports_gradient_checkpointing = False
    assert not can_checkpoint(model)
    with pytest.raises(RecipeError, match="checkpoint_activations: LlamaForCausalLM does not support it"):
        compute_again(model)
    keep_all(model)


# -- in a run ------------------------------------------------------------------------------------------------------


def job(**settings: Any) -> Job:
    usual: dict[str, Any] = {"lr": 1e-3, "optimizer": "sgd", "batch_size": 4, "max_steps": 2, "checkpoint_minutes": 60}
    part = UnlearnPart(**{"method": "npo", **usual, **settings})
    composition = compose(part, has_retain=True)
    return unlearn_job("t", composition, part, forget=colour_rows(), retain=city_rows(), seed=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in sorted(folder.rglob("*.safetensors")) for k, v in load_file(file).items()}


def run(load_tiny: Load, folder: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    loaded = load_tiny(max_length=64)
    facts = train(loaded, job(**settings), work=folder / "work", out=folder)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in loaded.model.modules())
    return facts, weights(folder)


def test_a_short_memory_changes_the_way_and_not_the_result(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = prepare(load_tiny(max_length=64), job(), work=None).passes
    assert plain.need is not None
    assert not plain.checkpoint_activations
    expected = run(load_tiny, tmp_path / "plain")[1]
    capsys.readouterr()
    # A little less than is wanted: activations are computed again.
    monkeypatch.setattr(sizing, "free_memory", lambda device: int(plain.need.growth / 0.9) - 1)
    facts, found = run(load_tiny, tmp_path / "again")
    assert (facts["checkpoint_activations"], facts["micro_batch_tokens"], facts["bf16"]) == (True, 1536, False)
    assert "activations are computed again in the backward pass; same result, slower" in capsys.readouterr().err
    assert_same(found, expected)
    # Much less: the smallest passes, and a warning that names what would help.
    monkeypatch.setattr(sizing, "free_memory", lambda device: 1000)
    facts, found = run(load_tiny, tmp_path / "least")
    assert (facts["checkpoint_activations"], facts["micro_batch_tokens"]) == (True, 96)
    assert "warning: about 0.00 GB are needed and 0.00 GB are free" in capsys.readouterr().err
    assert_same(found, expected)


def test_what_a_run_chose_holds_when_it_goes_on(
    load_tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "free_memory", lambda device: 1000)
    first = prepare(load_tiny(max_length=64), job(), work=tmp_path).passes
    assert (tmp_path / CHOSEN).is_file()
    monkeypatch.setattr(sizing, "free_memory", lambda device: 1 << 40)
    again = prepare(load_tiny(max_length=64), job(), work=tmp_path).passes
    assert again.choices == first.choices == {"micro_batch_tokens": 96, "checkpoint_activations": True}
    asked = prepare(load_tiny(max_length=64), job(micro_batch_tokens=200), work=tmp_path).passes
    assert asked.micro_batch_tokens == 200


def test_a_model_of_unknown_sizes_trains_all_the_same(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing.ModelShape, "of", lambda model: model.no_such_thing)
    passes = prepare(load_tiny(max_length=64), replace(job()), work=None).passes
    assert (passes.micro_batch_tokens, passes.need) == (1536, None)
