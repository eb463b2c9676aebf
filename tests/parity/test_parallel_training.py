"""Two processes that share a training end with the losses and weights of one: replicas, pieces (FSDP2), killed."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from command_line import write_data
from conftest import city_rows, colour_rows
from expunge.errors import UserError
from expunge.methods.table import compose
from expunge.models.load import LoadedModel, load_model
from expunge.parallel import by_first, check_launch, launched, summed
from expunge.recipe import BudgetPart, UnlearnPart
from expunge.training.distributed import own_passes, share_out
from expunge.training.job import Job, unlearn_job
from expunge.training.run import train

TESTS = Path(__file__).parents[1]
LAUNCH = Path(__file__).parents[2] / "src" / "expunge" / "launch"
LORA = {"kind": "lora", "rank": 4}
SURE = {"kind": "region", "how": "sure", "threshold": 60.0}
PLAIN_STEPS = {"optimizer": "sgd"}
"""Adam divides by a gradient's size, and with it what rounding leaves of one that is zero."""
FAST = {"method": "grad_diff", **PLAIN_STEPS, "lr": 0.15, "gamma": 200.0, "alpha": 20.0, "epochs": 4}
"""Forgets within eight steps what the model has learnt by heart."""
REPLICAS: dict[str, dict[str, Any]] = {
    "npo": {"method": "npo_gdr"},
    "lora": {"method": "npo", "scope": LORA},
    "divergence": {"method": "npo_klr", **PLAIN_STEPS, "lr": 1e-2},
    # The lower block is frozen, and run once.
    "top": {"method": "npo_gdr", "scope": {"kind": "layers", "layers": [1]}},
    # One unit a step: the other process has nothing to do.
    "idle": {"method": "ga", "batch_size": 1, "micro_batch_tokens": 32, "epochs": 0.5},
    "statistic": {"method": "kto", "micro_batch_tokens": 32, "epochs": 1},
    "hidden": {"method": "rmu", "layer": 1, "epochs": 1},
    "gates": {"method": "grun_gd", "epochs": 1},
    "rules": {"method": "npo_gdr", "rules": ({"kind": "sam"}, {"kind": "gru"}, {"kind": "sign_agreement"})},
    "dual": {"method": "pdu"},
    "region": {"method": "sure", "scope": SURE, "epochs": 1},
    "region_of_each_step": {"method": "sure", "scope": SURE | {"refresh": "step"}, "epochs": 1},
    "memflex": {"method": "memflex", "epochs": 1},
    "budget": {**FAST, "budget": BudgetPart(retain_loss=0.02, every=1)},
    "stop": {**FAST, "stop_loss": 0.3},
    "kept": {"method": "npo_gdr", "keep_every": 2},
}
PIECES = ("npo", "lora", "top", "divergence", "idle", "statistic", "dual", "budget", "kept")
REFUSED = {"rules": "gradient rule sam and gru", "hidden": "hidden states", "gates": "gated", "region": "scope region"}
RESUMED: dict[str, dict[str, Any]] = {
    name: REPLICAS[name] | {"checkpoint_minutes": 0, "epochs": 2} for name in ("npo", "lora", "rules")
}
WORKER = """
import itertools, json, os, signal, sys
from pathlib import Path
import torch
import torch.distributed as dist
from test_parallel_training import REPLICAS, RESUMED, job, start
from expunge.errors import UserError
from expunge.training.objective import Objective
from expunge.training.run import train

def shard():
    # Accelerate shards on accelerators alone: here the processor is made to pass for one.
    import accelerate
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    plain = accelerate.Accelerator.__init__
    def begin(self, *args, **settings):
        plain(self, *args, **settings)
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, state_dict_type="FULL_STATE_DICT", auto_wrap_policy="transformer_based_wrap")
        # In both: every state that is asked for later copies what the partial one says.
        self.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerate.Accelerator.__init__ = begin
    os.environ["ACCELERATE_USE_FSDP"] = "true"

def die_at(call):
    plain, count = Objective.backward, itertools.count(1)
    def deadly(*args, **settings):
        if next(count) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **settings)
    Objective.backward = deadly

folder, store, how, call, *names = sys.argv[1:]
number = os.environ["RANK"]
dist.init_process_group("gloo", init_method=f"file://{store}/meet", rank=int(number), world_size=2)
if "pieces" in how:
    shard()
if int(call):
    die_at(int(call))
for name in names:
    out = Path(store) / name
    # As in a stage: each has folders of its own, and the first one's count.
    place = out if number == "0" else out / "other"
    cases = RESUMED if "resumed" in how else REPLICAS
    try:
        facts = train(start(folder), job(cases[name]), work=place / "work", out=place)
        facts["rest"] = sorted(p.name for p in place.iterdir()) if number != "0" and place.is_dir() else []
    except UserError as error:
        facts = {"error": str(error)}
    (Path(store) / f"{name}-{number}.json").write_text(json.dumps(facts))
dist.destroy_process_group()
"""


