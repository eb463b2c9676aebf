"""ROUGE is that of the package ``rouge_score``, to the last bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
from rouge_score import rouge_scorer, tokenizers

from expunge.evaluation.metrics.muse import plain_rouge_l
from expunge.evaluation.metrics.rouge import ROUGE_COLUMNS, common_length, rouge_table
from expunge.evaluation.metrics.text import rouge_columns

SENTENCE = "the novels novel's writing Written writers runs running in on a A1 flies Zürich 東京 end-game , . 1923"
WORDS = SENTENCE.split()


def texts(seed: int, count: int = 40) -> list[str]:
    """Some empty, some without a word that ROUGE can see, some longer than a machine word has bits."""
    drawn = random.Random(seed)
    made = [" ".join(drawn.choices(WORDS, k=drawn.choice((0, 1, 3, 12, 90)))) for _ in range(count)]
    return ["", "東京 , .", *made]


@pytest.mark.parametrize("stemmed", [True, False])
def test_scores_are_those_of_the_package(stemmed: bool) -> None:
    generations, references = texts(0), texts(1)
    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=stemmed)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], tokenizer=tokenizer)
    got = rouge_table(generations, references, stemmed=stemmed)
    for row, generation, reference in zip(got, generations, references, strict=True):
        score = scorer.score(target=reference, prediction=generation)
        expected = [score["rouge1"].recall, score["rougeL"].fmeasure, score["rougeL"].recall]
        assert row.tolist() == expected if tokenizer.tokenize(reference) else np.isnan(row).all()
    assert 0 < np.isnan(got).any(axis=1).sum() < 20


def test_columns_come_from_the_table() -> None:
    generations, references = texts(2), texts(3)
    table = rouge_table(generations, references)
    for number, (name, column) in enumerate(rouge_columns(generations, references).items()):
        assert name == ROUGE_COLUMNS[number]
        np.testing.assert_array_equal(column, table[:, number])
    plain = rouge_table(generations, references, stemmed=False)
    np.testing.assert_array_equal(plain_rouge_l(generations, references), plain[:, 1])
    assert not np.array_equal(plain[:, 1], table[:, 1], equal_nan=True)


def test_the_longest_common_subsequence_by_hand() -> None:
    assert common_length(["a", "b", "c", "b", "d", "a", "b"], ["b", "d", "c", "a", "b", "a"]) == 4  # b c b a
    assert common_length([], ["a"]) == common_length(["a"], []) == common_length(["a"], ["b"]) == 0
    assert common_length(["a"] * 200, ["a"] * 130) == 130


def test_the_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="zip"):
        rouge_table(["a"], ["a", "b"])
