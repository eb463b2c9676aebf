"""From per-row values to what people read: metrics with intervals, a verdict, the report page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import Benchmark
from expunge.evaluation.evaluate import MeasurePlan
from expunge.evaluation.judges import judge_identity, make_judges
from expunge.evaluation.metrics import Metric, MetricValue, Scores, compute, metrics_for
from expunge.evaluation.samples import read_texts
from expunge.evaluation.suites import Suite, check_measures, get_suites, measures_of, metrics_of
from expunge.models.load import source_fingerprint
from expunge.pipeline.folder import AFTER, BEFORE, RETAIN_MODEL, write_json
from expunge.pipeline.harnessing import described_harness
from expunge.pipeline.known import content_hash
from expunge.pipeline.redacting import NOTE
from expunge.recipe import EvaluatePart
from expunge.reporting.content import (
    AnswerPair,
    Curve,
    MetricCell,
    MetricRow,
    Panel,
    Report,
    ScatterPoint,
    plain,
)
from expunge.reporting.html import write_report
from expunge.reporting.verdict import give_verdict

_LATER = ("judges", "measures", "fluency_model", "redact")
"""Settings that came after results had been kept without them."""
HEADLINE = (
    "extraction_strength",
    "forget_Q_A_ROUGE",
    "forget_Q_A_Prob",
    "forget_truth_ratio",
    "forget_quality_log10",
    "model_utility",
    "retain_Q_A_ROUGE",
    "mia_min_k",
    "privleak",
    "forget_distinct_2",
    "forget_perplexity",
    "answers_perplexity",
)
"""What the console table shows; the report and metrics.json hold everything."""

_GROUPS = {
    "forgetting": (
        "extraction_strength",
        "exact_memorization",
        "forget_truth_ratio",
        "forget_quality",
        "mem_score",
    ),
    "privacy": ("mia_", "privleak", "priv_score", "holdout_"),
    "fluency": ("forget_distinct", "forget_empty", "forget_perplexity", "answers_"),
}
"""Groups of the report in order, by how the keys of their metrics begin."""
_REST = "utility"
_HARNESS = "lm-evaluation-harness"


@dataclass(frozen=True)
class Subject:
    """Everything the evidence of one run is made from."""

    name: str
    scores: Mapping[str, Scores]
    """By model label."""
    samples: Mapping[str, Path]
    """``samples.parquet`` by model label, where there is one."""
    logs: Mapping[str, Path]
    """Training logs by stage."""
    benchmark: Benchmark
    part: EvaluatePart
    seed: int
    provenance: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    harness: Mapping[str, Mapping[str, MetricValue]] = field(default_factory=dict)
    """What lm-evaluation-harness found, by model label."""


def write_evidence(subject: Subject, out: Path) -> None:
    """Write every metric and the report page into a folder; ``metrics.json`` is about the resulting model."""
    table = metric_table(subject)
    values = metric_values(subject, table)
    for label, found in plain_metrics(values).items():
        write_json(out / f"metrics{suffix(label, values)}.json", found)
    write_report(build_report(subject, table, values), out / "report.html")


def read_evidence(subject: Subject, folder: Path) -> tuple[dict[str, Any], Report]:
    """Metric values by model label, and the report's records, from a folder that :func:`write_evidence` filled."""
    metrics = {
        label: json.loads((folder / f"metrics{suffix(label, subject.scores)}.json").read_text(encoding="utf-8"))
        for label in subject.scores
    }
    values = {label: {key: MetricValue(**cell) for key, cell in found.items()} for label, found in metrics.items()}
    return metrics, build_report(subject, metric_table(subject), values)


def suffix(label: str, labels: Iterable[str]) -> str:
    """What tells one model's files from another's: nothing for the model that the run is about."""
    main = AFTER if AFTER in labels else BEFORE
    return "" if label == main else f"_{label.replace(' ', '_')}"


def metric_table(subject: Subject) -> dict[str, Metric]:
    """The metrics that fit the sets at hand."""
    sets = list(dict.fromkeys(name for scores in subject.scores.values() for name in scores))
    table = metrics_for(sets, subject.benchmark.utility_sets, legacy=subject.part.legacy)
    # What every benchmark gets stands first and keeps its definition, whatever a suite calls the same.
    return table | metrics_of(suites_for(subject.part, subject.benchmark), sets) | table


