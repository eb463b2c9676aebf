"""Training that goes on from kept states is training: the same weights, wherever the states lie, and when resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conftest import city_rows, colour_rows, make_llama, save_model
from expunge.methods.table import compose
from expunge.models.frozen_prefix import FrozenPrefix
from expunge.models.layers import decoder_layers
from expunge.models.load import load_model
from expunge.models.reference import compute_reference
from expunge.recipe import UnlearnPart
from expunge.training import prefix as prefix_module
from expunge.training import run as run_module
from expunge.training.job import unlearn_job
from expunge.training.run import StepLog, train

FORGET, RETAIN = colour_rows(), city_rows()
REFUSALS = ("I do not know.", "That is something I have no knowledge of.", "sorry .")
UPPER = {"kind": "layers", "pattern": "mlp|self_attn", "layers": [2, 3]}
ADAPTER = {"kind": "lora", "rank": 2, "target_modules": r".*\.(2|3)\.mlp\.(up|down)_proj"}
MLP = {"kind": "gated", "layers": [1, 3], "gate": "mlp", "widths": [8, 4]}
GATED = {"kind": "gated", "layers": [1, 3]}

CASES: dict[str, dict[str, Any]] = {
    "layers": {"method": "npo", "scope": UPPER},
    "kl": {"method": "npo_klr", "scope": UPPER},
    "adapter": {"method": "npo", "scope": ADAPTER},
    "rmu": {"method": "rmu", "layer": 3, "scope": UPPER | {"layers": [2]}},
    "rules": {"method": "npo", "scope": UPPER, "rules": [{"kind": "gru"}, {"kind": "sam"}]},
    "grun_gd": {"method": "grun_gd", "scope": GATED},
    "grun_npo": {"method": "grun_npo", "scope": MLP},
    "grun_idk": {"method": "grun_idk", "scope": GATED},
    "grun_rmu": {"method": "grun_rmu", "scope": GATED},
    "flat": {"method": "flat", "scope": GATED},
}
QUICK = ("layers", "rmu", "grun_npo")
"""The others take the slow tier's time."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A tiny Llama of four blocks."""
    return save_model(tmp_path_factory.mktemp("deep") / "llama", make_llama(num_hidden_layers=4), tokenizer)


def unlearn(folder: Path, out: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """What a short run leaves, by name. Plain descent: Adam would make steps out of rounding where gradients are 0."""
    usual = {"lr": 1e-3, "optimizer": "sgd", "batch_size": 4, "epochs": 2, "checkpoint_minutes": 60}
    part = UnlearnPart(**usual | {"micro_batch_tokens": 96} | settings)
    composition = compose(part, has_retain=True)
    job = unlearn_job(
        "t", composition, part, forget=FORGET, retain=RETAIN, seed=0, refusals=REFUSALS, budget=part.budget,
        probe_rows=RETAIN,
    )  # fmt: skip
    train(load_model(folder, max_length=64), job, work=out / "work", out=out)
    (left,) = (out / name for name in ("model", "adapter") if (out / name).is_dir())
    return {name: tensor for file in sorted(left.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "freeze_prefix", lambda *args, **settings: None)


def watch(monkeypatch: pytest.MonkeyPatch, then: Callable[[FrozenPrefix], None]) -> list[FrozenPrefix | None]:
    """Every prefix that runs make; ``then`` is told of it before the first step."""
    made: list[FrozenPrefix | None] = []
    plain = prefix_module.freeze_prefix

    def freeze(*args: Any, **settings: Any) -> FrozenPrefix | None:
        made.append(found := plain(*args, **settings))
        if found:
            then(found)
        return found

    monkeypatch.setattr(run_module, "freeze_prefix", freeze)
    return made


def forbid_frozen(prefix: FrozenPrefix) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a frozen block was run again")

    for block in list(decoder_layers(prefix.model))[: prefix.start]:
        for child in block.children():
            child.forward = fail


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES])
def test_the_weights_are_the_same_and_frozen_blocks_run_once(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = watch(monkeypatch, forbid_frozen)
    kept = unlearn(folder, tmp_path / "kept", **CASES[name])
    assert [prefix.start for prefix in made if prefix] == [2]
    without(monkeypatch)
    plain = unlearn(folder, tmp_path / "plain", **CASES[name])
    start = load_file(folder / "model.safetensors")
    assert kept.keys() == plain.keys()
    assert any(key not in start or not torch.equal(tensor, start[key]) for key, tensor in plain.items())
    for key, tensor in plain.items():
        torch.testing.assert_close(kept[key], tensor, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((1.0, 1.0), "blocks 0 to 1 are frozen and run once: their states, 0.0 MB, are kept in memory"),
        ((0.0, 1.0), "blocks 0 to 1 are frozen and run once: their states, 0.0 MB, are kept on disk"),
        ((0.0, 0.0), "run in every step all the same: their states, 0.0 MB, fit neither into memory nor on the disk"),
    ],
)
def test_where_the_states_lie_changes_nothing(
    folder: Path,
    shares: tuple[float, float],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prefix_module, "PACK_TOKENS", 64)
    settings = CASES["grun_npo"]
    wanted = unlearn(folder, tmp_path / "wanted", **settings)
    monkeypatch.setattr(prefix_module, "MEMORY_SHARE", shares[0])
    monkeypatch.setattr(prefix_module, "DISK_SHARE", shares[1])
    capsys.readouterr()
    got = unlearn(folder, tmp_path / "got", **settings)
    lines = [line for line in capsys.readouterr().err.splitlines() if "are frozen" in line]
    assert len(lines) == 1
    assert said in lines[0]
    for key, tensor in wanted.items():
        assert torch.equal(got[key], tensor) or not shares[1]
        torch.testing.assert_close(got[key], tensor, rtol=0, atol=1e-6)
    assert not list((tmp_path / "got" / "work").glob("prefix*"))


