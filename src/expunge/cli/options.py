"""Options that several verbs share, and how their texts become settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import typer

from expunge.errors import UserError, nearest

OUT = typer.Option(..., "--out", help="Folder for the result: new, empty, or the same run to go on with.")
SEED = typer.Option(0, "--seed", help="Everything random follows from it.")
JSON = typer.Option(False, "--json", help="Print the numbers as JSON on standard output.")
FORMAT = typer.Option("auto", "--format", help="Chat format: auto, chat, qa, llmu, inst, blank or bare.")
DEVICE = typer.Option("auto", "--device", help="auto, cpu, cuda, cuda:1 ...")
DTYPE = typer.Option("float32", "--dtype", help="Precision of the weights: float32, bfloat16 or float16.")
MAX_LENGTH = typer.Option(512, "--max-length", help="Longest sequence in tokens.")
REMOTE = typer.Option(False, "--trust-remote-code", help="Run Python code that comes with the model.")
SCOPE = typer.Option(None, "--scope", help="What may change: full or lora.")
LR = typer.Option(None, "--lr", help="Peak learning rate; by default one that suits the scope and the model's size.")
EPOCHS = typer.Option(None, "--epochs", help="Passes over the rows.")
STEPS = typer.Option(None, "--steps", help="Optimiser steps; wins over --epochs.")
BATCH = typer.Option(
    "auto", "--batch-size", help="Rows of each stream in a step, or auto; memory does not depend on it."
)
SET = typer.Option([], "--set", help="Any other setting, as key=value; may be repeated.")
TRACK = typer.Option("none", "--report-to", help="none, tensorboard, trackio or wandb.")
REDACT = typer.Option(
    False, "--redact", help="Write no text of any row and no answer: numbers and ids only, so that it can be shared."
)
DRY_RUN = typer.Option(
    False, "--dry-run", help="Only say what each stage would take, and which are kept already; nothing is written."
)
DATA_ROOT = typer.Option(
    None, "--data-root", help="Folder with published benchmark files (else EXPUNGE_DATA, else the Hub)."
)


def model_settings(format: str, device: str, dtype: str, max_length: int, remote: bool) -> dict[str, Any]:
    """The recipe's ``model`` part, path aside."""
    return {
        "format": format,
        "device": device,
        "dtype": dtype,
        "max_length": max_length,
        "trust_remote_code": remote,
    }


def is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, rather than leaving it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def train_settings(
    *, scope: str | None, lr: float | None, epochs: float | None, steps: int | None, batch: str, track: str,
    extra: Iterable[str],
) -> dict[str, Any]:  # fmt: skip
    """The flags and ``--set`` pairs of a training part."""
    from expunge.recipe import apply_overrides

    given: dict[str, Any] = {"lr": lr, "epochs": epochs, "max_steps": steps, "track": track}
    if scope:
        given["scope"] = {"kind": scope}
    if batch != "auto":
        if not batch.isdecimal():
            raise UserError(f"--batch-size must be a whole number or auto, got {batch!r}")
        given["batch_size"] = int(batch)
    return apply_overrides({k: v for k, v in given.items() if v is not None}, extra)


def rule_settings(texts: Iterable[str]) -> list[dict[str, Any]] | None:
    """``sam:rho=0.05`` (several settings with commas) as one of the recipe's gradient rules each; None without any."""
    from expunge.recipe import apply_overrides

    rules: list[dict[str, Any]] = []
    for text in texts:
        kind, _, settings = text.partition(":")
        given = [item.strip() for item in settings.split(",") if item.strip()]
        if wrong := [item for item in given if "=" not in item]:
            raise UserError(f"--rule takes KIND or KIND:setting=value, for instance sam:rho=0.05; got {wrong[0]!r}")
        rules.append({**apply_overrides({}, given), "kind": kind.strip()})
    return rules or None


def budget_settings(text: str | None) -> dict[str, float] | None:
    """``retain_loss=0.1,kl=0.05`` as the recipe's budget part."""
    if not text:
        return None
    out: dict[str, float] = {}
    known = ("retain_loss", "kl", "every", "rows")
    for item in text.split(","):
        key, _, value = item.strip().partition("=")
        if key not in known:
            raise UserError(f"--budget: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
        try:
            out[key] = int(value) if key in ("every", "rows") else float(value)
        except ValueError:
            raise UserError(f"--budget {key}: expected a number, got {value!r}; for instance retain_loss=0.1") from None
    return out
