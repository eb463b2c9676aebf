"""The folder for what is downloaded or made once and used again by every run."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STALE_SECONDS = 6 * 3600
"""Something unfinished of that age belongs to a call that was killed."""


def default_cache() -> Path:
    """Return the folder that this is kept in: ``EXPUNGE_CACHE``, else the user's cache folder."""
    if own := os.environ.get("EXPUNGE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "expunge"


def remove_stale(folder: Path, pattern: str) -> None:
    """Drop the unfinished files and folders that killed calls left; young ones may belong to a call that still runs."""
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


@contextmanager
def scratch_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder for what is being made, gone afterwards, and so are those that killed calls left.

    It lies in ``folder``, beside the result, so that the last step is a rename inside one file system.
    """
    remove_stale(folder, f"{name}.tmp-*")
    with tempfile.TemporaryDirectory(prefix=f"{name}.tmp-", dir=folder) as made:
        yield Path(made)
