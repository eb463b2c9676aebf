"""A thin ``transformers.Trainer``: it keeps optimiser, schedule, clipping, devices and resume; the step is ours.

The data set yields step numbers; a step looks its rows up in the plan and splits them into micro-batches by token count
itself, so accumulation inside the Trainer stays at 1 and every term is normalised over the effective batch.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.training_args import OptimizerNames

from expunge.errors import NonFiniteLossError, RecipeError, ResourceError, unknown
from expunge.models.allocator import Holes, give_back
from expunge.models.machine import used_memory
from expunge.parallel import from_first, gathered, num_processes, process_number, wait_for_all
from expunge.recipe import TrainPart
from expunge.training.distributed import own_piece
from expunge.training.objective import Objective
from expunge.training.protection import Protection
from expunge.training.rules import Rules
from expunge.training.streams import Streams

COMPLETE = "complete"
"""Marker file written last into a resume point; a folder without it is half-written and is deleted."""
RULES_FILE = "rules.safetensors"
"""What the gradient rules remember, inside a resume point."""


class StepNumbers(Dataset):
    """``0 .. num_steps - 1``: the whole training data, as far as the Trainer knows."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, index: int) -> int:
        return index


class UnlearningTrainer(Trainer):
    """Runs an objective over planned streams."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        part: TrainPart,
        streams: Streams,
        objective: Objective,
        *,
        rules: Rules,
        protection: Protection,
    ) -> None:
        self.part = part
        self.streams = streams
        self.objective: Objective = objective
        self.rules = rules
        self.protection = protection
        self.stream_losses: dict[str, float] = {}
        self.holes = Holes(used_memory())
        self.most_tokens = 0
        """Of a pass so far, what answers share counted for each."""
        super().__init__(
            model=model,
            args=args,
            train_dataset=StepNumbers(streams.plan.num_steps),
            data_collator=lambda items: {"step": torch.tensor(items[0])},
        )
        self.in_pieces: bool = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.is_fsdp_enabled and args.bf16:
            # Autocast, as in one process and as the reference was made; FSDP's own way rounds hidden states as well.
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
            self.accelerator.prepare_model(self.model, evaluation_mode=True)
        if num_processes() > 1 and not self.in_pieces:
            # Bare replicas: the objective adds up their gradients, and torch's wrapper would average them.
            accelerator: Any = self.accelerator
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)
        self.remove_callback(PrinterCallback)
        self.add_callback(protection)

    def get_train_dataloader(self) -> DataLoader:
        """Every process walks through the same steps; what each computes of one, the objective shares out."""
        data = StepNumbers(self.streams.plan.num_steps)
        return DataLoader(data, batch_size=1, sampler=SequentialSampler(data), collate_fn=self.data_collator)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The planned schedule; transformers' own would spend the first step at a learning rate of 0."""
        if self.lr_scheduler is None:
            factor = partial(lr_factor, num_steps=num_training_steps, part=self.part)
            driven: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(driven, factor)
        return self.lr_scheduler

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Accumulate one step's gradient and return its loss."""
        model.train()
        step = int(inputs["step"])
        units = self.streams.units(step)
        tokens = sum(len(answer.ids) for unit in units for answer in unit.answers.values())
        self.most_tokens = max(self.most_tokens, min(tokens, self.objective.max_tokens))
        with self.compute_loss_context_manager():
            self.protection.begin_step(model, units)
            if step == 0:
                self.rules.begin(self.objective, model, self.streams)
            self.objective.token_nll.clear()
            self.stream_losses = self.rules.accumulate(
                self.objective, model, units, self._backward, self.protection.mask_gradients
            )
        # One fixed order: rules, mask, clip, step, restore.
        self.protection.mask_gradients()
        loss = sum(self.stream_losses.values())
        if not math.isfinite(loss):
            raise NonFiniteLossError(f"the loss became {loss} at step {step + 1}")
        return torch.tensor(loss, device=self.args.device)

    def _backward(self, loss: torch.Tensor) -> None:
        self.accelerator.backward(loss)
        # The first update makes the optimiser's states, and a larger step takes more.
        optimizer: Any = self.optimizer
        states = (value for state in optimizer.state.values() for value in state.values())
        kept = sum(value.nbytes for value in states if isinstance(value, torch.Tensor))
        self.holes.look(self.most_tokens, kept=kept)

    def let_go(self) -> None:
        """Drop the gradients and the optimiser's states, three times the weights: saving takes memory too."""
        model: Any = self.model
        optimizer: Any = self.optimizer
        if not self.in_pieces:
            model.zero_grad(set_to_none=True)
            optimizer.state.clear()
            give_back()

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None and not math.isfinite(float(norm)):
            raise NonFiniteLossError(f"the gradient became {float(norm)} at step {self.state.global_step + 1}")
        return norm

    def require_finite(self) -> None:
        """Refuse weights that the last update broke: no loss has seen them yet, and they must not be kept."""
        model: Any = self.model
        trained = ((name, own_piece(p)) for name, p in model.named_parameters() if p.requires_grad)
        broken = next((name for name, value in trained if not torch.isfinite(value).all()), None)
        for name in filter(None, gathered({process_number(): broken}).values()):
            raise NonFiniteLossError(f"the weights are not finite after step {self.state.global_step} ({name})")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Nothing where the weights lie in pieces: then a resume point holds the engine's own files."""
        if not self.in_pieces:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Weights as safetensors; no pickled arguments."""
        model: Any = self.model
        model.save_pretrained(output_dir or self.args.output_dir, state_dict=state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.require_finite()
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            self.rules.save(folder / RULES_FILE)
        wait_for_all()
        if self.args.should_save:
            (folder / COMPLETE).touch()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.rules.load(Path(checkpoint) / RULES_FILE, self.args.device)


def lr_factor(step: int, *, num_steps: int, part: TrainPart) -> float:
    """Share of the peak learning rate that step ``step`` (from 0) uses, in (0, 1] within the run.

    It rises linearly over ``warmup * num_steps`` steps, the first of them above 0, and then falls as ``schedule`` says,
    the last step still above 0.
    """
    rising = min(math.ceil(part.warmup * num_steps), num_steps - 1)
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / (num_steps - rising)
    return {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[part.schedule]


def last_resume_point(folder: Path) -> Path | None:
    """The newest complete resume point in ``folder``; half-written ones are deleted."""
    points = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    for point in points:
        if not (point / COMPLETE).is_file():
            shutil.rmtree(point)
    return next((point for point in reversed(points) if (point / COMPLETE).is_file()), None)


class ResumePoints(TrainerCallback):
    """Asks for a resume point every so many minutes: their place does not change the result, so time may decide."""

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60
        self.last = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save if the time has come and there is still something to lose."""
        # The clocks of several processes differ.
        if from_first(state.global_step < state.max_steps and time.monotonic() - self.last >= self.seconds):
            control.should_save = True
            self.last = time.monotonic()


