"""The head on labelled rows against the stock model on separate padded sequences, and the memory that it takes.

The loss reads log-probs of one part and whole distributions of another, as a forget and a retain stream do.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import make_llama
from expunge.data.tree import TokenSequence
from expunge.losses import kl_divergence_loss, npo_loss
from expunge.losses.rows import CHUNK_NUMBERS
from expunge.models.forward import LabelledRows, labelled_rows
from expunge.models.tree_attention import TREE_ATTENTION

SEQUENCES = [
    TokenSequence((5, 6, 7, 8, 9, 10, 11), 4),
    TokenSequence((5, 6, 7, 8, 12, 13), 4),
    TokenSequence((20, 21, 22), 1),
    TokenSequence((5, 6, 7, 8, 9, 14), 5),
    TokenSequence(tuple(range(40, 55)), 3),
]
FORGET, RETAIN = 2, 3
REFERENCE_LOGPS = torch.tensor([-20.0, -11.0])


def make_gemma2() -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0, "sliding_window": 5}
    return Gemma2ForCausalLM(
        Gemma2Config(vocab_size=320, num_key_value_heads=2, head_dim=8, initializer_range=0.15, **shape, **caps)
    )


def with_lora_on_the_head() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    return get_peft_model(make_llama(tie_word_embeddings=False), config)


MODELS = {
    "tied": make_llama,
    "untied": lambda: make_llama(tie_word_embeddings=False),
    "lora": with_lora_on_the_head,
    "soft-capped": make_gemma2,
    "bfloat16": lambda: make_llama().bfloat16(),
    "float64": lambda: make_llama().double(),
}
# Of the norm of the whole gradient; in bfloat16 attention and products round by turns.
TOLERANCE = {"bfloat16": 3e-2}


def reference_logits(num_rows: int, width: int) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(1))


def separate_loss(model: Any) -> Tensor:
    """Each sequence alone, padded by three on the right, through the model's whole head; sums written out."""
    summed, divergence, seen = [], torch.zeros(()), 0
    num_rows = sum(s.num_labels for s in SEQUENCES[FORGET:])
    for index, s in enumerate(SEQUENCES):
        ids = torch.tensor([[*s.ids, 0, 0, 0]])
        logits = model(input_ids=ids, attention_mask=(torch.arange(ids.shape[1]) < len(s.ids)).long()[None]).logits[0]
        logits = logits[s.first_label - 1 : len(s.ids) - 1].double()
        logps = logits - logits.exp().sum(-1, keepdim=True).log()
        if index < FORGET:
            summed.append(sum(logps[n, token] for n, token in enumerate(s.labels)))
        else:
            target = reference_logits(num_rows, logits.shape[1]).double()[seen : seen + s.num_labels].softmax(-1)
            divergence = divergence + (target * (target.log() - logps)).sum()
            seen += s.num_labels
    ratios = torch.stack(summed) - REFERENCE_LOGPS.double()
    return 20 * (1 + (0.1 * ratios).exp()).log().sum() + divergence


def parts_loss(rows: LabelledRows) -> Tensor:
    forget, retain = rows.parts([FORGET, RETAIN])
    reference = reference_logits(*retain.logits.shape).to(retain.logits.dtype)
    npo = npo_loss(forget.logps, REFERENCE_LOGPS.to(forget.logps), beta=0.1, reduction="sum")
    return npo + kl_divergence_loss(retain.logits, reference, reduction="sum")


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_labelled_rows_are_separate_sequences(
    name: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[name]().train()
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 3 * 320)  # some rows a chunk, across the parts
    inner = model.get_base_model() if name == "lora" else model
    stock = copy.deepcopy(model)
    (stock.get_base_model() if name == "lora" else stock).set_attn_implementation("eager")
    inner.set_attn_implementation(TREE_ATTENTION)
    expected = separate_loss(stock)
    found = parts_loss(labelled_rows(model, SEQUENCES, packed=packed))
    tolerance = TOLERANCE.get(name, 1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)
    got, wanted = gradients(model, found), gradients(stock, expected)
    assert got.keys() == wanted.keys()
    assert any("lm_head" in key for key in got) or name not in ("untied", "lora")
    whole = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for key, gradient in wanted.items():
        assert float((got[key] - gradient).norm() / whole) <= tolerance, key


class Allocations(TorchDispatchMode):
    """Notes every operation that puts at least so many numbers into memory of their own."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.made: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = {t.untyped_storage().data_ptr() for t in given}
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and t.numel() >= self.numbers and t.untyped_storage().data_ptr() not in known:
                self.made.append(str(func))
        return out


LONG = [TokenSequence(tuple(range(10 * n, 10 * n + 30)), 5) for n in range(1, 5)]
"""25 labels each, too different to share a beginning."""


def test_a_step_makes_no_second_array_of_the_size_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    width = 4000
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 2 * width)
    model = make_llama(vocab_size=width).train()
    model.set_attn_implementation(TREE_ATTENTION)
    with Allocations(100 * width) as seen:
        forget, retain = labelled_rows(model, LONG, packed=True).parts([2, 2])
        (npo_loss(forget.logps, torch.zeros(2), beta=0.1).sum() - retain.per_token_logps.mean()).backward()
    assert len(seen.made) == 1, seen.made  # the logits
    reference = reference_logits(50, width)
    with Allocations(50 * width) as seen:
        forget, retain = labelled_rows(model, LONG, packed=True).parts([2, 2])
        (forget.logps.sum() + kl_divergence_loss(retain.logits, reference)).backward()
    assert len(seen.made) == 2, seen.made  # the logits, and the gradient of those that the divergence reads


def test_scoring_makes_nothing_but_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    width = 4000
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 2 * width)
    model = make_llama(vocab_size=width).bfloat16().eval()
    model.set_attn_implementation(TREE_ATTENTION)
    with torch.no_grad(), Allocations(50 * width) as seen:
        rows = labelled_rows(model, LONG, packed=True)
        assert rows.logps.dtype == torch.float32
    assert len(seen.made) == 1, seen.made
