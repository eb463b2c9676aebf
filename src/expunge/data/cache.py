"""The folder for what is downloaded or made once and used again by every run."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Return the folder that this is kept in: ``EXPUNGE_CACHE``, else the user's cache folder."""
    if own := os.environ.get("EXPUNGE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "expunge"
