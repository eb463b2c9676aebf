"""Embedding and head of one weight: one gradient, the same numbers, and a model that is left as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import make_llama
from expunge.data.tree import PackedTree, TokenSequence
from expunge.models.forward import labelled_rows
from expunge.models.tied import one_gradient
from expunge.models.tree_attention import TREE_ATTENTION, tree_logits

SEQUENCES = [TokenSequence((5, 6, 7, 8, 5, 9), 3), TokenSequence((5, 6, 0, 8, 12, 13, 5), 4)]


def tied_model(**settings: Any) -> Any:
    torch.manual_seed(0)
    model = make_llama(tie_word_embeddings=True, **settings)
    model.set_attn_implementation(TREE_ATTENTION)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model


def gradient(model: Any, monkeypatch: pytest.MonkeyPatch, *, plain: bool) -> dict[str, Tensor]:
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr("expunge.models.tied._tied", lambda model: None)
        model.zero_grad()
        rows = labelled_rows(model, SEQUENCES, packed=True)
        (rows.logps * torch.tensor([1.0, -0.5])).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_values_and_gradients_are_those_of_two(padding: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tied_model()
    model.model.embed_tokens.padding_idx = padding
    ours, two = (gradient(model, monkeypatch, plain=plain) for plain in (False, True))
    assert ours.keys() == two.keys()
    for name, expected in two.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-7, msg=name)
    tree = PackedTree.build(SEQUENCES)
    with torch.no_grad():
        expected = tree_logits(model, tree)
    assert torch.equal(tree_logits(model, tree), expected)


def test_gradients_accumulate_over_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tied_model()
    once = gradient(model, monkeypatch, plain=True)
    model.zero_grad()
    for s, weight in zip(SEQUENCES, (1.0, -0.5), strict=True):
        (labelled_rows(model, [s], packed=True).logps * weight).sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, once[name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_model_is_left_as_it_was() -> None:
    model = tied_model()
    before = copy.deepcopy(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    inside: list[Any] = []

    def fail() -> None:
        with one_gradient(model, torch.tensor([[5, 6]])):
            inside.append(model.lm_head.weight)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert not isinstance(inside[0], torch.nn.Parameter)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not model.model.embed_tokens._forward_hooks
    assert [name for name, _ in model.named_parameters()] == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_not_plain_and_tied_is_left_alone() -> None:
    def untouched(model: Any) -> bool:
        with one_gradient(model, torch.tensor([[5, 6]])):
            return "weight" not in model.get_output_embeddings().__dict__

    assert untouched(make_llama(tie_word_embeddings=False))
    frozen = tied_model()
    frozen.model.embed_tokens.weight.requires_grad_(False)
    assert untouched(frozen)
    with torch.no_grad():
        assert untouched(tied_model())
    scaled = tied_model()
    scaled.model.embed_tokens.scale_grad_by_freq = True
    assert untouched(scaled)

    class Other(torch.nn.Linear): ...

    special = tied_model()
    special.lm_head.__class__ = Other
    assert untouched(special)
    assert not untouched(tied_model())


def test_no_second_array_of_the_tables_size_is_made() -> None:
    model = tied_model(vocab_size=4000)
    rows = labelled_rows(model, SEQUENCES, packed=True)
    with torch.profiler.profile(profile_memory=True, record_shapes=True) as seen:
        rows.logps.sum().backward()
    assert not [e for e in seen.events() if e.name == "aten::embedding_dense_backward" and 4000 in e.input_shapes[0]]
    size = model.lm_head.weight.nbytes
    large = [e for e in seen.events() if e.self_cpu_memory_usage >= size and not e.name.startswith("autograd")]
    assert len(large) == 1, [e.name for e in large]
