"""Deletion requests that keep coming: the verbs of the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from expunge.cli import options as opt
from expunge.errors import UserError

LEDGER = typer.Argument(help="Folder of the ledger.")
app = typer.Typer(
    help="A ledger of deletion requests: add them, carry them out, look at all of them again.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


def register(parent: typer.Typer) -> None:
    """Add the verbs to the command line."""
    parent.add_typer(app, name="requests")


@app.command()
def add(
    ledger: Path = LEDGER,
    forget: Path = typer.Option(..., "--forget", help="Rows to forget; the ledger keeps their hash, not the rows."),
    retain: Path = typer.Option(None, "--retain", help="Rows to keep."),
    model: str = typer.Option(None, "--model", help="The model that all requests are for; begins the ledger."),
    note: str = typer.Option("", "--note", help="Anything to remember the request by."),
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    as_json: bool = opt.JSON,
) -> None:
    """Write a request down; the first one names the model."""
    from expunge.pipeline.requesting import Requests

    settings = opt.model_settings(format, device, dtype, max_length, trust_remote_code)
    made = Requests(ledger).add(forget, retain=retain, note=note, model=model, model_settings=settings)
    if as_json:
        _print_json(made)
    else:
        typer.echo(f"request {made.id}: {made.num_rows} rows to forget, {made.state}")


@app.command(name="list")
def list_(ledger: Path = LEDGER, as_json: bool = opt.JSON) -> None:
    """List all requests, and what was done about each."""
    from rich.console import Console
    from rich.table import Table

    from expunge.pipeline.requesting import Requests

    requests = Requests(ledger)
    done = {number: made for made in requests.ledger.applications() for number in made.requests}
    if as_json:
        _print_json([{**_plain(one), "application": _plain(done.get(one.id))} for one in requests.list()])
        return
    table = Table("request", "added", "rows", "state", "how", "note")
    for one in requests.list():
        made = done.get(one.id)
        how = f"{made.settings.get('method', 'npo')}, {made.strategy}" if made else ""
        table.add_row(str(one.id), one.added, str(one.num_rows), one.state, how, one.note)
    Console(highlight=False).print(table)


@app.command()
def run(
    ledger: Path = LEDGER,
    method: str = typer.Option(None, "--method", help="A preset; by default that of the last request, else auto."),
    strategy: str = typer.Option(
        None, "--strategy", help="chain, compose (gated adapters side by side) or merge (changes added up)."
    ),
    batched: bool = typer.Option(False, "--batched", help="All pending requests together, not one after the other."),
    scope: str = opt.SCOPE,
    lr: float = opt.LR,
    epochs: float = opt.EPOCHS,
    steps: int = opt.STEPS,
    batch: str = opt.BATCH,
    set_: list[str] = opt.SET,
    seed: int = opt.SEED,
    as_json: bool = opt.JSON,
) -> None:
    """Carry out every pending request; interrupted, the same command goes on."""
    from expunge.pipeline.requesting import Requests

    given = opt.train_settings(scope=scope, lr=lr, epochs=epochs, steps=steps, batch=batch, track="none", extra=set_)
    del given["track"]
    if given and not method:
        raise UserError(f"requests run: {next(iter(given))} is given without --method; name the method it is for")
    settings = {"method": method, **given} if method else None
    requests = Requests(ledger)
    made = requests.run(strategy=strategy, batched=batched, settings=settings, seed=seed)
    if as_json:
        _print_json([_plain(one) for one in made])
    for one in made:
        numbers = ", ".join(map(str, one.requests))
        typer.echo(f"request {numbers}: carried out (application {one.id})", err=True)
    if made:
        typer.echo(f"model: {requests.model()}", err=True)


@app.command()
def audit(ledger: Path = LEDGER, as_json: bool = opt.JSON) -> None:
    """Ask every model of the ledger for the rows of every request again, and for those to keep."""
    from rich.console import Console

    from expunge.pipeline.request_audit import as_dict, audit_requests
    from expunge.pipeline.request_report import request_report
    from expunge.pipeline.requesting import Requests
    from expunge.reporting.content import plain
    from expunge.reporting.html import write_report
    from expunge.reporting.tables import console_table

    found = audit_requests(Requests(ledger))
    page = request_report(found)
    write_report(page, ledger / "report.html")
    if as_json:
        typer.echo(json.dumps(plain(as_dict(found))))
    else:
        Console(highlight=False).print(console_table(page))
    typer.echo(f"report: {ledger / 'report.html'}", err=True)


@app.command()
def revoke(ledger: Path = LEDGER, request: int = typer.Argument(help="Its number."), as_json: bool = opt.JSON) -> None:
    """Take a request back; what was trained on top of it is undone, and its other requests are pending again."""
    from expunge.pipeline.requesting import Requests

    requests = Requests(ledger)
    undone = requests.revoke(request)
    if as_json:
        _print_json([_plain(one) for one in undone])
        return
    typer.echo(f"request {request}: revoked")
    for one in undone:
        again = [str(number) for number in one.requests if number != request]
        if again:
            typer.echo(f"pending again: request {', '.join(again)}; carry it out with `expunge requests run`")


def _plain(record: Any) -> Any:
    from expunge.reporting.content import plain

    return plain(record)


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(_plain(content)))
