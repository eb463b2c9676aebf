"""Perplexity of documents in windows that do not overlap."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SENTENCES, make_llama, make_tokenizer, save_model
from expunge.benchmarks.wikitext import wikitext_rows
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError
from expunge.evaluation.metrics import compute
from expunge.evaluation.metrics.windows import window_metrics
from expunge.evaluation.suites.base import Probe
from expunge.evaluation.suites.wikitext import SUITE
from expunge.evaluation.windows import (
    detokenised,
    joined_pieces,
    rolling_columns,
    rolling_windows,
)
from expunge.models.load import LoadedModel, load_model

Load = Callable[..., LoadedModel]
DATA = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
DOCUMENTS = (SENTENCES[2], "Ada likes red .", " ".join(SENTENCES[1:3]))


def value(key: str, scores: dict[str, dict[str, np.ndarray]]) -> Any:
    metrics = {metric.key: metric for metric in window_metrics(list(scores))}
    return compute(scores, None, {key: metrics[key]}, num_resamples=0)[key]


def test_windows_by_hand() -> None:
    windows = list(rolling_windows(list(range(10, 20)), prefix=1, max_length=4))
    assert windows == [
        ([1], [10, 11, 12, 13]),
        ([13], [14, 15, 16, 17]),
        # the last predicts two; the model's other two places and the one before are context
        ([15, 16, 17], [18, 19]),
    ]
    assert list(rolling_windows([10, 11], prefix=1, max_length=4)) == [([1], [10, 11])]
    assert list(rolling_windows([], prefix=1, max_length=4)) == []


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_token_is_predicted_once_and_the_model_is_never_given_too_many(length: int, window: int) -> None:
    ids = list(range(100, 100 + length))
    windows = [(list(a), list(b)) for a, b in rolling_windows(ids, prefix=1, max_length=window)]
    assert [token for _, continuation in windows for token in continuation] == ids
    for context, continuation in windows:
        assert context
        # the last token is only predicted
        assert len(context) + len(continuation) - 1 <= window


@settings(deadline=None)  # the first call imports the harness
@given(st.integers(1, 40), st.integers(1, 9))
def test_windows_are_the_harnesses(length: int, window: int) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    ids = list(range(100, 100 + length))
    theirs = [utils.make_disjoint_window(pair) for pair in utils.get_rolling_token_windows(ids, 1, window, 1)]
    assert [(list(a), list(b)) for a, b in rolling_windows(ids, prefix=1, max_length=window)] == theirs


def test_aggregates() -> None:
    columns = {
        "loss_sum": np.array([2.0, 4.0, np.nan]),
        "num_window_tokens": np.array([2.0, 1.0, np.nan]),
        "num_words": np.array([1.0, 2.0, np.nan]),
        "num_bytes": np.array([4.0, 8.0, np.nan]),
    }
    scores = {"wikitext": columns}
    # sums over documents before the division: not the mean of the documents' own perplexities
    assert value("wikitext_word_perplexity", scores).value == pytest.approx(math.exp((2 + 4) / (1 + 2)))
    assert value("wikitext_byte_perplexity", scores).value == pytest.approx(math.exp(6 / 12))
    assert value("wikitext_token_perplexity", scores).value == pytest.approx(math.exp(6 / 3))
    assert value("wikitext_bits_per_byte", scores).value == pytest.approx(6 / 12 / math.log(2))
    assert value("wikitext_word_perplexity", scores).n == 2
    columns["loss_sum"] = np.array([3000.0, 0.0, np.nan])
    collapsed = value("wikitext_word_perplexity", scores)
    assert (collapsed.value, collapsed.note) == (None, "too large: exp(1000)")
    assert [metric.key for metric in window_metrics(["forget", "retain"])] == []


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("max_length", [5, 64])
def test_losses_equal_plain_passes(load_tiny: Load, packed: bool, max_length: int) -> None:
    loaded = replace(load_tiny(), packed=packed)
    found = rolling_columns(loaded, DOCUMENTS, max_length=max_length)
    window = max_length if packed else max_length - 1
    for i, text in enumerate(DOCUMENTS):
        ids = loaded.tokenizer(text)["input_ids"]
        loss = 0.0
        for context, continuation in rolling_windows(ids, prefix=loaded.tokenizer.eos_token_id, max_length=window):
            whole = [*context, *continuation]
            with torch.no_grad():
                logps = loaded.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            loss -= sum(float(logps[t - 1, whole[t]]) for t in range(len(context), len(whole)))
        assert found["loss_sum"][i] == pytest.approx(loss, abs=1e-4)
        assert found["num_window_tokens"][i] == len(ids)
        assert found["num_words"][i] == len(text.split())
        assert found["num_bytes"][i] == len(text.encode())


def test_words_and_bytes_are_the_originals(load_tiny: Load) -> None:
    found = rolling_columns(load_tiny(), ["Ada."], originals=[" Ada é . \n"])
    # Ada, é, the stop, and, as the harness counts, one at either end where white space stands
    assert found["num_words"].tolist() == [5.0]
    assert found["num_bytes"].tolist() == [float(len(" Ada é . \n".encode()))]
    empty = rolling_columns(load_tiny(), ["", "Ada"])
    assert all(np.isnan(column).tolist() == [True, False] for column in empty.values())


@pytest.mark.parametrize("legacy", [False, True])
def test_a_beginning_token_stands_before_a_text_once(tmp_path: Path, legacy: bool) -> None:
    tokenizer = make_tokenizer(bos="<|bos|>")
    loaded = load_model(save_model(tmp_path, make_llama(), tokenizer))
    found = rolling_columns(loaded, ["Ada likes red ."], legacy=legacy)
    bare = tokenizer("Ada likes red .", add_special_tokens=False)["input_ids"]
    # the harness lets the model predict the beginning token after the beginning token
    assert found["num_window_tokens"].tolist() == [len(bare) + legacy]


def probe(loaded: LoadedModel, rows: tuple[Row, ...], name: str = "wikitext", **settings: Any) -> Probe:
    return Probe(name=name, rows=rows, gold=(), generations=None, loaded=loaded, judges=None, settings=settings)  # type: ignore[arg-type]


def test_pieces_are_one_document_again(load_tiny: Load) -> None:
    """Evaluation cuts a long row; the windows of the whole are scored all the same."""
    loaded = load_tiny(max_length=16)
    whole = (Row(id="a", prompt="", answer=DOCUMENTS[2]), Row(id="b", prompt="", answer=DOCUMENTS[1]))
    cut = loaded.format.split_text(whole)
    assert len(cut) > 3
    assert joined_pieces(cut) == [list(range(len(cut) - 1)), [len(cut) - 1]]
    measure = SUITE.measures[0]
    found, expected = (measure.function(probe(loaded, rows)) for rows in (cut, whole))
    for name in measure.columns:
        assert found[name][[0, -1]] == pytest.approx(expected[name])
        assert np.isnan(found[name][1:-1]).all()
    for metric in SUITE.metrics(["wikitext"]):
        assert metric.function({"wikitext": found}, None) == pytest.approx(
            metric.function({"wikitext": expected}, None)
        )


def test_names_that_look_like_pieces_stay_apart() -> None:
    rows = [Row(id=name, prompt="", answer="x") for name in ("a#0", "a#1", "b#0", "b#1", "c#1", "d#x", "d#1", "e")]
    assert joined_pieces(rows) == [[0, 1], [2, 3], [4], [5], [6], [7]]


def test_the_measure_leaves_questions_alone_and_refuses_bad_settings(load_tiny: Load) -> None:
    measure = SUITE.measures[0]
    assert measure.function(probe(load_tiny(), (Row(id="q", prompt="Who?", answer="Ada"),))) == {}
    with pytest.raises(RecipeError, match=r"windows\.max_length must be a whole number in \[2, .*\], got '64'"):
        measure.function(probe(load_tiny(), (Row(id="t", prompt="", answer="Ada"),), max_length="64"))


TEXT = """ \n = First = \n \n Ada ( a miller ) likes " red " , 1 @.@ 5 km of well @-@ worn <unk> 's road . \n
 = = Life = = \n \n Bo 's mill . \n \n = Second = \n \n Cy . \n"""


