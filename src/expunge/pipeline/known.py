"""What a run refers to without making it: the retain model's results, or the retain model itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

from expunge.errors import UserError, nearest
from expunge.evaluation.logs import read_peer_log
from expunge.evaluation.metrics import Scores
from expunge.evaluation.samples import read_scores
from expunge.models.gated_files import GATED_FILE
from expunge.models.load import BUILTIN_MODEL, source_fingerprint
from expunge.pipeline.folder import SAMPLES, read_manifest

_MODEL_FILES = ("config.json", "adapter_config.json", GATED_FILE)


def known_scores(source: str | Path) -> Scores | None:
    """The retain model's per-row values from an earlier run or an open-unlearning log; None if it names a model.

    Raises:
        UserError: if it is neither results nor something that can be a model.
    """
    path = Path(source).expanduser()
    for name in SAMPLES:
        if (path / name).is_file():
            return read_scores(path / name)
    if path.exists():
        return None if may_be_model(path) else read_peer_log(path).scores
    if str(source) == BUILTIN_MODEL:
        return None
    if str(source).count("/") == 1 and path.suffix not in {".json", ".jsonl", ".parquet", ".gguf"}:  # perhaps a Hub id
        return None
    hint = nearest(str(source), ("train", "none"))
    raise UserError(f"reference {source}: no such run, model or open-unlearning log{hint}")


def may_be_model(path: Path) -> bool:
    """Whether something that lies on disk holds a model: a folder, a run or an adapter."""
    if path.suffix == ".gguf" or any((path / name).is_file() for name in _MODEL_FILES):
        return True
    return read_manifest(path) is not None and any((path / name).is_dir() for name in ("model", "adapter"))


def content_hash(source: str) -> str:
    """What a file or a model that a setting names is, by its content.

    Raises:
        UserError: it is neither.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return source_fingerprint(source)


def scores_hash(scores: Scores) -> str:
    """SHA-256 over per-row values."""
    digest = hashlib.sha256()
    for name, columns in sorted(scores.items()):
        for column, values in sorted(columns.items()):
            digest.update(f"{name}/{column}{values.shape}".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()
