"""Train: from a loaded model, rows and settings to weights on disk, resumable at any moment."""

from __future__ import annotations

import copy
import json
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, set_seed

from expunge.errors import NonFiniteLossError
from expunge.models.allocator import kept_memory, own_pages
from expunge.models.checkpointing import keep_all
from expunge.models.gated import refuse_gated
from expunge.models.guards import Guard, remember_guard
from expunge.models.layers import resolve_layer
from expunge.models.load import LoadedModel, remember_format
from expunge.models.reference import Reference, compute_reference
from expunge.models.shape import num_numbers
from expunge.parallel import by_first, engine, from_first, process_number, wait_for_all
from expunge.progress import bar, say
from expunge.recipe import TrainPart
from expunge.scopes import make_scope
from expunge.scopes.lora import QloraScope
from expunge.scopes.region import LocatedScope
from expunge.training.budget import BudgetKeeper
from expunge.training.defaults import default_lr
from expunge.training.distributed import refuse_in_pieces, whole_state
from expunge.training.edits import apply_edit, snapshot
from expunge.training.job import Job, job_streams
from expunge.training.kept import KeptSteps, hand_over
from expunge.training.locate import Site, locate, units_to_locate
from expunge.training.memory import CHOSEN, Fit
from expunge.training.objective import Objective
from expunge.training.prefix import freeze_prefix
from expunge.training.protection import FindMasks, Protection
from expunge.training.rules import Rules, make_rules
from expunge.training.sizing import with_passes, with_precision
from expunge.training.stopping import WATCHED, StopLoss
from expunge.training.streams import Streams, Unit
from expunge.training.trainer import (
    ResumePoints,
    UnlearningTrainer,
    close_tracker,
    last_resume_point,
    memory_errors,
    quiet_trainer,
    training_arguments,
)

REGION = "region.json"
"""The region that a run found, beside its result; in the work folder for a resumed run."""

NOTHING_TO_TRAIN = "nothing to train"
"""Why a run without steps ended."""


@kept_memory()
def train(loaded: LoadedModel, job: Job, *, work: Path, out: Path, cache: Path | None = None) -> dict[str, Any]:
    """Run a job and save its result. Where several processes train, all call it, and the first one writes.

    Args:
        loaded: the starting model; it is changed in place.
        job: what to do.
        work: folder for resume points and the log; keep it to resume, it is emptied of resume points at the end.
        out: folder that receives ``model/`` or ``adapter/``.
        cache: folder for cached reference values.

    Returns:
        Facts for the manifest: steps, learning rate, trainable share, seconds, why it stopped.

    Raises:
        NonFiniteLossError: the loss or gradient became NaN or infinite; the last good resume point stays in ``work``.
        ResourceError: out of memory.
    """
    started = time.monotonic()
    set_seed(job.seed)
    # The others read the first one's resume points.
    work = from_first(work)
    work.mkdir(parents=True, exist_ok=True)
    prepared = prepare(loaded, job, cache=cache, work=work)
    trainable = _num_moving(prepared) if job.terms or job.edit else 0
    share = trainable / sum(num_numbers(p) for p in prepared.model.parameters())
    start = snapshot(prepared.model) if job.edit else {}
    if job.edit and job.part.keep_every:
        say("note: the kept steps are those of training; the edit that makes the result comes after them")
    steps, stopped = 0, NOTHING_TO_TRAIN
    if prepared.streams.plan.num_steps:
        steps, stopped = optimise(loaded, prepared, job, work)
    apply_edit(job.edit, prepared.model, start, seed=job.seed, masks=prepared.scope.masks(prepared.model))
    _save(loaded, prepared, out, guard=job.guard)
    if process_number() == 0:
        _leave(prepared, work, out)
    wait_for_all()
    return {
        "steps": steps,
        "planned_steps": prepared.streams.plan.num_steps,
        "lr": prepared.lr,
        "scope": dict(job.scope),
        "trainable_parameters": trainable,
        "trainable_share": share,
        "stopped": stopped,
        **prepared.passes.facts(),
        "bf16": prepared.part.bf16,
        "seconds": round(time.monotonic() - started, 2),
    }


def _leave(prepared: Prepared, work: Path, out: Path) -> None:
    """Put what else was made beside the result, and drop what a resumed run would have needed."""
    if isinstance(prepared.scope, LocatedScope):
        prepared.scope.region.write(out / REGION)
    hand_over(work, out)
    for point in work.glob("checkpoint-*"):
        shutil.rmtree(point)
    (work / CHOSEN).unlink(missing_ok=True)


@dataclass(frozen=True)
class Prepared:
    """A model with its scope attached, and everything that a step reads."""

    model: Any
    scope: Any
    streams: Streams
    objective: Objective
    lr: float
    merge: bool
    """Whether the model came as an adapter: what is trained on top must be saved whole."""
    part: TrainPart
    """The job's, with what it left open settled."""
    passes: Fit
    find_masks: FindMasks | None = None
    """Gives each step masks of its own, where the scope finds its region anew."""


