"""From a recipe to a run folder: finetune, retain reference, unlearn, evaluate, report."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row, rows_hash
from expunge.errors import UserError
from expunge.evaluation.evaluate import evaluate_model, generation_losses
from expunge.evaluation.logs import read_peer_log
from expunge.evaluation.metrics import Scores
from expunge.evaluation.samples import read_scores, write_samples
from expunge.methods.table import Composition, compose
from expunge.models.load import LoadedModel, load_model, source_fingerprint
from expunge.pipeline.environment import environment
from expunge.pipeline.evidence import Subject, write_evidence
from expunge.pipeline.stages import Stage, StageStore
from expunge.progress import say
from expunge.recipe import EvaluatePart, Recipe, TrainPart
from expunge.scopes import make_scope
from expunge.training.defaults import FINETUNE_EPOCHS
from expunge.training.run import finetune_job, train, unlearn_job

MANIFEST = "run.json"
_NO_EFFECT_ON_WEIGHTS = ("checkpoint_minutes", "track")


@dataclass(frozen=True)
class RunResult:
    """Where a run's evidence lies, and its numbers."""

    folder: Path
    stages: Mapping[str, Stage]
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By model (``before``, ``after``, ``retain model``), then by metric key."""
    report: Any
    """The :class:`~expunge.reporting.content.Report`, or None if nothing was evaluated."""


def run_recipe(
    recipe: Recipe, out: str | Path, *, store: str | Path | None = None, data_root: str | None = None
) -> RunResult:
    """Run a recipe; what is already there is not made again, what was interrupted goes on.

    Args:
        recipe: what to do.
        out: the run's folder: new, empty, or holding this run already.
        store: folder of the stages, ``<out>/stages`` by default; runs that share one share their stages.
        data_root: folder with published benchmark files, for benchmarks that take one.

    Raises:
        UserError: anything in the input that is wrong, before any work where it can be known.
    """
    out = Path(out)
    claim_folder(out)
    plan = Plan(recipe, load_data(recipe, data_root), StageStore(Path(store) if store else out / "stages"))
    out.mkdir(parents=True, exist_ok=True)
    _write_manifest(out, recipe, {"status": "running"})
    return plan.run(out)


def claim_folder(out: Path) -> None:
    """Refuse an output folder that holds something other than a run of ours.

    Raises:
        UserError: for a file, or a folder with other things in it.
    """
    if out.is_file():
        raise UserError(f"--out {out}: is a file; give a folder that is new, empty or holds an earlier run")
    if out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file():
        raise UserError(
            f"--out {out}: the folder holds something else; give a folder that is new, empty or holds an earlier run"
        )
    above = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if not os.access(above, os.W_OK):
        raise UserError(f"--out {out}: {above} is not writable")


def load_data(recipe: Recipe, data_root: str | None = None) -> Benchmark:
    """The recipe's benchmark; its warnings become one line each."""
    options = dict(recipe.data.options)
    if data_root and recipe.data.benchmark.partition(":")[0] == "tofu":
        options.setdefault("root", data_root)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        benchmark = load_benchmark(recipe.data.benchmark, **options)
    for warning in caught:
        say(f"warning: {warning.message}")
    return benchmark


