"""Several models on one benchmark, or several finished runs, side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from expunge.benchmarks.base import Benchmark
from expunge.data.rows import rows_hash
from expunge.errors import UserError
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.logs import PeerLog
from expunge.evaluation.metrics import METRICS, Scores, metrics_for
from expunge.evaluation.samples import read_scores, write_samples
from expunge.models.load import load_model, pick_device, source_fingerprint
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.environment import environment
from expunge.pipeline.evidence import (
    BEFORE,
    RETAIN_MODEL,
    Subject,
    build_report,
    compute_all,
    metric_rows,
    metric_table,
    plain_metrics,
)
from expunge.pipeline.folder import (
    EVALUATION,
    MANIFEST,
    claim_folder,
    exists,
    link_or_copy,
    open_folder,
    refuse_inside,
    write_json,
)
from expunge.pipeline.known import known_scores
from expunge.pipeline.run import load_data
from expunge.pipeline.stages import Stage, StageStore
from expunge.recipe import Recipe
from expunge.reporting.content import MetricCell, MetricRow, Report, plain
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
    """Evaluate each model once (kept by content), and write metrics, samples and one report."""
    part = recipe.evaluate
    if part is None or not models:
        raise UserError("evaluate: name at least one model")
    check_recipe(recipe)
    claim_folder(out, EVALUATION)
    benchmark = load_data(recipe, data_root)
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
        subject = Subject(
            name=f"evaluation on {recipe.data.benchmark}",
            scores={label: read_scores(path) for label, path in samples.items()}
            | ({RETAIN_MODEL: known} if known else {}),
            samples=samples,
            logs={},
            benchmark=benchmark,
            part=part,
            seed=recipe.seed,
            provenance={"models": prints, "data": {"origin": benchmark.origin, **benchmark.hashes()}},
            notes=list(dict.fromkeys(note for stage in stages.values() for note in stage.facts.get("notes", []))),
        )
        return _write_comparison(subject, out, recipe)


def _write_comparison(subject: Subject, out: Path, recipe: Recipe) -> Comparison:
    """Metrics, the report page and each model's per-row values; one model's under the plain name."""
    table = metric_table(subject)
    values = compute_all(subject.scores, table, num_resamples=subject.part.num_resamples, seed=subject.seed)
    report = build_report(subject, table, values)
    metrics = plain_metrics(values)
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
    (out / "recipe.yaml").write_text(yaml.safe_dump(plain(recipe.as_dict()), sort_keys=False), encoding="utf-8")
    manifest = {"kind": EVALUATION, "status": "done", **subject.provenance, "environment": environment()}
    write_json(out / MANIFEST, plain(manifest))
    return Comparison(out, metrics, report)


def _evaluate_one(
    store: StageStore, label: str, source: str | Path, fingerprint: str, recipe: Recipe, benchmark: Benchmark
) -> Stage:
    """One model's per-row values, made once."""
    options = dataclasses.asdict(recipe.model)
    options.pop("path")
    part = recipe.evaluate
    assert part is not None
    settings = {k: v for k, v in dataclasses.asdict(part).items() if k not in ("num_resamples", "fluency")}
    parts = {
        "subject": fingerprint,
        "model": options,
        "part": settings,
        "probes": {name: rows_hash(rows) for name, rows in benchmark.probes.items()},
    }

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = load_model(source, **options)
        with memory_errors(f"while scoring; lower evaluate.pack_tokens (now {part.pack_tokens})"):
            evaluation = evaluate_model(loaded, benchmark.probes, part, title=label)
        write_samples(folder / "samples.parquet", evaluation)
        return {"notes": loaded.notes}

    return store.run("evaluate", parts, build, label=f"evaluate {label}")


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """The last part of each path; the whole path where that does not tell them apart. Repeats are dropped."""
    unique = list(dict.fromkeys(map(str, paths)))
    names = [Path(path).resolve().name if exists(Path(path)) else Path(path).name for path in unique]
    return [name if names.count(name) == 1 else path for name, path in zip(names, unique, strict=True)]


def compare_runs(folders: Sequence[str | Path]) -> Report:
    """One table over finished runs: each run's resulting model, and the first run's before and retain model.

    Raises:
        UserError: if a folder is no finished run.
    """
    columns: dict[str, Mapping[str, Any]] = {}
    names = dict(zip(short_names(folders), dict.fromkeys(map(str, folders)), strict=True))
    for run, folder in ((run, Path(source)) for run, source in names.items()):
        content = _read_metrics(folder / "metrics.json")
        nested = all(isinstance(v, dict) and "value" not in v for v in content.values())
        found = {f"{run}/{k}" if len(content) > 1 else run: v for k, v in content.items()} if nested else {run: content}
        for label, name in ((BEFORE, "metrics_before.json"), (RETAIN_MODEL, "metrics_retain_model.json")):
            if label not in columns and (folder / name).is_file():
                columns[label] = _read_metrics(folder / name)
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


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no finished run with metrics here ({path.name} is missing)") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    if not (isinstance(content, dict) and content and all(map(_is_cell_or_model, content.values()))):
        raise UserError(f"{path}: not the metrics of a run of ours")
    return content


def _is_cell_or_model(entry: Any) -> bool:
    """A metric's value with its evidence, or a model's metrics by key."""
    needed = {"value", "ci_low", "ci_high", "n", "note", "higher_is_better"}
    if not isinstance(entry, dict):
        return False
    return needed <= set(entry) if "value" in entry else all(map(_is_cell_or_model, entry.values()))


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
