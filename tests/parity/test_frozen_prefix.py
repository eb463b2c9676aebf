"""A pass that goes on from kept states against every sequence alone through the stock model: values and gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from conftest import make_llama
from expunge.data.tree import PackedTree, TokenSequence
from expunge.models.forward import labelled_rows
from expunge.models.frozen_prefix import FrozenPrefix, first_moving_block
from expunge.models.gated import gates_of
from expunge.models.layers import decoder_layers
from expunge.models.load import _switch_to_trees
from expunge.models.tree_attention import TREE_ATTENTION
from expunge.scopes.full import FullScope
from expunge.scopes.gated import GatedScope
from expunge.scopes.layers import LayersScope
from expunge.scopes.lora import LoraScope

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", SMALL),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", SMALL),
    "mistral": ("MistralConfig", "MistralForCausalLM", SMALL | {"sliding_window": 5}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", SMALL | {
        "head_dim": 8, "sliding_window": 5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {
        "vocab_size": 320, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "initializer_range": 0.15,
        "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": ("OPTConfig", "OPTForCausalLM", {k: v for k, v in SMALL.items() if "key" not in k} | {
        "ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "attention_dropout": 0.0}),
}  # fmt: skip

# A question with two answers, a single token before its answer, the beginning of another question, a long one, a
# question that goes on from a whole row, and an answer with tokens that are not supervised, its first among them.
SEQUENCES = [
    TokenSequence((5, 6, 7, 8, 9, 10, 11), 4),
    TokenSequence((5, 6, 7, 8, 12, 13), 4),
    TokenSequence((20, 21, 22), 1),
    TokenSequence((5, 6, 7, 30, 31, 14), 5),
    TokenSequence(tuple(range(40, 55)), 9),
    TokenSequence((5, 6, 7, 8, 9, 10, 11, 17, 18), 7),
    TokenSequence((5, 6, 33, 34, 35, 36), 3, frozenset({3})),
]


def build(name: str) -> Any:
    config, model, settings = CONFIGS[name]
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, config)(**settings))
    # Biases and norms start at 0 or 1, where mistakes in them do not show.
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    made.set_attn_implementation(TREE_ATTENTION)
    return made.train()


def shake(model: Any) -> Any:
    """Move everything trainable away from its start, where edits and adapters do nothing."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    return model


def upper(number: int = 2) -> Callable[[Any], Any]:
    return lambda model: LayersScope(layers=tuple(range(number, 4))).attach(model)


