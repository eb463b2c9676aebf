"""Where a benchmark's published files lie: a folder of the user's, or the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.errors import DataError, RecipeError

Root = str | os.PathLike[str] | None
"""A data root: a folder given by hand, or None for ``EXPUNGE_DATA``, where that is set."""


def data_base(root: Root, *, layout: str) -> Path | None:
    """The folder that ``root`` names, else ``EXPUNGE_DATA``; None where neither is given.

    ``layout`` ends the :class:`DataError` raised where the name is no folder: which files are meant, and where.
    """
    where = os.fspath(root) if root is not None else os.environ.get("EXPUNGE_DATA", "")
    if not where:
        return None
    base = Path(where).expanduser()
    if not base.is_dir():
        raise DataError(f"{'root' if root is not None else 'EXPUNGE_DATA'}={where} is no folder; {layout}")
    return base


def find_folder(base: Path, inside: Sequence[str], files: Sequence[str], *, layout: str) -> Path | None:
    """The first of ``base/inside`` that holds any of ``files``, or None; it must then hold all of them.

    Raises:
        DataError: the folder lacks some of the files.
    """
    for folder in (base / name for name in inside):
        missing = [file for file in files if not (folder / file).is_file()]
        if not missing:
            return folder
        if len(missing) < len(files):
            raise DataError(f"{folder} lacks {', '.join(missing)}; {layout}")
    return None


def hub_file(hub_id: str, file: str, revision: str, *, layout: str) -> Path:
    """One file of a Hub data set at a revision, fetched into the Hub's own cache.

    Raises:
        DataError: it cannot be had; ``layout`` says which local files would do.
    """
    path = _fetched(hub_id, file, revision, layout=layout, absent_is_fine=False)
    assert path is not None
    return path


def optional_hub_file(hub_id: str, file: str, revision: str, *, layout: str) -> Path | None:
    """The same for a file that need not be there: None where the Hub itself, or its cache, says that it is not.

    Raises:
        DataError: the Hub cannot be asked.
    """
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    if try_to_load_from_cache(hub_id, file, revision=revision, repo_type="dataset") is _CACHED_NO_EXIST:
        return None
    return _fetched(hub_id, file, revision, layout=layout, absent_is_fine=True)


def _fetched(hub_id: str, file: str, revision: str, *, layout: str, absent_is_fine: bool) -> Path | None:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, file, repo_type="dataset", revision=revision))
    # errors.HTTPError: the Hub client's own HTTP library, which is httpx or httpx2 depending on its version.
    except (OSError, errors.HTTPError, errors.HFValidationError) as error:
        if absent_is_fine and isinstance(error, errors.RemoteEntryNotFoundError):
            return None
        kind = type(error).__name__
        raise DataError(f"{file} cannot be had from the Hub ({hub_id}@{revision}: {kind}); {layout}") from None


def commit_of(path: Path, revision: str) -> str:
    """The commit that a file of the Hub's cache belongs to (``.../snapshots/<commit>/...``), else ``revision``."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-2] else revision


def listed(value: Any) -> tuple[Any, ...]:
    """The members of a list; anything else is the only one, and None is none."""
    return tuple(value) if isinstance(value, list | tuple) else () if value is None else (value,)


def whole_numbers(**counts: tuple[object, int]) -> list[str]:
    """A line for each option whose value is neither None nor a whole number of at least the second of its pair."""
    return [
        f"{name} must be a whole number of at least {least}, got {value!r}"
        for name, (value, least) in counts.items()
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least)
    ]


def seed_problem(seed: object) -> list[str]:
    """A line if ``seed`` is no whole number."""
    if isinstance(seed, int) and not isinstance(seed, bool):
        return []
    return [f"seed must be a whole number, got {seed!r}; leave it out for seed 0"]


def refuse(benchmark: str, problems: Sequence[str]) -> None:
    """Raise one :class:`RecipeError` with everything that is wrong with a benchmark's options, if anything is."""
    if problems:
        raise RecipeError(f"{benchmark}: {'; '.join(problems)}")
