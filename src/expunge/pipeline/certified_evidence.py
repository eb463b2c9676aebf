"""The evidence that a certificate carries: every model's metrics, the attacks that were tried, a verdict on both."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.attacks.base import ORIGINAL
from expunge.attacks.table import ATTACKS
from expunge.errors import UserError
from expunge.evaluation.metrics import MetricValue
from expunge.models.load import source_fingerprint
from expunge.pipeline.attack_folder import AttackFolder, read_attacks
from expunge.pipeline.attack_report import attack_report
from expunge.pipeline.attacking import as_dict
from expunge.pipeline.comparing import metric_definitions
from expunge.pipeline.evidence import metric_rows
from expunge.pipeline.finished import Finished, read_metrics
from expunge.pipeline.folder import AFTER, BEFORE, RETAIN_MODEL
from expunge.pipeline.shareable import shareable
from expunge.reporting.content import LEVELS, MetricCell, MetricRow, Verdict, plain
from expunge.reporting.verdict import NOT_ATTACKED, give_verdict

NOT_ASKED = "nobody asked for it"
_METRICS = {BEFORE: "metrics_before.json", AFTER: "metrics.json", RETAIN_MODEL: "metrics_retain_model.json"}
_OTHER = "other"
_CELL = tuple(field.name for field in dataclasses.fields(MetricValue))
# Other reasons are messages of a file or a model, and those name paths.
_OWN_REASON = re.compile(
    r"needs [a-z ]+ rows, and there are none|needs the [a-z ]+ model|no forget row can be asked so"
)
_OTHER_REASON = "it failed; its folder says why"
_NO_DURABILITY = "Attacks were made, and give no durability; their table says why."


# -- metrics ----------------------------------------------------------------------------------------------------------


def measured(run: Path, recipe: Mapping[str, Any]) -> tuple[dict[str, Any], Verdict | None]:
    """The metrics of a run's models as plain values, and what they come to; empty where nothing was measured.

    Args:
        run: its folder.
        recipe: what was run.

    Raises:
        UserError: the run's metrics cannot be read.
    """
    there = {label: run / name for label, name in _METRICS.items() if (run / name).is_file()}
    if AFTER not in there:
        return {"models": [], "metrics": []}, None
    found = {label: read_metrics(path) for label, path in there.items()}
    values = {label: {key: _value(cell) for key, cell in cells.items()} for label, cells in found.items()}
    after = Finished(AFTER, run, found[AFTER], run / "samples.parquet", recipe=recipe)
    verdict = give_verdict(values, before=BEFORE, after=AFTER, reference=RETAIN_MODEL)
    return {"models": list(values), "metrics": plain(_rows(after, values))}, verdict


def _value(cell: Mapping[str, Any]) -> MetricValue:
    return MetricValue(**{"version": 1, **{name: cell[name] for name in _CELL if name in cell}})


def _rows(after: Finished, values: Mapping[str, Mapping[str, MetricValue]]) -> list[MetricRow]:
    """Every metric, those whose definition is not known here under their key."""
    rows = list(metric_rows(metric_definitions(after), values))
    shown = {row.key for row in rows}
    for key in dict.fromkeys(key for found in values.values() for key in found):
        cells = {
            label: MetricCell(of.value, of.ci_low, of.ci_high, of.n, of.note)
            for label, found in values.items()
            if (of := found.get(key)) and of.value is not None
        }
        if key not in shown and cells:
            goal = next(found[key].higher_is_better for found in values.values() if key in found)
            rows.append(MetricRow(key, key, _OTHER, goal, cells))
    return rows


# -- attacks ----------------------------------------------------------------------------------------------------------


def attacked(
    run: Path, folders: Sequence[str | Path], asked: str | None
) -> tuple[dict[str, Any], list[Verdict | None], list[str]]:
    """What was tried and what was not, as plain values; the audits' verdicts; what a reader must be warned of.

    Args:
        run: whose model it is about.
        folders: of ``expunge attack``.
        asked: hash of the forget rows that the run's evidence rests on.

    Raises:
        UserError: a folder that is no finished audit, or one of another model.
    """
    distinct = {Path(folder).expanduser().resolve(): folder for folder in folders}
    read = [_of_this_model(folder, run) for folder in distinct.values()]
    verdicts = [attack_report(found.audit, {}).verdict for found in read]
    audits = [_audit(found, verdict, asked) for found, verdict in zip(read, verdicts, strict=True)]
    content = {"audits": audits, "not_tried": _not_tried(read)}
    return content, verdicts, list(_warnings(audits))


def _of_this_model(folder: str | Path, run: Path) -> AttackFolder:
    found = read_attacks(folder)
    if found.subject != source_fingerprint(run):
        raise UserError(
            f"{folder}: these attacks were made on another model than {run} holds; run `expunge attack {run}` anew"
        )
    return found


def _audit(found: AttackFolder, verdict: Verdict | None, asked: str | None) -> dict[str, Any]:
    told, manifest = as_dict(found.audit), found.manifest
    return {
        "models": dict(manifest["models"]),
        "forget_rows": manifest["forget"],
        "same_rows": manifest["forget"] == asked,
        "settings": shareable(manifest["settings"]),
        "seed": manifest["seed"],
        "durability": told["durability"],
        "kept": told["kept"],
        "verdict": plain(verdict) if verdict else None,
        "notes": told["notes"],
        "tried": [
            {name: value for name, value in one.items() if name != "curves"}
            for one in told["attacks"]
            if "skipped" not in one
        ],
    }


def _not_tried(read: Iterable[AttackFolder]) -> list[dict[str, str]]:
    """Every attack there is that none of the folders holds a result of, and why."""
    every = [one for found in read for one in found.audit.attacked]
    tried = {one.attack.key for one in every if not one.skipped}
    reasons = {one.attack.key: _reason(one.skipped) for one in every if one.skipped}
    missing = [key for key in ATTACKS.names() if key not in tried]
    return [{"attack": key, "about": ATTACKS.get(key).about, "why": reasons.get(key, NOT_ASKED)} for key in missing]


def _reason(skipped: str) -> str:
    return skipped if _OWN_REASON.fullmatch(skipped) else _OTHER_REASON


def _warnings(audits: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    if not any(len(audit["tried"]) > 1 for audit in audits):
        yield "No attack was tried: what can be brought back is unknown."
    if any(not audit["same_rows"] for audit in audits):
        yield "Some of the attacks asked other rows than those that the run was measured on."
    if any(ORIGINAL not in audit["models"] for audit in audits):
        yield "Some of the attacks had no original model to compare with, so they have no recovery and no residual."


# -- both -------------------------------------------------------------------------------------------------------------


def verdict_on_both(measured: Verdict | None, audits: Sequence[Verdict | None], *, suppressed: bool) -> Verdict | None:
    """The worst of what was measured and what attacks showed; a suppression is never good, and is called one.

    Args:
        measured: of the run's metrics; None where there are none.
        audits: of each audit; None of one that gives no durability.
        suppressed: whether a guard stands before the weights.
    """
    found = [verdict for verdict in (measured, *audits) if verdict]
    if not found:
        return None
    worst = max(found, key=lambda verdict: LEVELS.index(verdict.level))
    sentences = [text for text in (measured.sentences if measured else ()) if not (audits and text == NOT_ATTACKED)]
    for verdict in audits:
        told = [f"Under attack: {verdict.headline}.", *verdict.sentences] if verdict else [_NO_DURABILITY]
        sentences += told
    level, headline = worst.level, worst.headline
    if suppressed:
        level = "mixed" if level == "good" else level
        headline = f"Suppressed, not erased. {headline}"
    return Verdict(level, headline, tuple(dict.fromkeys(sentences)))
