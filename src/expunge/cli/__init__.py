"""The command line: parsing and printing only. Exit 0 done, 2 the user's input is wrong, 1 our fault."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from expunge.cli import audit, augment, certify, locate, measure, requests, show, train
from expunge.errors import UserError
from expunge.parallel import launched

INTERRUPTED = 130
SHARED = ("demo", "evaluate", "finetune", "run", "unlearn")
"""Verbs that several processes, started by a launcher, carry out together."""
# What the option parser raises at a wrong word; the parser itself is typer's own business and moves between versions.
_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="expunge",
    help="Make a language model forget what it must, keep what it should, and show the evidence.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from expunge import __version__

        typer.echo(f"expunge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Make a language model forget what it must, keep what it should, and show the evidence."""
    if launched() > 1 and context.invoked_subcommand not in SHARED:
        raise UserError(
            f"{context.invoked_subcommand} runs in one process: start it without a launcher; "
            f"these share their work between several: {', '.join(SHARED)}"
        )


for module in (train, measure, audit, show, locate, augment, requests, certify):
    module.register(app)


def main() -> None:
    """Run the command line; users' mistakes become one line, our own keep their traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Libraries below us print progress bars and advice of their own; ours say what users need.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (UserError, _UsageError) as error:
        message = error.format_message() if isinstance(error, _UsageError) else str(error)
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)
