"""Verbs for what is handed to others: certify a run, verify a certificate."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from expunge.cli import options as opt
from expunge.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(certify)
    app.command()(verify)


def certify(
    run: Path = typer.Argument(help="Folder of a finished run."),
    attacks: list[Path] = typer.Option(
        [], "--attacks", help="Folder of `expunge attack` on this run; may be repeated."
    ),
    out: Path = typer.Option(None, "--out", help="Folder for certificate.json and certificate.html; default: the run."),
    as_json: bool = opt.JSON,
) -> None:
    """Write down what a run can show: what was asked, done, measured, attacked, and what was not tried."""
    from expunge import api

    made = api.certify(run, attacks=attacks, out=out)
    content = made.content
    if as_json:
        typer.echo(json.dumps(content))
    else:
        untried = len(content["attacks"]["not_tried"])
        tried = {one["attack"] for audit in content["attacks"]["audits"] for one in audit["tried"]} - {"none"}
        typer.echo(content["verdict"]["headline"] if content["verdict"] else "Nothing was measured.")
        for warning in content["warnings"]:
            typer.echo(f"warning: {warning}")
        typer.echo(f"attacks: {len(tried)} tried, {untried} not")
        typer.echo(f"model: {content['model']['sha256']}")
        typer.echo(f"certificate: {made.file}")
    typer.echo(f"page: {made.page}", err=True)


def verify(
    certificate: Path = typer.Argument(help="A certificate.json."),
    model: str = typer.Argument(help="The model that it should be about: a folder, a run or an adapter."),
    forget: Path = typer.Option(None, "--forget", help="File of the rows that were to be forgotten."),
    retain: Path = typer.Option(None, "--retain", help="File of the rows that were to be kept."),
    as_json: bool = opt.JSON,
) -> None:
    """Hold a certificate against itself, a model and files of rows; exit 0 if all of it holds, else 2."""
    from expunge import api

    found = api.verify(certificate, model, forget=forget, retain=retain)
    if as_json:
        checks = [{"what": check.what, "holds": check.holds, "found": check.found} for check in found.checks]
        typer.echo(json.dumps({"holds": found.holds, "checks": checks}))
    else:
        for check in found.checks:
            typer.echo(f"{'holds' if check.holds else 'DIFFERS':<8} {check.what}: {check.found}")
    if not found.holds:
        wrong = ", ".join(check.what for check in found.checks if not check.holds)
        raise UserError(f"{certificate}: does not hold: {wrong}")