def job(settings: Mapping[str, Any]) -> Job:
    given: dict[str, Any] = {"lr": 2e-4, "batch_size": 4, "epochs": 3, "checkpoint_minutes": 60, "bf16": False}
    part = UnlearnPart(**given | {"micro_batch_tokens": 64} | settings)
    composition = compose(part, has_retain=True)
    forget = colour_rows(alternates=composition.view == "model")
    return unlearn_job(
        "test", composition, part, forget=forget, retain=city_rows(), seed=0, budget=part.budget,
        probe_rows=city_rows(),
    )  # fmt: skip


def start(folder: str | Path) -> LoadedModel:
    """The model in float64: Adam, signs and large weights make much of what float32's rounding leaves of nothing."""
    loaded = load_model(folder, max_length=64, device="cpu")
    loaded.model.double()
    return loaded


def start_both(folder: Path, store: Path, how: str, names: Sequence[str], *, die_at: int = 0) -> list[int]:
    """Run the cases in two processes; the exit codes."""
    store.mkdir(parents=True, exist_ok=True)
    (store / "meet").unlink(missing_ok=True)
    script = store / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS / "parity"), str(TESTS)]),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), str(store), how, str(die_at), *names],
            env=environment | {"RANK": number, "LOCAL_RANK": number},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in ("0", "1")
    ]
    try:
        said = [worker.communicate(timeout=600)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    codes = [worker.returncode for worker in workers]
    assert die_at or codes == [0, 0], "\n".join(said)
    return codes


def result_of(folder: Path) -> dict[str, torch.Tensor]:
    files = [f for name in ("model", "adapter") for f in sorted((folder / name).glob("*.safetensors"))]
    assert files
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def alone(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``alone(name)``: the folder and the facts of the same training in one process."""
    store, known = tmp_path_factory.mktemp("alone"), {}

    def run(name: str) -> tuple[Path, dict[str, Any]]:
        if name not in known:
            out = store / name
            known[name] = out, train(start(memorised_folder), job(REPLICAS[name]), work=out / "work", out=out)
        return known[name]

    return run


@pytest.fixture(scope="module")
def replicas(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("replicas")
    start_both(memorised_folder, store, "replicas", tuple(REPLICAS))
    return store


@pytest.fixture(scope="module")
def pieces(memorised_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("pieces")
    start_both(memorised_folder, store, "pieces", (*PIECES, *REFUSED))
    return store


def assert_like_one(name: str, store: Path, alone: Any) -> None:
    one, facts = alone(name)
    both = [json.loads((store / f"{name}-{number}.json").read_text(encoding="utf-8")) for number in (0, 1)]
    for found in both:
        for key in ("steps", "lr", "trainable_parameters", "trainable_share", "stopped"):
            assert found[key] == facts[key], key
    assert both[1]["rest"] == [], "only the first process writes"
    expected, found = log_of(one), log_of(store / name)
    # Where the loss grows tenfold from step to step, so does what rounding has left.
    tolerance = 1e-4 if name in ("budget", "stop") else 1e-5
    assert len(expected) == len(found) == facts["steps"]
    for line, other in zip(expected, found, strict=True):
        assert line.keys() == other.keys()
        for key, value in line.items():
            assert other[key] == pytest.approx(value, rel=tolerance, abs=1e-6), (line["step"], key)
    weights, others = result_of(one), result_of(store / name)
    assert weights.keys() == others.keys()
    for tensor in weights:
        torch.testing.assert_close(others[tensor], weights[tensor], rtol=0, atol=1e-6, msg=tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLICAS)
def test_replicas_train_like_one_process(name: str, replicas: Path, alone: Any) -> None:
    assert_like_one(name, replicas, alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECES)
def test_pieces_train_like_one_process(name: str, pieces: Path, alone: Any) -> None:
    assert_like_one(name, pieces, alone)
    assert load_model(next(pieces.glob(f"{name}/[ma]*"))).packed


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_pieces_cannot_is_refused_by_name(name: str, pieces: Path) -> None:
    for number in (0, 1):
        said = json.loads((pieces / f"{name}-{number}.json").read_text(encoding="utf-8"))["error"]
        assert REFUSED[name] in said
        assert "ddp.yaml" in said


@pytest.mark.slow
def test_kept_steps_are_written_once(replicas: Path, pieces: Path, alone: Any) -> None:
    one = alone("kept")[0]
    for store in (replicas, pieces):
        steps = sorted(path.name for path in (store / "kept" / "checkpoints").iterdir())
        assert steps == sorted(path.name for path in (one / "checkpoints").iterdir()) == ["step-000002", "step-000004"]
        expected = load_file(one / "checkpoints" / steps[0] / "model.safetensors")
        for name, tensor in load_file(store / "kept" / "checkpoints" / steps[0] / "model.safetensors").items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["replicas, resumed", "pieces, resumed"])
def test_killed_and_resumed_is_undisturbed_bit_by_bit(how: str, memorised_folder: Path, tmp_path: Path) -> None:
    names = tuple(RESUMED) if "replicas" in how else ("npo", "lora")
    straight = tmp_path / "straight"
    start_both(memorised_folder, straight, how, names)
    for name in names:
        # The third of four steps; with rules, which take three passes each, the second.
        broken = tmp_path / name
        codes = start_both(memorised_folder, broken, how, (name,), die_at=4 if name == "rules" else 3)
        assert codes == [-signal.SIGKILL] * 2
        assert list(broken.glob(f"{name}/work/checkpoint-*/complete"))
        start_both(memorised_folder, broken, how, (name,))
        for tensor, value in result_of(straight / name).items():
            assert torch.equal(result_of(broken / name)[tensor], value), (name, tensor)
        assert log_of(broken / name) == log_of(straight / name)


@pytest.mark.slow
def test_the_command_under_a_launcher(memorised_folder: Path, tmp_path: Path) -> None:
    files = write_data(tmp_path)
    recipe = {
        "name": "two",
        "model": {"path": str(memorised_folder), "max_length": 64, "device": "cpu"},
        "data": {"benchmark": "custom", "options": {name: str(file) for name, file in files.items()}},
        "retain_reference": "none",
        "unlearn": {"method": "npo_gdr", "lr": 2e-3, "max_steps": 3, "batch_size": 4, "micro_batch_tokens": 64},
        "evaluate": {"max_new_tokens": 3, "num_resamples": 20, "fluency": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    # Accelerate's own launcher starts one process on a CPU, unless it has MPI.
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    quiet: Any = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True, "timeout": 900}
    command = ["expunge", "run", str(tmp_path / "recipe.yaml")]
    for out, start in (("two", launch), ("one", ["-m"])):
        done = subprocess.run([sys.executable, *start, *command, "--out", str(tmp_path / out)], **quiet)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("extraction_strength") + done.stdout.count("extraction strength") >= 1
        assert done.stdout.count("report:") == 1, "the first process speaks for both"
    one, two = (json.loads((tmp_path / out / "metrics.json").read_text(encoding="utf-8")) for out in ("one", "two"))
    assert one.keys() == two.keys()
    for key, cell in one.items():
        value = cell["value"]
        expected = value if value is None or math.isnan(value) else pytest.approx(value, rel=1e-4, abs=1e-6)
        assert two[key]["value"] == expected, key
    assert json.loads((tmp_path / "two" / "run.json").read_text(encoding="utf-8"))["status"] == "done"
    # What has no part for several processes says so, before it does anything.
    lone = subprocess.run([sys.executable, *launch, "expunge", "doctor"], **quiet)
    assert "error: doctor runs in one process" in lone.stderr
    assert lone.returncode != 0


# -- the arithmetic ------------------------------------------------------------------------------------------------


def test_shares_are_balanced_and_complete() -> None:
    work = [7, 1, 3, 3, 2, 9, 1]
    shares = share_out(work, lambda size: size, 3)
    assert sorted(size for share in shares for size in share) == sorted(work)
    # 9; 7 and 1 and 1; 3 and 3 and 2: each in the order it had.
    assert shares == [[9], [7, 1, 1], [3, 3, 2]]
    assert share_out(work, lambda size: size, 1) == [work]
    assert share_out(["only"], len, 2) == [["only"], []]


def test_an_engine_is_given_equally_many_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine(torch.nn.Linear):
        def set_requires_gradient_sync(self) -> None: ...

    shares = [["a", "b", "c"], ["d"]]
    for number, (bare, engine) in enumerate(
        (
            ([("a", 1.0), ("b", 1.0), ("c", 1.0)], [("a", 2.0), ("b", 2.0), ("c", 2.0)]),
            ([("d", 1.0)], [("d", 2.0), ("b", 0.0), ("c", 0.0)]),
        )
    ):
        monkeypatch.setattr("expunge.training.distributed.process_number", lambda number=number: number)
        monkeypatch.setattr("expunge.training.distributed.num_processes", lambda: 2)
        assert own_passes(torch.nn.Linear(1, 1), shares) == bare
        assert own_passes(Engine(1, 1), shares) == engine


def test_one_process_needs_nobody() -> None:
    assert launched() == 1
    assert by_first(lambda: "done") == "done"
    assert summed({"a": 1.5}) == {"a": 1.5}


# -- launching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "cure"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version: 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
            "fsdp_cpu_ram_efficient_loading: false",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}, "zero3_init_flag: false"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "bf16: true in the recipe"),
    ],
)
def test_a_launch_that_would_go_wrong_is_refused(environment: dict[str, str], cure: str) -> None:
    check_launch({"ACCELERATE_MIXED_PRECISION": "no", "FSDP_VERSION": "2"})
    with pytest.raises(UserError, match=cure):
        check_launch(environment)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configurations_are_accelerates_and_ours(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    known = {action.dest for action in launch_command_parser()._actions}
    # What Accelerate does not know it ignores.
    assert {*config.fsdp_config, *config.deepspeed_config} <= known
    names = {"fsdp_version": "FSDP_VERSION", "fsdp_cpu_ram_efficient_loading": "FSDP_CPU_RAM_EFFICIENT_LOADING"}
    names["zero3_init_flag"] = "ACCELERATE_DEEPSPEED_ZERO3_INIT"
    given = {**config.fsdp_config, **config.deepspeed_config}
    environment = {name: str(given[key]) for key, name in names.items() if key in given}
    environment |= {"ACCELERATE_MIXED_PRECISION": str(config.mixed_precision)}
    environment |= {"ACCELERATE_USE_FSDP": str(bool(config.fsdp_config)).lower()}
    check_launch(environment)
