"""What a training needs, by hand-computed shapes; what is chosen where there is less; what the machine says it has."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_llama
from expunge.data.tree import PackedTree, TokenSequence
from expunge.models import machine
from expunge.models.shape import ModelShape, Moved
from expunge.models.tree_attention import TREE_ATTENTION, tree_logits
from expunge.recipe import TrainPart
from expunge.scopes import make_scope
from expunge.training.memory import (
    MemoryNeed,
    PassSettings,
    as_before,
    block_bytes,
    fit,
    optimizer_bytes,
    training_need,
)

CPU = torch.device("cpu")
# Four blocks of width 8: two heads of 4, one key head, an MLP of 16, 100 tokens; blocks of 500 numbers.
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
ALL = Moved(num_params=2800, gradient_bytes=11200, block_params=2000, first_block=0, head=True)


# -- shapes --------------------------------------------------------------------------------------------------------


def test_the_shape_of_a_model_is_read_off_its_modules_and_needs_no_memory() -> None:
    shape = ModelShape.of(make_llama())
    attention, mlp, norms = 32 * 32 * 2 + 2 * 32 * 16, 3 * 32 * 64, 2 * 32
    assert (shape.num_layers, shape.hidden, shape.intermediate, shape.num_heads) == (2, 32, 64, 4)
    assert (shape.query_width, shape.key_width, shape.vocab) == (32, 16, 320)
    assert shape.block_params == 2 * (attention + mlp + norms)
    assert shape.num_params == shape.block_params + 320 * 32 + 32, "tied weights count once"
    assert shape.weight_bytes == 4 * shape.num_params
    with torch.device("meta"):
        assert ModelShape.of(make_llama()) == shape


@pytest.mark.parametrize(
    ("scope", "first", "head"),
    [
        ({"kind": "full"}, 0, True),
        ({"kind": "lora", "rank": 2}, 0, False),
        ({"kind": "layers", "pattern": "mlp", "layers": [1]}, 1, False),
        ({"kind": "gated", "layers": [0]}, 1, False),
    ],
)
def test_what_moves_follows_from_the_scope(scope: dict[str, Any], first: int, head: bool) -> None:
    model = make_scope(scope).attach(make_llama())
    moved = Moved.of(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert moved.num_params == sum(p.numel() for p in trained)
    assert moved.gradient_bytes == 4 * moved.num_params
    assert (moved.first_block, moved.head) == (first, head)


def test_of_experts_a_token_meets_those_that_it_is_sent_to() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    settings = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(**settings, **heads, num_local_experts=4, num_experts_per_tok=2))
    experts = 4 * 3 * 16 * 32
    rest = sum(p.numel() for p in model.model.layers.parameters()) - experts
    assert ModelShape.of(model).block_params == rest + experts // 2


# -- memory --------------------------------------------------------------------------------------------------------


def test_a_block_keeps_what_its_backward_pass_reads() -> None:
    # 10 tokens; norms 4 x 8 in float32; linear layers and heads 2 x 8 + 4 x 8 + 4 x 16 = 112; the mask's row of 10.
    assert block_bytes(SHAPE, 10, PassSettings()) == 10 * (4 * 32 + 4 * 112 + 4 * 10)
    # Under autocast products are 2 bytes wide.
    assert block_bytes(SHAPE, 10, PassSettings(bf16=True)) == 10 * (4 * 32 + 2 * 112 + 2 * 10)
    capped = replace(SHAPE, keeps_scores=True)
    assert block_bytes(capped, 10, PassSettings()) == 10 * (4 * 32 + 4 * 112 + 4 * 10 + 4 * 2 * 10)


def test_full_training_needs_weights_gradients_states_activations_and_logits() -> None:
    need = training_need(SHAPE, ALL, (10, 6), PassSettings(), kept=77)
    block = block_bytes(SHAPE, 10, PassSettings())
    assert need == MemoryNeed(
        weights=11200, kept=77, gradients=11200, optimizer=2 * 11200, activations=5 * block, logits=2 * 4 * 6 * 100
    )
    assert need.growth == 11200 * 3 + 5 * block + 4800
    assert need.total == need.growth + 11200 + 77


def test_checkpointing_keeps_the_blocks_inputs_and_one_block() -> None:
    need = training_need(SHAPE, ALL, (10, 6), PassSettings(checkpoint=True))
    assert need.activations == 4 * 10 * 8 * 4 + block_bytes(SHAPE, 10, PassSettings())


def test_nothing_is_kept_below_the_first_block_that_moves() -> None:
    upper = Moved(num_params=10, gradient_bytes=40, block_params=10, first_block=3, head=False)
    need = training_need(SHAPE, upper, (10, 6), PassSettings())
    assert need.activations == 2 * block_bytes(SHAPE, 10, PassSettings())
    assert (need.gradients, need.optimizer) == (40, 80)
    # A run that reads block 1 alone stops there: nothing of it moves, and there are no logits.
    need = training_need(SHAPE, upper, (10, 6), PassSettings(top=1))
    assert (need.activations, need.logits) == (0, 0)


def test_autocast_keeps_a_copy_of_the_weights_that_it_multiplies_by() -> None:
    plain, half = (training_need(SHAPE, ALL, (10, 6), PassSettings(bf16=bf16)) for bf16 in (False, True))
    casts = 2 * (2000 + 100 * 8)
    assert half.activations == 5 * block_bytes(SHAPE, 10, PassSettings(bf16=True)) + casts
    assert half.weights == plain.weights, "the weights themselves stay in float32"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adamw_torch_fused", 22400),
        ("adamw_bnb_8bit", 5600),
        ("paged_adamw_8bit", 5600),
        ("sgd", 0),
        ("lion_8bit", 2800),
    ],
)
def test_states_of_optimisers(name: str, expected: int) -> None:
    assert optimizer_bytes(name, ALL) == expected


def test_the_formula_counts_what_autograd_keeps() -> None:
    model = make_llama(hidden_size=64, intermediate_size=176, num_hidden_layers=3).train()
    model.set_attn_implementation(TREE_ATTENTION)
    rows = [TokenSequence(tuple(range(3 + 40 * n, 43 + 40 * n)), 20) for n in range(3)]
    tree = PackedTree.build(rows)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tree_logits(model, tree)
    saved = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in weights)
    assert 3 * block_bytes(ModelShape.of(model), len(tree.input_ids), PassSettings()) == pytest.approx(saved, rel=0.12)


# -- choices -------------------------------------------------------------------------------------------------------


def need(tokens: int, checkpoint: bool) -> MemoryNeed:
    """100 bytes a token, 20 where activations are computed again, 1000 of weights."""
    return MemoryNeed(weights=1000, activations=tokens * (20 if checkpoint else 100))


@pytest.mark.parametrize(
    ("room", "tokens", "checkpoint"),
    [
        (None, 1536, False),
        (200_000, 1536, False),
        (153_600 / 0.9 - 1, 768, False),
        (76_800 / 0.9 - 1, 384, False),
        (38_400 / 0.9 - 1, 384, True),
        (7_680 / 0.9 - 1, 192, True),
        (3_840 / 0.9 - 1, 96, True),
    ],
)
def test_less_memory_first_costs_larger_passes_and_then_time(room: float | None, tokens: int, checkpoint: bool) -> None:
    found = fit(TrainPart(), CPU, None if room is None else int(room), need)
    assert (found.micro_batch_tokens, found.checkpoint_activations) == (tokens, checkpoint)
    assert ("computed again" in found.note) == checkpoint
    assert (f"at most {tokens} tokens" in found.note) == (tokens < 1536)
    assert "warning" not in found.note


def test_what_is_set_stays() -> None:
    asked = TrainPart(micro_batch_tokens=500, checkpoint_activations=False)
    found = fit(asked, CPU, 10_000, need)
    assert (found.micro_batch_tokens, found.checkpoint_activations) == (500, False)
    assert "warning: about 0.00 GB are needed" in found.note
    assert fit(TrainPart(checkpoint_activations=False), CPU, 11_000, need).micro_batch_tokens == 96
    assert fit(TrainPart(checkpoint_activations=True), CPU, 1 << 40, need).checkpoint_activations
    assert not fit(TrainPart(), CPU, 10_000, need, can_checkpoint=False).checkpoint_activations


def test_weights_that_are_not_loaded_yet_count() -> None:
    room = int((38_400 + 999) / 0.9)
    assert not fit(TrainPart(), CPU, room, need).checkpoint_activations
    assert fit(TrainPart(), CPU, room, need, loaded=False).checkpoint_activations


def test_what_changes_results_is_only_suggested() -> None:
    found = fit(TrainPart(), torch.device("cuda"), 100, need)
    assert (found.micro_batch_tokens, found.checkpoint_activations) == (64, True)
    assert "paged_adamw_8bit" in found.note
    assert "scope qlora" in found.note
    assert "8bit" not in fit(TrainPart(), CPU, 100, need).note


def test_a_gpu_is_given_larger_passes() -> None:
    assert fit(TrainPart(), torch.device("cuda"), None, need).micro_batch_tokens == 2048
    assert fit(TrainPart(micro_batch_tokens=100), torch.device("cuda"), None, need).micro_batch_tokens == 100


def test_a_resumed_run_does_as_it_did_before(tmp_path: Path) -> None:
    part = TrainPart()
    assert as_before(part, None) == as_before(part, tmp_path) == part
    fit(part, CPU, 4_000, need).keep(tmp_path)
    again = as_before(part, tmp_path)
    assert (again.micro_batch_tokens, again.checkpoint_activations) == (96, True)
    assert as_before(TrainPart(micro_batch_tokens=48), tmp_path).micro_batch_tokens == 48, "what is set wins"


# -- the machine ---------------------------------------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_available_memory_is_linuxs_own_word(tmp_path: Path) -> None:
    write(tmp_path, {"meminfo": "MemTotal:  100 kB\nMemFree:  10 kB\nMemAvailable:   40 kB\n"})
    assert list(machine._available(tmp_path / "meminfo")) == [40 * 1024]
    assert list(machine._available(tmp_path / "nothing")) == []
    assert machine.free_memory(torch.device("meta")) is None


def test_control_groups_of_version_2_limit_it_at_every_level(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/box/job"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/box/job\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": "50\n",
            f"{group}/memory.stat": "anon 40\ninactive_file 7\n",
            "sys/fs/cgroup/box/memory.max": "100\n",
            "sys/fs/cgroup/box/memory.current": "60\n",
            "sys/fs/cgroup/box/memory.stat": "anon 40\ninactive_file 15\n",
        },
    )
    assert list(machine._group_room(tmp_path)) == [100 - 60 + 15]


def test_control_groups_of_version_1_limit_it_too(tmp_path: Path) -> None:
    mount = "sys/fs/cgroup/memory"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu:/\n4:memory:/elsewhere/host/path\n",
            f"{mount}/memory.limit_in_bytes": "1000\n",
            f"{mount}/memory.usage_in_bytes": "1200\n",
            f"{mount}/memory.stat": "cache 1\n",
        },
    )
    assert list(machine._group_room(tmp_path)) == [0], "never less than nothing, and the mount counts in a container"


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\nflags\t: fpu\n", True),
        ("flags\t: fpu avx2 amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t: fpu avx2\nbugs\t: bf16\n", False),
        ("", False),
    ],
)
def test_fast_bfloat16_is_in_the_processors_flags(tmp_path: Path, text: str, fast: bool) -> None:
    write(tmp_path, {"cpuinfo": text})
    assert bool(machine._cpu_flags(tmp_path / "cpuinfo") & machine._FAST_BF16) == fast


def test_rates_are_positive_and_need_no_time() -> None:
    assert machine.matmul_rate(8, 8, 8, dtype=torch.float32, device=CPU, seconds=0) > 0
    assert machine.copy_rate(CPU, num_bytes=1 << 12, seconds=0) > 0
    assert 0 < machine.touch_rate(CPU, num_bytes=1 << 16) < math.inf
    assert machine.touch_rate(torch.device("cuda")) == math.inf
    assert machine.used_memory() > 1e6
