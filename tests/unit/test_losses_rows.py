"""Losses of vocabulary-wide rows: a few rows at a time gives what one row at a time gives, and no second array."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from expunge.losses import (
    adversarial_labels,
    ceu_loss,
    kl_divergence_loss,
    logit_margin_loss,
    shared_logps,
    token_logps,
    undial_loss,
)
from expunge.losses.rows import CHUNK_NUMBERS, by_rows, chunks

N, V = 7, 5
SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 2, 2])
LABELS = torch.tensor([4, 0, 2, 2, 1, 3, 0])


@pytest.fixture(autouse=True)
def two_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 2 * V)


def draw(dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Numbers that every dtype can write down."""
    return (3 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))).bfloat16().to(dtype)


def test_chunks_are_consecutive_and_hold_a_row_at_least() -> None:
    assert list(chunks(torch.empty(5, V))) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    assert list(chunks(torch.empty(2, 3 * V))) == [slice(0, 1), slice(1, 2)]
    assert list(chunks(torch.empty(0, V))) == [slice(0, 2)]


# -- every loss that reads whole rows, one row at a time, written out in float64 ---------------------------------------


def naive_token_logps(z: Tensor) -> list[Tensor]:
    return [z[n, LABELS[n]] - z[n].exp().sum().log() for n in range(N)]


def naive_kl(z: Tensor) -> list[Tensor]:
    reference = [row.softmax(0) for row in draw(torch.float64, 1)]
    return [(p * (p.log() - z[n].log_softmax(0))).sum() for n, p in enumerate(reference)]


def naive_undial(z: Tensor) -> list[Tensor]:
    losses = []
    for n, row in enumerate(draw(torch.float64, 1)):
        row[LABELS[n]] -= 10
        losses.append(-(row.softmax(0) * z[n].log_softmax(0)).sum())
    return losses


def naive_ceu(z: Tensor) -> list[Tensor]:
    losses = []
    for n in (1, 2, 4, 6):  # the first label of each sequence is left alone
        others = [v for v in range(V) if v != LABELS[n]]
        target = z[n, others].detach().softmax(0)
        losses.append(-(target * z[n].log_softmax(0)[others]).sum())
    return losses


def naive_margin(z: Tensor) -> list[Tensor]:
    return [(row.max() - row.mean()) ** 2 for row in z]


LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], list[Tensor]]]] = {
    "token_logps": (lambda z: token_logps(z, LABELS), naive_token_logps),
    "kl": (lambda z: kl_divergence_loss(z, draw(z.dtype, 1), reduction="none"), naive_kl),
    "undial": (lambda z: undial_loss(z, draw(z.dtype, 1), LABELS, beta=10, reduction="none"), naive_undial),
    "ceu": (lambda z: ceu_loss(z, LABELS, SEQUENCE, reduction="none"), naive_ceu),
    "logit_margin": (lambda z: logit_margin_loss(z, reduction="none"), naive_margin),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
# A gradient has the dtype of the logits; losses are float32 at least.
VALUES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5}
GRADIENTS = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3}


def assert_gradient(logits: Tensor, exact: Tensor) -> None:
    """The gradient of logits against that of the same numbers in float64."""
    tolerance = GRADIENTS[logits.dtype]
    assert logits.grad is not None
    assert logits.grad.dtype == logits.dtype
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_those_of_single_rows(name: str, dtype: torch.dtype) -> None:
    ours, naive = LOSSES[name]
    logits, exact = draw(dtype).requires_grad_(), draw(torch.float64).requires_grad_()
    got, expected = ours(logits), torch.stack(naive(exact))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=VALUES[dtype])
    weights = torch.linspace(0.5, 1.5, len(got), dtype=torch.float64)  # unequal, so that a swap of two rows shows
    (got * weights.to(got)).sum().backward()
    (expected * weights).sum().backward()
    assert_gradient(logits, exact)


