"""GRUN from training to evidence: the gate opens where it should, and nothing else has moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows, make_llama, save_model
from expunge.errors import ModelError, RecipeError
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.samples import read_scores, write_samples
from expunge.evaluation.stats import auc
from expunge.losses import kl_divergence_loss
from expunge.methods.table import compose
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import BudgetPart, EvaluatePart, TrainPart, UnlearnPart
from expunge.training.job import finetune_job, unlearn_job
from expunge.training.run import StepLog, train

pytestmark = pytest.mark.slow

FORGET, RETAIN = colour_rows(), city_rows()
REFUSAL = "I do not know."


def unlearn(loaded: LoadedModel, out: Path, method: str, **settings: Any) -> dict[str, Any]:
    part = UnlearnPart(**{"method": method, "batch_size": 6, "checkpoint_minutes": 60, **settings})
    composition = compose(part, has_retain=True)
    job = unlearn_job(
        "t", composition, part, forget=FORGET, retain=RETAIN, seed=0, refusals=(REFUSAL,), budget=part.budget,
        probe_rows=RETAIN,
    )  # fmt: skip
    return train(loaded, job, work=out / "work", out=out)


def probability(loaded: LoadedModel, rows: tuple) -> float:
    with torch.no_grad():
        found = labelled_rows(loaded.model.eval(), [loaded.format.encode(row) for row in rows], packed=True)
    return float((found.logps / found.num_tokens).exp().mean())


def gates(loaded: LoadedModel, rows: tuple) -> torch.Tensor:
    with torch.no_grad():
        found = labelled_rows(loaded.model.eval(), [loaded.format.encode(row) for row in rows], packed=True)
    return torch.sigmoid(found.gates)


def adapter(folder: Path) -> bytes:
    return (folder / "adapter" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def run(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel]:
    out = tmp_path_factory.mktemp("grun")
    loaded = load_model(memorised_folder, max_length=64)
    unlearn(loaded, out, "grun", lr=0.15, epochs=40)
    return out, loaded


def test_the_gate_tells_forget_from_retain(run: tuple[Path, LoadedModel]) -> None:
    loaded = load_model(run[0] / "adapter", max_length=64)
    forget, retain = gates(loaded, FORGET).mean(-1), gates(loaded, RETAIN).mean(-1)
    assert auc(retain.numpy(), forget.numpy()) == 1.0
    # At the last block, which sees most of the prompt, it is nearly all or nothing.
    assert gates(loaded, FORGET)[:, -1].min() > 0.5
    assert gates(loaded, RETAIN)[:, -1].max() < 0.5


def test_the_base_model_is_bit_equal(run: tuple[Path, LoadedModel], memorised_folder: Path) -> None:
    base = load_model(memorised_folder, max_length=64).model.state_dict()
    trained = run[1].model.state_dict()
    assert {name for name in trained if name not in base} == {n for n in trained if n.startswith("gated_edits.")}
    assert all(torch.equal(trained[name], tensor) for name, tensor in base.items())


def test_evaluation_keeps_the_gate_of_each_row(run: tuple[Path, LoadedModel], tmp_path: Path) -> None:
    loaded = load_model(run[0] / "adapter", max_length=64)
    probes = {"forget": FORGET, "retain": RETAIN}
    evaluation = evaluate_model(loaded, probes, EvaluatePart(max_new_tokens=16))
    write_samples(tmp_path / "samples.parquet", evaluation)
    columns = read_scores(tmp_path / "samples.parquet")
    for name, rows in probes.items():
        assert columns[name]["gate"] == pytest.approx(gates(loaded, rows).mean(-1).numpy(), abs=1e-5)
    assert evaluation.generations["retain"] == tuple(row.answer for row in RETAIN)
    assert not set(evaluation.generations["forget"]) & {row.answer for row in FORGET}


def test_a_run_starts_from_the_base_and_not_from_a_gated_model(run: tuple[Path, LoadedModel], tmp_path: Path) -> None:
    loaded = load_model(run[0] / "adapter", max_length=64)
    with pytest.raises(ModelError, match="cannot be trained further; start from its base model"):
        unlearn(loaded, tmp_path, "npo", scope={"kind": "full"})


# -- interruption and budget ---------------------------------------------------------------------------------------


class PulledPlugError(RuntimeError):
    pass


@pytest.mark.parametrize("gate", ["linear", "mlp"])
def test_resumed_is_uninterrupted_bit_by_bit(
    memorised_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str
) -> None:
    settings = {
        "lr": 0.05, "epochs": 6, "checkpoint_minutes": 0, "micro_batch_tokens": 64,
        "scope": {"kind": "gated", "gate": gate, "widths": [5]},
    }  # fmt: skip
    plain = StepLog.on_log

    def go(name: str) -> None:
        unlearn(load_model(memorised_folder, max_length=64), tmp_path / name, "grun_npo", **settings)

    def pull(self: StepLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plain(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise PulledPlugError

    go("straight")
    monkeypatch.setattr(StepLog, "on_log", pull)
    with pytest.raises(PulledPlugError):
        go("broken")
    assert (tmp_path / "broken" / "work" / "checkpoint-2").is_dir()
    monkeypatch.setattr(StepLog, "on_log", plain)
    go("broken")
    assert adapter(tmp_path / "broken") == adapter(tmp_path / "straight")


@pytest.mark.parametrize("limit", ["retain_loss", "kl"])
def test_the_budget_stops_and_keeps_the_best_step(memorised_folder: Path, tmp_path: Path, limit: str) -> None:
    budget = BudgetPart(**{limit: 0.05}, every=1)
    start = load_model(memorised_folder, max_length=64)
    facts = unlearn(
        load_model(memorised_folder, max_length=64), tmp_path, "grun_gd", lr=0.15, epochs=60, retain_term="none",
        budget=budget,
    )  # fmt: skip
    assert facts["stopped"].startswith(f"budget reached at step {facts['steps']}: {limit} rose to ")
    after = load_model(tmp_path / "adapter", max_length=64)
    sequences = [start.format.encode(row) for row in RETAIN]
    with torch.no_grad():
        before, end = (labelled_rows(m.model.eval(), sequences, packed=True) for m in (start, after))
    rise = float((before.per_token_logps - end.per_token_logps).mean())
    assert {"retain_loss": rise, "kl": kl_divergence_loss(end.logits, before.logits).item()}[limit] <= 0.05


# -- compositions --------------------------------------------------------------------------------------------------


def test_gate_terms_need_the_gated_scope() -> None:
    with pytest.raises(RecipeError, match=r"forget term 'gate' needs the gated scope \(--scope gated\)"):
        compose(UnlearnPart(method="grun", scope={"kind": "lora"}), has_retain=True)
    made = compose(UnlearnPart(method="npo", scope={"kind": "gated"}), has_retain=True)
    assert [weighted.term.key for weighted in made.forget] == ["npo"]


def test_the_gate_alone_can_be_trained(memorised_folder: Path, tmp_path: Path) -> None:
    # At one block only: from a higher one the gate's gradient would reach the edit below.
    scope = {"kind": "gated", "layers": [1]}
    settings = {"forget_term": "gate", "retain_term": "gate_retain", "lr": 0.15, "epochs": 30, "scope": scope}
    unlearn(load_model(memorised_folder, max_length=64), tmp_path, "grun_gd", **settings)
    loaded = load_model(tmp_path / "adapter", max_length=64)
    assert gates(loaded, FORGET)[:, -1].min() > gates(loaded, RETAIN)[:, -1].max()
    # An edit that nobody asked for anything is still none.
    base = probability(load_model(memorised_folder, max_length=64), FORGET)
    assert probability(loaded, FORGET) == pytest.approx(base, abs=1e-4)


def test_blocks_that_no_term_can_teach_are_named(memorised_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(memorised_folder, max_length=64)
    with pytest.raises(RecipeError, match="scope gated edits blocks above the one that the hidden-state terms read"):
        unlearn(loaded, tmp_path, "grun_rmu", layer=0, epochs=1)


# -- the published compositions, on a model deep enough to carry them -------------------------------------------------


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    start = save_model(folder / "start", make_llama(num_hidden_layers=6), tokenizer)
    part = TrainPart(lr=1e-2, epochs=90, batch_size=12, micro_batch_tokens=4096, checkpoint_minutes=60)
    job = finetune_job("memorise", (*FORGET, *RETAIN), part, epochs=90, seed=0)
    train(load_model(start, max_length=64), job, work=folder / "work", out=folder)
    return folder / "model"


WIDE = {"kind": "gated", "layers": [1, 3, 5], "rank": 8}
# c^2/d sets how far RMU steers: 300 for a width of 4096 is 26 for 32. NPO's weight of 100 wants hundreds of steps.
DEEP: dict[str, dict[str, Any]] = {
    "grun_gd": {"epochs": 40},
    "grun_idk": {"epochs": 60, "scope": WIDE},
    "grun_npo": {"epochs": 40, "forget_term": "0.1*npo+5*gate"},
    "grun_rmu": {"epochs": 40, "term": {"steering_coeff": 26.0}},
}


@pytest.mark.slow
@pytest.mark.parametrize("method", DEEP)
def test_every_loss_forgets_and_keeps(deep_folder: Path, tmp_path: Path, method: str) -> None:
    start = load_model(deep_folder, max_length=64)
    before = probability(start, FORGET)
    unlearn(start, tmp_path, method, lr=0.1, **DEEP[method])
    after = load_model(tmp_path / "adapter", max_length=64)
    assert probability(after, FORGET) < 0.5 * before
    assert probability(after, RETAIN) > 0.85
    assert gates(after, FORGET)[:, -1].min() > gates(after, RETAIN)[:, -1].max()


@pytest.mark.slow
def test_two_requests_side_by_side(deep_folder: Path, tmp_path: Path) -> None:
    """Each adapter learnt its own half of the forget set; together they forget both and keep what is kept."""
    import expunge

    for name, rows in (("first", FORGET[:3]), ("second", FORGET[3:])):
        scope = {"kind": "gated", "layers": [3, 5], "rank": 8, "threshold": 0.5}
        part = UnlearnPart(method="grun_gd", scope=scope, batch_size=3, lr=0.1, epochs=60, checkpoint_minutes=60)
        job = unlearn_job("t", compose(part, has_retain=True), part, forget=rows, retain=RETAIN, seed=0)
        out = tmp_path / name
        train(load_model(deep_folder, max_length=64), job, work=out / "work", out=out)
    expunge.compose_adapters([tmp_path / "first", tmp_path / "second"], out=tmp_path / "both")
    both = expunge.load(tmp_path / "both", max_length=64)
    for rows in (FORGET[:3], FORGET[3:]):
        assert probability(both, rows) < 0.5
    assert probability(both, RETAIN) > 0.8
