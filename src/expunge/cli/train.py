"""Verbs that make models: demo, run, finetune, unlearn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from expunge.cli import options as opt
from expunge.cli.foresight import print_foresight
from expunge.parallel import process_number


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for verb in (demo, run, finetune, unlearn):
        app.command()(verb)


def demo(
    out: Path = typer.Option(Path("runs/demo"), "--out", help="Folder for the run."),
    model: str = typer.Option("smollm2", "--model", help="Another model: a folder, a GGUF file or a Hub id."),
    seed: int = opt.SEED,
    set_: list[str] = opt.SET,
    redact: bool = opt.REDACT,
    dry_run: bool = opt.DRY_RUN,
    as_json: bool = opt.JSON,
) -> None:
    """Run the whole pipeline on the built-in data and a real 135M model; ends with a table and report.html."""
    from expunge import api

    overrides = [f"seed={seed}", f"model.path={model}", *set_]
    result = api.run("demo", out=out, overrides=overrides, redact=redact, dry_run=dry_run)
    _finish(result, as_json)


def run(
    recipe: str = typer.Argument(help="A YAML file, or the name of a shipped recipe."),
    out: Path = typer.Option(None, "--out", help="Folder for the run; runs/<name> by default."),
    set_: list[str] = opt.SET,
    store: Path = typer.Option(None, "--store", help="Folder of the stages, to share them between runs."),
    data_root: str = opt.DATA_ROOT,
    redact: bool = opt.REDACT,
    dry_run: bool = opt.DRY_RUN,
    as_json: bool = opt.JSON,
) -> None:
    """Run a recipe: finetune, retain reference, unlearn, evaluate, report; each stage kept and resumable."""
    from expunge import api

    result = api.run(recipe, out=out, overrides=set_, store=store, data_root=data_root, redact=redact, dry_run=dry_run)
    _finish(result, as_json)


def finetune(
    model: str = typer.Argument(help="A folder, a run, an adapter, a GGUF file or a Hub id."),
    data: Path = typer.Option(..., "--data", help="Rows to learn: JSONL, JSON, CSV or Parquet."),
    out: Path = opt.OUT,
    scope: str = opt.SCOPE,
    lr: float = opt.LR,
    epochs: float = opt.EPOCHS,
    steps: int = opt.STEPS,
    batch_size: str = opt.BATCH,
    set_: list[str] = opt.SET,
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    report_to: str = opt.TRACK,
    seed: int = opt.SEED,
    dry_run: bool = opt.DRY_RUN,
    as_json: bool = opt.JSON,
) -> None:
    """Teach a model the rows of a file."""
    from expunge import api

    settings = opt.train_settings(
        scope=scope, lr=lr, epochs=epochs, steps=steps, batch=batch_size, track=report_to, extra=set_
    )
    model_part = opt.model_settings(format, device, dtype, max_length, trust_remote_code)
    result = api.finetune(
        model, data=data, out=out, settings=settings, model_settings=model_part, seed=seed, dry_run=dry_run
    )
    _finish(result, as_json)


def unlearn(
    model: str = typer.Argument(help="A folder, a run, an adapter, a GGUF file or a Hub id."),
    forget: Path = typer.Option(
        ..., "--forget", help="Rows: JSONL, JSON, CSV, Parquet; or texts: .txt, .md, a folder."
    ),
    out: Path = opt.OUT,
    retain: Path = typer.Option(None, "--retain", help="Rows to keep."),
    holdout: Path = typer.Option(None, "--holdout", help="Rows like the forget rows that no model saw."),
    general: Path = typer.Option(None, "--general", help="General rows that must survive; built-in ones by default."),
    method: str = typer.Option("auto", "--method", help="See `expunge list methods`; auto takes one that suits."),
    to_4bit: bool = typer.Option(False, "--to-4bit", help="The result will be stored in 4 bits: auto takes account."),
    retain_term: str = typer.Option(None, "--retain-term", help="none, nll or kl instead of the method's."),
    view: str = typer.Option(None, "--view", help="gold or refusal instead of the method's."),
    written: Path = typer.Option(
        None, "--written", help="Rows that `expunge augment` wrote for the forget rows: trained on in their place."
    ),
    rule: list[str] = typer.Option(
        [], "--rule", help="Gradient rule, as gru or sam:rho=0.05, instead of the method's; may be repeated."
    ),
    budget: str = typer.Option(None, "--budget", help="Stop at a cost: retain_loss=0.1 (nats a token), kl=0.05."),
    scope: str = opt.SCOPE,
    lr: float = opt.LR,
    epochs: float = opt.EPOCHS,
    steps: int = opt.STEPS,
    batch_size: str = opt.BATCH,
    set_: list[str] = opt.SET,
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    report_to: str = opt.TRACK,
    seed: int = opt.SEED,
    redact: bool = opt.REDACT,
    dry_run: bool = opt.DRY_RUN,
    as_json: bool = opt.JSON,
) -> None:
    """Make a model forget the rows of a file, and measure what happened to it."""
    from expunge import api

    settings: dict[str, Any] = opt.train_settings(
        scope=scope, lr=lr, epochs=epochs, steps=steps, batch=batch_size, track=report_to, extra=set_
    )
    chosen: dict[str, Any] = {"retain_term": retain_term, "view": view, "budget": opt.budget_settings(budget)}
    chosen |= {"rules": opt.rule_settings(rule), "to_4bit": to_4bit or None}
    chosen |= {"written": str(written) if written else None}
    settings |= {key: value for key, value in chosen.items() if value is not None}
    result = api.unlearn(
        model,
        forget=forget,
        retain=retain,
        holdout=holdout,
        general=general,
        method=method,
        settings=settings,
        model_settings=opt.model_settings(format, device, dtype, max_length, trust_remote_code),
        evaluate_settings={"redact": redact},
        seed=seed,
        out=out,
        dry_run=dry_run,
    )
    _finish(result, as_json)


def _finish(result: Any, as_json: bool) -> None:
    """Print what a run or a dry run has to say, or its numbers as JSON."""
    if process_number() > 0:
        return
    if hasattr(result, "machines"):
        print_foresight(result, as_json)
    elif hasattr(result, "runs"):
        _finish_variants(result, as_json)
    elif as_json:
        typer.echo(json.dumps(result.metrics))
    else:
        _print_run(result)


def _print_run(result: Any) -> None:
    """The table, three answers and where everything lies."""
    from rich.console import Console

    from expunge.pipeline.evidence import HEADLINE
    from expunge.reporting.tables import console_table

    console = Console(highlight=False)
    for name, stage in result.stages.items():
        if "lr" in stage.facts:
            facts = stage.facts
            console.print(
                f"{name.replace('_', ' ')}: {facts['steps']} steps at learning rate {facts['lr']:g}, "
                f"{facts['trainable_share']:.1%} of the weights, {facts['seconds']:.0f} s, {facts['stopped']}",
                markup=False,
            )
    report = result.report
    if report is not None:
        known = {row.key for row in report.metrics}
        console.print(console_table(report, [key for key in HEADLINE if key in known]))
        _print_answers(console, report)
        if report.verdict:
            console.print(f"\n{report.verdict.headline}", markup=False, style="bold")
        console.print(f"report: {result.folder / 'report.html'}", markup=False)
    for weights in (result.folder / "model", result.folder / "adapter"):
        if weights.is_dir():
            console.print(f"model:  {weights}", markup=False)


_COMPARED = ("extraction_strength", "forget_Q_A_ROUGE", "model_utility", "retain_Q_A_ROUGE", "answers_perplexity")
"""What the console shows of each variant; the report holds everything."""


def _finish_variants(result: Any, as_json: bool) -> None:
    """One table, models down and metrics across; a variant that failed makes the command fail, after all others."""
    from rich.console import Console

    from expunge.errors import UserError
    from expunge.reporting.tables import models_table

    if as_json:
        typer.echo(json.dumps({name: run.metrics for name, run in result.runs.items()}))
    elif result.report is not None:
        console = Console(highlight=False)
        console.print(models_table(result.report, _COMPARED))
        console.print(f"report:  {result.folder / 'report.html'}", markup=False)
        if (answers := result.folder / "answers.md").is_file():
            console.print(f"answers: {answers}", markup=False)
    if result.failed:
        lines = "; ".join(f"{name}: {why}" for name, why in result.failed.items())
        raise UserError(f"{len(result.failed)} of {len(result.failed) + len(result.runs)} variants failed: {lines}")


def _print_answers(console: Any, report: Any, count: int = 3) -> None:
    for pair in [p for p in report.pairs if p.set_name == "forget"][:count]:
        console.print(f"\nQ       {pair.question}", markup=False)
        for label, text in pair.answers.items():
            console.print(f"{label:<13} {text or '(empty)'}", markup=False)
