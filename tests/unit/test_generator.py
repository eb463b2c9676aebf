"""Rows that have ended leave the batch, and nothing that a row says depends on who leaves when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.evaluation import generator
from expunge.evaluation.generator import Sampling, generate_answers
from expunge.evaluation.in_flight import InFlight
from expunge.evaluation.metrics import TokenScores
from expunge.evaluation.scorer import greedy_beginnings, score_sequences
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


@pytest.mark.parametrize("batch_size", [2, 3, 5, 64])
@pytest.mark.parametrize("sampling", [None, Sampling(seed=3, temperature=1.5)])
def test_leaving_and_joining_change_no_answer(learned: LoadedModel, sampling: Sampling | None, batch_size: int) -> None:
    prompts = prompts_of(learned)
    ask = {"max_new_tokens": LONG, "sampling": sampling, "batch_size": batch_size}
    together, few = counted(learned, lambda: generate_answers(learned, prompts, **ask))
    alone = generate_answers(learned, prompts, max_new_tokens=LONG, batch_size=1, sampling=sampling)
    assert together == alone
    # Answers end at different times, or this would test nothing.
    assert len({len(learned.tokenizer(text)["input_ids"]) for text in alone}) > 2
    longest = max(map(len, prompts))
    assert few < len(prompts) * (longest + LONG - 1)


def test_rows_that_wait_take_the_places_of_those_that_left(
    learned: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows are in each pass as there may be, until nobody waits."""
    sizes: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[1] == 1:
            sizes.append(len(kwargs["input_ids"]))

    prompts = prompts_of(learned)
    ask = {"max_new_tokens": LONG, "batch_size": 4, "sampling": Sampling(seed=3, temperature=1.5)}
    hook = learned.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        joined = generate_answers(learned, prompts, **ask)
        with_joining = list(sizes)
        sizes.clear()
        monkeypatch.setattr(InFlight, "takes_others", lambda self, loaded: False)
        assert generate_answers(learned, prompts, **ask) == joined
    finally:
        hook.remove()
    assert max(with_joining) == 4
    assert len(with_joining) < len(sizes), "fewer passes write the same answers"


def test_rows_join_within_the_memory_that_there_is(learned: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(learned)
    plain = generate_answers(learned, prompts, max_new_tokens=LONG)
    longest = max(map(len, prompts)) + LONG
    monkeypatch.setattr(generator, "CACHE_BYTES", 2 * longest * generator.bytes_of_a_token(learned.model))
    seen: list[int] = []
    hook = learned.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        assert generate_answers(learned, prompts, max_new_tokens=LONG) == plain
    finally:
        hook.remove()
    assert max(seen) < len(prompts)


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


# -- what scoring has shown ------------------------------------------------------------------------------------------


def beginnings(loaded: LoadedModel) -> dict[tuple[int, ...], tuple[int, ...]]:
    """From the right answers, of which the model knows most by heart, and from wrong ones."""
    rows = (
        *city_rows(),
        *colour_rows(),
        Row(id="x", prompt="Where, in the old city of the moon, is the miller?", answer="?"),
    )
    sequences = [loaded.format.encode(row, answer=text) for row in rows for text in (row.answer, "Ada likes the moon.")]
    return greedy_beginnings(dict(zip(sequences, score_sequences(loaded, sequences), strict=True)))


@pytest.mark.parametrize("stop", [(), (" in", " lik")])
@pytest.mark.parametrize("limit", [1, 4, LONG])
def test_what_is_known_is_not_generated_again(learned: LoadedModel, stop: tuple[str, ...], limit: int) -> None:
    prompts, known = prompts_of(learned), beginnings(learned)
    assert {tuple(p) for p in prompts} <= known.keys()
    assert len(set(map(len, known.values()))) > 1
    ask = {"max_new_tokens": limit, "stop": stop}
    plain, many = counted(learned, lambda: generate_answers(learned, prompts, **ask))
    told, few = counted(learned, lambda: generate_answers(learned, prompts, known=known, **ask))
    assert told == plain
    assert few < many / 2


def test_where_generation_bends_scores_nothing_is_known(memorised_folder: Path) -> None:
    loaded = load_model(memorised_folder, max_length=64)
    prompts, known = prompts_of(loaded), beginnings(loaded)
    loaded.model.generation_config.no_repeat_ngram_size = 1
    bent = generate_answers(loaded, prompts, max_new_tokens=LONG)
    assert generate_answers(loaded, prompts, max_new_tokens=LONG, known=known) == bent
    loaded.model.generation_config.no_repeat_ngram_size = None
    assert generate_answers(loaded, prompts, max_new_tokens=LONG) != bent


def test_answers_known_to_their_end_need_no_model(learned: LoadedModel) -> None:
    row = colour_rows()[0]
    s = learned.format.encode(row)
    (scores,) = score_sequences(learned, [s])
    assert scores.correct.all()
    known = greedy_beginnings({s: scores})
    answers, tokens = counted(
        learned,
        lambda: generate_answers(learned, [learned.format.encode_prompt(row)], max_new_tokens=LONG, known=known),
    )
    assert (answers, tokens) == ([row.answer], 0)


def test_beginnings_are_read_off_the_likeliest_tokens() -> None:
    def scored(*predicted: int, labels: tuple[int, ...]) -> TokenScores:
        correct = np.array(predicted) == np.array(labels)
        zeros = np.zeros(len(labels), np.float32)
        return TokenScores(zeros, correct, zeros, zeros, False, predictions=np.array(predicted, np.int32))

    found = greedy_beginnings(
        {
            TokenSequence((1, 2, 5, 6, 7), 2): scored(5, 8, 9, labels=(5, 6, 7)),
            TokenSequence((1, 2, 5, 8, 4), 2): scored(5, 8, 3, labels=(5, 8, 4)),
            TokenSequence((1, 3, 5, 6), 2): scored(5, 6, labels=(5, 6)),
            TokenSequence((1, 4, 5, 6), 2): scored(9, 6, labels=(5, 6)),
            TokenSequence((1, 6, 5, 6), 2, frozenset({2})): scored(6, labels=(6,)),
        }
    )
    assert found == {(1, 2): (5, 8, 3), (1, 3): (5, 6), (1, 4): (9,)}


def test_drawn_answers_begin_in_their_own_way(learned: LoadedModel) -> None:
    ask = {"max_new_tokens": LONG, "sampling": Sampling(seed=3, temperature=1.5)}
    prompts = prompts_of(learned)
    assert generate_answers(learned, prompts, known=beginnings(learned), **ask) == generate_answers(
        learned, prompts, **ask
    )


def test_a_gated_model_sees_where_its_prompts_end(memorised_folder: Path) -> None:
    from expunge.models.gated import attach_gates, gates_of
    from expunge.models.gated_edit import GateSettings

    gated = load_model(memorised_folder, max_length=64)
    attach_gates(gated.model, [GateSettings(layers=(0, 1))])
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gates_of(gated.model).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=drawn))
    prompts = prompts_of(gated)
    plain = generate_answers(gated, prompts, max_new_tokens=LONG)
    assert plain != generate_answers(load_model(memorised_folder, max_length=64), prompts, max_new_tokens=LONG)
    assert generate_answers(gated, prompts, max_new_tokens=LONG, known=beginnings(gated)) == plain