def metric_values(subject: Subject, table: Mapping[str, Metric]) -> dict[str, dict[str, MetricValue]]:
    """Every metric of every model, those that compare it with the model before among them."""
    part, scores = subject.part, subject.scores
    values = compute_all(scores, table, num_resamples=part.num_resamples, seed=subject.seed)
    for label, found in subject.harness.items():
        values.setdefault(label, {}).update(found)
    joints = [suite.joint for suite in suites_for(part, subject.benchmark) if suite.joint]
    if BEFORE not in scores:
        return values
    for joint, label in product(joints, scores):
        values[label] |= joint.function(
            scores[label],
            scores[BEFORE],
            scores.get(RETAIN_MODEL),
            utility_sets=subject.benchmark.utility_sets,
            num_resamples=part.num_resamples,
            seed=subject.seed,
        )
    return values


def described_metrics(subject: Subject, table: Mapping[str, Metric]) -> dict[str, Metric]:
    """The table with what is not computed from one model's rows."""
    joints = [suite.joint for suite in suites_for(subject.part, subject.benchmark) if suite.joint]
    found = {key: value for values in subject.harness.values() for key, value in values.items()}
    return {**table, **{m.key: m for joint in joints for m in joint.described}, **described_harness(found)}


def suites_for(part: EvaluatePart, benchmark: Benchmark) -> tuple[Suite, ...]:
    """The suites that are asked for, or the benchmark's own."""
    return get_suites(benchmark.suites if part.suites is None else part.suites)


def judge_notes(part: EvaluatePart, benchmark: Benchmark) -> list[str]:
    """A line for each judge that is asked and does not see everything, and for each that is named and never asked."""
    asked = {
        role
        for measure in measures_of(suites_for(part, benchmark))
        for role in measure.judges(part.measures.get(measure.key, {}))
    }
    told = [
        f"{role} judge: {about['name']}; {about['blind_spots']}"
        for role, about in make_judges(part.judges).describe(sorted(asked)).items()
        if about["blind_spots"]
    ]
    idle = [f"judge {role!r} is named, but nothing that is measured asks it" for role in part.judges]
    return told + [line for role, line in zip(part.judges, idle, strict=True) if role not in asked]


def measuring(part: EvaluatePart, benchmark: Benchmark, *, seed: int) -> tuple[MeasurePlan, dict[str, Any]]:
    """What an evaluation of this benchmark measures, and all of it that its result depends on."""
    suites = suites_for(part, benchmark)
    check_measures(suites, part.measures)
    settings = {key: value for key, value in asdict(part).items() if key not in ("num_resamples", "suites", "harness")}
    roles = {role for measure in measures_of(suites) for role in measure.roles} | set(part.judges)
    settings["judges"] = {
        role: _folders_by_content(what, "model") if what["kind"] == "hf" else what
        for role, what in judge_identity(part.judges).items()
        if role in roles
    }
    if part.fluency_model:
        settings["fluency_model"] = source_fingerprint(part.fluency_model)
    settings["measures"] = {name: _by_content(given) for name, given in part.measures.items()}
    # What is not used leaves no trace, so that results from before it came are found again.
    settings = {key: value for key, value in settings.items() if value or key not in _LATER}
    if suites:
        settings |= {"suites": [suite.key for suite in suites], "seed": seed}
    if benchmark.limits:
        settings["limits"] = {name: asdict(limit) for name, limit in benchmark.limits.items()}
    return MeasurePlan(suites=suites, limits=benchmark.limits, seed=seed), settings


def _by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a measure, each file or model that they name by what stands in it."""
    named = {
        key: content_hash(value)
        for key, value in settings.items()
        if key in ("original", "reference") and isinstance(value, str)
    }
    return _folders_by_content(settings, "bleurt") | named


def _folders_by_content(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings whose model, where it is a folder and no Hub id, counts by what stands in it."""
    source = settings.get(name)
    if not (isinstance(source, str) and Path(source).expanduser().is_dir()):
        return dict(settings)
    return {**settings, name: content_hash(source)}


def compute_all(
    scores: Mapping[str, Scores], table: Mapping[str, Metric], *, num_resamples: int, seed: int
) -> dict[str, dict[str, MetricValue]]:
    """Every metric of every model, the retain model being the reference of all, itself included."""
    reference = scores.get(RETAIN_MODEL)
    return {
        label: compute(found, reference, table, num_resamples=num_resamples, seed=seed)
        for label, found in scores.items()
    }


