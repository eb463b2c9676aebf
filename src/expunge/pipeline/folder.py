"""The folder that holds a run: who may write there, and how it stays whole when something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expunge.errors import ResourceError, UserError
from expunge.parallel import process_number

MANIFEST = "run.json"
RUN, EVALUATION, IMPORTED_LOG, VARIANTS = "run", "evaluation", "imported log", "set of variants"
ATTACKS = "set of attacks"
"""Kinds of run folders, as the manifest names them."""
BEFORE, AFTER, RETAIN_MODEL = "before", "after", "retain model"
"""Labels of a run's models."""
SAMPLES = ("samples_retain_model.parquet", "samples.parquet")
"""Where the retain model's per-row values lie in a run that others refer to: the first that is there."""


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(partial, path)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder; None if it holds none of ours."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "status" in content else None


def claim_folder(out: Path, kind: str = RUN) -> None:
    """Refuse an output folder that holds something other than a run of this kind.

    Raises:
        UserError: for a file, a folder with other things in it, or a place that cannot be written to.
    """
    if out.is_file():
        raise UserError(f"--out {out}: is a file; give a folder that is new, empty or holds an earlier {kind}")
    # A call that was killed while it began leaves no more than this.
    found = {entry.name for entry in out.iterdir()} - {f"{MANIFEST}.partial"} if out.is_dir() else set()
    manifest = read_manifest(out)
    if found and (manifest is None or manifest.get("kind", kind) != kind):
        what = f"an earlier {manifest['kind']}" if manifest else "something else"
        raise UserError(f"--out {out}: the folder holds {what}; give one that is new, empty or holds an earlier {kind}")
    above = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if not above.is_dir():
        raise UserError(f"--out {out}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out {out}: {above} is not writable")


@contextmanager
def open_folder(out: Path, kind: str = RUN, *, stages: Path | None = None) -> Iterator[None]:
    """Make the run folder; if the block fails before it made anything worth keeping, nothing stays behind.

    Args:
        out: a folder that :func:`claim_folder` let pass.
        kind: what the manifest says it is.
        stages: folder of the stages; a finished or resumable one is worth keeping.

    Raises:
        UserError: the folder cannot be made.
        ResourceError: the disk is full.
    """
    if process_number() > 0:  # the first process keeps the folder
        yield
        return
    made = next((p for p in (*reversed(out.absolute().parents), out.absolute()) if not p.exists()), None)
    fresh = read_manifest(out) is None
    try:
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            if fresh:
                write_json(out / MANIFEST, {"kind": kind, "status": "running"})
            yield
    except BaseException as error:
        if fresh and not (stages and _worth_keeping(stages)):
            _empty(out)
            if made:
                shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError) and not out.is_dir():
            raise UserError(f"--out {out}: cannot be made: {error.strerror or error}") from error
        raise


def _worth_keeping(stages: Path) -> bool:
    return any(stages.glob("*/stage.json")) or any(stages.glob("*.work/checkpoint-*"))


def _empty(folder: Path) -> None:
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn a full disk into one clear line, however deep in a library it surfaced."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and _is_disk_full(error):
            raise ResourceError(
                f"{place}: the disk is full (or a file-size limit was reached); "
                "free some space and run the same command again"
            ) from error
        raise


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        full = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
        # safetensors and torch wrap the operating system's error in their own and keep only its words.
        words = ("No space left", "File too large", "os error 28", "os error 27", "PytorchStreamWriter failed")
        if full or any(word in str(error) for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


def link_or_copy(source: Path, target: Path) -> None:
    """Put a file in a second place, sharing the disk's blocks of big ones where the file system can.

    Small files are copied: people edit them, and what a stage made must stay as it was.
    """
    target.unlink(missing_ok=True)
    if source.suffix in {".safetensors", ".parquet"}:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without hard links
            pass
    shutil.copyfile(source, target)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that none can have names none."""
    try:
        return path.exists()
    except OSError:
        return False


def refuse_inside(out: Path, sources: Mapping[str, str | os.PathLike[str]]) -> None:
    """Refuse to write into a folder that the run itself reads.

    Raises:
        UserError: naming what would be overwritten.
    """
    for what, source in sources.items():
        path = Path(source).expanduser()
        if exists(path) and path.resolve().is_relative_to(out.resolve()):
            raise UserError(f"--out {out}: holds the {what} {source}, which it would overwrite; give another folder")


def weights_folder(stage: Path) -> Path:
    """``model`` or ``adapter`` of a stage or run.

    Raises:
        UserError: its weights were not kept.
    """
    found = _weights(stage)
    if found is None:
        raise UserError(f"{stage}: its weights were not kept; run its recipe again with unlearn.keep_weights: true")
    return found


def has_weights(stage: Path) -> bool:
    """Whether a stage's or run's weights are there."""
    return _weights(stage) is not None


def _weights(stage: Path) -> Path | None:
    return next((folder for folder in (stage / "model", stage / "adapter") if folder.is_dir()), None)
