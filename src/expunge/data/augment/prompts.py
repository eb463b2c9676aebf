"""The words in which a chat model is asked to write ReLearn's data: one text file a task, which users may replace."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from expunge.data.sources import read_text
from expunge.errors import DataError, nearest

STYLES = ("reworded", "context", "noisy", "reverse")
"""Ways to ask a question again; all but the last are answered by the same answer."""
TASKS = (*STYLES, "vague", "check")


def read_prompts(folder: str | Path | None = None) -> dict[str, str]:
    """Every task's prompt: ``<task>.txt`` of the folder where it is there, else the one that comes with the package.

    Raises:
        DataError: the folder is not there, holds none of the files or one of another name, or a file is empty.
    """
    own = _own(Path(folder).expanduser()) if folder is not None else {}
    built_in = files("expunge.data.augment").joinpath("prompts")
    texts = {task: own.get(task) or built_in.joinpath(f"{task}.txt").read_text(encoding="utf-8") for task in TASKS}
    return {task: text.strip() for task, text in texts.items()}


def prompts_hash(prompts: Mapping[str, str]) -> str:
    """SHA-256 over the prompts, for the record of what was written with them."""
    text = "\n".join(f"{task}\n{prompts[task]}" for task in sorted(prompts))
    return hashlib.sha256(text.encode()).hexdigest()


def _own(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise DataError(f"prompts: {folder} is no folder; give one with any of {_names()}")
    found = sorted(folder.glob("*.txt"))
    if strays := [path for path in found if path.stem not in TASKS]:
        raise DataError(f"prompts: {strays[0]} is the prompt of no task{nearest(strays[0].stem, TASKS)}; {_names()}")
    if not found:
        raise DataError(f"prompts: {folder} holds none of {_names()}")
    return {path.stem: read_text(path) for path in found}


def _names() -> str:
    return ", ".join(f"{task}.txt" for task in TASKS)
