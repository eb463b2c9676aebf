"""A model without its weights: shape, tokenizer and format, which is all that an estimate needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from expunge.data.formats import Format
from expunge.errors import ModelError
from expunge.models.load import DTYPES, Place, first_line, resolve, resolve_base


@dataclass(frozen=True)
class Outline:
    """What can be known of a model at no cost."""

    model: Any
    """On torch's ``meta`` device, where tensors have shapes and no contents."""
    tokenizer: Any
    format: Format


def load_outline(
    source: str | Path,
    *,
    format: str = "auto",
    max_length: int = 512,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> Outline:
    """Read a model's configuration and tokenizer; an adapter counts as its base.

    Args:
        source: as :func:`~expunge.models.load.load_model` takes it.
        format: chat format.
        max_length: longest sequence in tokens.
        dtype: precision that the weights would be loaded in.
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: one line that says what is missing.
    """
    place = resolve(source)
    base = place
    while base.adapter and base.folder:
        base = resolve_base(base.folder)
    name, options = _named(base)
    options["trust_remote_code"] = trust_remote_code
    try:
        config = AutoConfig.from_pretrained(name, **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(_tokenizer_folder(place) or name, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source}: its configuration cannot be read: {first_line(error)}") from error
    longest = getattr(config.get_text_config(), "max_position_embeddings", None) or max_length
    chosen = place.format if format == "auto" and place.format else format
    return Outline(model, tokenizer, Format.bind(tokenizer, chosen, min(max_length, longest)))


def _named(place: Place) -> tuple[str, dict[str, Any]]:
    """What transformers calls a place, and how it is told that it is a GGUF file."""
    if place.folder is None:
        return str(place.hub_id), {}
    return str(place.folder.resolve()), {"gguf_file": place.gguf_file} if place.gguf_file else {}


def _tokenizer_folder(place: Place) -> str | None:
    """An adapter may have brought a tokenizer of its own."""
    own = place.adapter and place.folder is not None and (place.folder / "tokenizer_config.json").is_file()
    return str(place.folder) if own else None
