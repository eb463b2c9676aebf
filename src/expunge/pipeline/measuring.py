"""The stages of a run that measure: every model's per-row values, the harness's tasks, the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.data.rows import rows_hash
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.metrics import Scores
from expunge.evaluation.metrics.table import ADDED
from expunge.evaluation.samples import read_scores, write_samples
from expunge.models.load import let_go
from expunge.pipeline.evidence import AFTER, BEFORE, RETAIN_MODEL, Subject, judge_notes, measuring, write_evidence
from expunge.pipeline.fluency import add_fluency
from expunge.pipeline.harnessing import harness_stage, read_harness
from expunge.pipeline.stages import Stage
from expunge.plugins import plugin_versions
from expunge.recipe import EvaluatePart
from expunge.training.trainer import memory_errors

if TYPE_CHECKING:
    from expunge.pipeline.run import Plan


@dataclasses.dataclass(frozen=True)
class Measuring:
    """What a plan measures of the models that it made."""

    plan: Plan

    def scores(self, target: Stage | None, after: Stage | None, retain_model: Stage | None) -> dict[str, Scores]:
        """Per-row values of every model there is, the retain model's from elsewhere where they are known."""
        asked = self.subjects(target, after, retain_model)
        found = {
            label: read_scores(self.stage(label, subject, source).path / "samples.parquet")
            for label, subject, source in asked
        }
        if self.plan.reference and RETAIN_MODEL not in found:
            found[RETAIN_MODEL] = self.plan.reference
        return found

    def subjects(
        self, target: Stage | None, after: Stage | None, retain_model: Stage | None
    ) -> list[tuple[str, Stage | None, str | None]]:
        """What is evaluated: label, the stage that made it, or where it comes from."""
        found: list[tuple[str, Stage | None, str | None]] = [(BEFORE, target, None)]
        if after:
            found.append((AFTER, after, None))
        if retain_model:
            found.append((RETAIN_MODEL, retain_model, None))
        elif self.plan.reference_print and not self.plan.reference:
            found.append((RETAIN_MODEL, None, self.plan.recipe.retain_reference))
        return found

    def stage(self, label: str, subject: Stage | None, source: str | None = None) -> Stage:
        """One model's evaluation, and what the harness says of it."""
        part, model = self.plan.recipe.evaluate, self.plan.recipe.model
        assert part is not None
        origin = self.plan.reference_print if source else self.plan.base_print
        plan, settings = measuring(part, self.plan.benchmark, seed=self.plan.recipe.seed)
        parts = {
            "subject": subject.key if subject else origin,
            "base": self.plan.base_print if part.fluency else None,
            "model": {"format": model.format, "max_length": model.max_length, "dtype": model.dtype},
            "part": settings,
            "probes": {name: rows_hash(rows) for name, rows in self.plan.benchmark.probes.items()},
        }

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            loaded = self.plan.load(subject, source)
            with memory_errors(f"while scoring; lower evaluate.pack_tokens (now {part.pack_tokens})"):
                evaluation = evaluate_model(loaded, self.plan.benchmark.probes, part, plan=plan, title=label)
                let_go(loaded)
                if part.fluency:
                    judge = partial(self.plan.load, None, part.fluency_model, guarded=False)
                    add_fluency(evaluation, judge, title=f"{label}: fluency")
            write_samples(folder / "samples.parquet", evaluation, redact=part.redact)
            return {"rows": {name: len(rows) for name, rows in evaluation.rows.items()}}

        stage = self.plan.stage("evaluate", parts, build, label=f"evaluate {label}", record=f"evaluate {label}")
        self._harness(label, subject, source)
        return stage

    def _harness(self, label: str, subject: Stage | None, source: str | None = None) -> None:
        """Tasks of lm-evaluation-harness, where the recipe names some."""
        part = self.plan.recipe.evaluate
        if part and part.harness:
            model = {k: v for k, v in dataclasses.asdict(self.plan.recipe.model).items() if k != "path"}
            origin = self.plan.reference_print if source else self.plan.base_print
            about = {"weights": subject.key if subject else origin, "model": model}
            load = partial(self.plan.load, subject, source)
            self.plan.stages[f"harness {label}"] = harness_stage(
                self.plan.store, part.harness, about, load, label=label, redact=part.redact, hide=self.plan.texts
            )

    def subject(self, scores: Mapping[str, Scores]) -> Subject:
        """What the evidence is made from."""
        part = self.plan.recipe.evaluate
        assert isinstance(part, EvaluatePart)
        stages = {label: self.plan.stages.get(f"evaluate {label}") for label in scores}
        logs = {name: stage.path / "log.jsonl" for name, stage in self.plan.stages.items()}
        return Subject(
            name=self.plan.recipe.name,
            scores=scores,
            samples={label: stage.path / "samples.parquet" for label, stage in stages.items() if stage},
            logs={name: path for name, path in logs.items() if path.is_file()},
            benchmark=self.plan.benchmark,
            part=part,
            seed=self.plan.recipe.seed,
            provenance=self.plan.provenance(),
            notes=[*judge_notes(part, self.plan.benchmark), *self.plan.notes()],
            harness={
                label: read_harness(self.plan.stages[f"harness {label}"])
                for label in scores
                if f"harness {label}" in self.plan.stages
            },
        )

    def report(self, subject: Subject) -> Stage:
        """Metrics with intervals, verdict and page."""
        parts = {
            "recipe": self.plan.recipe.as_dict(),
            "stages": {name: stage.key for name, stage in self.plan.stages.items()},
            "reference": self.plan.reference_print,
            "utility": list(self.plan.benchmark.utility_sets),
        }
        if plugins := plugin_versions({"metric": ADDED}):
            parts["plugins"] = plugins

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            write_evidence(subject, folder)
            return {}

        return self.plan.stage("report", parts, build)
