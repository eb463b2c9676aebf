"""The verb that attacks: how much of what was forgotten comes back."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from expunge.cli import options as opt
from expunge.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(attack)


def attack(
    context: typer.Context,
    model: str = typer.Argument(help="The unlearned model: a folder, a run, an adapter, a GGUF file or a Hub id."),
    out: Path = opt.OUT,
    original: str = typer.Option(None, "--original", help="The model before unlearning."),
    reference: str = typer.Option(None, "--reference", help="A model that never saw the forget rows: the control."),
    benchmark: str = typer.Option(None, "--benchmark", help="Whose rows are asked: almanac, tofu:forget10 ..."),
    option: list[str] = typer.Option([], "--option", help="A benchmark's own option, as key=value; may be repeated."),
    forget: Path = typer.Option(None, "--forget", help="Rows that were to be forgotten, instead of a benchmark."),
    retain: Path = typer.Option(None, "--retain", help="Rows of the same source that are no secret."),
    holdout: Path = typer.Option(None, "--holdout", help="Rows of the same source that no model has seen."),
    with_: list[str] = typer.Option(
        [], "--with", help="Attacks (`expunge list attacks`), families or all, with commas or repeated."
    ),
    quick: bool = typer.Option(False, "--quick", help="A choice of attacks, up to 20 steps of relearning, 8 samples."),
    full: bool = typer.Option(
        False, "--full", help="All attacks, 64 samples, up to 100 steps of relearning (GPU: 500)."
    ),
    set_: list[str] = opt.SET,
    data_root: str = opt.DATA_ROOT,
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    seed: int = opt.SEED,
    redact: bool = opt.REDACT,
    as_json: bool = opt.JSON,
) -> None:
    """Attack an unlearned model, and say how much of what it forgot comes back."""
    from rich.console import Console

    from expunge import api
    from expunge.recipe import apply_overrides
    from expunge.reporting.tables import console_table

    if quick and full:
        raise UserError("--quick and --full: give one of them")
    if redact:
        typer.echo("note: --redact changes nothing here: attacks keep numbers alone", err=True)
    given = opt.model_settings(format, device, dtype, max_length, trust_remote_code)
    audit, page = api.attack(
        model,
        out=out,
        attacks=[name for text in with_ for name in text.split(",")],
        original=original,
        reference=reference,
        benchmark=benchmark,
        options=apply_overrides({}, option),
        forget=forget,
        retain=retain,
        holdout=holdout,
        depth="quick" if quick else "full" if full else None,
        settings=apply_overrides({}, set_),
        # A run knows how it loaded its model.
        model_settings={name: value for name, value in given.items() if opt.is_given(context, name)},
        data_root=data_root,
        seed=seed,
    )
    if as_json:
        from expunge.pipeline.attacking import as_dict
        from expunge.reporting.content import plain

        typer.echo(json.dumps(plain(as_dict(audit))))
    else:
        Console(highlight=False).print(console_table(page))
    typer.echo(f"report: {out / 'report.html'}", err=True)
