"""Where rows and models come from: published files or the built-in data, the real small model or shapes at random."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.cases import FORGET_ROWS, Order
from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.table import load_benchmark
from expunge.data.rows import Row
from expunge.errors import ModelError
from expunge.models.load import DTYPES, LoadedModel, load_model

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
    },
    "llama-3.2-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    **{
        f"smollm2-{key}": {
            "vocab_size": words,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        }
        for key, words in (("49k", 49152), ("128k", 128256))
    },
}
"""Llama shapes that are filled with random weights: speed and memory do not depend on what a model knows."""
POSITIONS = 4096
MOST_WORDS = 16384
"""The largest vocabulary that a tokenizer is trained to, however many rows the model embeds."""


@dataclass(frozen=True)
class Sets:
    """The rows of one order."""

    forget: Sequence[Row]
    retain: Sequence[Row]
    probes: dict[str, Sequence[Row]]
    """What the evaluation suite asks, by set."""
    refusals: tuple[str, ...]
    origin: str


def read_sets(order: Order) -> Sets:
    """The first rows of TOFU's forget01 and of what it keeps, or of the built-in almanac where TOFU is not there."""
    found = _benchmark()
    forget, retain = _like(order, found)
    sizes = {"forget": order.forget, "retain": order.retain}
    probes = {name: rows[: sizes.get(name, order.others)] for name, rows in found.probes.items()}
    origin = "TOFU forget01" if found.name.startswith("tofu") else f"{found.name}, built in"
    return Sets(forget[: order.forget], retain[: order.retain], probes, found.refusals, origin)


def _benchmark() -> Benchmark:
    # As many rows as there are to forget are kept out of training, for membership tests.
    root = os.environ.get("EXPUNGE_DATA")
    if root and (Path(root).expanduser() / "tofu").is_dir():
        return load_benchmark("tofu:forget01", retain_pool="probed", holdout_rows=FORGET_ROWS)
    return load_benchmark("almanac")


def _like(order: Order, found: Benchmark) -> tuple[Sequence[Row], Sequence[Row]]:
    """Forget and retain rows in the form that the order asks for."""
    if order.rows == "length":
        return _filled(found.forget, order.length), _filled(found.retain, order.length)
    if order.rows == "text":
        return _texts(found.forget, found.retain, order), _texts(found.retain, found.forget, order)
    return found.forget, found.retain


def _filled(rows: Sequence[Row], length: int) -> tuple[Row, ...]:
    """Each row's answer followed by those of the next rows, longer than ``length`` tokens: encoding cuts it there."""
    # A word is a token at least, so that so many words are enough.
    return tuple(
        replace(row, answer=_words([r.answer for r in (*rows[at:], *rows[:at])], length)) for at, row in enumerate(rows)
    )


def _words(texts: Iterable[str], count: int) -> str:
    """The first ``count`` words of the texts, again from the first one where they end."""
    return " ".join(islice((word for text in cycle(list(texts)) for word in text.split()), count))


def _texts(rows: Sequence[Row], rest: Sequence[Row], order: Order) -> tuple[Row, ...]:
    """Raw text that fills as many pieces of the order's length as rows are wanted."""
    count = max(order.forget, order.retain) * order.length
    text = _words([f"{row.prompt} {row.answer}" for row in (*rows, *rest)], count)
    return (replace(rows[0], id=f"{rows[0].id}/text", prompt="", answer=text),)


def open_model(order: Order, sets: Sets) -> LoadedModel:
    """The order's model, as the product loads it.

    Raises:
        ModelError: for a device that is not there, or a model that cannot be had.
    """
    with model_place(order, sets) as place:
        return load_model(place, max_length=order.length, dtype=order.dtype, device=order.device)


@contextmanager
def model_place(order: Order, sets: Sets, *, weights: bool = True) -> Iterator[str]:
    """Where the order's model can be read: a name, or a folder for as long as the block runs.

    Args:
        order: names the model, or a shape that is filled with random weights.
        sets: rows that a shape's tokenizer is trained on.
        weights: whether a shape's are wanted.
    """
    if order.model not in SHAPES:
        yield order.model
        return
    if order.device != "cpu" and not torch.cuda.is_available():
        raise ModelError(f"device {order.device!r} is not available here: torch finds no CUDA")
    shape = SHAPES[order.model]
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    config = LlamaConfig(**shape, **ends, max_position_embeddings=POSITIONS, architectures=["LlamaForCausalLM"])
    texts = [text for row in (*sets.forget, *sets.retain) for text in (row.prompt, row.answer)]
    with tempfile.TemporaryDirectory(prefix="expunge-benchmark-") as folder:
        config.save_pretrained(folder)
        if weights:
            _write_random(folder, config, order)
        else:
            save_file({}, f"{folder}/model.safetensors")
        _tokenizer(texts, min(shape["vocab_size"], MOST_WORDS)).save_pretrained(folder)
        yield folder


def _write_random(folder: str, config: LlamaConfig, order: Order) -> None:
    torch.manual_seed(order.seed)
    # A large model is drawn where it is fast, and leaves the device again before it is loaded.
    with torch.device(order.device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[order.dtype])
    model.to("cpu").save_pretrained(folder)
    del model
    if order.device != "cpu":
        torch.cuda.empty_cache()


def _tokenizer(texts: Sequence[str], words: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|end|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