def build_report(
    subject: Subject, table: Mapping[str, Metric], values: Mapping[str, Mapping[str, MetricValue]]
) -> Report:
    """Fill the report's records."""
    labels = tuple(values)
    return Report(
        title=subject.name,
        verdict=give_verdict(values, before=BEFORE, after=AFTER, reference=RETAIN_MODEL),
        models=labels,
        metrics=metric_rows(described_metrics(subject, table), values, metric_groups(subject)),
        panels=_panels(subject.logs),
        scatter=_scatter(values),
        pairs=() if subject.part.redact else _pairs(subject.samples),
        provenance=subject.provenance,
        warnings=(*subject.notes, *([NOTE] if subject.part.redact else [])),
        scatter_axes=("extraction strength on the forget set", "model utility"),
    )


def plain_metrics(values: Mapping[str, Mapping[str, MetricValue]]) -> dict[str, Any]:
    """Metric values as JSON types, by model label and key."""
    return {label: {key: plain(asdict(value)) for key, value in found.items()} for label, found in values.items()}


def metric_groups(subject: Subject) -> dict[str, str]:
    """What metrics stand under on the page that not every benchmark has: their suite's title, or the harness."""
    sets = list(dict.fromkeys(name for scores in subject.scores.values() for name in scores))
    groups: dict[str, str] = {}
    for suite in suites_for(subject.part, subject.benchmark):
        title = suite.title.partition(":")[0]
        joint = suite.joint.described if suite.joint else ()
        for metric in (*suite.metrics(sets), *joint):
            groups.setdefault(metric.key, title)
    groups |= dict.fromkeys((key for found in subject.harness.values() for key in found), _HARNESS)
    usual = metrics_for(sets, subject.benchmark.utility_sets, legacy=subject.part.legacy)
    return {key: group for key, group in groups.items() if key not in usual}


def metric_rows(
    table: Mapping[str, Metric],
    values: Mapping[str, Mapping[str, MetricValue]],
    groups: Mapping[str, str] | None = None,
) -> tuple[MetricRow, ...]:
    """The report's rows: every metric that at least one model has a value of, group by group.

    ``groups`` names the group of metrics that are not every benchmark's; these groups come after the others.
    """
    placed = {key: (groups or {}).get(key) or _group(key) for key in table}
    order = list(dict.fromkeys((*_GROUPS, _REST, *placed.values())))
    shown = [key for key in table if any(key in found and found[key].value is not None for found in values.values())]
    return tuple(
        MetricRow(
            key=key,
            label=table[key].label,
            group=placed[key],
            higher_is_better=table[key].higher_is_better,
            cells={label: _cell(found[key]) for label, found in values.items() if key in found},
            definition=table[key].definition,
            kind="p_value" if key == "forget_quality" else "number",
        )
        for key in sorted(shown, key=lambda key: order.index(placed[key]))
    )


def _cell(value: MetricValue) -> MetricCell:
    return MetricCell(value.value, value.ci_low, value.ci_high, value.n, value.note)


def _group(key: str) -> str:
    set_name, answered, _ = key.partition("_Q_A_")
    if answered and ("forget" in set_name or set_name == "verbmem"):
        return "forgetting"
    return next((group for group, starts in _GROUPS.items() if key.startswith(starts)), _REST)


def _scatter(values: Mapping[str, Mapping[str, MetricValue]]) -> tuple[ScatterPoint, ...]:
    points = []
    for label, found in values.items():
        forget, utility = found.get("extraction_strength"), found.get("model_utility")
        if forget and utility and forget.value is not None and utility.value is not None:
            points.append(
                ScatterPoint(
                    label, forget.value, utility.value, forget.ci_low, forget.ci_high, utility.ci_low, utility.ci_high
                )
            )
    return tuple(points)


def _panels(logs: Mapping[str, Path]) -> tuple[Panel, ...]:
    panels = []
    for stage, path in logs.items():
        steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        names = [key for key in (steps[0] if steps else {}) if key.endswith("_loss")]
        curves = tuple(
            Curve(
                name.replace("_", " "), "optimiser step", "loss (weighted)", tuple((s["step"], s[name]) for s in steps)
            )
            for name in names
        )
        if curves:
            panels.append(Panel(f"training: {stage.replace('_', ' ')}", curves))
    return tuple(panels)


def _pairs(samples: Mapping[str, Path]) -> tuple[AnswerPair, ...]:
    texts = {label: read_texts(path) for label, path in samples.items()}
    if not texts:
        return ()
    first = next(iter(texts.values()))
    pairs = []
    for name, records in first.items():
        if name == "holdout":
            continue
        for i, record in enumerate(records):
            answers = {label: by_set[name][i]["generation"] for label, by_set in texts.items() if name in by_set}
            if any(answers.values()):
                pairs.append(AnswerPair(record["prompt"], record["answer"], answers, name))
    return tuple(pairs)
