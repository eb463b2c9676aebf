"""What can go wrong on the user's side, said in one line that helps.

A :class:`UserError` is the user's to mend: the command line prints its message and exits with 2.
Every other exception is ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The input is wrong: the message says what, where, what is allowed and how to fix it."""


class DataError(UserError):
    """A row, a file or a split cannot be used as it stands."""


class ModelError(UserError):
    """A model cannot be found, read or used as asked."""


class RecipeError(UserError):
    """A run is described wrongly; all mistakes are listed at once."""


class ResourceError(UserError):
    """The machine ran out of disk or memory; the message names the smaller setting."""


class NonFiniteLossError(UserError):
    """Training met a NaN or infinite loss or gradient and stopped."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest of ``options``, or an empty string."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> str:
    """One line for a name that is not in a table: what, the nearest, and all that is allowed."""
    names = sorted(options)
    return f"unknown {kind} {name!r}{nearest(name, names)}; known: {', '.join(names)}"
