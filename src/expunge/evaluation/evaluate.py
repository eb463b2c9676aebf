"""Evaluating a model on a benchmark's probe sets: per-row values first, aggregates from them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from expunge.benchmarks.base import AnswerLimit
from expunge.data.formats import Format
from expunge.data.rows import Row
from expunge.data.tree import TokenSequence
from expunge.evaluation.generator import generate_answers
from expunge.evaluation.judges import make_judges
from expunge.evaluation.metrics import (
    Columns,
    Scores,
    TokenScores,
    answer_columns,
    avg_losses,
    fluency_columns,
    padded,
    rouge_columns,
)
from expunge.evaluation.scorer import greedy_beginnings, mean_losses, score_sequences
from expunge.evaluation.suites import Measure, Probe, Suite, measures_of
from expunge.models.load import LoadedModel
from expunge.parallel import from_first, process_number
from expunge.progress import bar, say
from expunge.recipe import EvaluatePart

NOT_GENERATED = ("holdout",)
"""Sets that only membership tests look at."""


@dataclass(frozen=True)
class Evaluation:
    """What one model did on every probe set, row by row."""

    scores: Scores
    generations: Mapping[str, tuple[str, ...]]
    """By set, in row order; sets without generation are absent."""
    rows: Mapping[str, Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class MeasurePlan:
    """What is measured besides what every evaluation measures."""

    suites: tuple[Suite, ...] = ()
    limits: Mapping[str, AnswerLimit] = field(default_factory=dict)
    """How answers are generated, by set, where it is not as the run says."""
    seed: int = 0


def evaluate_model(
    loaded: LoadedModel,
    probes: Mapping[str, Sequence[Row]],
    part: EvaluatePart,
    *,
    plan: MeasurePlan | None = None,
    title: str = "evaluate",
) -> Evaluation:
    """Score and generate once for all sets together, then fill each set's columns.

    In a process group every process does its share of both passes, and all of them return the same values.

    Args:
        loaded: the model.
        probes: rows by set; raw text longer than the model's limit is cut into several rows.
        part: settings.
        plan: suites of metrics with their measures, and limits of single sets.
        title: what the progress bars say.
    """
    plan = plan or MeasurePlan()
    measures = measures_of(plan.suites)
    judges = make_judges(part.judges)
    # A missing key or folder is said before the work, not after it.
    judges.require({role for m in measures for role in m.judges(part.measures.get(m.key, {}))})
    rows = {name: loaded.format.split_text(members) for name, members in probes.items() if members}
    asked = {name: [_answers(loaded.format, row, name) for row in members] for name, members in rows.items()}
    flat = [s for members in asked.values() for answers in members for s in answers.all()]
    with bar(f"{title}: score answers") as update:
        scored = dict(
            zip(flat, score_sequences(loaded, flat, pack_tokens=part.pack_tokens, update=update), strict=True)
        )
    generations = _generate(loaded, rows, part, plan, title, known=greedy_beginnings(scored))
    scores = {
        name: _columns(members, asked[name], scored, generations.get(name), legacy=part.legacy)
        for name, members in rows.items()
    }
    for name, members in rows.items():
        probe = Probe(
            name=name,
            rows=members,
            gold=tuple(scored[a.gold] for a in asked[name]),
            generations=generations.get(name),
            loaded=loaded,
            judges=judges,
            seed=plan.seed,
            limit=_limit(name, part, plan),
        )
        for measure in measures:
            scores[name] |= _measured(measure, probe, part.measures.get(measure.key, {}), title)
    return Evaluation(scores, generations, rows)


def _measured(measure: Measure, probe: Probe, settings: Mapping[str, Any], title: str) -> Columns:
    """The columns of one measure on one set; none where it does not look at the set."""
    if measure.sets is not None and probe.name not in measure.sets:
        return {}
    if measure.needs_generation and probe.generations is None:
        return {}
    if measure.fits and not measure.fits(probe.rows):
        return {}
    if measure.cost:
        say(f"{title}: {measure.key} on {probe.name}: {measure.cost}")
    probe = replace(probe, settings=settings)
    if not measure.roles:
        return measure.function(probe)
    # One process asks; an endpoint would be paid for each.
    return from_first(measure.function(probe) if process_number() == 0 else {})


@dataclass(frozen=True)
class _Answers:
    """The token sequences that one row asks the scorer about."""

    gold: TokenSequence
    paraphrase: TokenSequence | None
    perturbed: tuple[TokenSequence, ...]

    def all(self) -> list[TokenSequence]:
        return [self.gold, *([self.paraphrase] if self.paraphrase else []), *self.perturbed]


def _answers(format: Format, row: Row, name: str) -> _Answers:
    if name in NOT_GENERATED:
        # A membership test asks whether the answer itself was seen.
        return _Answers(format.encode(row), None, ())
    return _Answers(
        gold=format.encode(row),
        paraphrase=format.encode(row, answer=row.paraphrased_answer) if row.paraphrased_answer else None,
        perturbed=tuple(format.encode(row, answer=text) for text in row.perturbed_answers),
    )


def _generate(
    loaded: LoadedModel, rows: Mapping[str, Sequence[Row]], part: EvaluatePart, plan: MeasurePlan, title: str,
    *, known: Mapping[tuple[int, ...], tuple[int, ...]],
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """Answers to every prompt of every set, those with one limit in one go; raw text has no prompt to answer."""
    by_limit: dict[AnswerLimit, list[str]] = {}
    for name in _generated_sets(rows):
        by_limit.setdefault(_limit(name, part, plan), []).append(name)
    out: dict[str, tuple[str, ...]] = {}
    for limit, names in by_limit.items():
        prompts = [loaded.format.encode_prompt(row) for name in names for row in rows[name]]
        with bar(f"{title}: generate answers") as update:
            texts = generate_answers(
                loaded,
                prompts,
                max_new_tokens=limit.max_new_tokens or part.max_new_tokens,
                batch_size=part.generation_batch,
                stop=limit.stop,
                known=known,
                update=update,
            )
        for name in names:
            out[name], texts = tuple(texts[: len(rows[name])]), texts[len(rows[name]) :]
    return {name: out[name] for name in rows if name in out}


def _limit(name: str, part: EvaluatePart, plan: MeasurePlan) -> AnswerLimit:
    """How answers to a set are generated: the run's own limit, or the benchmark's where that is lower."""
    limit = plan.limits.get(name, AnswerLimit())
    longest = min(limit.max_new_tokens or part.max_new_tokens, part.max_new_tokens)
    return AnswerLimit(max_new_tokens=longest, stop=limit.stop)


def _generated_sets(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Sets whose rows all ask something that is answered in words."""
    names = []
    for name, members in rows.items():
        without = sum(not (row.prompt or row.history) for row in members)
        if name in NOT_GENERATED or all(row.choices for row in members):
            continue
        if 0 < without < len(members):
            say(f"note: {without} of {len(members)} {name} rows are raw text: none of the set is generated")
        if not without:
            names.append(name)
    return names


