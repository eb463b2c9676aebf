"""The verb that rewrites forget rows for ReLearn."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from expunge.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(augment)


def augment(
    forget: Path = typer.Argument(help="Questions with answers to forget: JSONL, JSON, CSV or Parquet."),
    out: Path = typer.Option(..., "--out", help="The file to write: JSONL."),
    llm: str = typer.Option(
        "rules",
        "--llm",
        help="Who writes: rules (no model), the address of an OpenAI-compatible server, openai (address and key from "
        "OPENAI_BASE_URL and OPENAI_API_KEY), or a model.",
    ),
    model: str = typer.Option(None, "--model", help="The model's name at that address."),
    pairs: bool = typer.Option(False, "--pairs", help="Preference rows for relearn_dpo."),
    completions: bool = typer.Option(
        True, "--completions/--no-completions", help="Whether halves of answers are continued."
    ),
    generic: Path = typer.Option(None, "--generic", help="General questions to mix in."),
    ratio: float = typer.Option(1.0, "--ratio", help="General questions for each written row."),
    rounds: int = typer.Option(3, "--rounds", help="Attempts at an answer until it passes the checks."),
    prompts: Path = typer.Option(None, "--prompts", help="Folder with prompts of your own: vague.txt, check.txt ..."),
    set_: list[str] = typer.Option(
        [], "--set", help="A setting of the endpoint, as key=value: concurrency=8, key_env=MY_KEY, cache=FOLDER."
    ),
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    seed: int = opt.SEED,
    as_json: bool = opt.JSON,
) -> None:
    """Ask forget questions in other ways and answer them vaguely (ReLearn); the file is for unlearn --written."""
    from expunge import api
    from expunge.recipe import apply_overrides

    made = api.augment(
        forget,
        out=out,
        llm=llm,
        model=model,
        pairs=pairs,
        completions=completions,
        generic=generic,
        ratio=ratio,
        rounds=rounds,
        prompts=prompts,
        endpoint=apply_overrides({}, set_),
        model_settings=opt.model_settings(format, device, dtype, max_length, trust_remote_code),
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(dict(made.summary), ensure_ascii=False))
    typer.echo(f"{made.out}: {made.rows} rows, written by {made.writer}", err=as_json)