def _num_moving(prepared: Prepared) -> int:
    """How many numbers training may change."""
    masks = prepared.scope.masks(prepared.model)
    return sum(
        round(p.numel() * float(masks[name].float().mean())) if name in masks else p.numel()
        for name, p in prepared.model.named_parameters()
        if p.requires_grad
    )


def prepare(loaded: LoadedModel, job: Job, *, cache: Path | None = None, work: Path | None = None) -> Prepared:
    """Ask the starting model what will be needed of it, attach the scope, and find its region if it has one."""
    refuse_gated(loaded.model)
    job = with_precision(job, loaded.model)
    streams = job_streams(loaded.format, job)
    layer = None if job.layer is None else resolve_layer(loaded.model, job.layer)
    scope = make_scope(job.scope)
    if engine() and streams.plan.num_steps:
        _refuse_in_pieces(loaded, job, scope, layer)
    if isinstance(scope, QloraScope):
        # The start is the model in 4 bits, and so is its reference.
        scope.quantise(loaded.model)
        loaded.fingerprint = f"{loaded.fingerprint}+{scope.quant_type}{'+double' if scope.double_quant else ''}"
    reference = _reference(loaded, job, streams, units_to_locate(scope, streams), layer, cache)
    merge = hasattr(loaded.model, "merge_and_unload") and not getattr(scope, "keeps_base", False)
    model = scope.attach(loaded.model, layer=layer)
    own_pages(p for p in model.parameters() if p.requires_grad)
    job, passes = with_passes(job, model, streams, layer=layer, work=work)
    watch = frozenset() if job.stop_loss is None else frozenset({WATCHED})
    objective = Objective(dict(job.terms), reference, loaded.packed, passes.micro_batch_tokens, layer, watch)
    with _precision(loaded, job), memory_errors("while looking for the region; lower micro_batch_tokens"):
        site = Site(
            loaded=loaded,
            model=model,
            streams=streams,
            objective=objective,
            rows=job.sides,
            seed=job.seed,
            kept=work / REGION if work else None,
        )
        scope, find_masks = locate(scope, site)
    if reference.head:
        reference.head.detach_from(model)
    lr = job.part.lr or default_lr(loaded.model, scope.lr_kind, finetune=job.finetune) * job.lr_factor
    return Prepared(model, scope, streams, objective, lr, merge, job.part, passes, find_masks)


def _precision(loaded: LoadedModel, job: Job) -> torch.autocast:
    """That of training: the start would differ from its own reference in any other."""
    device = next(loaded.model.parameters()).device
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bool(job.part.bf16))


def _reference(
    loaded: LoadedModel, job: Job, streams: Streams, beside: list[Unit], layer: int | None, cache: Path | None
) -> Reference:
    advice = "while computing the reference; use --dtype bfloat16 or a smaller --max-length"
    with bar(f"{job.title}: reference") as update, _precision(loaded, job), memory_errors(advice):
        return compute_reference(
            loaded,
            streams.all_sequences("reference_logps", beside),
            streams.all_sequences("reference_logits", beside),
            streams.all_sequences("reference_hidden", beside),
            layer=layer,
            cache=cache,
            on_pack=update,
        )


def optimise(loaded: LoadedModel, prepared: Prepared, job: Job, work: Path) -> tuple[int, str]:
    """Take the steps; returns how many, and why they ended."""
    model = prepared.model
    keeper = BudgetKeeper(job.budget, loaded, model, job.probe_rows, work) if job.budget else None
    prepared = _with_prefix(loaded, prepared, job, work, keeper)
    arguments = training_arguments(
        prepared.part,
        folder=work,
        num_steps=prepared.streams.plan.num_steps,
        lr=prepared.lr,
        seed=job.seed,
        device=next(model.parameters()).device,
    )
    with quiet_trainer(), bar(job.title) as update:
        trainer = UnlearningTrainer(
            model,
            arguments,
            prepared.part,
            prepared.streams,
            prepared.objective,
            rules=Rules(job.rules),
            protection=Protection(model, prepared.scope.masks(model), prepared.find_masks),
        )
        log = StepLog(work / "log.jsonl", trainer, update) if process_number() == 0 else None
        stop = None if job.stop_loss is None else StopLoss(job.stop_loss, prepared.objective)
        # The stop goes before the budget, which then looks at the last step, and after the wish for a resume point.
        kept = (
            KeptSteps(job.part.keep_every, partial(_save, loaded, prepared, guard=job.guard, goes_on=True), work)
            if job.part.keep_every
            else None
        )
        for callback in (log, ResumePoints(job.part.checkpoint_minutes), stop, keeper, kept, *job.watchers):
            if callback:
                trainer.add_callback(callback)
        _run_trainer(trainer, work)
        trainer.let_go()
        close_tracker(job.part.track)
    keep_all(model)
    wait_for_all()
    ended = stop.stopped if stop and stop.stopped else "all steps done"
    return trainer.state.global_step, keeper.restore_best(ended) if keeper else ended


