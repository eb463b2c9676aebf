"""Verbs that look and hand over: list, validate, doctor, export, chat."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import typer

from expunge.cli import options as opt
from expunge.errors import UserError, unknown


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command("list")(list_things)
    for verb in (validate, doctor, export, chat):
        app.command()(verb)


def list_things(
    what: str = typer.Argument(
        help="methods, scopes, rules, benchmarks, suites, metrics, attacks, recipes or plugins."
    ),
    as_json: bool = opt.JSON,
) -> None:
    """List what can be named in a command or a recipe."""
    from expunge.plugins import load_plugins

    listings = {
        "methods": _methods,
        "scopes": _scopes,
        "rules": _rules,
        "benchmarks": _benchmarks,
        "suites": _suites,
        "metrics": _metrics,
        "attacks": _attacks,
        "recipes": _recipes,
        "plugins": _plugins,
    }
    if what not in listings:
        raise UserError(unknown("listing", what, listings))
    load_plugins()
    rows = listings[what]()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    width = max(map(len, rows), default=0)
    for name, about in rows.items():
        typer.echo(f"{name:<{width}}  {about}")


def _methods() -> dict[str, str]:
    from expunge.methods.auto import AUTO
    from expunge.methods.table import METHODS

    named = {name: f"{m.title} ({m.paper})" for name in METHODS.names() for m in [METHODS.get(name)]}
    return {AUTO: "one of these, by what is given; the default"} | named


def _attacks() -> dict[str, str]:
    from expunge.attacks.table import ATTACKS

    return {name: ATTACKS.get(name).about for name in ATTACKS.names()}


def _scopes() -> dict[str, str]:
    from expunge.scopes import SCOPES

    return {name: _claim(SCOPES.get(name)) for name in SCOPES.names()}


def _rules() -> dict[str, str]:
    from expunge.training.rules import RULES

    return {name: _claim(RULES.get(name)) for name in RULES.names()}


def _benchmarks() -> dict[str, str]:
    import sys

    from expunge.benchmarks.table import BENCHMARKS

    return {name: _claim(sys.modules[BENCHMARKS.get(name).__module__]) for name in BENCHMARKS.names()}


def _metrics() -> dict[str, str]:
    from expunge.evaluation.metrics import METRICS
    from expunge.evaluation.suites import SUITES, all_metrics

    listed = {key: metric.label for key, metric in METRICS.items()}
    for name in SUITES.names():
        listed |= {
            key: f"{metric.label} (suite {name})"
            for key, metric in all_metrics(SUITES.get(name)).items()
            if key not in METRICS
        }
    return listed


def _suites() -> dict[str, str]:
    from expunge.evaluation.suites import SUITES

    return {name: f"{suite.title} ({suite.source})" for name in SUITES.names() for suite in [SUITES.get(name)]}


def _recipes() -> dict[str, str]:
    from expunge.api import shipped_recipes

    return {
        name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in shipped_recipes().items()
    }


def _plugins() -> dict[str, str]:
    from expunge.plugins import load_plugins

    return {f"{plugin.package}:{plugin.name}": plugin.about for plugin in load_plugins()}


def _claim(thing: Any) -> str:
    # A plugin's author may have left the docstring out.
    return ((thing.__doc__ or "").strip().splitlines() or [""])[0]


def validate(
    recipe: str = typer.Argument(help="A YAML file, or the name of a shipped recipe."), set_: list[str] = opt.SET
) -> None:
    """Check a recipe without touching any weights; every mistake is listed."""
    from expunge.api import find_recipe
    from expunge.pipeline.checks import check_recipe
    from expunge.recipe import read_recipe

    found = read_recipe(find_recipe(recipe), set_)
    check_recipe(found)
    typer.echo(f"{found.name}: valid")


def doctor(as_json: bool = opt.JSON) -> None:
    """Say what this machine offers: versions, speed, memory, caches, data, optional packages; exit 1 if it fails."""
    from expunge.pipeline.doctor import examine

    found = examine()
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        width = max(map(len, found.facts))
        for name, value in found.facts.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            typer.echo(f"{name:<{width}} {shown}")
        for line in (*(f"problem: {text}" for text in found.problems), *(f"note: {text}" for text in found.advice)):
            typer.echo(line)
    if found.problems:
        raise typer.Exit(1)


def export(
    run: str = typer.Argument(help="A run, a model folder or an adapter."),
    out: Path = typer.Option(..., "--out", help="A new or empty folder."),
    merge: bool = typer.Option(True, "--merge/--no-merge", help="Fold an adapter into the weights."),
    dtype: str = opt.DTYPE,
) -> None:
    """Write a plain model folder that transformers, vLLM and llama.cpp's converter take."""
    from expunge import api
    from expunge.models.load import DTYPES

    if not merge:
        raise UserError(
            "--no-merge: an unmerged adapter is the run's own adapter/ folder; export writes merged weights"
        )
    if dtype not in DTYPES:
        raise UserError(unknown("dtype", dtype, DTYPES))
    typer.echo(str(api.export(run, out=out, dtype=dtype)))


def chat(
    before: str = typer.Argument(help="A run, a model folder, an adapter, a GGUF file or a Hub id."),
    after: str = typer.Argument(None, help="Another one; both answers are shown side by side."),
    prompt: str = typer.Option(None, "--prompt", help="Ask once and exit."),
    max_new_tokens: int = typer.Option(96, "--max-new-tokens", help="Longest answer."),
    format: str = opt.FORMAT,
    device: str = opt.DEVICE,
) -> None:
    """Ask two models the same questions."""
    from expunge.data.rows import Row
    from expunge.evaluation.generator import generate_answers
    from expunge.models.load import load_model

    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, got {max_new_tokens}")
    models = {
        name: load_model(name, format=format, device=device)
        for name in dict.fromkeys((before,) if after is None else (before, after))
    }

    def answer(question: str) -> None:
        for name, loaded in models.items():
            ids = loaded.format.encode_prompt(Row(id="chat", prompt=question, answer=""))
            text = generate_answers(loaded, [ids], max_new_tokens=max_new_tokens)[0]
            typer.echo(f"{name}: {text}")

    if prompt is not None:
        if not prompt.strip():
            raise UserError("--prompt is empty")
        answer(prompt)
        return
    typer.echo("an empty line ends the conversation; every question stands alone", err=True)
    with contextlib.suppress(typer.Abort):  # the input's end, or Ctrl-C
        while question := typer.prompt(">", default="", show_default=False, prompt_suffix=" ").strip():
            answer(question)
