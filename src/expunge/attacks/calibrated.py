"""Four-bit exports that look at data: GPTQ and AWQ, as llm-compressor makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from expunge.attacks.base import Attack, Found, Opener, Site, knowledge
from expunge.attacks.quantise import block_weights
from expunge.attacks.weights import merged
from expunge.data.tree import TokenSequence
from expunge.errors import ModelError
from expunge.models.load import LoadedModel

PACKAGES = ("llmcompressor", "compressed_tensors")
CALIBRATION_ROWS = 128
CALIBRATION_TOKENS = 512
"""Of a row, at most."""
BITS = 4
GROUPS = (128, 64, 32)
"""Inputs that share a scale: the first that divides every layer's, for the package takes no shorter last run."""


def exported(opener: Opener, site: Site, *, kind: str) -> Found:
    """The blocks' linear weights in 4 bits, rounded so that the layers' outputs on general rows change least.

    Source: GPTQ (arXiv 2210.17323), AWQ (arXiv 2306.00978); GPTQ's scales symmetric, AWQ's not.
    """
    if find_spec("llmcompressor") is None:
        raise ModelError(
            "it needs the package llmcompressor, which expunge does not install: pip install llmcompressor"
        )
    loaded = merged(opener())
    assert site.work is not None
    rows = [loaded.format.encode(row) for row in site.benign[:CALIBRATION_ROWS]]
    before = [weight.detach().clone() for _, weight in block_weights(loaded.model)]
    _compress(loaded, rows, kind, site.work)
    if all(torch.equal(old, new) for old, (_, new) in zip(before, block_weights(loaded.model), strict=True)):
        raise ModelError(f"llmcompressor left the weights of this architecture as they are under {kind}")
    return Found(knowledge(loaded, site.forget, site))


def _compress(loaded: LoadedModel, rows: Sequence[TokenSequence], kind: str, work: Path) -> None:
    """Round the weights in place, by what goes through the model on ``rows``."""
    # Read once, when the package is imported: a log file of its own would hold what it was given.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_DISABLED", "true")
    try:
        from llmcompressor import oneshot

        # The package asks the folder that a model came from whether it is quantised already.
        loaded.model.config.save_pretrained(work)
        loaded.model.config.name_or_path = str(work)
        recipe = _recipe(loaded.model, kind)
        with _in_silence():
            oneshot(
                model=loaded.model,
                processor=loaded.tokenizer,
                dataset=_batches(rows),
                recipe=recipe,
                pipeline="basic",
                num_calibration_samples=len(rows),
                log_dir=None,
            )
    except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"llmcompressor cannot make a {kind} export here: {reason}") from error


@contextmanager
def _in_silence() -> Iterator[None]:
    """The package tells of every layer, and shows bars of its own."""
    from loguru import logger

    for package in PACKAGES:
        logger.disable(package)
    with redirect_stderr(StringIO()):
        yield


def _batches(rows: Sequence[TokenSequence]) -> DataLoader[dict[str, torch.Tensor]]:
    ids = [torch.tensor(row.ids[:CALIBRATION_TOKENS]) for row in rows]
    inputs: Any = [{"input_ids": one, "attention_mask": torch.ones_like(one)} for one in ids]
    return DataLoader(inputs, batch_size=1)


def _recipe(model: Any, kind: str) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    inputs = [weight.shape[1] for _, weight in block_weights(model)]
    group = next((size for size in GROUPS if not any(count % size for count in inputs)), None)
    stored = QuantizationArgs(
        num_bits=BITS, strategy="group" if group else "channel", group_size=group, symmetric=kind == "gptq"
    )
    blocks = {
        "config_groups": {"blocks": QuantizationScheme(targets=["Linear"], weights=stored)},
        "ignore": ["lm_head"],
    }
    return GPTQModifier(**blocks) if kind == "gptq" else [AWQModifier(), QuantizationModifier(**blocks)]


CALIBRATED = tuple(
    Attack(f"quantise:{kind}", f"weights in 4 bits by {kind.upper()}", partial(exported, kind=kind), needs=("benign",))
    for kind in ("gptq", "awq")
)
