"""Verbs that measure: evaluate, compare, import-log, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from expunge.cli import options as opt
from expunge.errors import UserError
from expunge.parallel import process_number


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
    also: list[str] = typer.Option(
        [],
        "--also",
        help="Another benchmark to measure too, as truthfulqa, or with an option, truthfulqa.rows=50; may be repeated.",
    ),
    suite: list[str] = typer.Option(
        [],
        "--suite",
        help="Suites of metrics (`expunge list suites`), with commas or repeated. Default: the benchmark's own.",
    ),
    harness: list[str] = typer.Option(
        [],
        "--harness",
        help="Tasks or suites of lm-evaluation-harness, with commas or repeated. Settings: --set harness.limit=...",
    ),
    checkpoints: str = typer.Option(
        "last", "--checkpoints", help="all, or steps such as 10,20: measure the kept steps of runs too."
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
    """Measure models on a benchmark: every metric from one scoring pass and one generation pass."""
    from expunge import api
    from expunge.recipe import apply_overrides

    result = api.evaluate(
        models,
        benchmark=benchmark,
        out=out,
        options=apply_overrides({}, option),
        also=apply_overrides({spec: {} for spec in also if "=" not in spec}, [spec for spec in also if "=" in spec]),
        reference=reference,
        model_settings=opt.model_settings(format, device, dtype, max_length, trust_remote_code),
        settings=apply_overrides(
            ({"suites": _names(suite)} if suite else {})
            | ({"harness": {"tasks": _names(harness)}} if harness else {})
            | ({"redact": True} if redact else {}),
            set_,
        ),
        checkpoints=checkpoints,
        data_root=data_root,
        seed=seed,
    )
    if process_number() > 0:
        return
    _show(result.report, result.metrics, as_json)
    typer.echo(f"report: {out / 'report.html'}", err=True)


def compare(
    runs: list[Path] = typer.Argument(None, help="Run folders."),
    baseline: str = typer.Option(
        None, "--baseline", help="The column that differences are to: a run, before, ...; by default the first run."
    ),
    metrics: list[str] = typer.Option([], "--metrics", help="Keys to show, with commas; by default all."),
    group: list[str] = typer.Option([], "--group", help="Seeds of one method as one column: NAME=RUN,RUN,..."),
    seeds: bool = typer.Option(True, "--seeds/--no-seeds", help="Put runs together that differ in their seed only."),
    reference: str = typer.Option(None, "--reference", help="The retain model's run or log, for every run alike."),
    resamples: int = typer.Option(1000, "--resamples", help="Bootstrap resamples behind every interval."),
    seed: int = typer.Option(0, "--seed", help="Of the resamples."),
    markdown: bool = typer.Option(False, "--markdown", help="Print Markdown tables."),
    latex: bool = typer.Option(False, "--latex", help="Print a LaTeX table (booktabs)."),
    out: Path = typer.Option(None, "--out", help="Write a page with the forest plot, such as compare.html."),
    plot: Path = typer.Option(None, "--plot", help="Write the forest plot of the differences to a .png or .svg file."),
    as_json: bool = opt.JSON,
) -> None:
    """Compare finished runs on the same rows: values, differences with intervals, and tests."""
    from expunge.pipeline.columns import CompareSettings
    from expunge.pipeline.comparing import compare_in_pairs
    from expunge.reporting.forest import check_forest, write_forest
    from expunge.reporting.html import write_comparison

    if sum((markdown, latex, as_json)) > 1:
        raise UserError("--markdown, --latex and --json: give one of them; the table is printed once")
    groups = _groups(group)
    if not runs and not groups:
        raise UserError("missing argument RUNS: name at least one finished run")
    if plot:
        check_forest(plot)
    if out and out.is_dir():
        raise UserError(f"--out {out}: is a folder; give the name of the page, such as {out / 'compare.html'}")
    settings = CompareSettings(
        baseline=baseline,
        groups=groups,
        seeds=seeds,
        metrics=[key.strip() for keys in metrics for key in keys.split(",") if key.strip()],
        reference=reference,
        num_resamples=resamples,
        seed=seed,
    )
    table = compare_in_pairs(list(runs or []), settings)
    _print_comparison(table, "json" if as_json else "markdown" if markdown else "latex" if latex else "console")
    for written in [*([write_comparison(table, out)] if out else []), *([write_forest(table, plot)] if plot else [])]:
        typer.echo(f"written: {written}", err=True)


def _names(texts: list[str]) -> list[str]:
    """Names as they were given one by one or with commas; an empty one stays, to be refused."""
    return [name.strip() for text in texts for name in text.split(",")]


def _groups(texts: list[str]) -> dict[str, list[str]]:
    """``npo=runs/a,runs/b`` as the group's name and its folders."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        name, found, folders = text.partition("=")
        members = [folder.strip() for folder in folders.split(",") if folder.strip()]
        if not (found and name.strip() and members):
            raise UserError(f"--group takes NAME=RUN,RUN,..., for instance npo=runs/seed0,runs/seed1; got {text!r}")
        if name.strip() in groups:
            raise UserError(f"--group {name.strip()}: given twice; give each group its own name")
        groups[name.strip()] = members
    return groups


def _print_comparison(table: Any, form: str) -> None:
    from rich.console import Console

    from expunge.reporting.comparison_tables import console_comparison, latex_comparison, markdown_comparison

    if form == "console":
        Console(highlight=False).print(console_comparison(table))
        return
    writers = {"json": table.to_json, "markdown": lambda: markdown_comparison(table)}
    typer.echo(writers.get(form, lambda: latex_comparison(table))())


def import_log(
    log: Path = typer.Argument(help="TOFU_EVAL.json of open-unlearning, or the folder it lies in."),
    reference: str = typer.Option(None, "--reference", help="The retain model's log or run."),
    out: Path = opt.OUT,
    resamples: int = typer.Option(1000, "--resamples", help="Bootstrap resamples behind every interval."),
    redact: bool = opt.REDACT,
    as_json: bool = opt.JSON,
) -> None:
    """Read an open-unlearning evaluation log as a reference run, and recompute its aggregates with intervals."""
    from expunge.pipeline.importing import import_log as read

    found, metrics = read(log, out, reference=reference, num_resamples=resamples, redact=redact)
    _show(found, metrics, as_json)


def report(
    runs: list[Path] = typer.Argument(help="Run folders."),
    out: Path = typer.Option(Path("report.html"), "--out", help="The page to write."),
) -> None:
    """Write one offline page over finished runs."""
    from expunge.pipeline.comparing import compare_runs
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
