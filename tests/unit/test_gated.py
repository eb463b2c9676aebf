"""The gated scope's runtime: where edits land, and that every way of running the model gives the same numbers."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows, make_llama
from expunge.data.tree import TokenSequence
from expunge.errors import ModelError, RecipeError, UserError
from expunge.evaluation.generator import generate_answers
from expunge.evaluation.scorer import score_sequences
from expunge.models.forward import labelled_rows
from expunge.models.gated import gates_of, leak_free_groups, without_gates
from expunge.models.gated_edit import GatedEdit, GateSettings, orthonormal, spread_layers
from expunge.models.gated_files import GATED_FILE, WEIGHTS_FILE, compose_adapters
from expunge.models.load import LoadedModel, _switch_to_trees, load_model
from expunge.scopes import make_scope
from expunge.scopes.gated import GatedScope

Load = Callable[..., LoadedModel]

# Two share a prompt; the prompt of the fourth is a beginning of the first's prompt and goes on as an answer.
SEQUENCES = [
    TokenSequence((5, 6, 7, 8, 9, 10), 4),
    TokenSequence((5, 6, 7, 8, 11), 4),
    TokenSequence((12, 13, 14, 15), 2),
    TokenSequence((5, 6, 7, 8, 16), 2),
    TokenSequence((5, 6, 7, 8, 9, 10, 17), 6),
]


def shake(model: Any, *, size: float = 0.3, gate: float = 1.0) -> Any:
    """Move the adapter away from its start, so that edits show; gates half open or so."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, p in gates_of(model).named_parameters():  # type: ignore[union-attr]
            p.add_(size * torch.randn(p.shape, generator=draw))
            if name.endswith("gate.0.bias"):
                p.fill_(gate)
    return model


def gated(model: Any, **settings: Any) -> Any:
    return shake(GatedScope(**settings).attach(model)).eval()


def make_gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2)
    )


def make_gemma3() -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, sliding_window=5, max_position_embeddings=64,
            layer_types=["sliding_attention", "full_attention"] * 2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            initializer_range=0.2,
        )
    )  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: make_llama(num_hidden_layers=4),
    "gpt2": make_gpt2,
    "gemma3": make_gemma3,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    made = MODELS[request.param]()
    made.eval()
    notes: list[str] = []
    assert _switch_to_trees(made, notes), notes
    return made


def logps(model: Any, sequences: list[TokenSequence], *, packed: bool) -> torch.Tensor:
    with torch.no_grad():
        return labelled_rows(model, sequences, packed=packed).per_token_logps


def separately(model: Any) -> torch.Tensor:
    return torch.cat([logps(model, [s], packed=False) for s in SEQUENCES])


# -- the start -----------------------------------------------------------------------------------------------------


def test_the_start_is_the_base_model(model: Any) -> None:
    before = logps(model, SEQUENCES, packed=True)
    GatedScope().attach(model)
    assert torch.equal(logps(model, SEQUENCES[:3], packed=True), before[: 2 + 1 + 2])
    gates = torch.sigmoid(labelled_rows(model, SEQUENCES, packed=True).gates)
    torch.testing.assert_close(gates, torch.full_like(gates, 1 / (1 + math.exp(3))))


@pytest.mark.parametrize("gate", ["linear", "mlp"])
def test_the_edit_is_the_formula(gate: str) -> None:
    settings = GateSettings(layers=(0,), rank=2, gate=gate, widths=(5, 3))
    edit = GatedEdit(8, settings, torch.Generator().manual_seed(0), torch.device("cpu"))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in edit.parameters():
            p.add_(torch.randn(p.shape, generator=draw))
    hidden = torch.randn(3, 8, generator=draw)
    change, logits = edit(hidden)
    rotation = torch.linalg.qr(edit.rotation)[0]
    rotation = rotation * (rotation * edit.rotation).sum(0).sign()
    for h, found, logit in zip(hidden, change, logits, strict=True):
        value = h
        for index, layer in enumerate(edit.gate):
            value = layer.weight @ (value.relu() if index else value) + layer.bias
        assert logit.item() == pytest.approx(value.item(), abs=1e-5)
        by_hand = torch.sigmoid(value) * (rotation @ (edit.weight @ h + edit.bias - rotation.T @ h))
        torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)


