"""Keeping the weights of steps along the way, to be measured afterwards like any other model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from expunge.parallel import process_number

KEPT = "checkpoints"
"""Folder of the kept steps, in a run's work folder and beside its result."""


def step_folder(step: int) -> str:
    """The name of a kept step's folder; names sort as steps do."""
    return f"step-{step:06d}"


def hand_over(work: Path, out: Path) -> None:
    """Put a run's kept steps beside its result.

    They stay in ``work`` too: a run that is killed before its result is safe goes on from there, and would not make
    them again.
    """
    if (work / KEPT).is_dir():
        shutil.copytree(work / KEPT, out / KEPT, copy_function=_shared, ignore=shutil.ignore_patterns("*.partial"))


def _shared(source: str, target: str) -> None:
    """The same file in a second place; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


class KeptSteps(TrainerCallback):
    """Saves the model after every n-th step; the last step is the run's own result.

    A run that goes on from a resume point saves what came after it again, to the same place.

    Args:
        every: optimiser steps between two saved ones.
        save: writes the model somewhere below a folder, and says where; of several processes, the first one writes.
        work: the run's work folder.
    """

    def __init__(self, every: int, save: Callable[[Path], Path], work: Path) -> None:
        self.every = every
        self.save = save
        self.folder = work / KEPT

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what a killed run left of steps after the one that training resumes from."""
        for path in self.folder.glob("step-*") if process_number() == 0 else ():
            if path.suffix or path.name > step_folder(state.global_step):
                shutil.rmtree(path)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save, whole or not at all."""
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        final = self.folder / step_folder(state.global_step)
        partial = final.with_suffix(".partial")
        if process_number() > 0:
            self.save(partial)
            return
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        saved = self.save(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(saved, final)
        partial.rmdir()