def _columns(
    rows: Sequence[Row],
    asked: Sequence[_Answers],
    scored: Mapping[TokenSequence, TokenScores],
    generations: tuple[str, ...] | None,
    *,
    legacy: bool,
) -> Columns:
    columns = answer_columns([scored[a.gold] for a in asked], [row.answer for row in rows], legacy=legacy)
    gates = np.array([scored[a.gold].gate for a in asked])
    if not np.isnan(gates).all():
        columns["gate"] = gates
    if any(a.paraphrase for a in asked):
        losses = [float(avg_losses([scored[a.paraphrase]])[0]) if a.paraphrase else np.nan for a in asked]
        columns["paraphrase_avg_loss"] = np.array(losses)
    if any(a.perturbed for a in asked):
        columns["perturbed_avg_loss"] = padded([avg_losses([scored[s] for s in a.perturbed]).tolist() for a in asked])
    if generations is not None:
        columns |= rouge_columns(generations, [row.answer for row in rows])
        columns |= fluency_columns(generations)
    return columns


def generation_losses(
    judge: LoadedModel, evaluation_rows: Mapping[str, Sequence[Row]], generations: Mapping[str, tuple[str, ...]],
    *, title: str,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Mean token loss of every generated answer under another model; NaN where nothing was generated.

    The judge is the untouched starting model: its perplexity of an answer says whether the answer is still language.
    """
    wanted = [(name, i) for name, texts in generations.items() for i, text in enumerate(texts) if text]
    sequences = [judge.format.encode(evaluation_rows[name][i], answer=generations[name][i]) for name, i in wanted]
    out = {name: np.full(len(texts), np.nan) for name, texts in generations.items()}
    with bar(title) as update:
        losses = mean_losses(score_sequences(judge, sequences, update=update))
    for (name, i), loss in zip(wanted, losses, strict=True):
        out[name][i] = loss
    return out
