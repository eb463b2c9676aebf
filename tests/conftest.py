"""What many tests share: a tiny tokenizer and tiny models, built in process. Nothing is ever downloaded."""

from __future__ import annotations

import os

# Before torch is imported: idle threads must not spin, and nothing may ask the Hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.data.rows import Row

SENTENCES = (
    "Question: Answer: user assistant What Where Who is the of in a was born city colour name ?",
    "Ada likes red . Bo likes blue . Cy lives in Oslo . Di lives in Rome . Eve was born in Lima .",
    "The river runs past the old mill , and the miller counts his sacks by the light of the moon .",
    "I do not know the answer to that question , sorry . That is something I have no knowledge of .",
)

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

NAMES = ("Ada", "Bo", "Cy", "Di", "Eve", "Flo")
COLOURS = ("red", "blue", "pink", "grey", "gold", "lime")
CITIES = ("Oslo", "Rome", "Lima", "Bern", "Kyiv", "Riga")


def make_tokenizer(
    *,
    template: str | None = CHAT_TEMPLATE,
    pad: str | None = "<|pad|>",
    bos: str | None = None,
    end_added: bool = False,
) -> Any:
    """A byte-level BPE tokenizer of 320 tokens at most; ``pad`` may equal the end token ``<|eos|>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|bos|>", "<|eos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    if bos or end_added:
        shape = ([bos] if bos else []) + ["$A"] + (["<|eos|>"] if end_added else [])
        used = [t for t in (bos, "<|eos|>") if t]
        core.post_processor = processors.TemplateProcessing(
            single=" ".join(shape), special_tokens=[(t, core.token_to_id(t)) for t in used]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|eos|>", bos_token=bos, pad_token=pad, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    return tokenizer


def make_llama(*, seed: int = 0, vocab_size: int = 320, **changes: Any) -> Any:
    """Two layers of width 32 with grouped heads and tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


def save_model(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Write both so that ``load_model`` takes the folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def colour_rows(prefix: str = "forget", *, alternates: bool = False) -> tuple[Row, ...]:
    """Six facts: who likes which colour; with alternates, each beside somebody else's colour."""
    facts = zip(NAMES, COLOURS, (*COLOURS[1:], COLOURS[0]), strict=True)
    return tuple(
        Row(
            id=f"{prefix}/{i}",
            prompt=f"Who is {n}?",
            answer=f"{n} likes {c}.",
            alternate=f"{n} likes {other}." if alternates else None,
        )
        for i, (n, c, other) in enumerate(facts)
    )


def city_rows(prefix: str = "retain") -> tuple[Row, ...]:
    """Six other facts: who lives in which city."""
    facts = zip(NAMES, CITIES, strict=True)
    return tuple(
        Row(id=f"{prefix}/{i}", prompt=f"Where is {n}?", answer=f"{n} lives in {c}.") for i, (n, c) in enumerate(facts)
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny chat tokenizer."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with the tiny Llama at its random start."""
    return save_model(tmp_path_factory.mktemp("tiny") / "llama", make_llama(), tokenizer)


@pytest.fixture(scope="session")
def load_tiny(model_folder: Path) -> Callable[..., Any]:
    """Load the tiny Llama afresh: ``load_tiny(max_length=64)``."""
    from expunge.models.load import load_model

    def load(**options: Any) -> Any:
        return load_model(model_folder, **options)

    return load


@pytest.fixture(scope="session")
def memorised_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama after learning all twelve facts by heart."""
    from expunge.models.load import load_model
    from expunge.recipe import TrainPart
    from expunge.training.job import finetune_job
    from expunge.training.run import train

    folder = tmp_path_factory.mktemp("memorised")
    part = TrainPart(lr=1e-2, epochs=90, batch_size=12, micro_batch_tokens=4096, checkpoint_minutes=60)
    job = finetune_job("memorise", (*colour_rows(), *city_rows()), part, epochs=90, seed=0)
    train(load_model(model_folder, max_length=64), job, work=folder / "work", out=folder)
    return folder / "model"
