"""Operations and tokens that passes take, by hand and against torch's own count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import colour_rows, make_llama
from expunge.data.tree import TokenSequence
from expunge.models.forward import labelled_rows
from expunge.models.shape import ModelShape, Moved
from expunge.models.tree_attention import TREE_ATTENTION
from expunge.scopes import make_scope
from expunge.training.cost import (
    Calibration,
    Rates,
    adapter_seconds,
    attention_seconds,
    decode_seconds,
    forward_flops,
    optimizer_seconds,
    seconds_of,
    traffic_seconds,
    training_flops,
)
from expunge.training.workload import Workload, reference_load, training_load

SHAPE = ModelShape(
    num_layers=4,
    hidden=8,
    intermediate=16,
    num_heads=2,
    query_width=8,
    key_width=4,
    vocab=100,
    block_params=2000,
    num_params=2800,
    weight_bytes=11200,
    element=4,
)
LOAD = Workload(passes=2, tokens=30, labels=5, pairs=500)
LINEAR, ATTENTION, HEAD = 2 * 2000 * 30, 4 * 8 * 4 * 500, 2 * 800 * 5
ROWS = [TokenSequence(tuple(range(3 + 30 * n, 33 + 30 * n)), 20) for n in range(4)]


def moved(**changes: Any) -> Moved:
    settings = {"num_params": 2800, "gradient_bytes": 11200, "block_params": 2000, "first_block": 0, "head": True}
    return Moved(**settings | changes)


def test_a_forward_pass_is_twice_the_numbers_a_token_meets() -> None:
    assert forward_flops(SHAPE, LOAD) == (LINEAR + ATTENTION, HEAD)
    assert forward_flops(SHAPE, LOAD, top=1) == ((LINEAR + ATTENTION) / 2, 0), "half the blocks, no head"


def test_what_does_not_move_costs_less() -> None:
    assert training_flops(SHAPE, moved(), LOAD) == (3 * (LINEAR + ATTENTION), 3 * HEAD)
    assert training_flops(SHAPE, moved(), LOAD, checkpoint=True) == (4 * (LINEAR + ATTENTION), 3 * HEAD)
    # Adapters: the gradient runs through all blocks, and next to no weights have one.
    adapters = moved(block_params=100, head=False)
    assert training_flops(SHAPE, adapters, LOAD) == (2 * LINEAR + 3 * ATTENTION + 2 * 100 * 30, 2 * HEAD)
    # The upper half: the lower one is kept as data.
    upper = moved(block_params=0, first_block=2, head=False)
    assert training_flops(SHAPE, upper, LOAD) == ((2 * LINEAR + 3 * ATTENTION) / 2, 2 * HEAD)
    # A run that reads block 2 of 4 alone: one block is left between it and the first that moves.
    assert training_flops(SHAPE, upper, LOAD, top=2) == ((2 * LINEAR + 3 * ATTENTION) / 4, 0)


@pytest.mark.parametrize("scope", [{"kind": "full"}, {"kind": "lora", "rank": 2}])
def test_the_formula_is_torchs_own_count(scope: dict[str, Any]) -> None:
    model = make_scope(scope).attach(make_llama(num_hidden_layers=3)).train()
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.set_attn_implementation(TREE_ATTENTION)
    load = Workload.of_packs([ROWS])
    with FlopCounterMode(display=False) as counter:
        labelled_rows(model, ROWS, packed=True).logps.sum().backward()
    shape, what = ModelShape.of(model), Moved.of(model)
    # Torch counts no norms, and fused attention on a GPU alone.
    least, most = (sum(training_flops(shape, what, part)) for part in (replace(load, pairs=0), load))
    assert 0.9 * least < counter.get_total_flops() < 1.1 * most


def test_seconds_are_operations_over_the_rate() -> None:
    share = Calibration(
        train=0.5,
        forward=0.25,
        decode=0.1,
        half=0.8,
        traffic=3,
        attention=5,
        beside=7,
        pass_seconds=1e-3,
        decode_seconds=2e-3,
        optimizer_passes=10,
        disk=1e6,
        start_seconds=1,
    )
    rates = Rates(blocks=1000.0, head=500.0, half=4000.0, copy=100.0, touch=50.0, calibration=share)
    flops = (2000.0, 1000.0)
    assert seconds_of(flops, rates, SHAPE, LOAD, train=True) == pytest.approx(4 / 0.5 + 3 * 2 * 4 * 1e-3)
    assert seconds_of(flops, rates, SHAPE, LOAD, train=False) == pytest.approx(4 / 0.25 + 2 * 4 * 1e-3)
    # In bfloat16 the head is faster by as much as the blocks are, and less of the rate is reached.
    low = seconds_of(flops, rates, SHAPE, LOAD, bf16=True, train=True)
    assert low == pytest.approx(1 / (0.5 * 0.8) + 3 * 2 * 4 * 1e-3)
    assert optimizer_seconds(moved(), rates) == pytest.approx(10 * 11200 / 100)
    busy = 2 * 2800 * 20 / (1000 * 0.1)
    assert decode_seconds(SHAPE, rates, row_steps=20, steps=0) == pytest.approx(busy)
    # With a single row reading the weights takes longer than multiplying by them.
    assert decode_seconds(SHAPE, rates, row_steps=20, steps=20) == pytest.approx(20 * 112 + 20 * 4 * 2e-3)
    assert traffic_seconds(500, rates) == 3 * 500 / 100
    assert attention_seconds(SHAPE, LOAD, rates, blocks=2) == pytest.approx(
        5 * 4 * SHAPE.num_heads * 2 * LOAD.pairs / 100
    )
    beside = 7 * SHAPE.element * 30 * LOAD.tokens / 100
    assert adapter_seconds(SHAPE, moved(adapted_width=30), LOAD, rates) == pytest.approx(beside)


def test_what_adapters_stand_beside() -> None:
    # Of two blocks, queries and values: 32 wide, and 16 for the two key heads of four.
    scope = {"kind": "lora", "rank": 2, "target_modules": ["q_proj", "v_proj"]}
    assert Moved.of(make_scope(scope).attach(make_llama())).adapted_width == 2 * (32 + 16)
    assert Moved.of(make_llama()).adapted_width == 0


def test_a_load_counts_shared_beginnings_once() -> None:
    shared = [TokenSequence((1, 2, 3, 4), 3), TokenSequence((1, 2, 3, 5, 6), 3)]
    load = reference_load([*shared, *shared], 100)
    assert (load.passes, load.tokens, load.labels) == (1, 4, 3)
    # Sequences of 3 and 4 nodes: a token's is (9 + 16) / 7 long.
    assert load.pairs == pytest.approx(4 * 25 / 7)
    assert load.largest == (4, 3)
    apart = reference_load(shared, 3)
    assert (apart.passes, apart.tokens, apart.pairs) == (2, 3 + 4, 9 + 16)


def test_gates_alone_compute_answers_alone() -> None:
    load = reference_load([TokenSequence((1, 2, 3, 4, 5), 3), TokenSequence((6, 7, 8, 9), 2)], 100)
    assert (load.tokens, load.labels, load.pairs) == (7, 4, 25)
    assert (load.answers().tokens, load.answers().pairs) == (4, pytest.approx(25 * 4 / 7))
    assert load.answers().largest == load.largest


def test_steps_are_cut_as_training_cuts_them(load_tiny: Any) -> None:
    from expunge.recipe import TrainPart
    from expunge.training.job import finetune_job, job_streams
    from expunge.training.workload import sampled_units

    part = TrainPart(batch_size=3, max_steps=60)
    job = finetune_job("f", colour_rows(), part, epochs=1, seed=0)
    streams = job_streams(load_tiny(max_length=64).format, job)
    steps = sampled_units(streams)
    assert len(steps) == 24
    assert all(len(units) == 3 for units in steps)
    whole, cut = (training_load(steps, 60, tokens) for tokens in (10_000, 16))
    assert (whole.passes, cut.passes) == (60, 180)
    assert cut.tokens > whole.tokens, "what rows share is computed once a pass"
    assert (
        cut.labels
        == whole.labels
        == pytest.approx(60 / 24 * sum(s.num_labels for units in steps for u in units for s in u.answers.values()))
    )


def test_rates_are_measured_on_the_models_own_shapes() -> None:
    rates = Rates.measure(SHAPE, torch.device("cpu"))
    assert min(rates.blocks, rates.head, rates.half, rates.copy, rates.touch) > 0