@dataclass
class Plan:
    """A recipe with its data, and the stages that carry it out."""

    recipe: Recipe
    benchmark: Benchmark
    store: StageStore

    def __post_init__(self) -> None:
        part = self.recipe.unlearn
        # Everything that can be wrong is found before any work starts.
        self.composition: Composition | None = None
        if part:
            self.composition = compose(part, has_retain=bool(self.benchmark.retain))
        for section in (self.recipe.finetune, part):
            if section:
                make_scope(section.scope)
        self.base_print = source_fingerprint(self.recipe.model.path)
        self.stages: dict[str, Stage] = {}

    def run(self, out: Path) -> RunResult:
        """Carry the stages out in order and gather the evidence in ``out``."""
        target = self._finetune("target", (*self.benchmark.forget, *self.benchmark.retain))
        retain_model = self._retain_reference()
        after = self._unlearn(target)
        subjects: dict[str, Scores] = {}
        report = None
        metrics: dict[str, Any] = {}
        if self.recipe.evaluate:
            subjects["before"] = self._evaluate("before", target)
            if after:
                subjects["after"] = self._evaluate("after", after)
            if reference := self._reference_scores(retain_model):
                subjects["retain model"] = reference
            metrics, report = self._evidence(out, subjects)
        self._gather(out, after or target)
        _write_manifest(out, self.recipe, self._manifest())
        return RunResult(out, self.stages, metrics, report)

    # -- stages that make weights ---------------------------------------------------------------------------------

    def _finetune(self, name: str, rows: tuple[Row, ...]) -> Stage | None:
        part = self.recipe.finetune
        if part is None:
            return None
        epochs = part.epochs or FINETUNE_EPOCHS
        title = name.replace("_", " ")

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            job = finetune_job(f"finetune {title}", rows, part, epochs=epochs, seed=self.recipe.seed)
            return self._train(None, job, work, folder)

        return self._stage(name, self._weight_parts(part, self.base_print) | {"rows": rows_hash(rows)}, build)

    def _retain_reference(self) -> Stage | None:
        if self.recipe.retain_reference == "train" and self.benchmark.retain and self.recipe.unlearn:
            return self._finetune("retain_model", self.benchmark.retain)
        return None

    def _unlearn(self, target: Stage | None) -> Stage | None:
        part, composition = self.recipe.unlearn, self.composition
        if part is None or composition is None:
            return None
        for note in composition.notes:
            say(f"note: {note}")
        benchmark = self.benchmark
        probe = benchmark.retain or benchmark.probes.get("general", ())

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            job = unlearn_job(
                f"unlearn ({composition.method.key})",
                composition,
                part,
                forget=benchmark.forget,
                retain=benchmark.retain,
                seed=self.recipe.seed,
                refusals=benchmark.refusals,
                budget=part.budget,
                probe_rows=probe,
            )
            return self._train(target, job, work, folder)

        data = {"forget": rows_hash(benchmark.forget), "retain": rows_hash(benchmark.retain)}
        extra = {"refusals": list(benchmark.refusals), "probe": rows_hash(probe) if part.budget else None}
        resolved = {"settings": dict(composition.settings), "gamma": composition.gamma, "alpha": composition.alpha}
        origin = target.key if target else self.base_print
        return self._stage("unlearn", self._weight_parts(part, origin) | data | extra | resolved, build)

    def _weight_parts(self, part: TrainPart, origin: str) -> dict[str, Any]:
        fields = dataclasses.asdict(part)
        for name in _NO_EFFECT_ON_WEIGHTS:
            fields.pop(name)
        model = dataclasses.asdict(self.recipe.model)
        model.pop("path")
        model.pop("trust_remote_code")
        return {"part": fields, "model": model, "origin": origin, "seed": self.recipe.seed}

    def _train(self, start: Stage | None, job: Any, work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = self._load(start)
        facts = train(loaded, job, work=work, out=folder, cache=self.store.root / "reference")
        shutil.copyfile(work / "log.jsonl", folder / "log.jsonl")
        facts = {**facts, "notes": loaded.notes, "matmul_route": loaded.matmul_route, "packed": loaded.packed}
        _free(loaded)
        return facts

    def _load(self, stage: Stage | None) -> LoadedModel:
        model = self.recipe.model
        return load_model(
            weights_folder(stage.path) if stage else model.path,
            format=model.format,
            max_length=model.max_length,
            dtype=model.dtype,
            device=model.device,
            trust_remote_code=model.trust_remote_code,
        )

    # -- stages that measure --------------------------------------------------------------------------------------

    def _evaluate(self, label: str, subject: Stage | None) -> Scores:
        part = self.recipe.evaluate
        assert part is not None
        parts = {
            "subject": subject.key if subject else self.base_print,
            "base": self.base_print if part.fluency else None,
            "model": {"format": self.recipe.model.format, "max_length": self.recipe.model.max_length},
            "part": {k: v for k, v in dataclasses.asdict(part).items() if k != "num_resamples"},
            "probes": {name: rows_hash(rows) for name, rows in self.benchmark.probes.items()},
        }

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            loaded = self._load(subject)
            evaluation = evaluate_model(loaded, self.benchmark.probes, part, title=label)
            _free(loaded)
            if part.fluency:
                self._judge(label, evaluation)
            write_samples(folder / "samples.parquet", evaluation)
            return {"rows": {name: len(rows) for name, rows in evaluation.rows.items()}}

        stage = self._stage("evaluate", parts, build, label=f"evaluate {label}", record=f"evaluate {label}")
        return read_scores(stage.path / "samples.parquet")

    def _judge(self, label: str, evaluation: Any) -> None:
        """Add the starting model's loss on every generated answer: is it still language?"""
        judge = self._load(None)
        losses = generation_losses(judge, evaluation.rows, evaluation.generations, title=f"{label}: fluency")
        for name, values in losses.items():
            evaluation.scores[name]["generation_loss"] = values
        _free(judge)

    def _reference_scores(self, retain_model: Stage | None) -> Scores | None:
        if retain_model:
            return self._evaluate("retain model", retain_model)
        source = self.recipe.retain_reference
        if source in ("train", "none"):
            return None
        return reference_scores(source)

    def _evidence(self, out: Path, subjects: Mapping[str, Scores]) -> tuple[dict[str, Any], Any]:
        part = self.recipe.evaluate
        assert isinstance(part, EvaluatePart)
        paths = {
            label: self.stages[f"evaluate {label}"].path / "samples.parquet"
            for label in subjects
            if f"evaluate {label}" in self.stages
        }
        logs = {
            name: stage.path / "log.jsonl"
            for name, stage in self.stages.items()
            if (stage.path / "log.jsonl").is_file()
        }
        subject = Subject(
            name=self.recipe.name,
            scores=subjects,
            samples=paths,
            logs=logs,
            benchmark=self.benchmark,
            part=part,
            seed=self.recipe.seed,
            provenance=self._provenance(),
            notes=self._notes(),
        )
        return write_evidence(subject, out)

    # -- the run folder -------------------------------------------------------------------------------------------

    def _stage(self, name: str, parts: Mapping[str, Any], build: Any, *, label: str = "", record: str = "") -> Stage:
        stage = self.store.run(name, parts, build, label=label)
        self.stages[record or name] = stage
        return stage

    def _gather(self, out: Path, result: Stage | None) -> None:
        """Put the resulting weights and the training log where users look for them, without a second copy on disk."""
        if result is None:
            return
        source = weights_folder(result.path)
        for name in ("model", "adapter"):
            shutil.rmtree(out / name, ignore_errors=True)
        _link_tree(source, out / source.name)
        shutil.copyfile(result.path / "log.jsonl", out / "log.jsonl")

    def _notes(self) -> list[str]:
        notes = list(self.composition.notes) if self.composition else []
        for stage in self.stages.values():
            notes += stage.facts.get("notes", [])
            if stage.name == "unlearn" and stage.facts.get("stopped") not in (None, "all steps done"):
                notes.append(f"unlearning stopped: {stage.facts['stopped']}")
        return list(dict.fromkeys(notes))

    def _provenance(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_dict(),
            "model": {"source": self.recipe.model.path, "sha256": self.base_print},
            "data": {"origin": self.benchmark.origin, **self.benchmark.hashes()},
            "stages": {
                name: {"key": stage.key, **{k: v for k, v in stage.facts.items() if k != "notes"}}
                for name, stage in self.stages.items()
            },
            "environment": environment(),
        }

    def _manifest(self) -> dict[str, Any]:
        return {"status": "done", **self._provenance()}


def weights_folder(stage: Path) -> Path:
    """``model`` or ``adapter`` of a stage or run."""
    return next(folder for folder in (stage / "model", stage / "adapter") if folder.is_dir())


def reference_scores(source: str) -> Scores:
    """The retain model's per-row values from an earlier run or an open-unlearning log.

    Raises:
        DataError: if it is neither.
    """
    folder = Path(source)
    for name in ("samples_retain_model.parquet", "samples.parquet"):
        if (folder / name).is_file():
            return read_scores(folder / name)
    return read_peer_log(folder).scores


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        if not path.is_file():
            continue
        try:
            os.link(path, target / path.name)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, target / path.name)


def _write_manifest(out: Path, recipe: Recipe, content: Mapping[str, Any]) -> None:
    from expunge.reporting.content import plain

    (out / "recipe.yaml").write_text(yaml.safe_dump(plain(recipe.as_dict()), sort_keys=False), encoding="utf-8")
    partial = out / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(plain(content), indent=1), encoding="utf-8")
    os.replace(partial, out / MANIFEST)


def _free(loaded: LoadedModel) -> None:
    """Let go of a model's memory before the next one is loaded."""
    loaded.model = None
    gc.collect()
