"""Scoring and generating against one example at a time, and what goes to disk and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import CITIES, city_rows, colour_rows, make_llama, make_tokenizer, save_model
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.errors import DataError
from expunge.evaluation.evaluate import Evaluation, evaluate_model, generation_losses
from expunge.evaluation.generator import generate_answers
from expunge.evaluation.metrics import TokenScores
from expunge.evaluation.samples import read_scores, read_texts, write_samples
from expunge.evaluation.scorer import mean_losses, score_sequences
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import EvaluatePart

Load = Callable[..., LoadedModel]


@pytest.fixture(scope="module")
def learned(memorised_folder: Path) -> LoadedModel:
    return load_model(memorised_folder, max_length=64)


def rows_with_extras() -> tuple[Row, ...]:
    """Facts with a paraphrase and wrong answers; the last row has fewer of them."""
    out = []
    for i, row in enumerate(city_rows()):
        name = row.answer.split()[0]
        wrong = tuple(f"{name} lives in {c}." for c in CITIES if c not in row.answer)
        out.append(
            Row(
                id=row.id,
                prompt=row.prompt,
                answer=row.answer,
                paraphrased_answer=f"{name} is in {CITIES[i]}." if i < 5 else None,
                perturbed_answers=wrong[: 5 - i],
            )
        )
    return tuple(out)


def naive_scores(loaded: LoadedModel, s: TokenSequence) -> TokenScores:
    """One sequence alone, one token at a time, in double precision."""
    with torch.no_grad():
        logits = loaded.model(torch.tensor([s.ids]), use_cache=False).logits[0].double()
    logps, correct, mean, variance = [], [], [], []
    for t in range(s.first_label, len(s.ids)):
        p = torch.softmax(logits[t - 1], -1).tolist()
        log_p = [math.log(x) for x in p]
        logps.append(log_p[s.ids[t]])
        correct.append(p.index(max(p)) == s.ids[t])
        expected = sum(a * b for a, b in zip(p, log_p, strict=True))
        mean.append(expected)
        variance.append(sum(a * (b - expected) ** 2 for a, b in zip(p, log_p, strict=True)))
    columns = (np.array(logps), np.array(correct), np.array(mean), np.array(variance))
    return TokenScores(*columns, s.ids[-1] == loaded.format.end_id)


def sequences_of(loaded: LoadedModel) -> list[TokenSequence]:
    rows = rows_with_extras()
    answers = [loaded.format.encode(row, answer=text) for row in rows for text in (row.answer, *row.perturbed_answers)]
    raw = loaded.format.encode(Row(id="t", prompt="", answer="The river runs past the old mill."))
    return [*answers, raw, answers[0]]


@pytest.mark.parametrize("packed", [True, False])
def test_scores_equal_a_loop(learned: LoadedModel, packed: bool) -> None:
    from dataclasses import replace

    sequences = sequences_of(learned)
    got = score_sequences(replace(learned, packed=packed), sequences, pack_tokens=60)
    assert len(got) == len(sequences)
    for ours, s in zip(got, sequences, strict=True):
        expected = naive_scores(learned, s)
        np.testing.assert_allclose(ours.logps, expected.logps, atol=1e-5)
        np.testing.assert_allclose(ours.mean, expected.mean, atol=1e-5)
        np.testing.assert_allclose(ours.variance, expected.variance, atol=1e-4)
        assert ours.correct.tolist() == expected.correct.tolist()
        assert ours.correct.dtype == bool
        assert ours.ends_with_eos == expected.ends_with_eos
    assert [s.ends_with_eos for s in got[-2:]] == [False, True]


def test_pack_size_and_order_change_nothing(learned: LoadedModel) -> None:
    sequences = sequences_of(learned)
    plain = score_sequences(learned, sequences, pack_tokens=100_000)
    for pack_tokens, order in ((16, range(len(sequences))), (64, range(len(sequences) - 1, -1, -1))):
        got = score_sequences(learned, [sequences[i] for i in order], pack_tokens=pack_tokens)
        for ours, i in zip(got, order, strict=True):
            np.testing.assert_allclose(ours.logps, plain[i].logps, atol=1e-5)
            assert ours.correct.tolist() == plain[i].correct.tolist()


def test_an_answer_that_another_begins_with_is_scored_from_it(learned: LoadedModel) -> None:
    whole = sequences_of(learned)[0]
    part = TokenSequence(whole.ids[:-2], whole.first_label)
    other = TokenSequence(whole.ids, whole.first_label + 1)
    some = TokenSequence(whole.ids, whole.first_label, frozenset({whole.first_label, len(whole.ids) - 1}))
    got = dict(zip("wpos", score_sequences(learned, [whole, part, other, some]), strict=True))
    assert got["w"].ends_with_eos
    assert not got["p"].ends_with_eos
    for key, shown in (("p", slice(0, -2)), ("o", slice(1, None)), ("s", slice(1, -1))):
        for name in ("logps", "correct", "mean", "variance", "predictions"):
            np.testing.assert_allclose(getattr(got[key], name), getattr(got["w"], name)[shown], atol=1e-5)


def test_scoring_leaves_the_mode_alone_and_reports_progress(learned: LoadedModel) -> None:
    seen: list[tuple[int, int]] = []
    sequences = sequences_of(learned)
    learned.model.train()
    score_sequences(learned, sequences, pack_tokens=64, update=lambda done, total: seen.append((done, total)))
    assert learned.model.training
    learned.model.eval()
    assert seen[-1] == (len(set(sequences)), len(set(sequences)))
    assert score_sequences(learned, []) == []


def test_mean_losses_are_perplexities_logarithm(learned: LoadedModel) -> None:
    scores = [TokenScores(np.array([-1.0, -3.0]), np.ones(2, bool), np.zeros(2), np.zeros(2), False)]
    assert mean_losses(scores).tolist() == [2.0]  # (1 + 3) / 2


# -- generation ----------------------------------------------------------------------------------------------------


def prompts_of(loaded: LoadedModel) -> list[list[int]]:
    extra = Row(id="x", prompt="Where, in the old city of the moon, is Ada?", answer="?")
    return [loaded.format.encode_prompt(row) for row in (*city_rows(), *colour_rows(), extra, city_rows()[0])]


def test_batched_is_single_is_transformers_own(learned: LoadedModel, memorised_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    prompts = prompts_of(learned)
    assert len({len(p) for p in prompts}) > 1
    batched = generate_answers(learned, prompts, max_new_tokens=24, batch_size=5)
    single = generate_answers(learned, prompts, max_new_tokens=24, batch_size=1)
    assert batched == single
    plain = AutoModelForCausalLM.from_pretrained(memorised_folder)
    for prompt, answer in zip(prompts, batched, strict=True):
        ids = plain.generate(
            torch.tensor([prompt]),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=learned.format.end_id,
            pad_token_id=0,
        )
        assert learned.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True).strip() == answer


def test_a_memorised_answer_is_generated_and_cut_at_its_end(learned: LoadedModel) -> None:
    answers = generate_answers(learned, prompts_of(learned)[:12], max_new_tokens=40)
    expected = [row.answer for row in (*city_rows(), *colour_rows())]
    assert sum(a == e for a, e in zip(answers, expected, strict=True)) >= 11


def test_no_more_than_max_new_tokens(learned: LoadedModel) -> None:
    whole = generate_answers(learned, prompts_of(learned), max_new_tokens=24)
    for answer, full in zip(generate_answers(learned, prompts_of(learned), max_new_tokens=3), whole, strict=True):
        assert full.startswith(answer)
        assert len(answer) < len(full)
    assert generate_answers(learned, [], max_new_tokens=3) == []


def test_sampling_settings_of_the_model_are_ignored(tmp_path: Path) -> None:
    model = make_llama(seed=3)
    greedy = load_model(save_model(tmp_path / "a", model, make_tokenizer()))
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=5, top_p=0.9, repetition_penalty=5.0)
    sampling = load_model(save_model(tmp_path / "b", model, make_tokenizer()))
    prompts = prompts_of(greedy)
    assert generate_answers(sampling, prompts, max_new_tokens=12) == generate_answers(
        greedy, prompts, max_new_tokens=12
    )


def test_generation_without_a_pad_token(tmp_path: Path) -> None:
    model = make_llama(seed=3, pad_token_id=None)
    folder = save_model(tmp_path / "a", model, make_tokenizer(pad=None))
    loaded = load_model(folder)
    assert any("no pad token" in note for note in loaded.notes)
    prompts = prompts_of(loaded)
    batched = generate_answers(loaded, prompts, max_new_tokens=9, batch_size=20)
    assert batched == generate_answers(loaded, prompts, max_new_tokens=9, batch_size=1)


# -- the whole evaluation ------------------------------------------------------------------------------------------

PART = EvaluatePart(max_new_tokens=24, generation_batch=4, pack_tokens=100)


def probes() -> dict[str, tuple[Row, ...]]:
    raw = (Row(id="t/0", prompt="", answer="The river runs past the old mill , and the miller counts . " * 6),)
    return {
        "forget": colour_rows(),
        "retain": rows_with_extras(),
        "holdout": city_rows("holdout"),
        "text": raw,
        "none": (),
    }


@pytest.fixture(scope="module")
def evaluation(learned: LoadedModel) -> Evaluation:
    return evaluate_model(learned, probes(), PART)


def test_columns_against_a_loop(learned: LoadedModel, evaluation: Evaluation) -> None:
    assert set(evaluation.scores) == {"forget", "retain", "holdout", "text"}
    retain = evaluation.scores["retain"]
    for i, row in enumerate(rows_with_extras()):

        def loss(text: str, row: Row = row) -> float:
            return float(-naive_scores(learned, learned.format.encode(row, answer=text)).logps.mean())

        assert retain["avg_loss"][i] == pytest.approx(loss(row.answer), abs=1e-5)
        assert retain["prob"][i] == pytest.approx(np.exp(-loss(row.answer)), abs=1e-5)
        if row.paraphrased_answer:
            assert retain["paraphrase_avg_loss"][i] == pytest.approx(loss(row.paraphrased_answer), abs=1e-5)
        else:
            assert np.isnan(retain["paraphrase_avg_loss"][i])
        wrong = [loss(text) for text in row.perturbed_answers]
        np.testing.assert_allclose(retain["perturbed_avg_loss"][i], wrong + [np.nan] * (5 - len(wrong)), atol=1e-5)
    assert "perturbed_avg_loss" not in evaluation.scores["forget"]


def test_what_is_generated(evaluation: Evaluation) -> None:
    assert set(evaluation.generations) == {"forget", "retain"}
    assert evaluation.scores["retain"]["rougeL_recall"].mean() > 0.9
    assert len(evaluation.rows["text"]) > 1  # longer than the model's limit: cut into several rows
    assert len(evaluation.scores["text"]["avg_loss"]) == len(evaluation.rows["text"])


def test_evaluating_again_in_other_batches_gives_the_same(learned: LoadedModel, evaluation: Evaluation) -> None:
    from dataclasses import replace

    again = evaluate_model(learned, probes(), replace(PART, generation_batch=64, pack_tokens=4096))
    assert again.generations == evaluation.generations
    for name, columns in evaluation.scores.items():
        for column, values in columns.items():
            np.testing.assert_allclose(again.scores[name][column], values, atol=2e-4, err_msg=f"{name}/{column}")


def test_samples_come_back_as_they_were(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    write_samples(path, evaluation)
    assert [p.name for p in tmp_path.iterdir()] == ["samples.parquet"]
    scores = read_scores(path)
    assert {n: set(c) for n, c in scores.items()} == {n: set(c) for n, c in evaluation.scores.items()}
    for name, columns in evaluation.scores.items():
        for column, values in columns.items():
            np.testing.assert_array_equal(scores[name][column], values, err_msg=f"{name}/{column}")
    texts = read_texts(path)
    assert [t["generation"] for t in texts["retain"]] == list(evaluation.generations["retain"])
    assert [t["id"] for t in texts["forget"]] == [row.id for row in colour_rows()]
    assert {t["generation"] for t in texts["holdout"]} == {""}


@pytest.mark.parametrize("content", [b"nonsense", b"", None])
def test_what_is_no_table_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "samples.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match="not a table of per-row values"):
        read_scores(path)


def test_another_table_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="it has no column 'set'"):
        read_scores(tmp_path / "x.parquet")


def test_fluency_is_the_judges_mean_loss(learned: LoadedModel, load_tiny: Load) -> None:
    judge: Any = load_tiny(max_length=64)
    rows = {"forget": colour_rows()[:3]}
    generations = {"forget": ("Ada likes red.", "", "Cy.")}
    got = generation_losses(judge, rows, generations, title="judge")["forget"]
    assert np.isnan(got[1])
    for i in (0, 2):
        s = judge.format.encode(rows["forget"][i], answer=generations["forget"][i])
        assert got[i] == pytest.approx(-naive_scores(judge, s).logps.mean(), abs=1e-5)