def test_articles_begin_at_headings_of_the_first_level(tmp_path: Path, load_tiny: Load) -> None:
    path = tmp_path / "wiki.txt"
    path.write_text(TEXT, encoding="utf-8")
    rows = wikitext_rows(path)
    assert [row.answer.split("\n")[0] for row in rows] == [" = First = ", " = Second = "]
    assert "".join(row.answer for row in rows).replace("\n", "") == TEXT.replace("\n", "").removeprefix(" ")
    loaded = load_tiny()
    found = SUITE.measures[0].function(probe(loaded, rows))
    expected = rolling_columns(
        loaded, [detokenised(row.answer) for row in rows], originals=[row.answer for row in rows]
    )
    assert {name: column.tolist() for name, column in found.items()} == {n: c.tolist() for n, c in expected.items()}
    path.write_text("no heading\n", encoding="utf-8")
    with pytest.raises(DataError, match="no heading like ' = Title = ' in it"):
        wikitext_rows(path)


def test_wikitext_is_written_as_people_write() -> None:
    text = detokenised(TEXT)
    assert '\nAda (a miller) likes "red", 1.5 km of well-worn <unk>\'s road.\n' in text
    assert "== Life ==\n" in text


def test_articles_and_their_spelling_are_the_harnesses() -> None:
    theirs = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    path = DATA / "wikitext-2" / "test.txt"
    if not path.exists():
        pytest.skip("no wikitext-2; set EXPUNGE_DATA to a folder with wikitext-2/")
    rows = wikitext_rows(path)
    # the test part of WikiText-2 has 62 pages in the harness's data set
    assert len(rows) == 62
    for row in rows:
        assert detokenised(row.answer) == theirs.wikitext_detokenizer({"page": row.answer})
