"""Hashes that travel: of JSON, and of a model by the content of its files, the same wherever they lie.

:func:`~expunge.models.load.source_fingerprint` tells models apart on one machine: an adapter's holds the path of its
base model, and a file of the same size and time counts as unchanged. Here the path is left out and every byte is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.errors import ModelError
from expunge.models.gated_files import GATED_FILE
from expunge.models.guards import GUARD_FILE
from expunge.models.load import FORMAT_FILE, Place, resolve, resolve_base, source_fingerprint

_SETTINGS = {"adapter_config.json": "base_model_name_or_path", GATED_FILE: "base_model"}
"""Files that say where an adapter's base model lies, and in which field: another place makes no other model."""
_FILES = frozenset({
    "config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", FORMAT_FILE, GUARD_FILE, *_SETTINGS,
})  # fmt: skip
_USUAL_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors")
MOST_BASES = 8
"""An adapter may rest on an adapter, but not on itself."""


def json_hash(content: Any) -> str:
    """SHA-256 (hex) over JSON types in one spelling: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def model_record(source: str | Path) -> dict[str, Any]:
    """What a model is, from the files that make it so.

    Args:
        source: a folder, a run, an adapter, a ``.gguf`` file or a Hub id.

    Returns:
        ``kind``; ``files``, SHA-256 by name (weights of an unusual name by number: a name can tell something); for an
        adapter ``base``, the same of its base model; and ``sha256`` over all of that.

    Raises:
        ModelError: it names no model, or a file of it cannot be read.
    """
    return _record(resolve(source), 0)


def differences(known: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What tells two records apart, in a few words each; empty where they are of the same model."""
    if known == found:
        return []
    if known.get("kind") != found.get("kind"):
        return [f"it is of another kind ({found.get('kind')}, not {known.get('kind')})"]
    mine, other = known.get("files") or {}, found.get("files") or {}
    told = [f"{name} is another" for name in sorted(mine.keys() & other.keys()) if mine[name] != other[name]]
    told += [f"{name} is missing" for name in sorted(mine.keys() - other.keys())]
    told += [f"{name} was added" for name in sorted(other.keys() - mine.keys())]
    bases = known.get("base") or {}, found.get("base") or {}
    told += [f"in the base model {what}" for what in differences(*bases)]
    return told or ["its hash is another"]


def _record(place: Place, depth: int) -> dict[str, Any]:
    if depth > MOST_BASES:
        raise ModelError(f"{place.folder}: more than {MOST_BASES} adapters on top of each other; does one name itself?")
    if place.folder is None:
        record: dict[str, Any] = {"kind": "Hub id", "files": {"revision": source_fingerprint(str(place.hub_id))}}
    else:
        record = {"kind": _kind(place), "files": _named_hashes(place.folder, place.gguf_file)}
        if place.adapter:
            record["base"] = _record(resolve_base(place.folder), depth + 1)
    return {**record, "sha256": json_hash(record)}


def _kind(place: Place) -> str:
    if place.gguf_file:
        return "GGUF file"
    return "gated adapter" if place.gated else "adapter" if place.adapter else "model folder"


def _named_hashes(folder: Path, gguf_file: str | None) -> dict[str, str]:
    if gguf_file:
        return {"model.gguf": _file_hash(folder / gguf_file)}
    found, unusual = {}, []
    for path in sorted(folder.iterdir()):
        if path.name in _FILES or _USUAL_WEIGHTS.fullmatch(path.name):
            found[path.name] = _file_hash(path)
        elif path.suffix == ".safetensors":
            unusual.append(_file_hash(path))
    return found | {f"other-{number}.safetensors": digest for number, digest in enumerate(sorted(unusual), 1)}


def _file_hash(path: Path) -> str:
    try:
        if path.name in _SETTINGS:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return json_hash({name: value for name, value in settings.items() if name != _SETTINGS[path.name]})
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ModelError(f"{path}: cannot be read: {reason}") from error
