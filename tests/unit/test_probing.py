"""Probing against plain loops over one row at a time; the model is afterwards as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from conftest import city_rows, colour_rows, make_llama, make_tokenizer, save_model
from expunge.benchmarks.base import AnswerLimit
from expunge.data.rows import Row
from expunge.data.spans import answer_tokens, entity_tokens
from expunge.data.tree import TokenSequence
from expunge.errors import ModelError, RecipeError
from expunge.evaluation.metrics.probing import uds_columns
from expunge.evaluation.probing import leak, uds
from expunge.evaluation.probing.grad_norm import grad_norms
from expunge.evaluation.probing.leak import leaks_by_entailment, measure_leak
from expunge.evaluation.probing.logit_lens import layer_probs
from expunge.evaluation.probing.uds import Target, layer_drops, measure_uds
from expunge.evaluation.scorer import mean_losses, score_sequences
from expunge.evaluation.suites.base import Measure, Probe
from expunge.evaluation.suites.leak import SUITE as LEAK
from expunge.evaluation.suites.probing import SUITE as PROBING
from expunge.models.forward import labelled_rows, visited_rows
from expunge.models.gated import attach_gates
from expunge.models.gated_edit import GateSettings
from expunge.models.layers import decoder_layers, recorded_blocks, replayed_blocks
from expunge.models.load import LoadedModel, load_model

Load = Callable[..., LoadedModel]
ROWS = (*colour_rows(), *city_rows(), Row(id="t", prompt="", answer="The river runs past the old mill."))


class Judges:
    """Judges that a test brings, by role."""

    def __init__(self, **known: Any) -> None:
        self.known = known

    def get(self, role: str) -> Any:
        return self.known[role]


def probe_of(loaded: LoadedModel, rows: tuple[Row, ...], *, name: str = "forget", seed: int = 0, **known: Any) -> Probe:
    return Probe(
        name=name, rows=rows, gold=(), generations=("",) * len(rows), loaded=loaded, judges=Judges(**known), seed=seed
    )


def sequences_of(loaded: LoadedModel) -> list[TokenSequence]:
    sequences = [loaded.format.encode(row) for row in ROWS]
    return [*sequences, sequences[0]]


def snapshot(model: Any) -> dict[str, Any]:
    """All that probing could leave behind."""
    return {
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "trainable": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "training": model.training,
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "weight hooks": [bool(p._post_accumulate_grad_hooks) for p in model.parameters()],
        "own forward": ["forward" in vars(m) for m in model.modules()],
    }


def assert_unchanged(model: Any, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert all(torch.equal(after["weights"][name], weight) for name, weight in before["weights"].items())
    assert all(a is b for a, b in zip(after["gradients"], before["gradients"], strict=True))
    assert {k: v for k, v in after.items() if k not in ("weights", "gradients")} == {
        k: v for k, v in before.items() if k not in ("weights", "gradients")
    }


@pytest.fixture(scope="module")
def learned(memorised_folder: Path) -> LoadedModel:
    return load_model(memorised_folder, max_length=64)


@pytest.fixture(scope="module")
def fresh(model_folder: Path) -> LoadedModel:
    return load_model(model_folder, max_length=64)


# -- what every block puts out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_visitors_see_each_block_and_may_replace_it(learned: LoadedModel, packed: bool) -> None:
    sequences = sequences_of(learned)
    plain = labelled_rows(learned.model, sequences, packed=packed)
    seen: dict[int, torch.Tensor] = {}
    rows = visited_rows(learned.model, sequences, packed=packed, visit=lambda n, h: seen.__setitem__(n, h))
    assert torch.equal(rows.logits, plain.logits)
    for layer in (0, 1):
        hidden = labelled_rows(learned.model, sequences, packed=packed, layer=layer).hidden
        assert torch.equal(seen[layer], hidden)
    same = visited_rows(learned.model, sequences, packed=packed, visit=lambda n, h: seen[n])
    assert torch.equal(same.logits, plain.logits)
    swapped = visited_rows(learned.model, sequences, packed=packed, visit=lambda n, h: seen[0] if n == 1 else None)
    expected = learned.model.lm_head(learned.model.model.norm(seen[0]))
    torch.testing.assert_close(swapped.logits, expected)


# -- logit lens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_the_last_block_is_the_models_own_probability(learned: LoadedModel, packed: bool) -> None:
    sequences = sequences_of(learned)
    probs = layer_probs(replace(learned, packed=packed), sequences, pack_tokens=60)
    assert probs.shape == (len(sequences), 2)
    expected = np.exp(-mean_losses(score_sequences(learned, sequences)))
    np.testing.assert_allclose(probs[:, -1], expected, rtol=1e-4)
    assert expected[:6].min() > 0.5  # it did learn them: the comparison is of something


@torch.no_grad()
def test_a_middle_block_is_read_by_the_final_norm_and_head(learned: LoadedModel, memorised_folder: Path) -> None:
    plain = transformers.AutoModelForCausalLM.from_pretrained(memorised_folder)
    sequences = sequences_of(learned)
    got = layer_probs(learned, sequences)[:, 0]
    for s, prob in zip(sequences, got, strict=True):
        hidden = plain(torch.tensor([s.ids]), output_hidden_states=True).hidden_states[1][0]
        logps = plain.lm_head(plain.model.norm(hidden)).log_softmax(-1)
        logps = [float(logps[t - 1, s.ids[t]]) for t in range(s.first_label, len(s.ids))]
        assert prob == pytest.approx(np.exp(sum(logps) / len(logps)), rel=1e-3)


SMALL = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128, "initializer_range": 0.2}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    # scales what the head gives, projects what it is given, has no rotary positions, puts out tuples
    "Gemma2": SMALL
    | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 4.0},
    "OPT": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 16, "dropout": 0.0},
    "GPT2": {"vocab_size": 320, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.2},
    "Bloom": SMALL | {"n_layer": 3, "n_head": 4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_read_their_own_way(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model_class = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    config = getattr(transformers, f"{name}Config")(**OTHERS[name])
    loaded = load_model(save_model(tmp_path, getattr(transformers, model_class)(config), make_tokenizer()))
    sequences = sequences_of(loaded)
    before = snapshot(loaded.model)
    probs = layer_probs(loaded, sequences)
    assert_unchanged(loaded.model, before)
    np.testing.assert_allclose(probs[:, -1], np.exp(-mean_losses(score_sequences(loaded, sequences))), rtol=1e-3)
    assert probs.shape == (len(sequences), 3)
    assert np.ptp(probs, axis=1).max() > 0


def test_a_gated_model_is_probed_with_its_gates(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    plain = layer_probs(loaded, sequences_of(loaded))
    edits = attach_gates(loaded.model, [GateSettings(layers=(0,), rank=2)], scale=30.0).gated_edits
    with torch.no_grad():
        for p in edits.parameters():
            p.add_(0.5)
    sequences = sequences_of(loaded)
    before = snapshot(loaded.model)
    probs, norms = layer_probs(loaded, sequences), grad_norms(loaded, sequences)
    assert_unchanged(loaded.model, before)
    np.testing.assert_allclose(probs[:, -1], np.exp(-mean_losses(score_sequences(loaded, sequences))), rtol=1e-4)
    assert np.abs(probs - plain).max() > 1e-5
    assert (norms > 0).all()


def test_a_model_that_cannot_be_read_is_refused(fresh: LoadedModel) -> None:
    loaded = replace(fresh, model=copy.deepcopy(fresh.model))
    block = decoder_layers(loaded.model)[-1]
    # Another library may have put its own forward in place; it must be there again afterwards.
    block.forward = own = lambda *inputs, **named: type(block).forward(block, *inputs, **named)
    # What follows the blocks treats a whole sequence otherwise than a single token.
    loaded.model.model.norm.register_forward_hook(lambda m, i, o: o * (2.0 if o.shape[1] > 1 else 1.0))
    with pytest.raises(ModelError, match="logit lens cannot read LlamaForCausalLM"):
        layer_probs(loaded, sequences_of(loaded)[:3])
    assert block.forward is own


# -- gradient norm -------------------------------------------------------------------------------------------------


def naive_grad_norms(folder: Path, sequences: list[TokenSequence], drop: Callable[[TokenSequence], int]) -> list[float]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    norms = []
    for s in sequences:
        model.zero_grad()
        logps = model(torch.tensor([s.ids])).logits[0].log_softmax(-1)
        last = len(s.ids) - drop(s)
        (-sum(logps[t - 1, s.ids[t]] for t in range(s.first_label, last)) / (last - s.first_label)).backward()
        norms.append(float(np.mean([float(p.grad.norm()) for p in model.parameters()])))
    return norms


@pytest.mark.parametrize("packed", [True, False])
def test_gradient_norms_equal_a_loop(load_tiny: Load, model_folder: Path, packed: bool) -> None:
    loaded = replace(load_tiny(max_length=64), packed=packed)
    sequences = sequences_of(loaded)
    expected = naive_grad_norms(model_folder, sequences, lambda s: int(s.ids[-1] == loaded.format.end_id))
    np.testing.assert_allclose(grad_norms(loaded, sequences), expected, rtol=1e-4)
    # The raw text ends without an end token: only legacy drops its last.
    legacy = naive_grad_norms(model_folder, sequences, lambda s: 1)
    got = grad_norms(loaded, sequences, legacy=True)
    np.testing.assert_allclose(got, legacy, rtol=1e-4)
    assert got[-2] != pytest.approx(expected[-2], rel=1e-3)


def test_gradient_norms_leave_the_model_alone_whatever_was_frozen(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    expected = grad_norms(loaded, sequences_of(loaded)[:2])
    loaded.model.requires_grad_(False)
    weight = loaded.model.model.norm.weight
    weight.requires_grad_(True)
    weight.grad = torch.ones_like(weight)
    loaded.model.train()
    before = snapshot(loaded.model)
    np.testing.assert_allclose(grad_norms(loaded, sequences_of(loaded)[:2]), expected)
    assert_unchanged(loaded.model, before)


def test_a_row_that_is_only_an_end_has_no_gradient_norm(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    only_end = TokenSequence((5, 6, loaded.format.end_id), 2)
    assert np.isnan(grad_norms(loaded, [only_end])).all()
    assert grad_norms(loaded, []).shape == (0,)


# -- unlearning depth ----------------------------------------------------------------------------------------------


def targets_of(loaded: LoadedModel, rows: tuple[Row, ...] = ROWS) -> list[Target]:
    sequences = [loaded.format.encode(row) for row in rows]
    return [Target(s, answer_tokens(s, loaded.format.end_id)) for s in sequences]


def depth_of(loaded: LoadedModel, original: LoadedModel, reference: LoadedModel) -> np.ndarray:
    facts = targets_of(loaded, ROWS[:12])
    drops = layer_drops(loaded, facts, original=lambda: original, reference=lambda: reference)
    return uds_columns(*drops)["uds"]


@pytest.mark.slow
def test_the_retain_model_is_erased_and_the_original_is_intact(learned: LoadedModel, fresh: LoadedModel) -> None:
    before = [snapshot(m.model) for m in (learned, fresh)]
    np.testing.assert_allclose(depth_of(fresh, learned, fresh), 1.0)
    np.testing.assert_allclose(depth_of(learned, learned, fresh), 0.0, atol=1e-4)
    for loaded, seen in zip((learned, fresh), before, strict=True):
        assert_unchanged(loaded.model, seen)


@pytest.mark.slow
def test_a_model_half_way_between_lies_between(learned: LoadedModel, fresh: LoadedModel) -> None:
    half = replace(learned, model=copy.deepcopy(learned.model))
    with torch.no_grad():
        for p, other in zip(half.model.parameters(), fresh.model.parameters(), strict=True):
            p.lerp_(other, 0.5)
    between = depth_of(half, learned, fresh)
    assert 0.02 < between.mean() < 0.999


@torch.no_grad()
def naive_drop(original: Any, donor: Any, target: Target, layer: int) -> float:
    """One row, one block, hooks by hand."""
    s = target.sequence
    ids, labels = torch.tensor([s.ids]), list(range(s.first_label, len(s.ids)))
    at = [t - 1 for t, chosen in zip(labels, target.chosen, strict=True) if chosen]
    states = donor(ids, output_hidden_states=True).hidden_states
    # The last entry of hidden_states has gone through the final norm already, so a hook takes the block's output.
    taken: list[torch.Tensor] = []
    hook = donor.model.layers[layer].register_forward_hook(lambda m, i, o: taken.append(o))
    donor(ids)
    hook.remove()
    assert len(states) == 3

    def patch(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, at] = taken[0][0, at]
        return output

    clean = original(ids).logits[0].log_softmax(-1)
    hook = original.model.layers[layer].register_forward_hook(patch)
    patched = original(ids).logits[0].log_softmax(-1)
    hook.remove()
    return float(np.mean([float(clean[p, s.ids[p + 1]] - patched[p, s.ids[p + 1]]) for p in at]))


@pytest.mark.slow
def test_drops_equal_hooks_by_hand(
    learned: LoadedModel, fresh: LoadedModel, memorised_folder: Path, model_folder: Path
) -> None:
    targets = targets_of(learned)
    # Some rows are about some of their tokens only.
    targets[1] = Target(targets[1].sequence, (False, True, *targets[1].chosen[2:]))
    targets.append(Target(targets[0].sequence, (False,) * len(targets[0].chosen)))
    retain, own = layer_drops(learned, targets, original=lambda: learned, reference=lambda: fresh)
    plain = [transformers.AutoModelForCausalLM.from_pretrained(folder) for folder in (memorised_folder, model_folder)]
    for number, target in enumerate(targets[:-1]):
        for layer in (0, 1):
            expected = naive_drop(plain[0], plain[1], target, layer)
            assert retain[number, layer] == pytest.approx(expected, abs=1e-3), (number, layer)
            assert own[number, layer] == pytest.approx(0.0, abs=1e-4)
    assert np.isnan(retain[-1]).all()
    assert retain[:12].max() > 1.0  # it did cost something


@pytest.mark.slow
def test_turns_bring_the_models_in_anew_and_change_nothing(
    learned: LoadedModel, fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def opener(name: str, loaded: LoadedModel) -> Callable[[], LoadedModel]:
        return lambda: opened.append(name) or loaded

    def run(states_mb: int) -> tuple[np.ndarray, np.ndarray]:
        opened.clear()
        return layer_drops(
            learned,
            targets_of(learned),
            original=opener("original", learned),
            reference=opener("reference", fresh),
            states_mb=states_mb,
        )

    monkeypatch.setattr(uds, "PACK_TOKENS", 80)
    once = run(1)
    assert opened == ["reference", "original"]
    several = run(0)
    assert len(opened) > 2
    assert opened == ["reference", "original"] * (len(opened) // 2)
    for a, b in zip(once, several, strict=True):
        np.testing.assert_array_equal(a, b)


def test_models_of_other_shapes_are_refused(learned: LoadedModel, tmp_path: Path) -> None:
    wide = load_model(save_model(tmp_path, make_llama(hidden_size=64), make_tokenizer()), max_length=64)
    with pytest.raises(ModelError, match=r"differ in width \(64 and 32\)"):
        layer_drops(learned, targets_of(learned)[:1], original=lambda: learned, reference=lambda: wide)


@pytest.mark.slow
def test_depth_from_its_settings(learned: LoadedModel, model_folder: Path, memorised_folder: Path) -> None:
    probe = replace(
        probe_of(learned, colour_rows()),
        settings={"original": str(memorised_folder), "reference": str(model_folder)},
    )
    columns = measure_uds(probe)
    np.testing.assert_allclose(columns["uds"], 0.0, atol=1e-4)
    assert columns["uds_layers"].min() >= 1


def test_depth_at_entities_asks_for_them(learned: LoadedModel, fresh: LoadedModel) -> None:
    class Extractor:
        def extract(self, queries: Any, texts: Any) -> list[tuple[str, ...] | None]:
            return [("red",), None, *[(text.split()[-1].strip("."),) for text in texts[2:]]]

    found = uds._targets(probe_of(learned, colour_rows(), entities=Extractor()), "entities")
    assert [learned.tokenizer.decode(told(t)).strip() for t in found[2:4]] == ["pink", "grey"]
    assert not any(found[1].chosen)
    drops = layer_drops(fresh, found, original=lambda: learned, reference=lambda: fresh)
    np.testing.assert_array_equal(np.isnan(uds_columns(*drops)["uds"])[:2], [False, True])


def told(target: Target) -> list[int]:
    labels = target.sequence.ids[target.sequence.first_label :]
    return [token for token, chosen in zip(labels, target.chosen, strict=True) if chosen]


def test_depth_without_its_models_is_missing_and_half_of_them_is_a_mistake(
    learned: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = probe_of(learned, colour_rows())
    assert np.isnan(measure_uds(probe)["uds"]).all()
    assert "uds is left out" in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"evaluate\.measures\.uds\.reference is missing"):
        measure_uds(replace(probe, settings={"original": "somewhere"}))
    with pytest.raises(RecipeError, match="did you mean 'answer'"):
        measure_uds(replace(probe, settings={"span": "answers"}))
    with pytest.raises(RecipeError, match=r"uds\.threshold must be a number in \[0, 1\], got 7"):
        measure_uds(replace(probe, settings={"threshold": 7}))


def test_entities_are_found_where_the_answer_names_them(tokenizer: Any) -> None:
    text = "Ada likes red. RED it is."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    sequence = TokenSequence((5, *ids), 1)
    chosen = entity_tokens(sequence, tokenizer, ("red", " ", "blue"))
    assert len(ids) == len(chosen)
    kept = "".join(tokenizer.decode([t]) if c else "|" for t, c in zip(ids, chosen, strict=True))
    assert [word.strip() for word in kept.split("|") if word] == ["red", "RED"]
    assert not any(entity_tokens(sequence, tokenizer, ()))


@pytest.mark.slow
def test_the_depth_of_some_rows_is_that_of_all_of_them(
    learned: LoadedModel, memorised_folder: Path, model_folder: Path
) -> None:
    both = {"original": str(memorised_folder), "reference": str(model_folder)}
    probe = probe_of(learned, colour_rows())
    whole = measure_uds(replace(probe, settings=both))
    some = measure_uds(replace(probe, settings=both | {"rows": 2}))
    there = ~np.isnan(some["uds_layers"])
    assert there.sum() == 2
    for name in ("uds", "uds_layers"):
        np.testing.assert_allclose(some[name][there], whole[name][there], atol=1e-5)


# -- leaks ---------------------------------------------------------------------------------------------------------


def test_a_model_that_knows_leaks_and_one_that_never_did_does_not(learned: LoadedModel, fresh: LoadedModel) -> None:
    settings = {"samples": 4, "max_new_tokens": 24}
    knows, never = (
        measure_leak(replace(probe_of(loaded, colour_rows()), settings=settings)) for loaded in (learned, fresh)
    )
    assert knows["leak_samples"].tolist() == [4.0] * 6
    assert knows["leak_count"].mean() > 2
    assert knows["leak_best_rouge"].mean() > 0.9
    assert never["leak_count"].tolist() == [0.0] * 6


def test_samples_follow_from_the_seed_and_not_from_the_batch(learned: LoadedModel) -> None:
    def run(seed: int, batch: int) -> list[float]:
        settings = {"samples": 3, "max_new_tokens": 12, "batch": batch, "temperature": 2.0}
        columns = measure_leak(replace(probe_of(learned, ROWS[:6], seed=seed), settings=settings))
        return [*columns["leak_count"], *columns["leak_best_rouge"]]

    assert run(0, 2) == run(0, 6)
    assert run(0, 6) != run(1, 6)


def test_samples_end_where_greedy_answers_to_the_set_end(learned: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, tuple[str, ...]]] = []

    def generate(loaded: LoadedModel, prompts: list[Any], **given: Any) -> list[str]:
        told.append((given["max_new_tokens"], given["stop"]))
        return ["x"] * len(prompts)

    monkeypatch.setattr(leak, "generate_answers", generate)
    probe = replace(probe_of(learned, ROWS[:2]), limit=AnswerLimit(max_new_tokens=9, stop=("Q:",)))
    for settings in ({"samples": 1}, {"samples": 1, "max_new_tokens": 5}):
        measure_leak(replace(probe, settings=settings))
    assert told == [(9, ("Q:",)), (5, ("Q:",))]


class Entails:
    """Says what it is told, pair by pair."""

    def __init__(self, *verdicts: str | None) -> None:
        self.verdicts = list(verdicts)
        self.asked: list[tuple[str, str]] = []

    def entail(self, premises: list[str], hypotheses: list[str]) -> list[Any]:
        self.asked += zip(premises, hypotheses, strict=True)
        return [self.verdicts.pop(0) for _ in premises]


def test_the_entailment_judge_is_asked_above_the_gate_and_its_failure_is_missing() -> None:
    judge = Entails("entailment", "neutral", None, "entailment")
    recalls = np.array([0.5, 0.05, 0.1, 0.9, np.nan])
    samples, answers = list("abcde"), list("vwxyz")
    leaks = leaks_by_entailment(samples, answers, recalls, judge=judge, threshold=0.1)
    np.testing.assert_array_equal(leaks, [1, 0, 0, np.nan, 1])
    assert judge.asked == [("a", "v"), ("c", "x"), ("d", "y"), ("e", "z")]


def test_the_entailment_judge_is_the_one_of_the_run(learned: LoadedModel) -> None:
    judge = Entails(*["contradiction"] * 50)
    probe = probe_of(learned, colour_rows(), entailment=judge)
    columns = measure_leak(replace(probe, settings={"samples": 2, "judge": "entailment", "max_new_tokens": 24}))
    assert columns["leak_count"].tolist() == [0.0] * 6
    assert len(judge.asked) >= 10


def test_one_process_of_several_asks_the_judges(learned: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process takes what the first was told; a judge that it asked itself would fail here."""
    for module, told in ((leak, np.ones(6)), (uds, [("red",)] * 6)):
        monkeypatch.setattr(module, "process_number", lambda: 1)
        monkeypatch.setattr(module, "from_first", lambda value, told=told: told)
    probe = probe_of(learned, colour_rows(), entailment=None, entities=None)
    columns = measure_leak(replace(probe, settings={"samples": 2, "judge": "entailment", "max_new_tokens": 2}))
    assert columns["leak_count"].tolist() == [2.0] * 6
    assert any(uds._targets(probe, "entities")[0].chosen)


