"""Answers supervised only where they say more than their question."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.data.spans import question_tokens, spare_question
from expunge.data.tree import TokenSequence
from expunge.losses import npo_loss
from expunge.methods.table import compose
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel
from expunge.models.reference import compute_reference
from expunge.recipe import UnlearnPart
from expunge.training.job import Job, unlearn_job
from expunge.training.run import prepare

Load = Callable[..., LoadedModel]


def job_of(forget: tuple[Row, ...] = colour_rows(), **settings: Any) -> Job:
    part = UnlearnPart(**{"batch_size": 6, "epochs": 1, "spare_question": True, **settings})
    composition = compose(part, has_retain=True)
    return unlearn_job("t", composition, part, forget=forget, retain=city_rows(), seed=0)


def some_sequences() -> list[TokenSequence]:
    draw = random.Random(3)
    out = []
    for _ in range(6):
        ids = tuple(draw.randrange(3, 6) for _ in range(draw.randint(5, 10)))
        answer = range(2, len(ids))
        out.append(TokenSequence(ids, 2, frozenset(draw.sample(answer, draw.randint(0, len(answer) - 1)))))
    return out


@pytest.mark.parametrize("spared", [{1}, {5}, {2, 3, 4}])
def test_what_is_spared_is_part_of_the_answer_and_not_all_of_it(spared: set[int]) -> None:
    with pytest.raises(ValueError, match="spared must be some, not all"):
        TokenSequence((7, 8, 9, 10, 11), 2, frozenset(spared))


def test_labels_are_the_answer_without_what_is_spared() -> None:
    sequence = TokenSequence((7, 8, 9, 10, 11), 2, frozenset({3}))
    assert (sequence.num_labels, sequence.label_positions, sequence.labels) == (2, [2, 4], [9, 11])


@torch.no_grad()
@pytest.mark.parametrize("packed", [True, False])
def test_a_pass_gives_the_log_probs_of_what_is_left(load_tiny: Load, packed: bool) -> None:
    loaded = load_tiny()
    sequences = some_sequences()
    rows = labelled_rows(loaded.model, sequences, packed=packed)
    expected = []
    for s in sequences:
        alone = torch.log_softmax(loaded.model(torch.tensor([s.ids])).logits[0].float(), -1)
        expected += [float(alone[place - 1, s.ids[place]]) for place in range(2, len(s.ids)) if place not in s.spared]
    torch.testing.assert_close(rows.per_token_logps, torch.tensor(expected), atol=1e-5, rtol=0)
    assert rows.num_tokens.tolist() == [s.num_labels for s in sequences]


def test_the_reference_is_of_what_is_left_and_is_not_taken_for_that_of_all(load_tiny: Load, tmp_path: Any) -> None:
    loaded = load_tiny()
    sequences = [s for s in some_sequences() if s.spared]
    whole = [TokenSequence(s.ids, s.first_label) for s in sequences]
    for group in (whole, sequences):
        kept = compute_reference(loaded, group, group, cache=tmp_path)
        rows = labelled_rows(loaded.model, group, packed=True)
        torch.testing.assert_close(kept.sequence_logps(group, torch.device("cpu")), rows.logps, atol=1e-4, rtol=0)
        torch.testing.assert_close(kept.logits(group), rows.logits, atol=1e-4, rtol=0)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("question", "answer", "left"),
    [
        ("Who is Ada?", "Ada likes red.", " likes red.<|end|>"),
        ("What does ADA like?", "Ada likes red.", " likes red.<|end|>"),
        ("Is it a city?", "A river, a city.", " river, .<|end|>"),
        ("Is Cy a man?", "A lady was mad.", " lady was mad.<|end|>"),  # a word within a word is none
        ("Ada likes what?", "Ada likes.", ".<|end|>"),
    ],
)
def test_words_of_the_question_are_spared(load_tiny: Load, question: str, answer: str, left: str) -> None:
    form = load_tiny().format
    sequence = spare_question(
        form.encode(Row(id="r", prompt=question, answer=answer)), form.tokenizer, question, form.end_id
    )
    assert form.tokenizer.decode(sequence.labels) == left


def test_an_answer_that_says_nothing_new_is_supervised_whole(load_tiny: Load) -> None:
    form = load_tiny().format
    whole = form.encode(Row(id="r", prompt="Who is Ada?", answer="Ada"))
    assert all(question_tokens(whole, form.tokenizer, "Who is Ada?")[:-1])
    assert spare_question(whole, form.tokenizer, "Who is Ada?", form.end_id) == whole


def test_only_the_forget_rows_own_answers_are_spared(load_tiny: Load) -> None:
    job = job_of(colour_rows(alternates=True), method="dpo")
    streams = prepare(load_tiny(), job).streams
    spared = {(unit.stream, kind): s.spared for unit in streams.units(0) for kind, s in unit.answers.items()}
    assert {place: bool(found) for place, found in spared.items()} == {
        ("forget", "answer"): True, ("forget", "alternate"): False, ("retain", "answer"): False,
    }  # fmt: skip


def test_npo_on_what_is_left_is_npo_of_masked_sums(load_tiny: Load) -> None:
    loaded = load_tiny()
    prepared = prepare(loaded, job_of(method="npo", retain_term="none"))
    model, units = prepared.model, prepared.streams.units(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    model.eval()
    naive = []
    for unit in units:
        s = unit.answers["answer"]
        assert s.spared
        alone = torch.log_softmax(model(torch.tensor([s.ids])).logits[0].float(), -1)
        naive.append(sum(alone[place - 1, s.ids[place]] for place in s.label_positions))
    reference = prepared.objective.reference.sequence_logps([u.answers["answer"] for u in units], torch.device("cpu"))
    loss = npo_loss(torch.stack(naive), reference, beta=0.1)
    loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    totals = prepared.objective.backward(model, units, lambda loss: loss.backward())
    assert sum(totals.values()) == pytest.approx(float(loss.detach()), abs=1e-5)
    for name, p in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["idk", "relearn", "finetune_retain"])
def test_it_says_where_it_changes_nothing(method: str) -> None:
    composition = compose(UnlearnPart(method=method, spare_question=True), has_retain=True)
    assert any("spare_question has no effect" in note for note in composition.notes)
    assert not composition.spare_question
    assert "spare_question" not in composition.resolved()


def test_a_run_knows_that_it_spared() -> None:
    composition = compose(UnlearnPart(spare_question=True), has_retain=True)
    assert composition.resolved()["spare_question"] is True
    assert not any("spare_question" in note for note in composition.notes)


def test_raw_text_has_no_question_to_spare_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    raw = tuple(replace(row, prompt="") for row in colour_rows())
    for forget, notes in ((raw, 1), (colour_rows(), 0)):
        job_of(forget)
        assert capsys.readouterr().err.count("no forget row has a question") == notes