def _with_prefix(
    loaded: LoadedModel, prepared: Prepared, job: Job, work: Path, keeper: BudgetKeeper | None
) -> Prepared:
    """Let the steps, and the looks at the budget, go on from what the frozen lower blocks put out, where there are."""
    advice = "while running the frozen blocks; use --dtype bfloat16 or a smaller --max-length"
    with _precision(loaded, replace(job, part=prepared.part)), memory_errors(advice):
        prefix = freeze_prefix(
            loaded,
            prepared.model,
            prepared.streams,
            title=job.title,
            work=work,
            beside=keeper.sequences if keeper else (),
            layer=prepared.objective.layer,
        )
    if keeper:
        keeper.prefix = prefix
    return replace(prepared, objective=replace(prepared.objective, prefix=prefix))


def _refuse_in_pieces(loaded: LoadedModel, job: Job, scope: Any, layer: int | None) -> None:
    """Say what cannot be trained in pieces: everything that moves, masks or looks at single weights."""
    splits = [rule.key for rule in make_rules(job.rules) if rule.splits]
    adapted = hasattr(loaded.model, "merge_and_unload") and scope.folder == "adapter"
    refuse_in_pieces(
        engine(),
        {
            f"scope {scope.key}": scope.key in ("gated", "region", "qlora"),
            f"gradient rule {' and '.join(splits)}": splits,
            "terms on hidden states": layer is not None,
            f"edit {job.edit.get('kind')}": job.edit,
            "an adapter on top of another": adapted,
            "budget": job.budget and engine() == "DeepSpeed",
            "looking at the model while it trains": job.watchers,
        },
    )


def _run_trainer(trainer: UnlearningTrainer, work: Path) -> None:
    point = by_first(lambda: last_resume_point(work))
    advice = f"while training; lower micro_batch_tokens (now {trainer.objective.max_tokens}), or use --scope lora"
    try:
        with memory_errors(advice):
            trainer.train(resume_from_checkpoint=str(point) if point else None)
        trainer.require_finite()
    except NonFiniteLossError as error:
        kept = by_first(lambda: last_resume_point(work))
        where = f"the last good checkpoint is {kept}" if kept else "no checkpoint had been written yet"
        raise NonFiniteLossError(f"{error}; {where}. Lower the learning rate (--lr)") from None


def _save(
    loaded: LoadedModel, prepared: Prepared, out: Path, *, guard: Guard | None = None, goes_on: bool = False
) -> Path:
    """Write what was trained, the tokenizer, and the guard that stands before it; returns the folder.

    Each process must call it; the first one writes.

    An adapter trained where another had been folded in belongs to weights that exist nowhere else: then the whole
    model is written instead.
    """
    folder = out / ("model" if prepared.merge else prepared.scope.folder)
    state = whole_state(prepared.model)
    if process_number() > 0:
        return folder
    if state is not None:
        prepared.model.save_pretrained(folder, state_dict=state)
    elif prepared.merge:
        # Merging takes the adapter apart.
        model = copy.deepcopy(prepared.model) if goes_on else prepared.model
        prepared.scope.merge(model).save_pretrained(folder)
    else:
        prepared.scope.save(prepared.model, folder)
    loaded.tokenizer.save_pretrained(folder)
    remember_format(folder, loaded.format)
    if guard:
        remember_guard(folder, guard)
    return folder


class StepLog(TrainerCallback):
    """Writes one JSON line per step and moves the progress bar. Only numbers: the forget set stays out of logs."""

    def __init__(self, path: Path, trainer: UnlearningTrainer, update: Any) -> None:
        self.path = path
        self.trainer = trainer
        self.update = update

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Cut the log back to the step that training resumes from."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= state.global_step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        if state.global_step:
            say(f"resuming at step {state.global_step} of {state.max_steps}")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """One line per optimiser step."""
        if not logs or "loss" not in logs:
            return
        entry = {"step": state.global_step, "loss": sum(self.trainer.stream_losses.values())}
        entry |= {f"{name}_loss": value for name, value in self.trainer.stream_losses.items()}
        entry |= {f"{name}_token_nll": value for name, value in self.trainer.objective.token_nll.items()}
        entry |= self.trainer.rules.numbers
        entry |= {key: logs[key] for key in ("learning_rate", "grad_norm") if key in logs}
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        self.update(state.global_step, state.max_steps, f"loss {entry['loss']:.3f}")


def _step_of(line: str) -> float:
    """The step that a log line is about; beyond every step for a line that a kill cut short."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
