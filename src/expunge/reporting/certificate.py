"""A certificate as a page: what it holds, in the look of a report, for eyes and for paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from expunge.reporting.content import MetricCell, MetricRow, Report, Verdict
from expunge.reporting.html import page_template, page_values
from expunge.reporting.tables import MISSING, format_interval, format_number

_UNATTACKED = "none"
_SHARES = ("recovery", "residual")
_CLAIMS = {
    "forgets": "meant to make a model forget",
    "keeps": "a control: training on other rows alone",
    "control": "a control: not meant to make a model forget",
    "suppression": "suppression: the weights are not changed",
}
_MADE = ("asked", "method", "base_model", "model", "environment")


def render_certificate(content: Mapping[str, Any]) -> str:
    """The page of a certificate; the same content gives the same bytes.

    Args:
        content: what ``certificate.json`` holds.
    """
    view = {
        "facts": list(_facts(content)),
        "limits": content["limits"],
        "audits": [_audit_view(audit) for audit in content["attacks"]["audits"]],
        "not_tried": content["attacks"]["not_tried"],
        "digest": content["sha256"],
    }
    return page_template("certificate.html.j2").render(page_values(_report(content)), certificate=view)


def _report(content: Mapping[str, Any]) -> Report:
    evidence = content["evidence"]
    rows = [
        MetricRow(**{**row, "cells": {label: MetricCell(**cell) for label, cell in row["cells"].items()}})
        for row in evidence["metrics"]
    ]
    return Report(
        title="Certificate of unlearning",
        verdict=_verdict(content["verdict"]),
        # A page has at least one model, measured or not.
        models=tuple(evidence["models"]) or ("after",),
        metrics=tuple(rows),
        provenance={name: content[name] for name in _MADE},
        warnings=tuple(content["warnings"]),
    )


def _verdict(told: Mapping[str, Any] | None) -> Verdict | None:
    return Verdict(told["level"], told["headline"], tuple(told["sentences"])) if told else None


def _facts(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader wants to hold against other papers, by name."""
    asked, method, model, base = (content[name] for name in ("asked", "method", "model", "base_model"))
    yield "written", f"{content['written']}, by expunge {content['environment']['certificate']['expunge']}"
    yield "asked to forget", f"{_count(asked)} of {asked['benchmark']} ({asked['origin']})"
    for name in ("forget", "retain"):
        if name in asked["sha256"]:
            yield f"{name} rows (SHA-256)", asked["sha256"][name]
    yield "method", f"{method['title']} ({method['name']}; {method['paper']}): {_claim(method)}"
    started = ", finetuned first" if base["finetuned_first"] else ""
    yield "base model", f"{base['name'] or 'a folder, not named here'}{started}"
    yield "base model (SHA-256)", str(base["sha256"])
    yield "resulting model", f"{model['kind']}, {len(model['files'])} files"
    yield "resulting model (SHA-256)", model["sha256"]


def _count(asked: Mapping[str, Any]) -> str:
    number = (asked["rows"] or {}).get("forget")
    if number is None:
        return "rows"
    return f"{number} rows" if number else "rows that the model wrote itself,"


def _claim(method: Mapping[str, Any]) -> str:
    if method["suppression"] and method["claim"] != "suppression":
        return f"{_CLAIMS[method['claim']]}; with a guard before the weights, which is suppression"
    return _CLAIMS[method["claim"]]


def _audit_view(audit: Mapping[str, Any]) -> dict[str, Any]:
    verdict = audit["verdict"]
    rows = [
        {
            "attack": "no attack" if one["attack"] == _UNATTACKED else one["attack"],
            "about": "" if one["attack"] == _UNATTACKED else one["about"],
            "recovered": _recovered(one),
            "tone": "bad" if one["recovered"] else "flat",
            "cells": [(name, _cell(one[name])) for name in _SHARES],
        }
        for one in audit["tried"]
    ]
    rows_asked = [] if audit["same_rows"] else ["These attacks asked other rows than the run was measured on"]
    return {"headline": verdict["headline"] if verdict else "", "rows": rows, "notes": [*rows_asked, *audit["notes"]]}


def _recovered(one: Mapping[str, Any]) -> str:
    if one["attack"] == _UNATTACKED or one["rise"]["value"] is None:
        return MISSING
    return "yes" if one["recovered"] else "nothing certain"


def _cell(estimate: Mapping[str, Any]) -> dict[str, str]:
    low, high = estimate["interval"] or (None, None)
    cell = MetricCell(estimate["value"], low, high)
    return {
        "value": format_number(cell.value, style="html"),
        "interval": format_interval(cell, style="html"),
        "note": estimate["note"],
    }
