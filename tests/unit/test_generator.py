"""Rows that have ended leave the batch, and nothing that a row says depends on who leaves when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.evaluation.generator import Sampling, generate_answers
from expunge.models.load import LoadedModel, load_model

Load = Callable[..., LoadedModel]
LONG = 24


@pytest.fixture(scope="module")
def learned(memorised_folder: Path) -> LoadedModel:
    return load_model(memorised_folder, max_length=64)


def prompts_of(loaded: LoadedModel) -> list[list[int]]:
    unknown = Row(id="x", prompt="Where, in the old city of the moon, is the miller?", answer="?")
    return [loaded.format.encode_prompt(row) for row in (*city_rows(), *colour_rows(), unknown)]


def counted(loaded: LoadedModel, ask: Callable[[], Any]) -> tuple[Any, int]:
    """What ``ask`` gives, and how many tokens the model saw for it, padding included."""
    seen = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel())

    hook = loaded.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return ask(), sum(seen)
    finally:
        hook.remove()


@pytest.mark.parametrize("sampling", [None, Sampling(seed=3, temperature=1.5)])
def test_leaving_changes_no_answer(learned: LoadedModel, sampling: Sampling | None) -> None:
    prompts = prompts_of(learned)
    together, few = counted(learned, lambda: generate_answers(learned, prompts, max_new_tokens=LONG, sampling=sampling))
    alone = generate_answers(learned, prompts, max_new_tokens=LONG, batch_size=1, sampling=sampling)
    assert together == alone
    # Answers end at different times, or this would test nothing.
    assert len({len(learned.tokenizer(text)["input_ids"]) for text in alone}) > 2
    longest = max(map(len, prompts))
    assert few < len(prompts) * (longest + LONG - 1)


def test_a_stop_text_cuts_the_answer(learned: LoadedModel) -> None:
    prompts = prompts_of(learned)
    whole = generate_answers(learned, prompts, max_new_tokens=LONG)
    cut = generate_answers(learned, prompts, max_new_tokens=LONG, stop=(" in", " lik"))
    assert cut == [text.split(" in")[0].split(" lik")[0].strip() for text in whole]
    assert cut != whole


def test_a_stop_text_that_begins_in_the_prompt_ends_nothing(learned: LoadedModel) -> None:
    """The last character of every prompt with the first of an answer is a text that stands in no answer."""
    prompts = prompts_of(learned)
    whole = generate_answers(learned, prompts, max_new_tokens=LONG)
    # Only some rows begin so: had these ended, they would be padded while the others go on.
    border = learned.tokenizer.decode(prompts[0])[-1] + whole[0][0]
    assert 0 < sum(text.startswith(border[1]) for text in whole) < len(whole)
    assert not any(border in text for text in whole)
    assert generate_answers(learned, prompts, max_new_tokens=LONG, stop=(border,)) == whole


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mistral", "gemma2", "mamba"])
def test_other_memories(kind: str, tmp_path: Path) -> None:
    """A sliding window's cache is taken apart like any other; a state-space model's rows stay together."""
    from conftest import make_tokenizer, save_model

    save_model(tmp_path, tiny(kind), make_tokenizer())
    loaded = load_model(tmp_path, max_length=64)
    prompts = prompts_of(loaded)
    # Untrained models never end by themselves: a common token does it for them.
    loaded.tokenizer.eos_token = "e"
    ask = {"max_new_tokens": LONG, "sampling": Sampling(seed=1, temperature=3.0)}
    together = generate_answers(loaded, prompts, **ask)
    assert together == generate_answers(loaded, prompts, batch_size=1, **ask)
    assert len(set(map(len, together))) > 2


def tiny(kind: str) -> Any:
    from transformers import (
        Gemma2Config,
        Gemma2ForCausalLM,
        MambaConfig,
        MambaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
    )

    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**shape, **heads))
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**shape, **heads, head_dim=8))
    return MambaForCausalLM(MambaConfig(**shape, state_size=4))
