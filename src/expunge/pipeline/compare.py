"""Several models on one benchmark, or several finished runs, side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import Benchmark
from expunge.data.rows import rows_hash
from expunge.errors import UserError
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.logs import PeerLog
from expunge.evaluation.metrics import METRICS, Scores, metrics_for
from expunge.evaluation.samples import read_scores, write_samples
from expunge.models.load import load_model, source_fingerprint
from expunge.pipeline.evidence import RETAIN_MODEL, Subject, build_report, compute_all, metric_rows, plain_metrics
from expunge.pipeline.run import MANIFEST, claim_folder, load_data, reference_scores
from expunge.pipeline.stages import Stage, StageStore
from expunge.recipe import Recipe
from expunge.reporting.content import MetricCell, MetricRow, Report
from expunge.reporting.html import write_report


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
    """Evaluate each model once (kept by content), and write metrics, samples and one report."""
    part = recipe.evaluate
    if part is None or not models:
        raise UserError("evaluate: name at least one model")
    claim_folder(out)
    benchmark = load_data(recipe, data_root)
    prints = {_label(model, models): source_fingerprint(model) for model in models}
    known = reference_scores(str(reference)) if reference and not _is_model(reference) else None
    store = StageStore(out / "stages")
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).write_text(json.dumps({"status": "running"}), encoding="utf-8")
    settings = {k: v for k, v in dataclasses.asdict(part).items() if k not in ("num_resamples", "fluency")}
    sources = dict(zip(prints, models, strict=True))
    if reference and known is None:
        sources[RETAIN_MODEL] = reference
        prints[RETAIN_MODEL] = source_fingerprint(reference)
    stages = {
        label: _evaluate_one(store, label, source, prints[label], recipe, settings, benchmark)
        for label, source in sources.items()
    }
    samples = {label: stage.path / "samples.parquet" for label, stage in stages.items()}
    scores = {label: read_scores(path) for label, path in samples.items()}
    if known is not None:
        scores[RETAIN_MODEL] = known
    subject = Subject(
        name=f"evaluation on {recipe.data.benchmark}",
        scores=scores,
        samples=samples,
        logs={},
        benchmark=benchmark,
        part=part,
        seed=recipe.seed,
        provenance={"models": prints, "data": {"origin": benchmark.origin, **benchmark.hashes()}},
    )
    table = metrics_for(
        {name for found in scores.values() for name in found}, benchmark.utility_sets, legacy=part.legacy
    )
    values = compute_all(scores, table, num_resamples=part.num_resamples, seed=recipe.seed)
    report = build_report(subject, table, values)
    metrics = plain_metrics(values)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    write_report(report, out / "report.html")
    manifest = {"status": "done", "models": prints, "data": benchmark.hashes()}
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return Comparison(out, metrics, report)


def _evaluate_one(
    store: StageStore, label: str, source: str | Path, fingerprint: str, recipe: Recipe, settings: Mapping[str, Any],
    benchmark: Benchmark,
) -> Stage:  # fmt: skip
    """One model's per-row values, made once."""
    options = dataclasses.asdict(recipe.model)
    options.pop("path")
    parts = {
        "subject": fingerprint,
        "model": options,
        "part": settings,
        "probes": {name: rows_hash(rows) for name, rows in benchmark.probes.items()},
    }

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = load_model(source, **options)
        assert recipe.evaluate is not None
        evaluation = evaluate_model(loaded, benchmark.probes, recipe.evaluate, title=label)
        write_samples(folder / "samples.parquet", evaluation)
        return {"notes": loaded.notes}

    return store.run("evaluate", parts, build, label=f"evaluate {label}")


def _label(model: str | Path, models: Sequence[str | Path]) -> str:
    """The shortest name that tells the models apart."""
    path = Path(model)
    names = [Path(other).name for other in models]
    return path.name if names.count(path.name) == 1 else str(model)


def _is_model(source: str | Path) -> bool:
    """Whether a reference is a model to be evaluated rather than results that are there already."""
    folder = Path(source)
    return not folder.exists() or ((folder / "config.json").is_file() or folder.suffix == ".gguf")


def compare_runs(folders: Sequence[str | Path]) -> Report:
    """One table over finished runs: each run's resulting model, and the first run's before and retain model.

    Raises:
        UserError: if a folder is no finished run.
    """
    columns: dict[str, Mapping[str, Any]] = {}
    for folder in map(Path, folders):
        if not (folder / "metrics.json").is_file():
            raise UserError(f"{folder}: no finished run here (metrics.json is missing)")
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        nested = all(isinstance(v, dict) and "value" not in v for v in content.values())
        found = (
            {f"{folder.name}/{k}" if len(content) > 1 else folder.name: v for k, v in content.items()}
            if nested
            else {folder.name: content}
        )
        for label, name in (("before", "metrics_before.json"), (RETAIN_MODEL, "metrics_retain_model.json")):
            if label not in columns and (folder / name).is_file():
                columns[label] = json.loads((folder / name).read_text(encoding="utf-8"))
        columns |= found
    keys = list(dict.fromkeys(key for found in columns.values() for key in found))
    rows = []
    for key in keys:
        cells = {
            label: MetricCell(c["value"], c["ci_low"], c["ci_high"], c["n"], c["note"])
            for label, found in columns.items()
            if (c := found.get(key)) and c["value"] is not None
        }
        if cells:
            metric = METRICS.get(key)
            better = next(found[key]["higher_is_better"] for found in columns.values() if key in found)
            rows.append(MetricRow(key, metric.label if metric else key, "metrics", better, cells))
    return Report(title="comparison", verdict=None, models=tuple(columns), metrics=tuple(rows))


def imported_report(
    peer: PeerLog, reference: str | Path | None, *, num_resamples: int, seed: int = 0
) -> tuple[Report, dict[str, Any]]:
    """An open-unlearning log as metrics with intervals, against another log or run where given."""
    scores: dict[str, Scores] = {peer.model: peer.scores}
    if reference:
        scores[RETAIN_MODEL] = reference_scores(str(reference))
    utility = [name for name in ("real_authors", "world_facts") if name in peer.scores]
    table = metrics_for(peer.scores, utility, legacy=True, imported=True)
    values = compute_all(scores, table, num_resamples=num_resamples, seed=seed)
    report = Report(
        title=f"log of {peer.model}", verdict=None, models=tuple(values), metrics=metric_rows(table, values)
    )
    return report, plain_metrics(values)
