"""Every past request, looked at again after each new one: what stayed forgotten, and what it cost."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge.attacks.base import Opener, Site, row_columns
from expunge.attacks.outcome import Levels, Outcome, outcome
from expunge.benchmarks.custom import RETAIN_PROBE_ROWS, built_in_general
from expunge.data.draw import draw
from expunge.data.rows import Row, rows_hash
from expunge.errors import UserError
from expunge.models.load import source_fingerprint
from expunge.pipeline.environment import environment
from expunge.pipeline.folder import write_json
from expunge.pipeline.request_models import LedgerModels
from expunge.pipeline.request_rows import kept_rows, read_what_is_there
from expunge.pipeline.requesting import Requests
from expunge.reporting.content import plain
from expunge.requests.ledger import APPLIED, REVOKED, Application

RESULT = "audit.json"
BASE = "base"
COLUMNS = ("extraction_strength", "prob")
RETAIN, GENERAL = "retain", "general"


@dataclass(frozen=True)
class Asked:
    """A set of rows that every model is asked for."""

    name: str
    rows: Sequence[Row]
    applied_at: int | None = None
    """Number of the point in time from which on it should be forgotten; None for rows to keep, or not yet applied."""
    keep: bool = False


@dataclass(frozen=True)
class RequestAudit:
    """Scores of every set at every point in time."""

    folder: Path
    times: tuple[str, ...]
    """``base``, then one label for each application."""
    asked: tuple[Asked, ...]
    scores: Mapping[tuple[str, int], Mapping[str, np.ndarray]]
    """By set and point in time: columns of ``(n,)`` values."""
    since: Mapping[str, Outcome]
    """What came back of an applied request's rows between its application and now."""
    notes: tuple[str, ...] = ()

    def mean(self, name: str, time: int, column: str = COLUMNS[0]) -> float:
        """Mean of a column; NaN where no row has a value. A negative ``time`` counts from now."""
        values = self.scores[name, range(len(self.times))[time]][column]
        return math.nan if np.isnan(values).all() else float(np.nanmean(values))


def audit_requests(requests: Requests) -> RequestAudit:
    """Ask every model of the ledger, the base model first, for the rows of every request and for those to keep.

    What was measured before is kept: a new request costs its own cells. Writes ``audit.json``.

    Args:
        requests: whose ledger.

    Raises:
        UserError: nothing was applied yet, or no standing request's rows are there.
    """
    ledger = requests.ledger
    live = ledger.applications()
    if not live:
        raise UserError(f"{ledger.folder}: no request was carried out yet; do so with `expunge requests run`")
    models = requests.models()
    asked, notes = _asked(requests, live)
    scores = {}
    for time in range(len(live) + 1):
        source = models.after(live[:time])
        opener = functools.cache(functools.partial(models.open, source))
        print_ = source_fingerprint(source)
        for one in asked:
            scores[one.name, time] = _scores(models, opener, print_, one)
    since = {
        one.name: outcome(*(Levels(scores[one.name, at][COLUMNS[0]]) for at in (one.applied_at, len(live))))
        for one in asked
        if one.applied_at is not None and one.applied_at < len(live)
    }
    times = (BASE, *(f"after {_numbers(application)}" for application in live))
    audit = RequestAudit(ledger.folder, times, asked, scores, since, notes)
    write_json(ledger.folder / RESULT, plain({**as_dict(audit), "environment": environment()}))
    return audit


def as_dict(audit: RequestAudit) -> dict[str, Any]:
    """The result in JSON types: every mean, by set, point in time and column."""
    return {
        "times": list(audit.times),
        "sets": {
            one.name: {
                "rows": len(one.rows),
                "keep": one.keep,
                "applied": None if one.applied_at is None else audit.times[one.applied_at],
                **{
                    column: [audit.mean(one.name, time, column) for time in range(len(audit.times))]
                    for column in COLUMNS
                },
                "came_back": audit.since[one.name].recovered if one.name in audit.since else None,
            }
            for one in audit.asked
        },
    }


def _asked(requests: Requests, live: Sequence[Application]) -> tuple[tuple[Asked, ...], tuple[str, ...]]:
    """Every request whose rows are still there, then what is to be kept; and who could not be asked."""
    every = requests.ledger.requests()
    found = read_what_is_there(every)
    standing = [rows for rows in found if rows.request.state != REVOKED]
    if not standing:
        raise UserError(f"{requests.ledger.folder}: the rows of no request are there any more; nothing can be asked")
    there = {rows.request.id for rows in found}
    gone = [one.id for one in every if one.state == APPLIED and one.id not in there]
    when = {number: time for time, application in enumerate(live, 1) for number in application.requests}
    asked = [Asked(f"request {r.request.id}", r.forget, when.get(r.request.id)) for r in standing]
    retain = draw(kept_rows(found), RETAIN_PROBE_ROWS, seed=0, name="requests/retain")
    kept = [Asked(name, rows, keep=True) for name, rows in ((RETAIN, retain), (GENERAL, built_in_general())) if rows]
    notes = (f"request {number} was carried out and cannot be asked: its rows are gone" for number in gone)
    return (*asked, *kept), tuple(notes)


def _scores(models: LedgerModels, opener: Opener, fingerprint: str, asked: Asked) -> dict[str, np.ndarray]:
    """One model's scores of one set, made once."""

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        site = Site(forget=asked.rows, title=asked.name)
        columns = row_columns(opener(), asked.rows, site)
        content = {name: [None if math.isnan(v) else float(v) for v in columns[name]] for name in COLUMNS}
        (folder / "scores.json").write_text(json.dumps(content), encoding="utf-8")
        return {}

    parts = {"model": fingerprint, "options": models.options, "rows": rows_hash(asked.rows)}
    stage = models.store.run("request", parts, build, label=asked.name)
    content = json.loads((stage.path / "scores.json").read_text(encoding="utf-8"))
    return {name: np.array(content[name], dtype=np.float64) for name in COLUMNS}


def _numbers(application: Application) -> str:
    return ", ".join(map(str, application.requests))