@pytest.mark.parametrize("legacy_shift", [False, True])
def test_adversarial_labels_do_not_depend_on_the_chunks(legacy_shift: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.arange(N) * 2**59
    settings = {"top_k": 2, "legacy_shift": legacy_shift}
    got = adversarial_labels(draw(torch.float32), LABELS, SEQUENCE, random, **settings)  # type: ignore[arg-type]
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 2**20)
    whole = adversarial_labels(draw(torch.float32), LABELS, SEQUENCE, random, **settings)  # type: ignore[arg-type]
    assert got.tolist() == whole.tolist()


def test_gradcheck_by_rows() -> None:
    logits, other = draw(torch.float64).requires_grad_(), draw(torch.float64, 1)
    assert gradcheck(lambda z: by_rows(lambda a, b: (a.sin() * b).sum(-1), z, other), (logits,))


def test_token_logps_leave_the_logits_alone() -> None:
    logits = draw(torch.float32).requires_grad_()
    logps = token_logps(logits, LABELS)
    (first,) = torch.autograd.grad(logps.sum(), logits, retain_graph=True)
    (second,) = torch.autograd.grad(logps.sum(), logits)
    assert torch.equal(logits.detach(), draw(torch.float32))
    assert torch.equal(first, second)


def test_a_gradient_of_a_gradient_is_refused() -> None:
    logits = draw(torch.float32).requires_grad_()
    for losses in (token_logps(logits, LABELS), kl_divergence_loss(logits, draw(torch.float32, 1))):
        with pytest.raises(RuntimeError, match="differentiated once only"):
            torch.autograd.grad(losses.sum(), logits, create_graph=True)


# -- logits that several readers share ---------------------------------------------------------------------------------

COUNTS = [2, 0, 3, 2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_readers_of_shared_logits_get_right_gradients(dtype: torch.dtype) -> None:
    leaf, exact = draw(dtype).requires_grad_(), draw(torch.float64).requires_grad_()
    logps, parts = shared_logps(leaf * 1, LABELS, COUNTS)
    assert [len(part) for part in parts] == COUNTS
    # A square keeps the logits for its backward pass: they must not be written over before.
    loss = (logps * torch.linspace(1, 2, N).to(logps)).sum() + parts[2].square().to(logps).sum()
    reference = draw(torch.float64, 1)[5:]
    loss = loss + kl_divergence_loss(parts[3], reference.to(dtype), reduction="sum")
    wanted = (torch.stack(naive_token_logps(exact)) * torch.linspace(1, 2, N)).sum() + exact[2:5].square().sum()
    wanted = wanted + torch.stack(naive_kl(exact)[5:]).sum()
    torch.testing.assert_close(loss.double(), wanted, rtol=4e-3 if dtype == torch.bfloat16 else 1e-6, atol=0)
    loss.backward()
    wanted.backward()
    if dtype == torch.bfloat16:
        # Two readers' gradients, each rounded.
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=8e-3, atol=8e-3)  # type: ignore[union-attr]
    else:
        assert_gradient(leaf, exact)


@pytest.mark.parametrize("read", ["logps", "part"])
def test_the_gradient_takes_the_place_of_shared_logits(read: str) -> None:
    logits = draw(torch.float32).requires_grad_() * 1
    seen: list[Tensor] = []
    logits.register_hook(seen.append)
    logps, parts = shared_logps(logits, LABELS, [3, 4])
    loss = logps.sum() if read == "logps" else parts[1].sum()
    loss.backward(retain_graph=True)
    assert seen[0].data_ptr() == logits.data_ptr()
    if read == "part":
        assert seen[0].tolist() == [[0.0] * V] * 3 + [[1.0] * V] * 4
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_operation_that_kept_its_logits_refuses_to_go_on_with_others() -> None:
    # tanh needs what it put out: where a model ended so, wrong gradients must not come out of it.
    logps, _ = shared_logps(draw(torch.float32).requires_grad_().tanh(), LABELS, [N])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logps.sum().backward()