def test_the_rotation_stays_orthonormal_however_it_is_moved() -> None:
    matrix = torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for scale in (1.0, 1e-3, 50.0):
        columns = orthonormal(matrix * scale)
        torch.testing.assert_close(columns.T @ columns, torch.eye(4, dtype=torch.float64))
    assert torch.autograd.gradcheck(orthonormal, matrix)


def test_the_layers_of_the_upper_half() -> None:
    assert spread_layers(32) == (20, 25, 31)
    assert spread_layers(30) == (19, 24, 29)
    assert spread_layers(2) == (0, 1)
    assert spread_layers(1) == (0,)


@pytest.mark.parametrize(("gate", "each"), [("linear", 36_869), ("mlp", 1_098_117)])
def test_the_share_of_an_8b_model(gate: str, each: int) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256,
    )  # fmt: skip
    with torch.device("meta"):
        base = LlamaForCausalLM(shape)
    total = sum(p.numel() for p in base.parameters())
    assert total == 8_030_261_248
    GatedScope(gate=gate).attach(base)
    trainable = sum(p.numel() for p in base.parameters() if p.requires_grad)
    assert trainable == 3 * each
    assert trainable / total < 0.0005


def test_the_random_start_follows_from_the_seed_alone() -> None:
    models = [make_llama() for _ in range(3)]

    def start(seed: int, *, drawn: int = 0) -> torch.Tensor:
        torch.manual_seed(seed)
        torch.rand(drawn)
        before = torch.get_rng_state()
        edits = gates_of(GatedScope().attach(models.pop()))
        assert torch.equal(torch.get_rng_state(), before)
        return torch.cat([p.flatten() for p in edits.parameters()])  # type: ignore[union-attr]

    first = start(1)
    assert torch.equal(start(1, drawn=7), first)
    assert not torch.equal(start(2), first)


# -- teacher forcing -----------------------------------------------------------------------------------------------


def test_packed_is_padded_is_separate(model: Any) -> None:
    base = separately(model)
    gated(model)
    expected = separately(model)
    assert (expected - base).abs().max() > 0.05
    for packed in (True, False):
        torch.testing.assert_close(logps(model, SEQUENCES, packed=packed), expected, rtol=0, atol=2e-5)


def test_a_prompt_inside_another_sequence_does_not_leak(model: Any) -> None:
    gated(model)
    assert leak_free_groups(model, SEQUENCES) == [[0, 1, 2], [3], [4]]
    assert leak_free_groups(model, SEQUENCES[:3]) == [[0, 1, 2]]
    with without_gates(model):
        assert leak_free_groups(model, SEQUENCES) == [[0, 1, 2, 3, 4]]
    whole = labelled_rows(model, SEQUENCES, packed=True, layer=1)
    single = [labelled_rows(model, [s], packed=True, layer=1) for s in SEQUENCES]
    for name in ("logits", "labels", "hidden", "gates"):
        torch.testing.assert_close(
            getattr(whole, name), torch.cat([getattr(s, name) for s in single]), rtol=0, atol=2e-5
        )
    assert whole.sequence.tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 4]
    assert torch.equal(whole.parts([3, 2])[1].gates, whole.gates[3:5])


def test_in_one_tree_it_would_leak(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gated(model)
    expected = separately(model)
    monkeypatch.setattr("expunge.models.forward.leak_free_groups", lambda model, sequences: [])
    assert (logps(model, SEQUENCES, packed=True) - expected).abs().max() > 1e-3


def test_gradients_reach_the_adapter_and_nothing_else(model: Any) -> None:
    gated(model)
    found = []
    for packed in (True, False):
        model.zero_grad()
        labelled_rows(model, SEQUENCES, packed=packed).logps.sum().backward()
        assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"gated_edits"}
        found.append(torch.cat([p.grad.flatten() for p in model.gated_edits.parameters()]))
    assert found[0].norm() > 0
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-4


