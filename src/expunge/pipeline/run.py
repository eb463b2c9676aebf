"""From a recipe to a run folder: finetune, retain reference, unlearn, evaluate, report."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from expunge.benchmarks.base import Benchmark
from expunge.data.rows import Row, rows_hash
from expunge.errors import RecipeError
from expunge.evaluation.metrics import Scores
from expunge.methods.table import Composition
from expunge.models.guards import make_guard, remember_guard
from expunge.models.load import DTYPES, LoadedModel, let_go, load_model, pick_device, resolve, source_fingerprint
from expunge.parallel import from_first, process_number, wait_for_all
from expunge.pipeline.attacking import Audit
from expunge.pipeline.auditing import BELOW as ATTACKS_BELOW
from expunge.pipeline.auditing import audit_run
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.composing import Members, composed
from expunge.pipeline.environment import environment
from expunge.pipeline.evidence import (
    AFTER,
    BEFORE,
    RETAIN_MODEL,
    measuring,
    read_evidence,
    suffix,
)
from expunge.pipeline.folder import (
    MANIFEST,
    RUN,
    claim_folder,
    has_weights,
    link_or_copy,
    open_folder,
    refuse_inside,
    weights_folder,
    write_json,
)
from expunge.pipeline.forget_rows import forget_rows
from expunge.pipeline.hashes import model_record
from expunge.pipeline.known import known_scores, scores_hash
from expunge.pipeline.loading import load_data
from expunge.pipeline.measuring import Measuring
from expunge.pipeline.redacting import (
    refuse_caches_inside,
    say_what_to_share,
    shown_data,
    shown_recipe,
    take_texts_out,
    telling_texts,
)
from expunge.pipeline.stages import Stage, StageStore
from expunge.progress import say
from expunge.recipe import Recipe, TrainPart, UnlearnPart
from expunge.reporting.content import plain
from expunge.scopes import make_scope
from expunge.scopes.region import region_file_hash
from expunge.training.defaults import FINETUNE_EPOCHS
from expunge.training.job import finetune_job, unlearn_job
from expunge.training.kept import KEPT
from expunge.training.merge import make_merge, merge_adapters
from expunge.training.precision import uses_bf16
from expunge.training.run import NOTHING_TO_TRAIN, REGION, train

_NO_EFFECT_ON_WEIGHTS = ("checkpoint_minutes", "track", "checkpoint_activations", "keep_weights", "to_4bit", "written")
WEIGHTS_HASH = "weights.sha256"
"""Stands in a stage whose weights were let go."""
_CUT_LEFT_OPEN = 384
"""What stands in a stage's key for ``micro_batch_tokens`` where nothing is set."""


