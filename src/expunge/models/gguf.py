"""GGUF files as ordinary model folders: unpacked to float32 once, and kept as safetensors."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from expunge.data.cache import default_cache, scratch_folder
from expunge.errors import ModelError
from expunge.progress import say

LARGEST_GROWTH = 8
"""float32 takes so many times the room of 4 bits a weight."""
ROOM = 2
"""An unpacked model is kept where the disk has so many times its size to spare."""


def unpacked(file: Path, identity: str) -> Path | None:
    """The folder in the cache with a GGUF file's model as float32 safetensors; the first call makes it.

    It appears whole or not at all.

    Args:
        file: the GGUF file.
        identity: of its name and content, under which the folder is kept.

    Returns:
        None where the disk has no room to spare, or the cache cannot be written.

    Raises:
        ModelError: the file lacks weights.
    """
    cache = default_cache() / "gguf"
    kept = cache / identity[:32]
    if kept.is_dir():
        return kept
    try:
        cache.mkdir(parents=True, exist_ok=True)
        room = shutil.disk_usage(cache).free >= ROOM * LARGEST_GROWTH * file.stat().st_size
    except OSError:
        return None
    if not room or not os.access(cache, os.W_OK):
        return None
    with scratch_folder(cache, "unpacking") as scratch:
        convert_gguf(file, scratch / "model")
        try:
            os.replace(scratch / "model", kept)
        except OSError:  # another process was first
            return kept if kept.is_dir() else None
    say(f"note: {file.name} was unpacked to float32, once; it is kept in {kept}")
    return kept


def convert_gguf(gguf_file: Path, out: Path) -> None:
    """Unpack a GGUF file to float32 and save it with its tokenizer as a model folder of safetensors.

    Args:
        gguf_file: the file; its folder is what transformers is pointed at.
        out: the folder to write; made when missing.

    Raises:
        ModelError: the file lacks weights.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet_transformers():
        folder, options = str(gguf_file.parent), gguf_options(gguf_file.name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options
        )
        model, found = loaded
        require_all(str(gguf_file), found)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file.name)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def gguf_options(file: str) -> dict[str, Any]:
    """What ``from_pretrained`` must be told to unpack a GGUF file."""
    options: dict[str, Any] = {"gguf_file": file}
    # A plain load is marked quantised and refuses to be saved; older versions have no such switch and need none.
    try:
        from transformers import GgufConfig
    except ImportError:
        return options
    return options | {"quantization_config": GgufConfig(dequantize=True)}


def require_all(name: str, found: dict[str, Any]) -> None:
    """Refuse a model that lacks weights: they would be drawn at random, and every number be about something else.

    Args:
        name: of the model.
        found: transformers' loading info.

    Raises:
        ModelError: one line with the first that is missing.
    """
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{name}: {len(missing)} weights are missing, {missing[0]} among them; is the folder complete?"
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        # The GGUF reader draws a bar that no setting turns off; real failures are exceptions.
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