def test_no_graph_below_the_lowest_gate() -> None:
    model = gated(make_llama(num_hidden_layers=4), layers=[2])
    seen: list[bool] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda m, i, output: seen.append(output.requires_grad))
    labelled_rows(model, SEQUENCES, packed=False)
    assert seen == [False, False, True, True]


def test_a_pass_that_ends_below_a_gate_has_no_gates(model: Any) -> None:
    gated(model)
    depth = model.config.num_hidden_layers
    assert labelled_rows(model, SEQUENCES, packed=True, layer=0, head=False).gates is None
    assert labelled_rows(model, SEQUENCES, packed=True, layer=depth - 1, head=False).gates is not None


# -- positions -----------------------------------------------------------------------------------------------------


def test_a_bare_forward_is_refused(model: Any) -> None:
    gated(model)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ModelError, match="must know where each prompt ends: use generate"):
        model(ids)
    with pytest.raises(ModelError, match="must know where each prompt ends"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_labels_and_prompt_lengths_on_either_side(model: Any) -> None:
    gated(model)
    s = SEQUENCES[0]
    ids = torch.tensor([s.ids])
    labels = torch.where(torch.arange(6) < s.first_label, -100, ids)
    with torch.no_grad():
        by_labels = model(input_ids=ids, labels=labels).logits
        by_length = model(input_ids=ids, prompt_lengths=torch.tensor([4])).logits
        padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
        mask = (torch.arange(9) >= 3).long()[None]
        where = (mask.cumsum(-1) - 1).clamp_min(0)
        left = model(
            input_ids=padded, attention_mask=mask, position_ids=where, prompt_lengths=torch.tensor([4])
        ).logits[:, 3:]
    assert torch.equal(by_labels, by_length)
    torch.testing.assert_close(left, by_length, rtol=0, atol=2e-5)


@pytest.mark.parametrize("labels", [[[5, 6, 7]], [[-100, -100, -100]]])
def test_labels_without_a_prompt_are_refused(labels: list[list[int]]) -> None:
    model = gated(make_llama())
    with pytest.raises(ModelError, match="labels do not show where prompts end"):
        model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor(labels))


def test_a_prompt_longer_than_its_row_is_refused() -> None:
    model = gated(make_llama())
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ModelError, match=r"prompt_lengths must be in \[1, number of tokens\]"):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), prompt_lengths=torch.tensor([4]))


# -- generation ----------------------------------------------------------------------------------------------------

PROMPTS = [[5, 6, 7, 8, 9], [12, 13], [20, 21, 22]]


def batch(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, PROMPTS))
    rows = [(p + [0] * (longest - len(p))) if side == "right" else ([0] * (longest - len(p)) + p) for p in PROMPTS]
    ids = torch.tensor(rows)
    return ids, (ids != 0).long()


def generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, **settings: Any) -> Any:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(input_ids=ids, attention_mask=mask, **options | settings)


def scores(model: Any, ids: torch.Tensor, mask: torch.Tensor, **settings: Any) -> torch.Tensor:
    """``(B, T, V)`` log-probs at every generated step."""
    out = generate(model, ids, mask, output_scores=True, return_dict_in_generate=True, **settings)
    return torch.stack(out.scores, 1).log_softmax(-1)


def test_generation_in_every_form(model: Any) -> None:
    ids, mask = batch("left")
    base = scores(model, ids, mask)
    gated(model)
    expected = scores(model, ids, mask)
    assert (expected[:, :2] - base[:, :2]).abs().max() > 0.05
    for row, prompt in enumerate(PROMPTS):
        alone = torch.tensor([prompt])
        single = scores(model, alone, torch.ones_like(alone))
        torch.testing.assert_close(single[0], expected[row], rtol=0, atol=5e-4)
    torch.testing.assert_close(scores(model, ids, mask, use_cache=False), expected, rtol=0, atol=5e-4)
    right, right_mask = batch("right")
    repacked = generate(model, right, right_mask)
    assert torch.equal(repacked, generate(model, ids, mask))


