"""What an evaluation encodes is counted, not timed: every prompt once for all its answers, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from expunge.benchmarks.almanac import load as load_almanac
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence, count_unique_tokens
from expunge.evaluation import generator, scorer
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.generator import generate_answers
from expunge.evaluation.scorer import scoring_packs
from expunge.models.forward import LabelledRows, labelled_rows
from expunge.models.load import LoadedModel
from expunge.recipe import EvaluatePart

Load = Callable[..., LoadedModel]
TOKENS = 5


@pytest.fixture(scope="module")
def probes() -> dict[str, tuple[Row, ...]]:
    """The almanac is made in TOFU's schema: five wrong answers and a paraphrase to each question."""
    sets = load_almanac(questions=1).probes
    return {name: rows[:4] for name, rows in sets.items()}


@contextmanager
def counting(model: Any) -> Iterator[list[tuple[int, bool]]]:
    """Every forward pass: how many tokens it was given, and whether it was a step of generation."""
    seen: list[tuple[int, bool]] = []

    def count(module: Any, args: Any, kwargs: Any) -> None:
        seen.append((kwargs["input_ids"].numel(), bool(kwargs.get("use_cache", True))))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def asked(loaded: LoadedModel, probes: dict[str, tuple[Row, ...]]) -> list[TokenSequence]:
    """Every answer of every row, as the suite scores it."""
    texts = [
        (row, text)
        for name, rows in probes.items()
        for row in rows
        for text in (row.answer, *(() if name == "holdout" else (row.paraphrased_answer, *row.perturbed_answers)))
        if text
    ]
    return [loaded.format.encode(row, answer=text) for row, text in texts]


def test_the_whole_suite_encodes_each_prefix_once(load_tiny: Load, probes: dict[str, tuple[Row, ...]]) -> None:
    loaded = load_tiny(max_length=512)
    part = EvaluatePart(max_new_tokens=TOKENS, pack_tokens=10**9)
    with counting(loaded.model) as seen:
        evaluate_model(loaded, probes, part)
    scoring = sum(tokens for tokens, generating in seen if not generating)
    generating = sum(tokens for tokens, generating in seen if generating)
    assert scoring == count_unique_tokens(asked(loaded, probes))
    prompts = [loaded.format.encode_prompt(r) for name, rows in probes.items() if name != "holdout" for r in rows]
    longest = max(map(len, prompts))
    # One batch: all prompts, and every token but the last of each answer; nobody leaves an untrained model early. What
    # they begin with, and the first token of each answer, which scoring has shown, are encoded with the prompts.
    assert 0 < generating <= len(prompts) * (longest + TOKENS - 1)
    decoded = [tokens for tokens, generating in seen if generating and tokens == len(prompts)]
    assert len(decoded) == TOKENS - 2


def test_what_prompts_share_is_encoded_once(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=512)
    shared = list(range(20, 40))
    prompts = [[*shared, *range(50 + n, 50 + 2 * n)] for n in (3, 5, 9)]
    with counting(loaded.model) as seen:
        generate_answers(loaded, prompts, max_new_tokens=1)
    assert [tokens for tokens, _ in seen] == [20, 3 * 9]


def test_long_texts_are_generated_in_smaller_batches(
    load_tiny: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_tiny(max_length=512)
    prompts = [[n + 10] * 6 for n in range(6)]
    # Keys and values, two layers, two heads of width 8, four bytes: 256 bytes a token, 8 tokens a row.
    monkeypatch.setattr(generator, "CACHE_BYTES", 4 * 8 * 256)
    with counting(loaded.model) as seen:
        generate_answers(loaded, prompts, max_new_tokens=2)
    assert [tokens for tokens, _ in seen] == [4 * 6, 4, 2 * 6, 2]
    assert "answers are generated 4 and more at a time instead of 64" in capsys.readouterr().err
    generate_answers(loaded, prompts, max_new_tokens=2, batch_size=4)
    assert "answers are generated" not in capsys.readouterr().err


def test_each_token_after_one_history_is_predicted_once(
    load_tiny: Load, probes: dict[str, tuple[Row, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_tiny(max_length=512)
    sequences = asked(loaded, probes)
    predicted: list[int] = []

    def rows(model: Any, members: Any, **settings: Any) -> LabelledRows:
        found = labelled_rows(model, members, **settings)
        predicted.append(len(found.logits))
        return found

    monkeypatch.setattr(scorer, "labelled_rows", rows)
    scorer.score_sequences(loaded, sequences, pack_tokens=10**9)
    different = {s.ids[: place + 1] for s in sequences for place in s.label_positions}
    assert sum(predicted) == len(different) < sum(s.num_labels for s in set(sequences))


def test_packs_share_no_prompt(load_tiny: Load, probes: dict[str, tuple[Row, ...]]) -> None:
    loaded = load_tiny(max_length=512)
    sequences = asked(loaded, probes)
    packs = scoring_packs(sequences, 1024)
    assert len(packs) > 3
    prompts = [{s.ids[: s.first_label] for s in pack} for pack in packs]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert sorted(s.ids for pack in packs for s in pack) == sorted({s.ids for s in sequences})
    # Beyond the whole tree: what the last question of a pack and the first of the next begin with, both asked alike.
    seams = [shared_beginning(max(one), min(two)) for one, two in pairwise(prompts)]
    encoded = sum(count_unique_tokens(pack) for pack in packs)
    assert encoded == count_unique_tokens(sequences) + sum(seams)
    assert encoded < sum(len(s.ids) - 1 for s in set(sequences)) / 2


def shared_beginning(one: tuple[int, ...], two: tuple[int, ...]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def test_padded_batches_are_sorted_by_length(load_tiny: Load, probes: dict[str, tuple[Row, ...]]) -> None:
    loaded = load_tiny(max_length=512)
    packs = scoring_packs(asked(loaded, probes), 1024, packed=False)
    lengths = [len(s.ids) for pack in packs for s in pack]
    assert lengths == sorted(lengths)
    assert len(packs) > 3
