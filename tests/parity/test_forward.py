"""One packed tree against separate sequences and against a padded batch, on every family of architecture we can build.

The reference here is plain: each sequence alone through the stock ``sdpa`` or ``eager`` model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from conftest import make_llama, make_tokenizer, save_model
from expunge.data.tree import PackedTree, TokenSequence
from expunge.models.forward import head_inputs, labelled_rows
from expunge.models.load import load_model
from expunge.models.tree_attention import TREE_ATTENTION, tree_logits, tree_works

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
HEADED = GROUPED | {"head_dim": 8}
GPT2 = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.15,
        "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", GROUPED),
    "qwen3": ("Qwen3", HEADED),
    "gemma": ("Gemma", HEADED),
    "gemma2": ("Gemma2", HEADED | {"sliding_window": 5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}),
    "gemma3": ("Gemma3", HEADED | {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt2": ("GPT2", GPT2),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 5}),
    "phi": ("Phi", GROUPED | {"resid_pdrop": 0.0}),
    "phi3": ("Phi3", GROUPED | {"resid_pdrop": 0.0}),
    "opt": ("OPT", SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0}),
    "gpt_neox": ("GPTNeoX", SMALL | {"hidden_dropout": 0.0, "attention_dropout": 0.0}),
    "olmo2": ("Olmo2", GROUPED),
}
CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}

# A question with two answers, an unrelated row, a prefix of another row, and one longer than every window.
SEQUENCES = [
    TokenSequence((5, 6, 7, 8, 9, 10, 11), 4),
    TokenSequence((5, 6, 7, 8, 12, 13), 4),
    TokenSequence((20, 21, 22), 1),
    TokenSequence((5, 6, 7, 8, 9, 14), 5),
    TokenSequence(tuple(range(40, 55)), 3),
]


def build(name: str) -> Any:
    kind, settings = CONFIGS[name]
    config_name, model_name = CLASSES.get(kind, (f"{kind}Config", f"{kind}ForCausalLM"))
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**settings))
    # Biases and norms start at 0 or 1, where mistakes in them do not show.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def stock(model: Any, implementation: str) -> Any:
    twin = copy.deepcopy(model)
    twin.set_attn_implementation(implementation)
    return twin


def separate_logps(model: Any, sequences: list[TokenSequence]) -> torch.Tensor:
    """Each sequence alone, by the model as transformers ships it."""
    parts = []
    for s in sequences:
        log_probs = torch.log_softmax(model(torch.tensor([s.ids]), use_cache=False).logits[0].float(), -1)
        rows = torch.arange(s.first_label - 1, len(s.ids) - 1)
        parts.append(log_probs[rows, torch.tensor(s.ids[s.first_label :])])
    return torch.cat(parts)


def gradients(model: Any, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    # Unequal weights, so that a swap of two labels shows.
    (logps * torch.linspace(0.5, 1.5, len(logps))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close_gradients(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    whole = torch.cat([g.flatten() for g in expected.values()]).norm()
    for name, gradient in expected.items():
        assert float((got[name] - gradient).norm() / whole) <= 1e-5, name


BLOCKS: dict[str, dict[str, float]] = {
    "as they come": {},
    "one block": {"WORTH": 99, "SMALL": 9999},
    "many blocks": {"WORTH": 99, "SMALL": 0, "FILLED": 1.1, "LONGEST_STRETCH": 6},
}


@pytest.mark.parametrize("blocks", ["as they come", pytest.param("one block", marks=pytest.mark.slow), "many blocks"])
@pytest.mark.parametrize("name", CONFIGS)
def test_packed_is_separate_is_padded(name: str, blocks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, value in BLOCKS[blocks].items():
        monkeypatch.setattr(f"expunge.data.blocks.{setting}", value)
    model = build(name).train()
    reference = stock(model, "eager" if name in ("gemma2", "gemma3") else "sdpa")
    expected = separate_logps(reference, SEQUENCES)
    wanted = gradients(reference, expected)
    model.set_attn_implementation(TREE_ATTENTION)
    assert tree_works(model) == ""
    for packed in (True, False):
        rows = labelled_rows(model, SEQUENCES, packed=packed)
        torch.testing.assert_close(rows.per_token_logps, expected, rtol=0, atol=1e-5)
        assert_close_gradients(gradients(model, rows.per_token_logps), wanted)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_nothing(reentrant: bool) -> None:
    model = build("llama").train()
    wanted = gradients(twin := stock(model, "sdpa"), separate_logps(twin, SEQUENCES))
    model.set_attn_implementation(TREE_ATTENTION)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    got = gradients(model, labelled_rows(model, SEQUENCES, packed=True).per_token_logps)
    assert_close_gradients(got, wanted)


def test_lora_on_a_tree() -> None:
    from expunge.scopes.lora import LoraScope

    model = LoraScope(rank=4).attach(build("llama")).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    twin = copy.deepcopy(model)
    twin.get_base_model().set_attn_implementation("sdpa")
    expected = separate_logps(twin, SEQUENCES)
    wanted = gradients(twin, expected)
    assert wanted
    assert all("lora_" in name for name in wanted)
    model.get_base_model().set_attn_implementation(TREE_ATTENTION)
    got = labelled_rows(model, SEQUENCES, packed=True).per_token_logps
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    assert_close_gradients(gradients(model, got), wanted)


@pytest.fixture(scope="module")
def tree_llama() -> Any:
    model = build("llama").eval()
    model.set_attn_implementation(TREE_ATTENTION)
    return model


@pytest.mark.parametrize("packed", [True, False])
def test_order_of_sequences_changes_nothing(tree_llama: Any, packed: bool) -> None:
    order = [3, 0, 4, 2, 1]
    with torch.no_grad():
        plain = labelled_rows(tree_llama, SEQUENCES, packed=packed).logps
        turned = labelled_rows(tree_llama, [SEQUENCES[i] for i in order], packed=packed).logps
    torch.testing.assert_close(turned, plain[order], rtol=0, atol=1e-5)


def test_amount_of_padding_changes_nothing(tree_llama: Any) -> None:
    short = SEQUENCES[2]
    with torch.no_grad():
        alone = labelled_rows(tree_llama, [short], packed=False).per_token_logps
        beside = [
            labelled_rows(tree_llama, [short, TokenSequence(tuple(range(30, 30 + n)), 1)], packed=False)
            for n in (4, 9, 30)
        ]
    for rows in beside:
        torch.testing.assert_close(rows.per_token_logps[:2], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_parts_are_the_rows_of_their_sequences(tree_llama: Any, packed: bool) -> None:
    rows = labelled_rows(tree_llama, SEQUENCES, packed=packed)
    first, part, last = rows.parts([1, 3, 1])
    assert [p.num_sequences for p in (first, part, last)] == [1, 3, 1]
    assert part.sequence.tolist() == [0, 0, 1, 1, 2]  # 2, 2 and 1 labels
    assert part.num_tokens.tolist() == [2, 2, 1]
    torch.testing.assert_close(part.logps, rows.logps[1:4])
    torch.testing.assert_close(part.logits, rows.logits[rows.num_tokens[0] : rows.num_tokens[:4].sum()])
    assert part.labels.tolist() == [12, 13, 21, 22, 14]


def test_parts_of_a_pass_that_ended_below_the_head(tree_llama: Any) -> None:
    rows = labelled_rows(tree_llama, SEQUENCES, packed=True, layer=0, head=False)
    first, part = rows.parts([1, 4])
    assert rows.hidden is not None
    assert part.hidden is not None
    assert torch.equal(part.hidden, rows.hidden[rows.num_tokens[0] :])
    assert len(first.logits) == len(part.logits) == 0


def test_head_inputs_are_collected_only_inside_the_block(tree_llama: Any) -> None:
    with head_inputs(tree_llama) as seen, torch.no_grad():
        labelled_rows(tree_llama, SEQUENCES[:1], packed=True)
    labelled_rows(tree_llama, SEQUENCES[:1], packed=True)
    assert [tuple(t.shape) for t in seen] == [(1, 3, 32)]  # the head sees the three labelled rows alone


def test_attention_dropout_is_refused_on_a_tree() -> None:
    model = make_llama(attention_dropout=0.5).train()
    model.set_attn_implementation(TREE_ATTENTION)
    with pytest.raises(ValueError, match="set attention_dropout to 0"):
        tree_logits(model, PackedTree.build(SEQUENCES))


# -- architectures that cannot, and say so --------------------------------------------------------------------------

UNABLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "falcon": ("FalconConfig", "FalconForCausalLM", SMALL),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", GPT2 | {"rotary_dim": 4, "resid_pdrop": 0.3}),
    "bloom": ("BloomConfig", "BloomForCausalLM", {"vocab_size": 320, "hidden_size": 32, "n_layer": 2, "n_head": 4,
                                                  "hidden_dropout": 0.3, "initializer_range": 0.15}),
    "stablelm": ("StableLmConfig", "StableLmForCausalLM", GROUPED | {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    "mamba": ("MambaConfig", "MambaForCausalLM", {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2,
                                                  "state_size": 4, "initializer_range": 0.15}),
}  # fmt: skip


@pytest.mark.parametrize("name", UNABLE)
def test_unable_architectures_fall_back_with_one_note(name: str, tmp_path: Path) -> None:
    config_name, model_name, settings = UNABLE[name]
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**settings))
    save_model(tmp_path / name, model, make_tokenizer())
    loaded = load_model(tmp_path / name, max_length=64)
    assert not loaded.packed
    assert len([note for note in loaded.notes if "cannot take packed trees" in note]) == 1
    expected = separate_logps(model.eval(), SEQUENCES)
    # In training mode too: whatever dropout the architecture has is off.
    got = labelled_rows(loaded.model.train(), SEQUENCES, packed=loaded.packed).per_token_logps
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt"])
def test_able_architectures_take_trees_when_loaded(name: str, tmp_path: Path) -> None:
    if name == "opt":
        # Dropout at its usual 0.1: loading must turn it off, or nothing below agrees in training mode.
        torch.manual_seed(0)
        settings = SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.1, "attention_dropout": 0.1}
        model = transformers.OPTForCausalLM(transformers.OPTConfig(**settings))
    else:
        model = build(name)
    save_model(tmp_path / name, model, make_tokenizer())
    loaded = load_model(tmp_path / name, max_length=64)
    expected = separate_logps(stock(model, "eager").eval(), SEQUENCES)
    got = labelled_rows(loaded.model.train(), SEQUENCES, packed=loaded.packed).per_token_logps
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
    assert loaded.packed
    assert not any("packed trees" in note for note in loaded.notes)


def test_a_model_that_is_wrong_in_one_layer_is_found_out() -> None:
    model = make_llama()
    model.set_attn_implementation(TREE_ATTENTION)
    layer: Any = model.model.layers[1].self_attn
    forward: Callable[..., Any] = layer.forward
    layer.forward = lambda *args, tree=None, **kwargs: forward(*args, **kwargs)  # swallows the tree
    assert "1 of its 2 layers" in tree_works(model) or "refuses" in tree_works(model)