# -- architectures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["llama", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "gemma2", "qwen2", "opt"))]
)
def test_batches_say_what_single_rows_say(kind: str, tmp_path: Path) -> None:
    """Prompts with a common beginning, of several lengths, in batches whose rows leave, against plain ``generate``."""
    from transformers import AutoModelForCausalLM

    from conftest import make_tokenizer, save_model

    save_model(tmp_path, tiny(kind), make_tokenizer())
    loaded = load_model(tmp_path, max_length=64)
    assert loaded.packed
    drawn = torch.Generator().manual_seed(1)
    tails = [torch.randint(10, 320, (1 + n % 5,), generator=drawn).tolist() for n in range(7)]
    prompts = [[*range(100, 112), *tail] for tail in tails] + [[7, 8, 9]]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    plain.generation_config.eos_token_id = None
    single = [
        plain.generate(torch.tensor([p]), max_new_tokens=LONG, do_sample=False)[0, len(p) :].tolist() for p in prompts
    ]
    # Untrained models never end by themselves: the token that comes at the most different places does it for them.
    places = {t: [ids.index(t) + 1 if t in ids else LONG for ids in single] for t in sorted(set().union(*single))}
    end = max(places, key=lambda token: len(set(places[token])))
    assert len(set(places[end])) > 1
    loaded.tokenizer.eos_token = loaded.tokenizer.convert_ids_to_tokens(end)
    cut = [ids[:length] for ids, length in zip(single, places[end], strict=True)]
    whole = [loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in cut]
    sequences = [TokenSequence((*prompt, *range(50, 60)), len(prompt)) for prompt in prompts]
    known = greedy_beginnings(dict(zip(sequences, score_sequences(loaded, sequences), strict=True)))
    for stop in ((), ("a", "12")):
        expected = [min((text.split(end)[0] for end in stop), key=len, default=text).strip() for text in whole]
        for told in (None, known):
            for batch_size in (3, 7):
                ask = {"max_new_tokens": LONG, "batch_size": batch_size, "stop": stop, "known": told}
                assert generate_answers(loaded, prompts, **ask) == expected


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
    import transformers

    torch.manual_seed(0)
    shape = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    window = {"sliding_window": 8}
    name, settings = {
        "llama": ("Llama", shape | heads),
        "gpt2": ("GPT2", {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}),
        "qwen2": ("Qwen2", shape | heads),
        "opt": (
            "OPT",
            {
                "vocab_size": 320,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "ffn_dim": 64,
                "word_embed_proj_dim": 32,
                "max_position_embeddings": 256,
                "init_std": 0.3,
            },
        ),
        "mistral": ("Mistral", shape | heads | window),
        "gemma2": ("Gemma2", shape | heads | window | {"head_dim": 8}),
        "mamba": ("Mamba", shape | {"state_size": 4}),
    }[kind]
    config = getattr(transformers, f"{name}Config")(**settings)
    lm = "GPT2LMHeadModel" if kind == "gpt2" else f"{name}ForCausalLM"
    return getattr(transformers, lm)(config)