def test_chunked_prefill_edits_the_chunk_with_the_prompts_end(model: Any) -> None:
    gated(model)
    ids, mask = batch("left")
    expected = scores(model, ids, mask)
    torch.testing.assert_close(scores(model, ids, mask, prefill_chunk_size=2), expected, rtol=0, atol=5e-4)


def test_generation_is_teacher_forcing(model: Any) -> None:
    gated(model)
    ids = torch.tensor([PROMPTS[0]])
    out = generate(model, ids, torch.ones_like(ids))[0].tolist()
    predicted = labelled_rows(model, [TokenSequence(tuple(out), len(PROMPTS[0]))], packed=True)
    assert predicted.logits.argmax(-1).tolist() == out[len(PROMPTS[0]) :]


def test_gates_of_the_last_generation_are_one_row_a_prompt(model: Any) -> None:
    gated(model)
    ids, mask = batch("left")
    sequences = [TokenSequence((*p, 3), len(p)) for p in PROMPTS]
    with torch.no_grad():
        expected = torch.sigmoid(labelled_rows(model, sequences, packed=True).gates)
    for settings in ({}, {"num_beams": 3}, {"use_cache": False}, {"do_sample": True, "num_return_sequences": 2}):
        generate(model, ids, mask, **settings)
        torch.testing.assert_close(model.gated_edits.generated_gates(3), expected, rtol=0, atol=2e-5)


def test_after_generation_a_bare_forward_is_refused_again() -> None:
    model = gated(make_llama())
    ids = torch.tensor([[5, 6, 7]])
    generate(model, ids, torch.ones_like(ids))
    with pytest.raises(ModelError, match="must know where"):
        model(ids)


def test_masks_are_taken_from_pads_where_none_is_given() -> None:
    model = gated(make_llama())
    ids, mask = batch("right")
    expected = generate(model, ids, mask)
    found = model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(found, expected)


def test_generation_without_tokens_is_refused() -> None:
    model = gated(make_llama())
    with pytest.raises(ModelError, match="generates from input_ids"):
        model.generate(inputs_embeds=torch.zeros(1, 2, 32))
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ModelError, match="has no tokens"):
        generate(model, ids, ids)


# -- gates ---------------------------------------------------------------------------------------------------------


def test_a_threshold_gives_the_base_models_bits(model: Any) -> None:
    model.requires_grad_(False)  # torch's kernels round differently for frozen weights
    before = separately(model)
    ids, mask = batch("left")
    answers = scores(model, ids, mask)
    gated(model, threshold=0.999999)
    assert torch.equal(separately(model), before)
    assert torch.equal(scores(model, ids, mask), answers)
    model.train()
    assert not torch.equal(separately(model), before)