def alone(model: Any, layer: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Each sequence by itself, in a padded batch of one: log-probs, and hidden states of a layer."""
    found = [labelled_rows(model, [s], packed=False, layer=layer) for s in SEQUENCES]
    hidden = [rows.hidden for rows in found if rows.hidden is not None]
    return torch.cat([rows.per_token_logps for rows in found]), torch.cat(hidden) if hidden else None


def gradients(model: Any, values: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    # Unequal weights, so that a swap of two rows shows.
    (values * torch.linspace(0.5, 1.5, len(values)).view(-1, *[1] * (values.dim() - 1))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model: Any, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)
    found, wanted = gradients(model, got), gradients(model, expected)
    assert found.keys() == wanted.keys()
    assert wanted
    whole = torch.cat([g.flatten() for g in wanted.values()]).norm()
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm() / whole) <= 1e-5, name


def filled(model: Any, layer: int | None = None) -> FrozenPrefix:
    """Of the starting weights, in two packs; then the weights move, as training moves them."""
    prefix = FrozenPrefix.of(model, layer)
    assert prefix is not None
    assert prefix.trial(SEQUENCES[:4]) == ""
    prefix.fill(SEQUENCES[4:])
    shake(model)
    return prefix


def forbid(model: Any, *blocks: int) -> None:
    """Make some blocks' own forward an error, from now on."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a frozen block was run")

    for number in blocks:
        for child in decoder_layers(model)[number].children():
            child.forward = fail


# -- whole sequences: layers, adapters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_upper_blocks_give_what_the_whole_model_gives(name: str) -> None:
    model = upper()(build(name))
    prefix = filled(model)
    assert (prefix.start, prefix.edited) == (2, False)
    expected, _ = alone(model)
    got = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps
    assert_same(model, got, expected)
    with torch.no_grad():
        forbid(model, 0, 1)
        # Packs of other members than they were kept in, in another order.
        for order in ([6, 5, 4], [1, 0], [3]):
            part = labelled_rows(model, [SEQUENCES[i] for i in order], packed=True, prefix=prefix)
            sizes = [s.num_labels for s in SEQUENCES]
            wanted = torch.cat([expected.split(sizes)[i] for i in order])
            torch.testing.assert_close(part.per_token_logps, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_adapters_on_upper_blocks(name: str) -> None:
    places = r".*\.(2|3)\..*(q_proj|down_proj|c_attn)"
    model = LoraScope(rank=2, target_modules=places).attach(build(name)).train()
    prefix = filled(model)
    assert prefix.start == 2
    expected, _ = alone(model)
    assert_same(model, labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps, expected)
    forbid(model, 0, 1)
    labelled_rows(model, SEQUENCES, packed=True, prefix=prefix)


@pytest.mark.parametrize(("layer", "start"), [(0, 1), (1, 2), (2, 2), (3, 2)])
@pytest.mark.parametrize("head", [True, False])
def test_a_layer_that_terms_read(layer: int, start: int, head: bool) -> None:
    model = upper()(build("llama"))
    prefix = filled(model, layer)
    assert prefix.start == start
    logps, hidden = alone(model, layer)
    rows = labelled_rows(model, SEQUENCES, packed=True, layer=layer, head=head, prefix=prefix)
    assert rows.hidden is not None
    assert hidden is not None
    torch.testing.assert_close(rows.hidden, hidden, rtol=1e-5, atol=2e-5)
    if head:
        assert_same(model, rows.per_token_logps, logps)
    elif layer >= 2:
        assert_same(model, rows.hidden, hidden)
    else:
        assert not rows.hidden.requires_grad


def test_a_head_of_its_own_needs_no_block_at_all() -> None:
    model = LayersScope(pattern="lm_head").attach(build("llama"))
    prefix = filled(model)
    assert prefix.start == 4
    expected, _ = alone(model)
    forbid(model, 0, 1, 2, 3)
    got = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("attach", [upper(), lambda m: GatedScope(layers=(1, 2)).attach(m)], ids=["layers", "gated"])
def test_activation_checkpointing_changes_nothing(attach: Callable[[Any], Any], reentrant: bool) -> None:
    model = attach(build("llama")).train()
    prefix = filled(model)
    expected = gradients(model, labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    got = gradients(model, labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_sequence_that_is_not_kept_runs_the_whole_model() -> None:
    model = upper()(build("llama"))
    prefix = filled(model)
    stranger = TokenSequence((60, 61, 62, 63), 2)
    assert not prefix.holds([*SEQUENCES, stranger])
    got = labelled_rows(model, [*SEQUENCES, stranger], packed=True, prefix=prefix).per_token_logps
    plain = labelled_rows(model, [*SEQUENCES, stranger], packed=True).per_token_logps
    assert torch.equal(got, plain)
    padded = labelled_rows(model, SEQUENCES, packed=False, prefix=prefix).per_token_logps
    torch.testing.assert_close(padded, alone(model)[0], rtol=1e-5, atol=2e-5)


def test_passes_leave_no_trace_on_the_model() -> None:
    model = upper()(build("llama"))
    prefix = filled(model)
    before = labelled_rows(model, SEQUENCES, packed=True).per_token_logps
    labelled_rows(model, SEQUENCES, packed=True, prefix=prefix)
    assert torch.equal(labelled_rows(model, SEQUENCES, packed=True).per_token_logps, before)
    assert not any("forward" in vars(block) or block._forward_hooks for block in decoder_layers(model))


# -- gated edits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("gate", ["linear", "mlp"])
def test_gated_edits_run_over_answers_alone(name: str, gate: str) -> None:
    model = GatedScope(layers=(1, 3), rank=3, gate=gate, widths=(6, 4)).attach(build(name)).train()
    prefix = filled(model)
    assert (prefix.start, prefix.edited) == (2, True)
    seen: list[int] = []
    hook = decoder_layers(model)[3].register_forward_hook(lambda m, i, output: seen.append(output.shape[1]))
    rows = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix)
    hook.remove()
    # The ends of prompts, shared ones once, and the answers but for their last tokens, which predict nothing.
    assert sum(seen) == len({s.ids[: i + 1] for s in SEQUENCES for i in range(s.first_label - 1, len(s.ids) - 1)})
    expected, _ = alone(model)
    assert_same(model, rows.per_token_logps, expected)
    again = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).gates
    assert again is not None
    plain = torch.cat([labelled_rows(model, [s], packed=False).gates for s in SEQUENCES])  # type: ignore[misc]
    assert_same(model, again, plain)


@pytest.mark.parametrize(("layers", "start"), [((3,), 4), ((0,), 1), ((0, 1, 2, 3), 1)])
def test_gates_wherever_they_are(layers: tuple[int, ...], start: int) -> None:
    model = GatedScope(layers=layers).attach(build("llama")).train()
    prefix = filled(model)
    assert prefix.start == start
    expected, _ = alone(model)
    forbid(model, *range(start))
    got = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5)


def test_a_gated_layer_that_terms_read() -> None:
    model = GatedScope(layers=(1, 2)).attach(build("llama")).train()
    prefix = filled(model, 2)
    _, hidden = alone(model, 2)
    rows = labelled_rows(model, SEQUENCES, packed=True, layer=2, head=False, prefix=prefix)
    assert rows.hidden is not None
    assert hidden is not None
    assert_same(model, rows.hidden, hidden)


def test_answers_to_one_question_remember_it_together() -> None:
    model = GatedScope(layers=(1,)).attach(build("llama"))
    prefix = filled(model)
    assert set(prefix.memory) == {s.ids[: s.first_label - 1] for s in SEQUENCES if s.first_label > 1}
    keys, values = prefix.memory[5, 6, 7][3]
    assert keys.shape == values.shape == (3, 2, 8)
    # Two blocks above the gate, keys and values, two heads of 8; and the states of what is computed.
    remembered = sum(len(prompt) for prompt in prefix.memory) * 2 * 2 * 2 * 8
    computed = sum(len(s.ids) - s.first_label for s in SEQUENCES) * 32
    assert prefix.num_bytes == 4 * (remembered + computed)


def test_packs_count_answers_alone_where_prompts_are_remembered() -> None:
    model = GatedScope(layers=(1,)).attach(build("llama"))
    prefix = filled(model)
    assert [prefix.begin(s) for s in SEQUENCES] == [3, 3, 0, 4, 8, 6, 2]
    assert prefix.begin(TokenSequence((60, 61, 62, 63), 3)) == 0


def test_edits_that_are_switched_off_do_not_use_it() -> None:
    model = GatedScope(layers=(1,)).attach(build("llama"))
    prefix = filled(model)
    edits = gates_of(model)
    assert edits is not None
    edits.enabled = False
    assert not prefix.holds(SEQUENCES)


@pytest.mark.parametrize("spared", [frozenset({4}), frozenset({4, 5})])
def test_an_edit_stands_at_the_end_of_the_prompt_whatever_is_supervised(spared: frozenset[int]) -> None:
    model = shake(GatedScope(layers=(1,)).attach(build("llama")))
    sequence = TokenSequence((5, 6, 7, 8, 9, 10, 11), 4, spared)
    packed, padded = (labelled_rows(model, [sequence], packed=packed) for packed in (True, False))
    torch.testing.assert_close(packed.per_token_logps, padded.per_token_logps, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(packed.gates, padded.gates, rtol=1e-5, atol=1e-5)


# -- where a pass can begin --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attach", "first"),
    [
        (lambda m: FullScope().attach(m), 0),
        (lambda m: LayersScope(pattern="embed_tokens").attach(m), 0),
        (lambda m: LayersScope(pattern="lm_head").attach(m), 4),
        (lambda m: LayersScope(pattern="norm").attach(m), 0),
        (lambda m: LayersScope(pattern="mlp", layers=(3, 1)).attach(m), 1),
        (lambda m: LoraScope(rank=2).attach(m), 0),
        (lambda m: LoraScope(rank=2, target_modules=("lm_head",)).attach(m), 4),
        (lambda m: GatedScope(layers=(2, 3)).attach(m), 3),
    ],
    ids=["full", "embeddings", "head", "norms", "layers", "lora", "lora on the head", "gated"],
)
def test_the_first_block_that_moves(attach: Callable[[Any], Any], first: int) -> None:
    model = attach(build("llama"))
    assert first_moving_block(model)[0] == first
    assert (FrozenPrefix.of(model) is None) == (first == 0)


def test_a_head_tied_to_the_embeddings_moves_what_enters_the_first_block() -> None:
    model = make_llama()
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad_(True)
    assert first_moving_block(model)[0] == 0


def test_weights_beside_the_edits_that_move_take_the_memory_away() -> None:
    model = GatedScope(layers=(1,)).attach(build("llama"))
    decoder_layers(model)[3].mlp.down_proj.weight.requires_grad_(True)
    assert first_moving_block(model) == (2, False)
    prefix = filled(model)
    assert not prefix.memory
    assert_same(model, labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps, alone(model)[0])


# -- models that cannot, and are found out -----------------------------------------------------------------------------


def test_blocks_that_hand_on_more_than_states_are_found_out() -> None:
    model = upper()(build("llama"))
    for block in decoder_layers(model):
        block.register_forward_hook(lambda m, i, output: (output, None))
    prefix = FrozenPrefix(model, 2)
    assert prefix.trial(SEQUENCES) != ""


def test_an_upper_block_that_looks_below_is_found_out() -> None:
    model = upper()(build("llama"))
    blocks = decoder_layers(model)
    below: list[Tensor] = []
    blocks[0].register_forward_hook(lambda m, i, output: below.append(output))
    blocks[3].register_forward_hook(lambda m, i, output: output + below[-1].mean())
    reason = FrozenPrefix(model, 2).trial(SEQUENCES)
    assert re.match(r"log-probs differ by \d", reason)


def test_attention_without_a_number_is_found_out() -> None:
    model = GatedScope(layers=(1,)).attach(build("llama"))
    for block in decoder_layers(model):
        del block.self_attn.layer_idx
    prefix = FrozenPrefix.of(model)
    assert prefix is not None
    assert "layer_idx" in prefix.trial(SEQUENCES)


def test_bf16_autocast_is_kept_in_its_own_numbers() -> None:
    model = upper()(build("llama"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prefix = filled(model)
        plain = labelled_rows(model, SEQUENCES, packed=True).per_token_logps
        got = labelled_rows(model, SEQUENCES, packed=True, prefix=prefix).per_token_logps
    torch.testing.assert_close(got, plain, rtol=0, atol=0.05)


# -- parts of trees ----------------------------------------------------------------------------------------------------


def test_a_part_of_a_tree_looks_at_what_is_known_first() -> None:
    tree = PackedTree.build([TokenSequence((1, 2, 3, 4), 2), TokenSequence((1, 2, 5, 6), 2)])
    part = tree.part([1, 2, 3], [0], None)
    assert part.input_ids.tolist() == [2, 3, 5]
    assert part.position_ids.tolist() == [1, 2, 2]
    assert part.key_positions.tolist() == [0, 1, 2, 2]
    assert part.visible.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert part.label_rows.tolist() == [0, 1, 0, 2]
    assert part.prompt_ends.tolist() == [0, 0]


def test_every_architecture_here_takes_trees() -> None:
    for name in CONFIGS:
        notes: list[str] = []
        assert _switch_to_trees(build(name).eval(), notes), (name, notes)