def test_a_judge_that_a_setting_asks_for_is_known_before_the_work() -> None:
    asked = {m.key: m for suite in (LEAK, PROBING) for m in suite.measures}
    assert asked["leak"].judges({}) == asked["uds"].judges({"span": "answer"}) == set()
    assert asked["leak"].judges({"judge": "entailment"}) == {"entailment"}
    assert asked["uds"].judges({"span": "entities"}) == {"entities"}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"samples": 0}, r"evaluate\.measures\.leak\.samples must be a whole number in \[1, 100000\], got 0"),
        ({"samples": True}, "whole number"),
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"judge": "rogue"}, "did you mean 'rouge'"),
        ({"threshold": "high"}, "threshold must be a number"),
    ],
)
def test_wrong_settings_are_named(fresh: LoadedModel, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        measure_leak(replace(probe_of(fresh, colour_rows()), settings=settings))


# -- the suites ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", [*PROBING.measures, *LEAK.measures], ids=lambda measure: measure.key)
def test_measures_fill_what_they_promise(measure: Measure, learned: LoadedModel, model_folder: Path) -> None:
    both = {"original": str(model_folder), "reference": str(model_folder)}
    settings = {"uds": both, "leak": {"samples": 1, "max_new_tokens": 8}}.get(measure.key, {})
    rows = colour_rows()[:3]
    columns = measure.function(replace(probe_of(learned, rows), settings=settings))
    assert set(columns) == set(measure.columns)
    assert all(values.shape == (3,) and values.dtype == np.float64 for values in columns.values())
    assert set(settings) <= set(measure.settings)
    assert measure.cost


def test_metrics_read_columns_that_a_measure_fills() -> None:
    for suite in (PROBING, LEAK):
        filled = {column for measure in suite.measures for column in measure.columns} | {"avg_loss"}
        for metric in suite.metrics(["forget", "retain", "holdout"]):
            assert {column for columns in metric.needs.values() for column in columns} <= filled, metric.key


def test_replayed_blocks_compute_nothing_and_leave_no_trace(learned: LoadedModel) -> None:
    sequences = [learned.format.encode(row) for row in ROWS[:3]]
    blocks = decoder_layers(learned.model)
    with recorded_blocks(learned.model) as outputs:
        clean = labelled_rows(learned.model, sequences, packed=True)
    assert len(outputs) == len(blocks)
    entered: list[int] = []
    hooks = [
        block.self_attn.register_forward_pre_hook(lambda m, i, n=n: entered.append(n)) for n, block in enumerate(blocks)
    ]
    with replayed_blocks(learned.model, outputs, 0):
        again = labelled_rows(learned.model, sequences, packed=True)
    assert entered == [1]
    assert torch.equal(again.per_token_logps, clean.per_token_logps)
    labelled_rows(learned.model, sequences, packed=True)
    assert entered == [1, 0, 1]
    assert all("forward" not in block.__dict__ for block in blocks)
    for hook in hooks:
        hook.remove()


@pytest.mark.slow
def test_where_blocks_share_more_than_their_output_every_block_is_computed(
    learned: LoadedModel, fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = layer_drops(learned, targets_of(learned)[:4], original=lambda: learned, reference=lambda: fresh)
    monkeypatch.setattr(uds, "_replays", lambda *_: False)
    whole = layer_drops(learned, targets_of(learned)[:4], original=lambda: learned, reference=lambda: fresh)
    np.testing.assert_allclose(plain, whole, atol=1e-5)


@pytest.mark.slow
def test_a_position_that_is_asked_in_one_row_and_told_in_another_is_not_shared(
    learned: LoadedModel, fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row's answer begins another's prompt, as earlier turns do."""
    ids = tuple(range(3, 12))
    targets = [Target(TokenSequence(ids[:6], 3), (True,) * 3), Target(TokenSequence(ids, 6), (True,) * 3)]
    assert not uds._packable(learned, targets)
    assert all(uds._packable(learned, [target]) for target in targets)
    together = layer_drops(fresh, targets, original=lambda: learned, reference=lambda: fresh)
    for number, target in enumerate(targets):
        alone = layer_drops(fresh, [target], original=lambda: learned, reference=lambda: fresh)
        np.testing.assert_allclose(together[0][number], alone[0][0], atol=1e-4)


def test_a_model_whose_blocks_share_keys_and_values_is_not_replayed(learned: LoadedModel) -> None:
    sequences = [learned.format.encode(row) for row in ROWS[:2]]
    with recorded_blocks(learned.model) as outputs:
        clean = labelled_rows(learned.model, sequences, packed=True).per_token_logps
    assert uds._replays(learned, sequences, True, outputs, clean)
    assert not uds._replays(learned, sequences, True, outputs[:-1], clean)
    assert not uds._replays(learned, sequences, True, [o[0] if isinstance(o, tuple) else 2 * o for o in outputs], clean)

    def missing(*_: Any, **__: Any) -> Any:
        raise KeyError("sliding_attention")

    last = decoder_layers(learned.model)[-1]
    last.__dict__["forward"] = missing
    try:
        assert not uds._replays(learned, sequences, True, outputs, clean)
    finally:
        del last.__dict__["forward"]
