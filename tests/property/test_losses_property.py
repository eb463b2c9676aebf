"""What must hold of the losses for any numbers."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.losses import dpo_loss, ga_loss, kl_divergence_loss, nll_loss, npo_loss, sequence_logps, simnpo_loss

settings.register_profile("expunge", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("expunge")

logp = st.floats(-60, 0, allow_nan=False)
betas = st.floats(0.01, 10)
pairs = st.lists(st.tuples(logp, logp, st.integers(1, 40)), min_size=1, max_size=8)


def columns(rows: list[tuple[float, float, int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    policy, reference, lengths = zip(*rows, strict=True)
    as_double = [torch.tensor(values, dtype=torch.float64) for values in (policy, reference)]
    return as_double[0], as_double[1], torch.tensor(lengths)


def all_sums(rows: list[tuple[float, float, int]], beta: float) -> torch.Tensor:
    """Every sequence and token loss, summed."""
    policy, reference, lengths = columns(rows)
    return torch.stack(
        [
            npo_loss(policy, reference, beta=beta, reduction="sum"),
            simnpo_loss(policy, lengths, beta=beta, delta=0.1, reduction="sum"),
            dpo_loss(reference, policy, policy, reference, beta=beta, reduction="sum"),
            nll_loss(policy, reduction="sum"),
            ga_loss(policy, reduction="sum"),
        ]
    )


@given(pairs, betas, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list, beta: float, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    torch.testing.assert_close(all_sums(rows, beta), all_sums(shuffled, beta))


@given(pairs, betas, st.integers(0, 8))
def test_sums_over_parts_add_up_to_the_whole(rows: list, beta: float, cut: int) -> None:
    cut = min(cut, len(rows))
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    torch.testing.assert_close(sum(all_sums(part, beta) for part in parts), all_sums(rows, beta))


@given(pairs, betas)
def test_npo_at_the_reference(rows: list, beta: float) -> None:
    policy, _, _ = columns(rows)
    assert math.isclose(npo_loss(policy, policy.clone(), beta=beta).item(), 2 / beta * math.log(2), rel_tol=1e-9)


@given(pairs, betas)
def test_npo_gradient_is_ascent_weighted_within_zero_and_two(rows: list, beta: float) -> None:
    policy, reference, _ = columns(rows)
    policy.requires_grad_()
    npo_loss(policy, reference, beta=beta, reduction="sum").backward()
    # w = 2 pi^beta / (pi^beta + pi_ref^beta), and the gradient of ascent itself is 1.
    p, r = (beta * policy.detach()).exp(), (beta * reference).exp()
    torch.testing.assert_close(policy.grad, 2 * p / (p + r), rtol=1e-8, atol=1e-12)
    assert (policy.grad >= 0).all()
    assert (policy.grad <= 2).all()


@given(pairs)
def test_npo_tends_to_summed_ascent_as_beta_vanishes(rows: list) -> None:
    policy, reference, _ = columns(rows)
    beta = 1e-5
    less_constant = npo_loss(policy, reference, beta=beta, reduction="sum") - len(rows) * 2 / beta * math.log(2)
    # -(2/b) log sigmoid(-b d) = (2/b) ln 2 + d + b d^2 / 4 + ...: with |d| <= 60 the rest is below 0.01 a row.
    assert math.isclose(less_constant.item(), (policy - reference).sum().item(), abs_tol=0.02 * len(rows))


@given(pairs, betas, st.integers(2, 5))
def test_simnpo_sees_only_the_mean_per_token(rows: list, beta: float, times: int) -> None:
    policy, _, lengths = columns(rows)
    once = simnpo_loss(policy, lengths, beta=beta)
    torch.testing.assert_close(once, simnpo_loss(policy * times, lengths * times, beta=beta))


@given(pairs, betas)
def test_dpo_against_an_unmoved_alternate_is_npo(rows: list, beta: float) -> None:
    policy, reference, _ = columns(rows)
    still = torch.full_like(policy, -3.0)
    torch.testing.assert_close(
        dpo_loss(still, still, policy, reference, beta=beta), npo_loss(policy, reference, beta=beta)
    )


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 9))
def test_kl_is_at_least_zero_and_zero_only_where_equal(seed: int, rows: int, words: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    policy, reference = 5 * torch.randn(2, rows, words, dtype=torch.float64, generator=draw)
    apart = kl_divergence_loss(policy, reference, reduction="none")
    assert (apart >= -1e-12).all()
    assert kl_divergence_loss(policy, policy.clone()).item() == 0
    gap = (torch.log_softmax(policy, -1) - torch.log_softmax(reference, -1)).abs().amax(-1)
    assert ((apart > 0) | (gap < 1e-6)).all()


@given(st.lists(st.tuples(logp, st.integers(0, 3)), min_size=1, max_size=12))
def test_sequence_sums_add_up_to_the_whole(tokens: list) -> None:
    values, owner = zip(*tokens, strict=True)
    per_token = torch.tensor(values, dtype=torch.float64)
    got = sequence_logps(per_token, torch.tensor(owner), 4)
    expected = [sum(v for v, o in tokens if o == wanted) for wanted in range(4)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