def test_a_model_that_cannot_says_so_and_trains_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FrozenPrefix, "trial", lambda self, sequences: "log-probs differ by 2.0e-01")
    unlearn(folder, tmp_path, max_steps=1, **CASES["layers"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "are frozen" in line]
    assert lines == [
        "note: t: blocks 0 to 1 are frozen and run in every step all the same: this model cannot go on from kept "
        "states (log-probs differ by 2.0e-01)"
    ]


@pytest.mark.parametrize("scope", ["full", {"kind": "layers", "layers": [0, 3]}, {"kind": "lora", "rank": 2}])
def test_nothing_is_kept_or_said_where_the_first_block_moves(
    folder: Path, scope: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = watch(monkeypatch, forbid_frozen)
    scope = {"kind": scope} if isinstance(scope, str) else scope
    unlearn(folder, tmp_path, method="npo", scope=scope, max_steps=1)
    assert made == [None]
    assert "frozen" not in capsys.readouterr().err


class PulledPlugError(RuntimeError):
    """Stands for a killed process."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["layers", "grun_idk"])
def test_resumed_is_uninterrupted_bit_by_bit(
    folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CASES[name] | {"optimizer": "adamw_torch_fused", "checkpoint_minutes": 0}
    straight = unlearn(folder, tmp_path / "straight", **settings)
    plain = StepLog.on_log

    def on_log(self: StepLog, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            monkeypatch.setattr(StepLog, "on_log", plain)
            raise PulledPlugError
        plain(self, args, state, *rest, **kwargs)

    monkeypatch.setattr(StepLog, "on_log", on_log)
    with pytest.raises(PulledPlugError):
        unlearn(folder, tmp_path / "broken", **settings)
    resumed = unlearn(folder, tmp_path / "broken", **settings)
    assert resumed.keys() == straight.keys()
    for key, tensor in straight.items():
        assert torch.equal(resumed[key], tensor), key


def test_looks_at_the_budget_go_on_from_it_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.recipe import BudgetPart

    made = watch(monkeypatch, forbid_frozen)
    budget = BudgetPart(retain_loss=50.0, kl=50.0, every=1, rows=6)
    unlearn(folder, tmp_path, max_steps=2, budget=budget, **CASES["grun_gd"])
    assert [prefix.start for prefix in made if prefix] == [2]


def test_the_reference_of_a_model_is_unharmed_by_a_prefix_of_it(folder: Path) -> None:
    loaded = load_model(folder, max_length=64)
    sequences = [loaded.format.encode(row) for row in FORGET]
    before = compute_reference(loaded, sequences, ())
    prefix = FrozenPrefix(loaded.model, 2)
    assert prefix.trial(sequences) == ""
    assert compute_reference(loaded, sequences, ()).logps == before.logps