@dataclass(frozen=True)
class RunResult:
    """Where a run's evidence lies, and its numbers."""

    folder: Path
    stages: Mapping[str, Stage]
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """By model (``before``, ``after``, ``retain model``), then by metric key."""
    report: Any
    """The :class:`~expunge.reporting.content.Report`, or None if nothing was evaluated."""
    audit: Audit | None = None
    """What attacks found, where the recipe has an attack part."""


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    store: str | Path | None = None,
    data_root: str | None = None,
    alone: bool = True,
) -> RunResult:
    """Run a recipe; what is already there is not made again, what was interrupted goes on.

    Args:
        recipe: what to do.
        out: the run's folder: new, empty, or holding this run already.
        store: folder of the stages, ``<out>/stages`` by default; runs that share one share their stages.
        data_root: folder with published benchmark files, for benchmarks that take one.
        alone: False for one run of several, which may still need what redaction takes away at the end.

    Raises:
        UserError: anything in the input that is wrong, before any work where it can be known.
    """
    out = Path(out)
    check_recipe(recipe)
    claim_folder(out)
    refuse_caches_inside(recipe, out)
    refuse_inside(out, {"model": recipe.model.path, "retain reference": recipe.retain_reference})
    stages = Path(store) if store else out / "stages"
    plan = Plan(recipe, load_data(recipe, data_root), StageStore(stages))
    with open_folder(out, stages=None if store else stages):
        result = plan.run(out)
        if recipe.attack and (after := plan.weights("unlearn")):
            others = {"original": plan.weights("target"), "reference": plan.weights("retain_model")}
            result = replace(result, audit=audit_run(recipe, plan.benchmark, plan.store, after, out=out, **others))
        plan.let_weights_go(out)
        if recipe.redact and alone and process_number() == 0:
            take_texts_out((stage.path for stage in plan.stages.values()), plan.texts)
            say_what_to_share(out, stages)
        return result


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
        self.members: Members = ()
        if part:
            part, self.composition, self.members = composed(part, self.benchmark)
            # What is kept with a run names the method that it ran by.
            self.recipe = replace(self.recipe, unlearn=part)
        if self.recipe.evaluate:
            measuring(self.recipe.evaluate, self.benchmark, seed=self.recipe.seed)
        pick_device(self.recipe.model.device)
        self.reference: Scores | None = None
        self.reference_print = ""
        if (source := self.recipe.retain_reference) not in ("train", "none"):
            self.reference = known_scores(source)
            self.reference_print = scores_hash(self.reference) if self.reference else source_fingerprint(source)
        self.base_print = source_fingerprint(self.recipe.model.path)
        self.stages: dict[str, Stage] = {}
        self._again: dict[str, Callable[[], Stage]] = {}
        """Makes a finished stage anew, by its key."""
        self.texts = telling_texts(self.recipe, self.benchmark)
        """What no record shows, though it counts in the stages' keys."""

    def run(self, out: Path) -> RunResult:
        """Carry the stages out in order and gather the evidence in ``out``."""
        target = self._finetune("target", self.benchmark.target_rows())
        retain_model = self._retain_reference()
        after = self._unlearn(target)
        metrics: dict[str, Any] = {}
        report = None
        evidence: Stage | None = None
        if self.recipe.evaluate:
            measuring = Measuring(self)
            subject = measuring.subject(measuring.scores(target, after, retain_model))
            evidence = measuring.report(subject)
            metrics, report = read_evidence(subject, evidence.path)
        if after and self.recipe.unlearn and self.recipe.unlearn.keep_weights:
            self._weights_of(after)  # an earlier run may have let them go
        if process_number() == 0:
            self._gather(out, after or target, evidence)
        wait_for_all()
        return RunResult(out, self.stages, metrics, report)

    # -- stages that make weights ---------------------------------------------------------------------------------

    def _finetune(self, name: str, rows: Sequence[Row]) -> Stage | None:
        part = self.recipe.finetune
        if part is None:
            return None
        epochs = part.epochs or FINETUNE_EPOCHS
        title = name.replace("_", " ")

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            job = finetune_job(f"finetune {title}", rows, part, epochs=epochs, seed=self.recipe.seed)
            return self._train(None, job, work, folder)

        # Alternates are not learnt: rows with and without them make the same model.
        learnt = rows_hash(replace(row, alternate=None) for row in rows)
        return self.stage(name, self._weight_parts(part, self.base_print) | {"rows": learnt}, build)

    def _retain_reference(self) -> Stage | None:
        if self.recipe.retain_reference == "train" and self.benchmark.retain and self.recipe.unlearn:
            return self._finetune("retain_model", self.benchmark.retain_rows())
        return None

    def _unlearn(self, target: Stage | None) -> Stage | None:
        part, composition = self.recipe.unlearn, self.composition
        if part is None or composition is None:
            return None
        for note in composition.notes:
            say(f"note: {note}")
        if composition.merge:
            return self._merge(target, part, composition)
        return self._unlearn_once(target, part, composition)

    def _merge(self, target: Stage | None, part: UnlearnPart, composition: Composition) -> Stage:
        """Every run of a merge as a stage of its own, then one that merges their adapters."""
        self._refuse_adapter(target)
        merge, guard = make_merge(composition.merge), make_guard(composition.guard)
        runs = [
            self._unlearn_once(target, *member, name=f"unlearn part {number}")
            for number, member in enumerate(self.members, 1)
        ]

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            loaded = self.load(target, guarded=False)
            adapters = [self._weights_of(run) for run in runs]
            facts = merge_adapters(loaded, adapters, merge, folder, seed=self.recipe.seed)
            if guard:
                remember_guard(folder / "adapter", guard.fit(self.benchmark.forget, self.benchmark.retain))
            let_go(loaded)
            return facts

        parts = {"merge": dict(composition.merge), "runs": [run.key for run in runs], "seed": self.recipe.seed}
        return self.stage("unlearn", parts | {"guard": dict(composition.guard)}, build, label="merge adapters")

    def _refuse_adapter(self, target: Stage | None) -> None:
        if resolve(weights_folder(target.path) if target else self.recipe.model.path).adapter:
            raise RecipeError("merge: the model to unlearn is an adapter itself; export it with --merge first")

    def _forget_rows(self, target: Stage | None, part: UnlearnPart, composition: Composition) -> Sequence[Row]:
        return forget_rows(self, target, part, composition)

    def _unlearn_once(
        self, target: Stage | None, part: UnlearnPart, composition: Composition, *, name: str = "unlearn"
    ) -> Stage:
        benchmark = self.benchmark
        forget = self._forget_rows(target, part, composition)
        probe = benchmark.retain or benchmark.probes.get("general", ())

        def build(work: Path, folder: Path) -> Mapping[str, Any]:
            job = unlearn_job(
                f"{name} ({composition.method.key})",
                composition,
                part,
                forget=forget,
                retain=benchmark.retain,
                seed=self.recipe.seed,
                refusals=benchmark.refusals,
                pool=benchmark.pool,
                budget=part.budget,
                probe_rows=probe,
            )
            return self._train(target, job, work, folder)

        data = {"rows": {"forget": rows_hash(forget), "retain": rows_hash(benchmark.retain)}}
        extra = {"refusals": list(benchmark.refusals), "probe": rows_hash(probe) if part.budget else None}
        if benchmark.pool:
            extra["pool"] = list(benchmark.pool)
        origin = target.key if target else self.base_print
        parts = self._weight_parts(part, origin, composition.rules) | data | extra
        parts["composition"] = composition.resolved()
        return self.stage("unlearn", parts, build, label=name, record=name)

    def _weight_parts(self, part: TrainPart, origin: str, rules: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        fields = dataclasses.asdict(part)
        for name in _NO_EFFECT_ON_WEIGHTS:
            fields.pop(name, None)
        # What is left to the machine counts as it turns out. How steps are cut changes nothing but rounding, and a
        # better cut makes no stage anew.
        fields["micro_batch_tokens"] = part.micro_batch_tokens or _CUT_LEFT_OPEN
        where, dtype = pick_device(self.recipe.model.device), DTYPES[self.recipe.model.dtype]
        fields["bf16"] = uses_bf16(part.bf16, where, dtype, rules)
        if not part.keep_every:
            del fields["keep_every"]
        model = dataclasses.asdict(self.recipe.model)
        model.pop("path")
        model.pop("trust_remote_code")
        # A region file counts by what stands in it.
        region = {"region": digest} if (digest := region_file_hash(part.scope)) else {}
        return {"part": fields, "model": model, "origin": origin, "seed": self.recipe.seed, **region}

    def _train(self, start: Stage | None, job: Any, work: Path, folder: Path) -> Mapping[str, Any]:
        quantise = getattr(make_scope(job.scope), "quantise", None)
        loaded = self.load(start, guarded=False, quantise=quantise)
        facts = train(loaded, job, work=work, out=folder, cache=self.store.root / "reference")
        if (work / "log.jsonl").is_file():  # nothing is logged where nothing is trained
            shutil.copyfile(work / "log.jsonl", folder / "log.jsonl")
        if (work / "runs").is_dir():  # TensorBoard's files
            shutil.copytree(work / "runs", folder / "runs")
        facts = {**facts, "notes": loaded.notes, "matmul_route": loaded.matmul_route, "packed": loaded.packed}
        let_go(loaded)
        return facts

    def load(
        self, stage: Stage | None, source: str | None = None, *, guarded: bool = True, quantise: Any = None
    ) -> LoadedModel:
        """The model that a stage made, or one from elsewhere, or the one the recipe starts from."""
        model = self.recipe.model
        return load_model(
            self._weights_of(stage) if stage else source or model.path,
            format=model.format,
            max_length=model.max_length,
            dtype=model.dtype,
            device=model.device,
            trust_remote_code=model.trust_remote_code,
            guarded=guarded,
            quantise=quantise,
        )

    # -- the run folder -------------------------------------------------------------------------------------------

    def stage(self, name: str, parts: Mapping[str, Any], build: Any, *, label: str = "", record: str = "") -> Stage:
        """Run a stage, and remember it under its name or ``record``."""
        make = partial(self.store.run, name, parts, build, label=label, hide=self.texts)
        stage = make()
        self.stages[record or name] = stage
        self._again[stage.key] = partial(make, again=True)
        return stage

    def weights(self, name: str) -> Path | None:
        """The weights that a stage made; None where there was no such stage."""
        return self._weights_of(self.stages[name]) if name in self.stages else None

    def _weights_of(self, stage: Stage) -> Path:
        """Where a stage's weights lie; made anew where they were not kept."""
        if not from_first(has_weights(stage.path)):
            self._again[stage.key]()
        return weights_folder(stage.path)

    def let_weights_go(self, out: Path) -> None:
        """Drop what unlearning made, where the recipe does not keep it; its hash stays in the manifest."""
        if self.recipe.unlearn is None or self.recipe.unlearn.keep_weights or process_number() > 0:
            return
        made = [stage.path for name, stage in self.stages.items() if name.startswith("unlearn")]
        for folder in (out, *made):
            # Renamed first: half a model must not pass for one. A call that was killed may have left it.
            leaving = folder / "leaving"
            shutil.rmtree(leaving, ignore_errors=True)
            if has_weights(folder):
                if folder in made:
                    (folder / WEIGHTS_HASH).write_text(_weights_hash(folder), encoding="ascii")
                os.replace(weights_folder(folder), leaving)
                shutil.rmtree(leaving)

    def _gather(self, out: Path, result: Stage | None, evidence: Stage | None) -> None:
        """Put everything where users look for it; what an earlier run left here goes."""
        write_json(out / MANIFEST, {"kind": RUN, "status": "running"})
        for name in ("model", "adapter", KEPT, ATTACKS_BELOW):
            shutil.rmtree(out / name, ignore_errors=True)
        for pattern in ("metrics*.json", "samples*.parquet", "log.jsonl", "report.html", "certificate.*", REGION):
            for path in out.glob(pattern):
                path.unlink()
        if result and has_weights(result.path):
            _link_tree(weights_folder(result.path), out / weights_folder(result.path).name)
        if result:
            for name in (KEPT, "log.jsonl", REGION):
                _link(result.path / name, out / name)
        if evidence:
            for path in (*evidence.path.glob("metrics*.json"), evidence.path / "report.html"):
                link_or_copy(path, out / path.name)
            labels = [label for label in (BEFORE, AFTER, RETAIN_MODEL) if f"evaluate {label}" in self.stages]
            for label in labels:
                samples = self.stages[f"evaluate {label}"].path / "samples.parquet"
                link_or_copy(samples, out / f"samples{suffix(label, labels)}.parquet")
        recipe = yaml.safe_dump(plain(shown_recipe(self.recipe)), sort_keys=False)
        (out / "recipe.yaml").write_text(recipe, encoding="utf-8")
        # By content, so that whoever holds the folder can tell whether these are still the weights that were measured.
        made = {"result": {"sha256": _weights_hash(result.path)}} if result else {}
        write_json(out / MANIFEST, plain({"kind": RUN, "status": "done", **self.provenance(), **made}))

    def notes(self) -> list[str]:
        """What a reader of the report must know of this run."""
        notes = list(self.composition.notes) if self.composition else []
        for stage in self.stages.values():
            notes += stage.facts.get("notes", [])
            if stage.name == "unlearn" and stage.facts.get("stopped") not in (None, "all steps done", NOTHING_TO_TRAIN):
                notes.append(f"unlearning stopped: {stage.facts['stopped']}")
        return list(dict.fromkeys(notes))

    def provenance(self) -> dict[str, Any]:
        """Everything that the result was made from."""
        base, sets = self.recipe.model.path, self.benchmark
        on_hub = resolve(base).hub_id is not None
        return {
            "recipe": shown_recipe(self.recipe),
            "model": {"source": base, "on_hub": on_hub, "sha256": self.base_print},
            "data": shown_data(self.recipe, sets),
            "rows": {"forget": len(sets.forget), "retain": len(sets.retain), "holdout": len(sets.holdout)},
            "stages": {
                name: {"key": stage.key, **{k: v for k, v in stage.facts.items() if k != "notes"}}
                for name, stage in self.stages.items()
            },
            "environment": environment(),
        }


def _weights_hash(folder: Path) -> str:
    """Of the weights in a stage or run, or of those that were there."""
    if has_weights(folder):
        return model_record(weights_folder(folder))["sha256"]
    return (folder / WEIGHTS_HASH).read_text(encoding="ascii")


def _link(source: Path, target: Path) -> None:
    """Link a file or a folder, if it is there."""
    if source.is_dir():
        _link_tree(source, target)
    elif source.is_file():
        link_or_copy(source, target)


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        _link(path, target / path.name)