def test_scores_hold_the_gate_of_each_row(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    sequences = [loaded.format.encode(row) for row in (*colour_rows(), *city_rows())]
    assert all(math.isnan(s.gate) for s in score_sequences(loaded, sequences))
    gated(loaded.model)
    with torch.no_grad():
        expected = torch.sigmoid(labelled_rows(loaded.model, sequences, packed=False).gates).mean(-1)
    for pack_tokens in (16, 512):
        found = [s.gate for s in score_sequences(loaded, sequences, pack_tokens=pack_tokens)]
        assert found == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_deep_copy_has_edits_of_its_own() -> None:
    model = gated(make_llama())
    twin = copy.deepcopy(model)
    expected = logps(model, SEQUENCES, packed=False)
    shake(model, size=1.0)
    torch.testing.assert_close(logps(twin, SEQUENCES, packed=False), expected)
    assert not torch.allclose(logps(model, SEQUENCES, packed=False), expected, atol=1e-2)


# -- on disk -------------------------------------------------------------------------------------------------------


def saved(load_tiny: Load, folder: Path, **settings: Any) -> LoadedModel:
    loaded = load_tiny(max_length=64)
    gated(loaded.model, **settings)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return loaded


@pytest.mark.parametrize("settings", [{}, {"gate": "mlp", "widths": [6, 4], "rank": 2, "layers": [1]}])
def test_a_round_trip_is_bit_equal(load_tiny: Load, model_folder: Path, tmp_path: Path, settings: dict) -> None:
    loaded = saved(load_tiny, tmp_path / "a", **settings)
    assert {p.name for p in (tmp_path / "a").glob("*.safetensors")} == {WEIGHTS_FILE}
    assert json.loads((tmp_path / "a" / GATED_FILE).read_text())["base_model"] == str(model_folder.resolve())
    back = load_model(tmp_path / "a", max_length=64)
    assert back.packed
    assert back.fingerprint != loaded.fingerprint
    sequences = [loaded.format.encode(row) for row in colour_rows()]
    assert torch.equal(logps(back.model, sequences, packed=True), logps(loaded.model, sequences, packed=True))
    prompts = [loaded.format.encode_prompt(row) for row in colour_rows()]
    assert generate_answers(back, prompts, max_new_tokens=5) == generate_answers(loaded, prompts, max_new_tokens=5)
    back.model.save_pretrained(tmp_path / "b")
    for name in (WEIGHTS_FILE, GATED_FILE):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_the_base_model_must_be_the_same(load_tiny: Load, tmp_path: Path) -> None:
    from conftest import save_model

    loaded = saved(load_tiny, tmp_path / "a")
    other = save_model(tmp_path / "other", make_llama(seed=1), loaded.tokenizer)
    settings = json.loads((tmp_path / "a" / GATED_FILE).read_text())
    (tmp_path / "a" / GATED_FILE).write_text(json.dumps(settings | {"base_model": str(other)}))
    with pytest.raises(ModelError, match="is not the one that this adapter was trained on"):
        load_model(tmp_path / "a")
    (tmp_path / "a" / GATED_FILE).write_text(json.dumps(settings | {"base_model": str(tmp_path / "gone")}))
    with pytest.raises(ModelError, match=r"cannot be had .*set base_model in expunge_gated\.json"):
        load_model(tmp_path / "a")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d | {"version": 99}, "written by a newer expunge"),
        (lambda d: {k: v for k, v in d.items() if k != "scale"}, "cannot be read: 'scale'"),
        (lambda d: d | {"adapters": [d["adapters"][0] | {"rank": 3}]}, "does not fit"),
        (lambda d: d | {"adapters": [d["adapters"][0] | {"rnk": 3}]}, "cannot be read"),
    ],
)
def test_a_damaged_adapter_is_one_clear_line(
    load_tiny: Load, tmp_path: Path, spoil: Callable[[dict], dict], message: str
) -> None:
    saved(load_tiny, tmp_path)
    path = tmp_path / GATED_FILE
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_a_base_that_is_an_adapter_itself(load_tiny: Load, tmp_path: Path) -> None:
    loaded = load_tiny(max_length=64)
    lora = make_scope({"kind": "lora", "rank": 2}).attach(loaded.model)
    with torch.no_grad():
        for p in lora.parameters():
            if p.requires_grad:
                p.add_(0.05)
    lora.save_pretrained(tmp_path / "lora")
    start = load_model(tmp_path / "lora", max_length=64)
    model = gated(start.model)
    model.save_pretrained(tmp_path / "gated")
    back = load_model(tmp_path / "gated", max_length=64)
    assert torch.equal(logps(back.model, SEQUENCES, packed=True), logps(model, SEQUENCES, packed=True))


