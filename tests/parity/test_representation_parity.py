"""RMU's losses against a naive loop, numerically and on whole models; and what of the model is computed for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.losses import adaptive_rmu_loss, hidden_mse_loss, rmu_loss
from expunge.methods.table import compose
from expunge.methods.terms.representation import rmu_direction
from expunge.models.forward import labelled_rows
from expunge.models.layers import decoder_layers
from expunge.models.load import LoadedModel
from expunge.recipe import UnlearnPart
from expunge.training.job import unlearn_job
from expunge.training.run import Prepared, prepare

Load = Callable[..., LoadedModel]
FORGET, RETAIN = colour_rows(), city_rows()


def states(seed: int) -> torch.Tensor:
    return torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(hidden: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
    total = torch.zeros((), dtype=hidden.dtype)
    for state, target in zip(hidden, targets, strict=True):
        for value, wanted in zip(state, target, strict=True):
            total = total + (value - wanted) ** 2 / len(state)
    return total


def test_values_and_gradients_are_those_of_a_loop() -> None:
    u = rmu_direction(3.0, 7).double()
    reference = states(1)
    lengths = [sum(float(v) ** 2 for v in row) ** 0.5 for row in reference]
    cases: list[tuple[Callable[[torch.Tensor], torch.Tensor], list[torch.Tensor]]] = [
        (lambda h: rmu_loss(h, u, coefficient=4.0, reduction="sum"), [4.0 * u] * 5),
        (lambda h: adaptive_rmu_loss(h, reference, u, scale=3.0, reduction="sum"), [3.0 * n * u for n in lengths]),
        (lambda h: hidden_mse_loss(h, reference, reduction="sum"), list(reference)),
    ]
    for loss, targets in cases:
        ours, theirs = states(0).requires_grad_(), states(0).requires_grad_()
        found, expected = loss(ours), naive(theirs, targets)
        found.backward()
        expected.backward()
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
        assert torch.autograd.gradcheck(loss, (states(2).requires_grad_(),))


def test_the_reference_gets_no_gradient_from_its_length() -> None:
    u, reference = rmu_direction(0.0, 7).double(), states(1)
    rows = adaptive_rmu_loss(states(0), reference, u, scale=3.0, reduction="none")
    changed = reference.clone()
    changed[2] *= 10
    others = adaptive_rmu_loss(states(0), changed, u, scale=3.0, reduction="none")
    assert torch.equal(rows[[0, 1, 3, 4]], others[[0, 1, 3, 4]])
    assert rows[2] != others[2]


# -- on models ---------------------------------------------------------------------------------------------------------


def prepared(loaded: LoadedModel, **changes: Any) -> Prepared:
    settings: dict[str, Any] = {"method": "rmu", "scope": {"kind": "full"}, "layer": 0, "batch_size": 6, "epochs": 1}
    part = UnlearnPart(**settings | changes)
    job = unlearn_job("t", compose(part, has_retain=True), part, forget=FORGET, retain=RETAIN, seed=0)
    return prepare(loaded, job)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layer", [0, 1])
def test_hidden_states_are_those_of_transformers(load_tiny: Load, layer: int, packed: bool) -> None:
    loaded = load_tiny(max_length=64)
    sequences = [loaded.format.encode(row) for row in (*FORGET, *RETAIN)]
    with torch.no_grad():
        found = labelled_rows(loaded.model, sequences, packed=packed, layer=layer, head=False)
    assert found.hidden is not None
    # transformers norms its last hidden states; the block's own output is what comes in there.
    norm = torch.nn.Identity()
    loaded.model.model.norm = norm
    first = 0
    for sequence in sequences:
        with torch.no_grad():
            output = loaded.model(torch.tensor([sequence.ids]), output_hidden_states=True, use_cache=False)
        expected = output.hidden_states[layer + 1][0, sequence.first_label - 1 : len(sequence.ids) - 1]
        last = first + sequence.num_labels
        torch.testing.assert_close(found.hidden[first:last], expected, rtol=1e-4, atol=1e-5)
        first = last


@pytest.mark.parametrize("method", ["rmu", "adaptive_rmu"])
def test_nothing_above_the_layer_is_computed_or_moved(load_tiny: Load, method: str) -> None:
    loaded = load_tiny(max_length=64)
    run = prepared(loaded, method=method, scope={"kind": "lora", "rank": 2})
    calls = {"below": 0, "above": 0, "head": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    blocks = decoder_layers(run.model)
    blocks[0].register_forward_hook(count("below"))
    blocks[1].register_forward_hook(count("above"))
    run.model.get_output_embeddings().register_forward_hook(count("head"))
    losses = run.objective.backward(run.model, run.streams.units(0), lambda loss: loss.backward())
    assert calls["below"] > 0
    assert calls["above"] == calls["head"] == 0
    assert losses["retain"] == pytest.approx(0.0, abs=1e-6)
    for name, parameter in run.model.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad is not None) == (".layers.0." in name), name


def test_another_term_brings_the_head_back(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    assert prepared(loaded).objective.head is False
    assert prepared(load_tiny(max_length=64), retain_term="nll").objective.head is True
    assert prepared(load_tiny(max_length=64), forget_term="0.5*rmu+npo").objective.head is True


def test_a_step_is_the_loop_over_its_rows(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    run = prepared(loaded, method="rmu", alpha=3.0, term={"steering_coeff": 2.0})
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.01)
    start = load_tiny(max_length=64).model
    run.model.zero_grad()
    losses = run.objective.backward(run.model, run.streams.units(0), lambda loss: loss.backward())
    gradient = {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    u = rmu_direction(0.0, 32)
    sums = {"forget": torch.zeros(()), "retain": torch.zeros(())}
    counts = {"forget": 0, "retain": 0}
    for unit in run.streams.units(0):
        sequence = unit.answers["answer"]
        hidden = _block(run.model, sequence)
        targets = [2.0 * u] * len(hidden) if unit.stream == "forget" else list(_block(start, sequence).detach())
        sums[unit.stream] = sums[unit.stream] + naive(hidden, targets)
        counts[unit.stream] += len(hidden)
    forget, retain = sums["forget"] / counts["forget"], 3.0 * sums["retain"] / counts["retain"]
    (forget + retain).backward()
    assert losses["forget"] == pytest.approx(forget.item(), rel=1e-5)
    assert losses["retain"] == pytest.approx(retain.item(), rel=1e-4)
    for name, parameter in run.model.named_parameters():
        if name in gradient:
            torch.testing.assert_close(parameter.grad, gradient[name], rtol=1e-3, atol=1e-6)


def _block(model: Any, sequence: Any) -> torch.Tensor:
    """Output of block 0 of one sequence alone, at the positions that predict its labels."""
    output = model(torch.tensor([sequence.ids]), output_hidden_states=True, use_cache=False)
    return output.hidden_states[1][0, sequence.first_label - 1 : len(sequence.ids) - 1]
