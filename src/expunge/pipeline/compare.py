"""Several models on one benchmark, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from expunge.benchmarks.base import Benchmark
from expunge.data.rows import rows_hash
from expunge.errors import UserError
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.logs import PeerLog
from expunge.evaluation.metrics import Scores, metrics_for
from expunge.evaluation.samples import read_scores, write_samples
from expunge.models.load import let_go, load_model, pick_device, source_fingerprint
from expunge.parallel import join_group, process_number
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.environment import environment
from expunge.pipeline.evidence import (
    Subject,
    build_report,
    compute_all,
    judge_notes,
    measuring,
    metric_rows,
    metric_table,
    metric_values,
    plain_metrics,
)
from expunge.pipeline.finished import short_names
from expunge.pipeline.fluency import add_fluency
from expunge.pipeline.folder import (
    EVALUATION,
    MANIFEST,
    RETAIN_MODEL,
    claim_folder,
    link_or_copy,
    open_folder,
    refuse_inside,
    write_json,
)
from expunge.pipeline.harnessing import harness_stage, read_harness
from expunge.pipeline.known import known_scores
from expunge.pipeline.loading import load_data
from expunge.pipeline.redacting import (
    refuse_caches_inside,
    say_what_to_share,
    shown_data,
    shown_recipe,
    telling_texts,
)
from expunge.pipeline.stages import Stage, StageStore
from expunge.progress import say
from expunge.recipe import Recipe
from expunge.reporting.content import Report, plain
from expunge.reporting.html import write_report
from expunge.training.trainer import memory_errors


@dataclass(frozen=True)
class Comparison:
    """Metric values by model label, and the report over them."""

    folder: Path | None
    metrics: Mapping[str, Mapping[str, Any]]
    report: Report


def evaluate_models(
    models: Sequence[str | Path],
    recipe: Recipe,
    out: Path,
    *,
    reference: str | Path | None = None,
    data_root: str | None = None,
) -> Comparison:
    """Evaluate each model once (kept by content), and write metrics, samples and one report.

    Started several times by a launcher (``torchrun``), the processes share the work, and the first one writes.
    """
    join_group()
    part = recipe.evaluate
    if part is None or not models:
        raise UserError("evaluate: name at least one model")
    check_recipe(recipe)
    claim_folder(out, EVALUATION)
    refuse_caches_inside(recipe, out)
    benchmark = load_data(recipe, data_root)
    idle = judge_notes(part, benchmark)
    for note in idle:
        say(f"note: {note}")
    sources: dict[str, str | Path] = dict(zip(short_names(models), dict.fromkeys(map(str, models)), strict=True))
    refuse_inside(out, sources)
    known = known_scores(reference) if reference else None
    if reference and known is None:
        sources[RETAIN_MODEL] = reference
    pick_device(recipe.model.device)
    prints = {label: source_fingerprint(source) for label, source in sources.items()}
    store = StageStore(out / "stages")
    with open_folder(out, EVALUATION, stages=store.root):
        stages = {
            label: _evaluate_one(store, label, source, prints[label], recipe, benchmark)
            for label, source in sources.items()
        }
        samples = {label: stage.path / "samples.parquet" for label, stage in stages.items()}
        harness = {
            label: read_harness(_harness_one(store, label, source, prints[label], recipe))
            for label, source in sources.items()
            if part.harness
        }
        subject = Subject(
            name=f"evaluation on {recipe.data.benchmark}",
            scores={label: read_scores(path) for label, path in samples.items()}
            | ({RETAIN_MODEL: known} if known else {}),
            samples=samples,
            logs={},
            benchmark=benchmark,
            part=part,
            seed=recipe.seed,
            provenance={"models": prints, "data": shown_data(recipe, benchmark)},
            notes=list(dict.fromkeys([*idle, *(n for s in stages.values() for n in s.facts.get("notes", []))])),
            harness=harness,
        )
        comparison = _write_comparison(subject, out, recipe)
        if part.redact and process_number() == 0:
            say_what_to_share(out, store.root)
        return comparison


def _write_comparison(subject: Subject, out: Path, recipe: Recipe) -> Comparison:
    """Metrics, the report page and each model's per-row values; one model's under the plain name."""
    table = metric_table(subject)
    values = metric_values(subject, table)
    report = build_report(subject, table, values)
    metrics = plain_metrics(values)
    if process_number() > 0:
        return Comparison(out, metrics, report)
    for stale in out.glob("samples*.parquet"):
        stale.unlink()
    measured = [label for label in subject.samples if label != RETAIN_MODEL]
    for label, path in subject.samples.items():
        name = (
            "samples.parquet" if measured == [label] else f"samples_{label.replace(' ', '_').replace('/', '_')}.parquet"
        )
        link_or_copy(path, out / name)
    write_json(out / "metrics.json", metrics)
    write_report(report, out / "report.html")
    (out / "recipe.yaml").write_text(yaml.safe_dump(plain(shown_recipe(recipe)), sort_keys=False), encoding="utf-8")
    manifest = {"kind": EVALUATION, "status": "done", **subject.provenance, "environment": environment()}
    write_json(out / MANIFEST, plain(manifest))
    return Comparison(out, metrics, report)


def _harness_one(store: StageStore, label: str, source: str | Path, fingerprint: str, recipe: Recipe) -> Stage:
    options = dataclasses.asdict(recipe.model)
    options.pop("path")
    assert recipe.evaluate is not None
    about = {"weights": fingerprint, "model": options}
    opener = partial(load_model, source, **options)
    return harness_stage(
        store, recipe.evaluate.harness, about, opener, label=label, redact=recipe.redact, hide=telling_texts(recipe)
    )


def _evaluate_one(
    store: StageStore, label: str, source: str | Path, fingerprint: str, recipe: Recipe, benchmark: Benchmark
) -> Stage:
    """One model's per-row values, made once."""
    options = dataclasses.asdict(recipe.model)
    options.pop("path")
    part = recipe.evaluate
    assert part is not None
    plan, settings = measuring(part, benchmark, seed=recipe.seed)
    settings.pop("fluency")
    parts = {
        "subject": fingerprint,
        "model": options,
        "part": settings,
        "probes": {name: rows_hash(rows) for name, rows in benchmark.probes.items()},
    }

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = load_model(source, **options)
        with memory_errors(f"while scoring; lower evaluate.pack_tokens (now {part.pack_tokens})"):
            evaluation = evaluate_model(loaded, benchmark.probes, part, plan=plan, title=label)
            notes = loaded.notes
            let_go(loaded)
            if part.fluency_model:
                judge = partial(load_model, part.fluency_model, **options, guarded=False)
                add_fluency(evaluation, judge, title=f"{label}: fluency")
        write_samples(folder / "samples.parquet", evaluation, redact=part.redact)
        return {"notes": notes}

    return store.run("evaluate", parts, build, label=f"evaluate {label}", hide=telling_texts(recipe))


def imported_report(
    peer: PeerLog, reference: str | Path | None, *, num_resamples: int, seed: int = 0
) -> tuple[Report, dict[str, Any]]:
    """An open-unlearning log as metrics with intervals, against another log or run where given."""
    scores: dict[str, Scores] = {peer.model: peer.scores}
    if reference:
        found = known_scores(reference)
        if found is None:
            raise UserError(f"--reference {reference}: must be a log or a run with samples.parquet, not a model")
        scores[RETAIN_MODEL] = found
    utility = [name for name in ("real_authors", "world_facts") if name in peer.scores]
    table = metrics_for(peer.scores, utility, legacy=True, imported=True)
    values = compute_all(scores, table, num_resamples=num_resamples, seed=seed)
    report = Report(
        title=f"log of {peer.model}", verdict=None, models=tuple(values), metrics=metric_rows(table, values)
    )
    return report, plain_metrics(values)
