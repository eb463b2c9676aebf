"""What runs found, small enough to stand beside the page that is made of it: one JSON file a part."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.recipe import Recipe

KEPT = (
    "extraction_strength", "exact_memorization", "forget_Q_A_ROUGE", "forget_Q_A_Prob", "forget_truth_ratio",
    "forget_quality_log10", "model_utility", "retain_Q_A_ROUGE", "general_Q_A_ROUGE", "mia_min_k", "privleak",
    "forget_perplexity", "forget_distinct_2", "forget_empty_rate", "answers_perplexity",
    "forget_rephrased_Q_A_ROUGE", "forget_rephrased_Q_A_Prob", "retain_other_Q_A_ROUGE", "KFR", "KRR",
)  # fmt: skip
"""Metrics that pages show or choose by."""
COST = ("steps", "lr", "trainable_share", "seconds", "peak_memory_gb", "stopped")
"""What is kept of a run's unlearn stage."""
BEFORE, RETAIN_MODEL = "before", "retain model"

Metrics = Mapping[str, list[float | None]]
"""By key: value, and the ends of its interval."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run."""

    digest: str
    """Of its recipe: a record of another is made again."""
    method: str
    settings: dict[str, Any]
    """Of its unlearn part, what its recipe sets."""
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    attacks: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By attack: ``unlearned``, ``original`` and ``reference`` under it, ``rise``, ``recovery`` and ``residual``."""
    durability: dict[str, Any] = field(default_factory=dict)
    """``value``, its interval ``low`` and ``high``, the ``worst`` attack, and ``kept`` of the retain rows."""
    matrix: dict[str, Any] = field(default_factory=dict)
    """Of requests in sequence: points in ``time``, and by set its ``strength`` at each."""
    answers: list[dict[str, str]] = field(default_factory=list)
    """The first ones: ``prompt``, ``truth`` and ``answer``."""
    machine: str = ""
    failed: str = ""
    """Why there are no numbers, in one line."""


def recipe_digest(recipe: Recipe) -> str:
    """Of everything that the recipe says and numbers depend on.

    What it leaves at its default does not count: a setting that there will be one day makes no record old.
    """
    content = said(recipe)
    content.get("unlearn", {}).pop("keep_weights", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def said(part: Any) -> dict[str, Any]:
    """What a recipe sets otherwise than its default, part by part."""
    found = {}
    for entry in fields(part):
        value = getattr(part, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if is_dataclass(value):
            found[entry.name] = said(value)
        elif value != default:
            found[entry.name] = value
    return found


class Records:
    """The file of a part: the models that all runs share, and a record for each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models: dict[str, Metrics] = {}
        self.runs: dict[str, Record] = {}
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                self.models = content["models"]
                self.runs = {name: Record(**record) for name, record in content["runs"].items()}
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: no file of results: {error}") from None

    def save(self) -> None:
        """Whole or not at all; a line for each run."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        runs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(asdict(run))}" for name, run in self.runs.items())
        text = f'{{\n "models": {json.dumps(self.models)},\n "runs": {{\n{runs}\n }}\n}}\n'
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, self.path)


def kept_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Those that pages show, with four significant digits."""
    return {key: [rounded(metrics[key][end]) for end in ("value", "ci_low", "ci_high")] for key in _kept(metrics)}


def _kept(metrics: Mapping[str, Any]) -> list[str]:
    """ROUGE-L recall of every set besides."""
    return [key for key in metrics if key in KEPT or key.endswith("_Q_A_ROUGE")]


def rounded(value: float | None) -> float | None:
    """To four significant digits; None for what is not known."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
