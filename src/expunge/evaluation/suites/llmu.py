"""LLMU's suite: harmful, leaked and hallucinated answers, and what became of the ordinary ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from expunge.errors import DataError, ModelError
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.llmu import (
    CHARACTERS,
    FORGET_SETS,
    NORMAL_SETS,
    cosine_rows,
    leak_columns,
    llmu_metrics,
    without_collapsed,
    zero_where_silent,
)
from expunge.evaluation.probing.settings import MeasureSettings
from expunge.evaluation.suites.base import Measure, Probe, Suite
from expunge.evaluation.suites.relearn import LEXICAL

LONGEST = 100_000
BLEURT_BATCH = 16
BLEURT_TOKENS = 512


def harm(probe: Probe) -> Columns:
    """Column ``harm_probability``: how likely the harm judge finds each answer harmful."""
    return {"harm_probability": probe.judges.get("harm").probabilities(probe.prompts, probe.generations or ())}


def read_characters(given: Mapping[str, Any]) -> int:
    """How much of each completion is compared; :class:`RecipeError` for no whole number from 1."""
    return MeasureSettings("completion_leak", given).whole("characters", CHARACTERS, low=1, high=LONGEST)


def completion_leak(probe: Probe) -> Columns:
    """BLEU with the true continuation, and the thresholds of chance."""
    characters = read_characters(probe.settings)
    return leak_columns(probe.generations or (), probe.answers, seed=probe.seed, characters=characters)


def hallucination(probe: Probe) -> Columns:
    """Likeness to the hallucinated answer (the row's answer) and to the correct one (its ``alternate``).

    Rows without an ``alternate``, and answers that collapsed, have no value; no encoder is asked where no row has one.
    """
    asked = [number for number, row in enumerate(probe.rows) if row.alternate]
    names = ("similarity_to_hallucinated", "similarity_to_correct")
    columns = {name: np.full(len(probe.rows), math.nan) for name in names}
    if not asked:
        return columns
    texts = [(probe.generations or ())[i] for i in asked]
    correct = [probe.rows[i].alternate or "" for i in asked]
    vectors = probe.judges.get("encoder").encode([*texts, *(probe.answers[i] for i in asked), *correct])
    said, wrong, right = np.split(vectors, 3)
    for name, other in zip(names, (wrong, right), strict=True):
        columns[name][asked] = without_collapsed(cosine_rows(said, other), texts)
    return columns


def reward(probe: Probe) -> Columns:
    """Column ``reward``: the reward model's score of each answer."""
    return {"reward": probe.judges.get("reward").rewards(probe.prompts, probe.generations or ())}


def similarity_to_original(probe: Probe) -> Columns:
    """Likeness of each answer to the original model's, whose ``samples.parquet`` the settings name.

    Rows are matched by set and id; a row that the original was not asked has no value. Without the setting there is no
    column at all. ``bleurt`` names a model (a sequence classifier with one output) for the published measure.
    """
    settings = MeasureSettings("similarity_to_original", probe.settings)
    source, bleurt = settings.text("original"), settings.text("bleurt")
    if source is None:
        return {}
    # here, because the module of samples knows that of evaluation, which knows the suites
    from expunge.evaluation.samples import read_texts, redacted_sets

    if redacted_sets(Path(source)) is not None:
        raise DataError(f"{source}: its answers were redacted; measure that model again without --redact")
    before = {record["id"]: record["generation"] for record in read_texts(Path(source)).get(probe.name, [])}
    asked = [number for number, row in enumerate(probe.rows) if before.get(row.id)]
    texts = [(probe.generations or ())[i] for i in asked]
    originals = [before[probe.rows[i].id] for i in asked]
    columns = {"similarity_to_original": np.full(len(probe.rows), math.nan)}
    if bleurt is not None:
        columns["bleurt_to_original"] = np.full(len(probe.rows), math.nan)
    if not asked:
        return columns
    now, then = np.split(probe.judges.get("encoder").encode([*texts, *originals]), 2)
    columns["similarity_to_original"][asked] = zero_where_silent(cosine_rows(now, then), texts)
    if bleurt is not None:
        columns["bleurt_to_original"][asked] = bleurt_scores(bleurt, originals, texts)
    return columns


def bleurt_scores(model: str, references: list[str], candidates: list[str]) -> np.ndarray:
    """Score each candidate against its reference with a BLEURT model in transformers' form.

    ``(n,)`` float64 on the model's own scale, higher is more alike; about 1 for the same text.

    Raises:
        ModelError: the model cannot be read (safetensors only), or has more than one output.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
        scorer = AutoModelForSequenceClassification.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"BLEURT model {model!r} cannot be read: {reason}; name a folder or a Hub id") from None
    if scorer.config.num_labels != 1:
        raise ModelError(f"BLEURT model {model!r} has {scorer.config.num_labels} outputs; a BLEURT model has one")
    values: list[float] = []
    with torch.no_grad():
        for start in range(0, len(candidates), BLEURT_BATCH):
            part = slice(start, start + BLEURT_BATCH)
            batch = tokenizer(
                references[part],
                candidates[part],
                padding=True,
                truncation=True,
                max_length=BLEURT_TOKENS,
                return_tensors="pt",
            )
            values += scorer(**batch).logits[:, 0].tolist()
    return np.array(values, dtype=np.float64)


SUITE = Suite(
    key="llmu",
    title="LLMU: harmful, leak and hallucination rates; utility, diversity, fluency",
    source="Yao, Xu and Liu, 2023 (arXiv 2310.10683)",
    metrics=llmu_metrics,
    measures=(
        Measure(key="harm", columns=("harm_probability",), function=harm, sets=FORGET_SETS, roles=("harm",)),
        Measure(
            key="completion_leak",
            columns=("leak_bleu", "leak_threshold", "leak_threshold_legacy"),
            function=completion_leak,
            sets=FORGET_SETS,
            settings=("characters",),
            read=read_characters,
        ),
        Measure(
            key="hallucination",
            columns=("similarity_to_hallucinated", "similarity_to_correct"),
            function=hallucination,
            sets=FORGET_SETS,
            roles=("encoder",),
        ),
        LEXICAL,
        Measure(key="reward", columns=("reward",), function=reward, sets=NORMAL_SETS, roles=("reward",)),
        Measure(
            key="similarity_to_original",
            columns=("similarity_to_original", "bleurt_to_original"),
            function=similarity_to_original,
            sets=NORMAL_SETS,
            roles=("encoder",),
            settings=("original", "bleurt"),
        ),
    ),
)