def test_neither_merging_nor_training_further(load_tiny: Load, tmp_path: Path) -> None:
    from expunge import api

    loaded = saved(load_tiny, tmp_path / "a")
    with pytest.raises(UserError, match="cannot be folded into the weights"):
        GatedScope().merge(loaded.model)
    with pytest.raises(UserError, match="cannot be folded into the weights"):
        api.export(tmp_path / "a", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="carries a gated adapter and cannot be trained further"):
        GatedScope().attach(loaded.model)


# -- several side by side ------------------------------------------------------------------------------------------


def test_composed_edits_are_summed(load_tiny: Load, tmp_path: Path) -> None:
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    changes = []
    for name, settings in (("a", {}), ("b", {"gate": "mlp", "widths": [5], "rank": 2, "layers": [1]})):
        torch.manual_seed(len(name) + ord(name))
        loaded = saved(load_tiny, tmp_path / name, **settings)
        changes.append(loaded.model.gated_edits.members["0"]["1"](hidden)[0])
    compose_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "ab", coefficient=0.6, offset=0.6)
    both = load_model(tmp_path / "ab", max_length=64).model
    edits = both.gated_edits
    # 0.6 K + 0.6 with K = 2.
    assert edits.scale == pytest.approx(1.8)
    assert edits.layers == [0, 1]
    edits.begin(both, (), {"prompt_lengths": torch.tensor([1, 1, 1])})
    found = edits.edit(1, both.model.layers[1], (), hidden[:, None])[:, 0]
    torch.testing.assert_close(found, hidden + 1.8 * (changes[0] + changes[1]), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        rows = labelled_rows(both, SEQUENCES, packed=True)
    assert rows.gates.shape == (5, 3)
    gates = torch.sigmoid(rows.gates)
    torch.testing.assert_close(edits.row_gates(rows.gates), torch.maximum(gates[:, :2].mean(-1), gates[:, 2]))


def test_one_adapter_summed_plainly_is_itself(load_tiny: Load, tmp_path: Path) -> None:
    loaded = saved(load_tiny, tmp_path / "a")
    compose_adapters([tmp_path / "a"], tmp_path / "one")
    one = load_model(tmp_path / "one", max_length=64)
    assert torch.equal(logps(one.model, SEQUENCES, packed=True), logps(loaded.model, SEQUENCES, packed=True))
    compose_adapters([tmp_path / "one", tmp_path / "a"], tmp_path / "two")
    assert len(load_model(tmp_path / "two").model.gated_edits.settings) == 2


def test_what_cannot_be_composed(load_tiny: Load, tmp_path: Path) -> None:
    saved(load_tiny, tmp_path / "a")
    saved(load_tiny, tmp_path / "b")
    with pytest.raises(UserError, match="needs at least one adapter"):
        compose_adapters([], tmp_path / "out")
    with pytest.raises(UserError, match="no gated adapter here"):
        compose_adapters([tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(UserError, match="already holds something"):
        compose_adapters([tmp_path / "a"], tmp_path / "b")
    path = tmp_path / "b" / GATED_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_fingerprint": "other"}))
    with pytest.raises(UserError, match="trained on another base model"):
        compose_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"gate": "liner"}, r"gate must be one of linear, mlp, got 'liner' \(did you mean 'linear'\?\)"),
        ({"widths": []}, "widths must be at least 1 each"),
        ({"threshold": 1.0}, r"threshold must be in \[0, 1\), got 1.0"),
        ({"layers": []}, "layers must be block numbers from 0"),
        ({"layers": [-1]}, "layers must be block numbers from 0"),
        ({"lyers": [1]}, "unexpected keyword argument 'lyers'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=f"scope gated: .*{message}"):
        make_scope({"kind": "gated", **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [7]}, r"layers must be in \[0, 1\] for this model, got \[7\]"),
        ({"rank": 33}, "rank must be at most the model's width 32, got 33"),
    ],
)
def test_settings_that_do_not_fit_the_model(settings: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_scope({"kind": "gated", **settings}).attach(make_llama())
