"""Value and gradient of every loss against a slow loop in plain Python arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from expunge.losses import (
    dpo_loss,
    ga_loss,
    kl_divergence_loss,
    nll_loss,
    npo_loss,
    sequence_logps,
    simnpo_loss,
    token_logps,
)

BATCH, LENGTHS, WORDS = 3, (2, 4, 1), 6
SEQUENCE = torch.tensor([i for i, n in enumerate(LENGTHS) for _ in range(n)])
BETA, DELTA = 0.7, 0.3


def make(seed: int) -> torch.Tensor:
    return torch.randn(sum(LENGTHS), WORDS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS, REFERENCE, OTHER, OTHER_REFERENCE = (make(seed) for seed in range(4))
LABELS = torch.tensor([0, 5, 2, 2, 3, 1, 4])


def naive_logp(rows: list[list[float]], labels: list[int]) -> list[float]:
    out = []
    for row, label in zip(rows, labels, strict=True):
        total = sum(math.exp(z) for z in row)
        out.append(math.log(math.exp(row[label]) / total))
    return out


def naive_sums(logits: torch.Tensor) -> list[float]:
    sums = [0.0] * BATCH
    for value, owner in zip(naive_logp(logits.tolist(), LABELS.tolist()), SEQUENCE.tolist(), strict=True):
        sums[owner] += value
    return sums


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def naive_nll(logits: torch.Tensor) -> float:
    return -sum(naive_logp(logits.tolist(), LABELS.tolist())) / len(LABELS)


def naive_npo(logits: torch.Tensor) -> float:
    pairs = zip(naive_sums(logits), naive_sums(REFERENCE), strict=True)
    return sum(-2 / BETA * log_sigmoid(-BETA * (p - r)) for p, r in pairs) / BATCH


def naive_simnpo(logits: torch.Tensor) -> float:
    pairs = zip(naive_sums(logits), LENGTHS, strict=True)
    return sum(-2 / BETA * log_sigmoid(BETA * (-p / n - DELTA)) for p, n in pairs) / BATCH


def naive_dpo(logits: torch.Tensor) -> float:
    """``logits`` are those of the answer to forget; the chosen answer's are fixed."""
    four = zip(*(naive_sums(z) for z in (OTHER, OTHER_REFERENCE, logits, REFERENCE)), strict=True)
    return sum(-2 / BETA * log_sigmoid(BETA * ((c - cr) - (p - r))) for c, cr, p, r in four) / BATCH


def naive_kl(logits: torch.Tensor) -> float:
    total = 0.0
    for row, kept in zip(logits.tolist(), REFERENCE.tolist(), strict=True):
        p, q = ([math.exp(z) / sum(math.exp(y) for y in line) for z in line] for line in (row, kept))
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / len(LABELS)


def sums(logits: torch.Tensor) -> torch.Tensor:
    return sequence_logps(token_logps(logits, LABELS), SEQUENCE, BATCH)


CASES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], float]]] = {
    "nll": (lambda z: nll_loss(token_logps(z, LABELS)), naive_nll),
    "ga": (lambda z: ga_loss(token_logps(z, LABELS)), lambda z: -naive_nll(z)),
    "npo": (lambda z: npo_loss(sums(z), sums(REFERENCE), beta=BETA), naive_npo),
    "simnpo": (lambda z: simnpo_loss(sums(z), torch.tensor(LENGTHS), beta=BETA, delta=DELTA), naive_simnpo),
    "dpo": (
        lambda z: dpo_loss(sums(OTHER), sums(OTHER_REFERENCE), sums(z), sums(REFERENCE), beta=BETA),
        naive_dpo,
    ),
    "kl": (lambda z: kl_divergence_loss(z, REFERENCE), naive_kl),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    ours, naive = CASES[name]
    logits = LOGITS.clone().requires_grad_()
    loss = ours(logits)
    loss.backward()
    assert loss.item() == pytest.approx(naive(LOGITS), rel=1e-10)
    numeric = torch.zeros_like(LOGITS)
    step = 1e-5
    for i in range(LOGITS.shape[0]):
        for j in range(WORDS):
            up, down = LOGITS.clone(), LOGITS.clone()
            up[i, j] += step
            down[i, j] -= step
            numeric[i, j] = (naive(up) - naive(down)) / (2 * step)
    torch.testing.assert_close(logits.grad, numeric, rtol=1e-6, atol=1e-8)
