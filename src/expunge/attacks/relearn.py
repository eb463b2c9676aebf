"""Attacks by finetuning: how few steps, and on what, bring the forgotten rows back."""

from __future__ import annotations

import itertools
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, set_seed

from expunge.attacks.base import Attack, Found, Opener, Site, knowledge
from expunge.data.draw import draw
from expunge.data.rows import Row
from expunge.models.load import LoadedModel
from expunge.parallel import from_first, process_number
from expunge.recipe import FinetunePart
from expunge.training.job import finetune_job
from expunge.training.run import optimise, prepare

CURVE = "curve.json"
HALF = 0.5


def taught_rows(site: Site, source: str) -> Sequence[Row]:
    """What is taught: some of the forget rows, held-out rows of the same source, or rows of something else."""
    if source == "subset":
        count = min(max(1, round(site.part.share * len(site.forget))), len(site.forget) - 1)
        return draw(site.forget, count, seed=site.seed, name="attack/relearn") if count else ()
    return {"holdout": site.holdout, "benign": site.benign}[source]


def relearn(opener: Opener, site: Site, *, source: str) -> Found:
    """Finetune, and look at the forget rows after each of ``part.steps`` steps.

    Rows that are taught are not looked at: an answer that the attack itself teaches is no recovery. The scores are
    those after the last step.
    """
    rows = taught_rows(site, source)
    told = {row.id for row in rows} if source == "subset" else set()
    looked_at = np.array([row.id not in told for row in site.forget])
    if not rows or not looked_at.any():
        return Found(np.full(len(site.forget), np.nan))
    with tempfile.TemporaryDirectory() as scratch:
        curve = _train(opener(), rows, looked_at, site, site.work or Path(scratch))
    return Found(curve[site.part.steps[-1]], curve)


def steps_to_half(curve: Sequence[tuple[int, float]], before: float, original: float) -> float:
    """Steps until half of what was lost is back: ``(m - before) / (original - before) >= 1/2``.

    Args:
        curve: (steps, mean score) after 0 and further steps, ascending.
        before: mean score of the unlearned model.
        original: that of the original.

    Returns:
        Steps, between two looks by straight line; infinity where half never came back, NaN where nothing was lost.
    """
    if original - before <= 0:
        return math.nan
    goal = before + HALF * (original - before)
    for (start, low), (end, high) in itertools.pairwise(curve):
        if low >= goal:
            return float(start)
        if high >= goal:
            return start + (end - start) * (goal - low) / (high - low)
    return math.inf


def area_under(curve: Sequence[tuple[int, float]]) -> float:
    """Mean height of a curve of (steps, score): its area by straight lines over its width; NaN for a single point."""
    width = curve[-1][0] - curve[0][0] if curve else 0
    if not width:
        return math.nan
    area = sum((end - start) * (low + high) / 2 for (start, low), (end, high) in itertools.pairwise(curve))
    return area / width


def _train(
    loaded: LoadedModel, rows: Sequence[Row], looked_at: np.ndarray, site: Site, work: Path
) -> dict[int, np.ndarray]:
    part = FinetunePart(
        lr=site.part.lr,
        max_steps=site.part.steps[-1],
        batch_size=min(site.part.batch_size, len(rows)),
        scope=site.part.scope,
        schedule="constant",
        warmup=0.0,
        micro_batch_tokens=site.part.micro_batch_tokens,
    )
    job = finetune_job(site.title, rows, part, epochs=1, seed=site.seed)
    set_seed(site.seed)
    work = from_first(work)
    work.mkdir(parents=True, exist_ok=True)
    look = _Look(site, looked_at, work / CURVE)
    job = replace(job, watchers=(look,))
    prepared = prepare(loaded, job, work=work)
    # The scope may have wrapped the model: what is looked at is what is trained.
    look.loaded = replace(loaded, model=prepared.model)
    optimise(loaded, prepared, job, work)
    return from_first(look.curve())


class _Look(TrainerCallback):
    """Scores the forget rows after some steps, and keeps what it saw: a run that goes on does not look twice."""

    def __init__(self, site: Site, looked_at: np.ndarray, path: Path) -> None:
        self.site, self.looked_at, self.path = site, looked_at, path
        self.loaded: LoadedModel | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look, if it is time."""
        if state.global_step not in self.site.part.steps:
            return
        assert self.loaded is not None
        asked = [row for row, there in zip(self.site.forget, self.looked_at, strict=True) if there]
        found = [
            None if math.isnan(value) else float(value)
            for value in knowledge(self.loaded, asked, self.site, shown=False)
        ]
        if process_number() > 0:
            return
        seen = {**self._seen(), str(state.global_step): found}
        partial_path = self.path.with_suffix(".partial")
        partial_path.write_text(json.dumps(seen), encoding="utf-8")
        os.replace(partial_path, self.path)

    def curve(self) -> dict[int, np.ndarray]:
        """``(n,)`` scores after each number of steps; NaN for the rows that were taught."""
        out = {}
        for step, values in self._seen().items():
            scores = np.full(len(self.looked_at), np.nan)
            scores[self.looked_at] = np.array(values, dtype=np.float64)
            out[int(step)] = scores
        return out

    def _seen(self) -> dict[str, list[float | None]]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}


RELEARNING = tuple(
    Attack(
        f"relearn:{source}",
        f"finetuning on {about}",
        partial(relearn, source=source),
        needs=() if source == "subset" else (source,),
        settings=(
            "steps",
            "lr",
            "batch_size",
            "scope",
            "micro_batch_tokens",
            *(("share",) if source == "subset" else ()),
        ),
    )
    for source, about in (
        ("subset", "some of the forget rows, the others looked at"),
        ("holdout", "rows of the same source that no model has seen"),
        ("benign", "rows about something else"),
    )
)
