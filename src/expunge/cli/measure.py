"""Verbs that measure: evaluate, compare, import-log, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from expunge.cli import options as opt
from expunge.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command()(evaluate)
    app.command()(compare)
    app.command("import-log")(import_log)
    app.command()(report)


def evaluate(
    models: list[str] = typer.Argument(help="Folders, runs, adapters, GGUF files or Hub ids."),
    benchmark: str = typer.Option(
        ..., "--benchmark", help="almanac, tofu:forget10 ...; see `expunge list benchmarks`."
    ),
    out: Path = opt.OUT,
    reference: str = typer.Option(
        None, "--reference", help="The retain model: a run, a model or an open-unlearning log."
    ),
    option: list[str] = typer.Option([], "--option", help="A benchmark's own option, as key=value; may be repeated."),
    set_: list[str] = opt.SET,
    data_root: str = opt.DATA_ROOT,
    format: str = opt.FORMAT,
    max_length: int = opt.MAX_LENGTH,
    dtype: str = opt.DTYPE,
    device: str = opt.DEVICE,
    trust_remote_code: bool = opt.REMOTE,
    seed: int = opt.SEED,
    as_json: bool = opt.JSON,
) -> None:
    """Measure models on a benchmark: every metric from one scoring pass and one generation pass."""
    from expunge import api
    from expunge.recipe import apply_overrides

    result = api.evaluate(
        models,
        benchmark=benchmark,
        out=out,
        options=apply_overrides({}, option),
        reference=reference,
        model_settings=opt.model_settings(format, device, dtype, max_length, trust_remote_code),
        settings=apply_overrides({}, set_),
        data_root=data_root,
        seed=seed,
    )
    _show(result.report, result.metrics, as_json)
    typer.echo(f"report: {out / 'report.html'}", err=True)


def compare(
    runs: list[Path] = typer.Argument(help="Run folders."),
    markdown: bool = typer.Option(False, "--markdown", help="Print a Markdown table."),
    latex: bool = typer.Option(False, "--latex", help="Print a LaTeX table."),
    as_json: bool = opt.JSON,
) -> None:
    """Put finished runs side by side."""
    from expunge.pipeline.compare import compare_runs
    from expunge.reporting.tables import latex_table, markdown_table

    found = compare_runs(runs)
    if markdown or latex:
        typer.echo((markdown_table if markdown else latex_table)(found))
        return
    _show(found, found.to_dict(), as_json)


def import_log(
    log: Path = typer.Argument(help="TOFU_EVAL.json of open-unlearning, or the folder it lies in."),
    reference: str = typer.Option(None, "--reference", help="The retain model's log or run."),
    out: Path = opt.OUT,
    resamples: int = typer.Option(1000, "--resamples", help="Bootstrap resamples behind every interval."),
    as_json: bool = opt.JSON,
) -> None:
    """Read an open-unlearning evaluation log as a reference run, and recompute its aggregates with intervals."""
    from expunge.pipeline.importing import import_log as read

    found, metrics = read(log, out, reference=reference, num_resamples=resamples)
    _show(found, metrics, as_json)


def report(
    runs: list[Path] = typer.Argument(help="Run folders."),
    out: Path = typer.Option(Path("report.html"), "--out", help="The page to write."),
) -> None:
    """Write one offline page over finished runs."""
    from expunge.pipeline.compare import compare_runs
    from expunge.reporting.html import write_report

    if len(runs) == 1 and (page := runs[0] / "report.html").is_file() and out == Path("report.html"):
        typer.echo(str(page))
        return
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of the page, such as {out / 'report.html'}")
    typer.echo(str(write_report(compare_runs(runs), out)))


def _show(found: Any, content: Any, as_json: bool) -> None:
    from rich.console import Console

    from expunge.reporting.tables import console_table

    if as_json:
        typer.echo(json.dumps(content))
    else:
        Console(highlight=False).print(console_table(found))
