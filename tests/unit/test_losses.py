"""Losses by hand: the numbers are worked out beside each assertion."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

from expunge.losses import (
    at_least_fp32,
    dpo_loss,
    ga_loss,
    kl_divergence_loss,
    nll_loss,
    npo_loss,
    reduce,
    sequence_logps,
    simnpo_loss,
    token_logps,
)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_token_logps_of_a_three_word_vocabulary() -> None:
    # softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8).
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]))
    got = token_logps(logits, torch.tensor([2, 0]))
    assert got.tolist() == pytest.approx([math.log(5 / 8), math.log(1 / 8)], abs=1e-6)


def test_token_logps_refuses_an_ignore_mark() -> None:
    with pytest.raises(ValueError, match="labels must be token ids, got -100"):
        token_logps(torch.zeros(2, 3), torch.tensor([1, -100]))


def test_token_logps_refuses_a_label_beyond_the_vocabulary() -> None:
    with pytest.raises(IndexError):
        token_logps(torch.zeros(1, 3), torch.tensor([3]))


def test_token_logps_of_no_rows_is_empty() -> None:
    assert token_logps(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_to_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]], dtype=dtype)
    got = token_logps(logits, torch.tensor([2]))
    # -log(1 + e^-2 + e^-3), far finer than half precision resolves.
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(-math.log(1 + math.exp(-2) + math.exp(-3)), abs=1e-6)


def test_double_precision_stays_double() -> None:
    assert at_least_fp32(f64(1.0)).dtype == torch.float64
    assert at_least_fp32(torch.ones(1)).dtype == torch.float32


def test_sequence_logps_sum_without_dividing() -> None:
    got = sequence_logps(f64(-1, -2, -4, -8), torch.tensor([0, 0, 2, 0]), 3)
    # Sequence 0 owns -1, -2 and -8; sequence 1 owns nothing; sequence 2 owns -4.
    assert got.tolist() == [-11, 0, -4]


def test_reductions() -> None:
    values = f64(1, 2, 6)
    assert reduce(values, "sum").item() == 9
    assert reduce(values, "mean").item() == 3
    assert reduce(values, "none") is values
    with pytest.raises(ValueError, match="'mean', 'sum' or 'none'"):
        reduce(values, "avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty batch"):
        reduce(f64(), "mean")
    assert reduce(f64(), "sum").item() == 0


def test_nll_and_ga_are_each_others_negative() -> None:
    logps = f64(-0.5, -1.5, -4)
    assert nll_loss(logps).item() == pytest.approx(2)  # (0.5 + 1.5 + 4) / 3
    assert ga_loss(logps).item() == pytest.approx(-2)
    assert nll_loss(logps, reduction="sum").item() == pytest.approx(6)


def test_npo_by_hand() -> None:
    # beta 0.5, log ratio -2: -(2/0.5) log sigmoid(0.5 * 2) = 4 log(1 + e^-1).
    got = npo_loss(f64(-7), f64(-5), beta=0.5)
    assert got.item() == pytest.approx(4 * math.log(1 + math.exp(-1)))


def test_npo_at_the_reference_is_two_over_beta_log_two() -> None:
    for beta in (0.01, 0.1, 1.0, 4.0):
        assert npo_loss(f64(-3, -9), f64(-3, -9), beta=beta).item() == pytest.approx(2 / beta * math.log(2))


def test_npo_falls_as_the_answer_becomes_unlikely() -> None:
    got = npo_loss(f64(-1, -5, -50), f64(-5, -5, -5), beta=0.1, reduction="none")
    assert got[0] > got[1] > got[2] > 0


def test_simnpo_by_hand() -> None:
    # Mean NLL 6/3 = 2, delta 0.5, beta 2: -(2/2) log sigmoid(2 * 1.5) = log(1 + e^-3).
    got = simnpo_loss(f64(-6), torch.tensor([3]), beta=2.0, delta=0.5)
    assert got.item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_dpo_by_hand() -> None:
    # Chosen gains 1 nat, rejected loses 3: -(2/0.5) log sigmoid(0.5 * (1 - (-3))) = 4 log(1 + e^-2).
    got = dpo_loss(f64(-4), f64(-5), f64(-8), f64(-5), beta=0.5)
    assert got.item() == pytest.approx(4 * math.log(1 + math.exp(-2)))


def test_dpo_at_the_reference() -> None:
    assert dpo_loss(f64(-4), f64(-4), f64(-8), f64(-8), beta=0.1).item() == pytest.approx(20 * math.log(2))


def test_kl_by_hand_and_in_the_forward_direction() -> None:
    # p_ref = (1/2, 1/2), p = (1/4, 3/4): sum p_ref log(p_ref / p) = (ln 2 + ln(2/3)) / 2; the other way it differs.
    policy, reference = torch.log(f64(0.25, 0.75))[None], torch.log(f64(0.5, 0.5))[None]
    forward = (math.log(2) + math.log(2 / 3)) / 2
    backward = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kl_divergence_loss(policy, reference).item() == pytest.approx(forward)
    assert abs(forward - backward) > 0.01


def test_kl_takes_raw_logits_on_both_sides() -> None:
    policy, reference = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shifted = kl_divergence_loss(policy + 5, reference - 3)
    assert shifted.item() == pytest.approx(kl_divergence_loss(policy, reference).item())


def test_kl_sends_no_gradient_into_the_reference() -> None:
    policy, reference = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    kl_divergence_loss(policy, reference * torch.tensor([1.0, 2.0, 3.0])).backward()
    assert policy.grad is not None
    assert reference.grad is None


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta: float) -> None:
    one, tokens = f64(-1), torch.tensor([1])
    for call in (
        lambda: npo_loss(one, one, beta=beta),
        lambda: simnpo_loss(one, tokens, beta=beta),
        lambda: dpo_loss(one, one, one, one, beta=beta),
    ):
        with pytest.raises(ValueError, match="beta must be above 0"):
            call()


def grads(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(reduction: str) -> None:
    a, b, logits = grads(4, seed=1), grads(4, seed=2), grads(4, 5, seed=3)
    reference, labels, lengths = grads(4, 5, seed=4).detach(), torch.tensor([0, 4, 2, 2]), torch.tensor([1, 2, 3, 9])
    kind: dict[str, str] = {"reduction": reduction}
    assert gradcheck(lambda z: token_logps(z, labels), (logits,))
    assert gradcheck(lambda x: sequence_logps(x, torch.tensor([1, 0, 1, 2]), 3), (a,))
    assert gradcheck(lambda x: nll_loss(x, **kind), (a,))  # type: ignore[arg-type]
    assert gradcheck(lambda x: ga_loss(x, **kind), (a,))  # type: ignore[arg-type]
    assert gradcheck(lambda x, y: npo_loss(x, y, beta=0.3, **kind), (a, b))  # type: ignore[arg-type]
    assert gradcheck(lambda x: simnpo_loss(x, lengths, beta=2.5, delta=0.2, **kind), (a,))  # type: ignore[arg-type]
    fixed = grads(2, 4, seed=5).detach()
    assert gradcheck(lambda x, y: dpo_loss(x, fixed[0], y, fixed[1], beta=0.3, **kind), (a, b))  # type: ignore[arg-type]
    assert gradcheck(lambda z: kl_divergence_loss(z, reference, **kind), (logits,))  # type: ignore[arg-type]


def test_extreme_ratios_stay_finite() -> None:
    # A sequence of 300 tokens may move by thousands of nats; log-sigmoid must neither overflow nor vanish to NaN.
    far = torch.tensor([-5000.0, 0.0], requires_grad=True)
    loss = npo_loss(far, torch.tensor([0.0, -5000.0]), beta=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(far.grad).all()
