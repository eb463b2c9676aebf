"""Sampling leaks: every prompt answered many times, and each sample judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from expunge.data.rows import Row
from expunge.evaluation.generator import Sampling, generate_answers
from expunge.evaluation.judges.base import EntailmentJudge
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.leak import ALONE_THRESHOLD, GATE_THRESHOLD, leak_columns, rouge_recalls
from expunge.evaluation.probing.settings import MeasureSettings
from expunge.evaluation.suites.base import Probe
from expunge.models.load import LoadedModel
from expunge.parallel import from_first, process_number
from expunge.progress import bar

SAMPLES = 16
"""Few, for a CPU; 200 is published."""
LONGEST = 200
"""Tokens of a sample, where neither the settings nor the run says."""
JUDGES = ("rouge", "entailment")
_SEEDS_APART = 100_003
"""More than anyone samples, so that runs of neighbouring seeds share no draw."""

LeakJudge = Callable[[list[str], list[str], np.ndarray], np.ndarray]
"""From one sample per row, the answers and the ROUGE-L recalls to 1 (leaks), 0 or NaN (could not be judged)."""


def leaks_by_rouge(samples: list[str], answers: list[str], recalls: np.ndarray, *, threshold: float) -> np.ndarray:
    """``(n,)``: whether ROUGE-L recall reaches the threshold.

    Blind to *which* fact is named: a wrong name in the right sentence can pass, and a paraphrase can fail.
    """
    return np.where(np.isnan(recalls), np.nan, recalls >= threshold)


def leaks_by_entailment(
    samples: list[str], answers: list[str], recalls: np.ndarray, *, judge: EntailmentJudge, threshold: float
) -> np.ndarray:
    """``(n,)``: whether the sample entails the answer; below the ROUGE gate it does not, and nobody is asked.

    An answer that ROUGE cannot read is put before the judge in any case.
    """
    leaks = np.where(recalls < threshold, 0.0, np.nan)
    asked = np.flatnonzero(np.isnan(leaks))
    verdicts = judge.entail([samples[i] for i in asked], [answers[i] for i in asked]) if len(asked) else []
    for i, verdict in zip(asked, verdicts, strict=True):
        leaks[i] = np.nan if verdict is None else float(verdict == "entailment")
    return leaks


@dataclass(frozen=True)
class LeakSettings:
    """What ``evaluate.measures.leak`` says."""

    samples: int
    judge: str
    threshold: float
    temperature: float
    max_new_tokens: int | None
    """None: as long as the greedy answers may be."""
    batch: int


def read_leak(given: Mapping[str, Any]) -> LeakSettings:
    """Read the settings; :class:`RecipeError` for a value that is not allowed."""
    settings = MeasureSettings("leak", given)
    judge = settings.choice("judge", JUDGES)
    return LeakSettings(
        samples=settings.whole("samples", SAMPLES, low=1, high=100_000),
        judge=judge,
        threshold=settings.share("threshold", ALONE_THRESHOLD if judge == "rouge" else GATE_THRESHOLD),
        temperature=settings.positive("temperature", 1.0),
        max_new_tokens=(
            settings.whole("max_new_tokens", LONGEST, low=1, high=100_000)
            if given.get("max_new_tokens") is not None
            else None
        ),
        batch=settings.whole("batch", 64, low=1, high=100_000),
    )


def measure_leak(probe: Probe) -> Columns:
    """The columns ``leak_count``, ``leak_samples`` and ``leak_best_rouge`` of a set.

    Settings: ``samples`` per row; ``judge``, ``rouge`` or ``entailment`` (which asks the judge of that name);
    ``threshold``, the ROUGE-L recall that leaks or, before entailment, is worth asking about; ``temperature``;
    ``max_new_tokens`` and ``batch`` of the generation. Samples end where greedy answers to the set end.
    """
    settings = read_leak(probe.settings)
    count = settings.samples
    judge = _judge(probe, settings)
    leaks, recalls = np.full((2, len(probe.rows), count), np.nan)
    rounds = sampled_answers(
        probe.loaded,
        probe.rows,
        count,
        seed=probe.seed,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens or probe.limit.max_new_tokens or LONGEST,
        batch_size=settings.batch,
        stop=probe.limit.stop,
        title=f"samples: {probe.name}",
    )
    for number, samples in enumerate(rounds):
        recalls[:, number] = rouge_recalls(samples, probe.answers)
        # One process asks; an endpoint would be paid for each.
        verdicts = judge(samples, probe.answers, recalls[:, number]) if process_number() == 0 else None
        leaks[:, number] = from_first(verdicts)
    return leak_columns(leaks, recalls)


def sampled_answers(
    loaded: LoadedModel, rows: Sequence[Row], count: int, *, seed: int, max_new_tokens: int, title: str,
    temperature: float = 1.0, batch_size: int = 64, stop: Sequence[str] = (),
) -> Iterator[list[str]]:  # fmt: skip
    """``count`` times one sampled answer per row: always the same of a prompt, whatever rows are asked beside it."""
    prompts = [loaded.format.encode_prompt(row) for row in rows]
    with bar(title) as update:
        for number in range(count):
            sampling = Sampling(seed=seed * _SEEDS_APART + number, temperature=temperature)
            yield generate_answers(
                loaded, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, sampling=sampling, stop=stop
            )
            update(number + 1, count)


def _judge(probe: Probe, settings: LeakSettings) -> LeakJudge:
    if settings.judge == "rouge":
        return partial(leaks_by_rouge, threshold=settings.threshold)
    return partial(leaks_by_entailment, judge=probe.judges.get("entailment"), threshold=settings.threshold)