def training_arguments(
    part: TrainPart, *, folder: Path, num_steps: int, lr: float, seed: int, device: torch.device
) -> TrainingArguments:
    """Our settings in the Trainer's words.

    Raises:
        RecipeError: for an optimiser that transformers does not know, or whose package is missing.
    """
    if part.track == "wandb":
        # It would copy the console, and with it the answers that a run prints at its end.
        os.environ["WANDB_CONSOLE"] = "off"
    check_optimizer(part.optimizer)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=num_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=lr,
        weight_decay=part.weight_decay,
        max_grad_norm=part.max_grad_norm,
        optim=part.optimizer,
        bf16=bool(part.bf16),
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        report_to=part.track,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=seed,
        data_seed=seed,
        use_cpu=device.type == "cpu",
    )
    # In one process on several GPUs the Trainer would wrap the model in DataParallel, which cannot take packed trees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    try:
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError, RuntimeError) as error:
        raise RecipeError(f"optimizer {part.optimizer!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return arguments


_BITSANDBYTES = ("bnb", "paged", "lion", "ademamix", "adamw_8bit")
"""What the names of optimisers have in them that come from that package."""


def check_optimizer(name: str) -> None:
    """Refuse an optimiser before anything is loaded, as far as it can be told from its name.

    Raises:
        RecipeError: transformers does not know it, or bitsandbytes is missing.
    """
    optimizers = [known.value for known in OptimizerNames]
    if name not in optimizers:
        raise RecipeError(unknown("optimizer", name, optimizers))
    if any(part in name for part in _BITSANDBYTES) and find_spec("bitsandbytes") is None:
        raise RecipeError(
            f'optimizer {name!r} needs the package bitsandbytes: pip install "expunge[quant]", or use adamw_torch_fused'
        )


def close_tracker(name: str) -> None:
    """End the tracker's run with the training that it is about: the next one of a recipe is a run of its own.

    The others' callbacks do so themselves.
    """
    if name == "wandb":
        importlib.import_module(name).finish()


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Turn running out of memory into one line; ``advice`` says where it happened and what to make smaller."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU torch has no class of its own for it.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not known:
            raise
        raise ResourceError(f"out of memory {advice}") from error


@contextlib.contextmanager
def quiet_trainer() -> Any:
    """Keep the Trainer's own printing of every log line away; progress and log.jsonl say the same."""
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
