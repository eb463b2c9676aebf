"""Round-to-nearest by hand, and which changes it undoes."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from conftest import city_rows, colour_rows, make_llama
from expunge.attacks.base import Site
from expunge.attacks.calibrated import exported
from expunge.attacks.quantise import bin_crossing, block_weights, quantise, round_to_nearest, through_bitsandbytes
from expunge.errors import ModelError
from expunge.models.load import LoadedModel

Load = Callable[..., LoadedModel]


def test_four_bits_by_hand() -> None:
    # Largest 7.0, so the scale is 1: everything goes to the nearest whole number, halves to the even one.
    weight = torch.tensor([[7.0, -6.6, 0.4, 2.5]])
    assert round_to_nearest(weight, 4).tolist() == [[7.0, -7.0, 0.0, 2.0]]


def test_each_run_of_inputs_has_its_own_scale() -> None:
    weight = torch.tensor([[7.0, 0.4, 0.07, 0.004, 14.0]])
    # Runs (7, 0.4), (0.07, 0.004) and the short (14): scales 1, 0.01 and 2.
    torch.testing.assert_close(round_to_nearest(weight, 4, group=2), torch.tensor([[7.0, 0.0, 0.07, 0.0, 14.0]]))
    # One run: scale 2; 7 lies halfway between 6 and 8, whose level is even.
    torch.testing.assert_close(round_to_nearest(weight, 4, group=0), torch.tensor([[8.0, 0.0, 0.0, 0.0, 14.0]]))


@pytest.mark.parametrize("bits", [8, 4])
def test_no_weight_moves_by_more_than_half_a_bin(bits: int) -> None:
    weight = torch.randn(8, 300, generator=torch.Generator().manual_seed(0))
    rounded = round_to_nearest(weight, bits)
    for start in range(0, 300, 128):
        part, got = weight[:, start : start + 128], rounded[:, start : start + 128]
        half = part.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1) / 2
        assert bool(((part - got).abs() <= half * 1.0001).all())
    levels = {round(float(v), 6) for v in rounded[0, :128] / (weight[0, :128].abs().max() / (2 ** (bits - 1) - 1))}
    assert len(levels) <= 2**bits - 1


def test_rounding_twice_is_rounding_once_and_zeros_stay() -> None:
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    once = round_to_nearest(weight, 4)
    torch.testing.assert_close(round_to_nearest(once, 4), once)
    assert not round_to_nearest(torch.zeros(2, 5), 4).any()
    assert round_to_nearest(weight.bfloat16(), 8).dtype == torch.bfloat16


@pytest.mark.parametrize(("shape", "bits", "group"), [((2, 2), 1, 128), ((2, 2), 4, -1), ((4,), 4, 128)])
def test_what_cannot_be_rounded_is_refused(shape: tuple[int, ...], bits: int, group: int) -> None:
    with pytest.raises(ValueError, match=r"bits must be at least 2|is a matrix"):
        round_to_nearest(torch.ones(shape), bits, group)


def test_only_linear_weights_of_the_blocks_are_rounded(load_tiny: Load) -> None:
    model, fresh = load_tiny().model, load_tiny().model
    count = quantise(model, 4, group=16)
    changed = {
        n for (n, a), (_, b) in zip(model.named_parameters(), fresh.named_parameters(), strict=True) if (a != b).any()
    }
    assert changed == {n for n, _ in fresh.named_parameters() if "_proj" in n}
    assert count == sum(p.numel() for n, p in fresh.named_parameters() if "_proj" in n)
    assert all(p.requires_grad for p in model.parameters())


def test_gpt2_keeps_its_weights_the_other_way_round() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config)
    before = model.transformer.h[0].mlp.c_fc.weight.detach().clone()  # (inputs 8, outputs 32)
    quantise(model, 4, group=8)
    torch.testing.assert_close(model.transformer.h[0].mlp.c_fc.weight.detach().T, round_to_nearest(before.T, 4, 8))


def test_a_change_within_its_bin_is_undone() -> None:
    old, new = make_llama(), make_llama()
    with torch.no_grad():
        for _, weight in [*block_weights(old), *block_weights(new)]:
            weight.zero_()
            weight[:, 0] = 7.0
        for _, weight in block_weights(new):
            weight[:, 1] = 0.4
    found = bin_crossing(old, new, 4, group=32)
    assert (found.crossed, found.kept_norm) == (0.0, 0.0)
    assert found.moved == pytest.approx(
        sum(w.shape[0] for _, w in block_weights(old)) / sum(w.numel() for _, w in block_weights(old))
    )
    with torch.no_grad():
        for _, weight in block_weights(new):
            weight[:, 1] = 0.6
    across = bin_crossing(old, new, 4, group=32)
    assert across.crossed == across.moved > 0
    assert across.kept_norm == pytest.approx(1 / 0.6)
    assert set(across.by_weight) == {name for name, _ in block_weights(old)}


def test_more_bits_let_more_of_a_change_through() -> None:
    old, new = make_llama(), make_llama()
    with torch.no_grad():
        for at, (_, weight) in enumerate(block_weights(new)):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(at)), alpha=2e-3)
    eight, four = (bin_crossing(old, new, bits) for bits in (8, 4))
    assert eight.crossed > 5 * four.crossed > 0
    assert abs(eight.kept_norm - 1) < abs(four.kept_norm - 1)


def test_equal_models_and_models_of_another_shape() -> None:
    same = bin_crossing(make_llama(), make_llama(), 4)
    assert (same.crossed, same.moved) == (0.0, 0.0)
    assert math.isnan(same.kept_norm)
    with pytest.raises(ModelError, match="one architecture"):
        bin_crossing(make_llama(), make_llama(num_hidden_layers=1), 4)


# -- bitsandbytes -----------------------------------------------------------------------------------------------------


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.attacks.quantise.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'needs the package bitsandbytes: pip install "expunge\[quant\]"'):
        through_bitsandbytes(torch.ones(2, 64), "nf4")


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_keep_sixteen_levels_a_block(kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    stored = through_bitsandbytes(weight, kind)
    blocks = stored.reshape(-1, 64) / weight.reshape(-1, 64).abs().amax(dim=1, keepdim=True)
    levels = blocks.mul(1e4).round().unique()
    assert 8 < len(levels) <= 16
    assert {-1e4, 1e4} & set(levels.tolist())  # the largest weight of a block is kept
    torch.testing.assert_close(through_bitsandbytes(stored, kind), stored)
    assert 0 < float((stored - weight).abs().max()) < float(weight.abs().max()) / 4


# -- exports that look at data ----------------------------------------------------------------------------------------


def general_site(work: Path) -> Site:
    return Site(forget=colour_rows(), benign=city_rows(), work=work)


def test_without_llmcompressor_it_says_what_to_install(load_tiny: Load, tmp_path: Path) -> None:
    if find_spec("llmcompressor"):
        pytest.skip("llmcompressor is installed")
    with pytest.raises(ModelError, match="pip install llmcompressor"):
        exported(load_tiny, general_site(tmp_path), kind="gptq")


@pytest.mark.slow
def test_gptq_keeps_sixteen_levels_a_group(load_tiny: Load, tmp_path: Path) -> None:
    pytest.importorskip("llmcompressor")
    opened: list[LoadedModel] = []

    def opener() -> LoadedModel:
        opened.append(load_tiny())
        return opened[-1]

    found = exported(opener, general_site(tmp_path), kind="gptq")
    assert found.scores.shape == (len(colour_rows()),)
    before = dict(block_weights(load_tiny().model))
    group = next(size for size in (128, 64, 32) if not any(old.shape[1] % size for old in before.values()))
    for name, new in block_weights(opened[0].model):
        assert not torch.equal(before[name], new), name
        assert max(len(run.unique()) for run in new.reshape(-1, group)) <= 16
