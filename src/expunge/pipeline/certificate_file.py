"""A certificate as a file: its schema, the digest over all of it, writing it whole, reading what others hand over."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.pipeline.folder import disk_errors
from expunge.pipeline.hashes import MOST_BASES, json_hash

SCHEMA = "expunge.certificate/1"
NAME, PAGE = "certificate.json", "certificate.html"
DIGEST = "sha256"
"""Field of the digest: SHA-256 over all the other fields, as :func:`~expunge.pipeline.hashes.json_hash` spells them."""
LARGEST = 64 * 2**20
"""Bytes; certificates take some hundred thousand."""
_PARTS = {
    "kind": str, "written": str, "asked": dict, "method": dict, "base_model": dict, "model": dict, "evidence": dict,
    "attacks": dict, "environment": dict, "warnings": list, "limits": list, DIGEST: str,
}  # fmt: skip


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 over everything in a certificate but the digest itself."""
    return json_hash({name: value for name, value in content.items() if name != DIGEST})


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write several files, all of them or none.

    Raises:
        UserError: the folder cannot be made or written to.
        ResourceError: the disk is full.
    """
    # A name of its own for each process: two that write at the same time must not mix.
    partial = {folder / name: folder / f".{name}.{os.getpid()}.partial" for name in texts}
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for (target, path), text in zip(partial.items(), texts.values(), strict=True):
                if target.is_dir():
                    raise UserError(
                        f"{target}: is a folder, and a file of that name is to be written; choose another --out"
                    )
                path.write_text(text, encoding="utf-8")
            for target, path in partial.items():
                os.replace(path, target)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written to: {error.strerror or error}") from error
    finally:
        for path in partial.values():
            with contextlib.suppress(OSError):
                path.unlink()


def read_certificate(path: str | Path) -> dict[str, Any]:
    """Read a certificate, whoever wrote it; whether its digest holds is another question.

    Raises:
        UserError: there is no such file, it is no certificate, or one of another schema.
    """
    content = _parsed(str(path), _read(Path(path).expanduser(), str(path)))
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, str) or not schema.startswith("expunge.certificate/"):
        raise UserError(f"{path}: is no certificate of expunge")
    if schema != SCHEMA:
        raise UserError(f"{path}: is written in {schema[:60]!r}, and this version of expunge reads {SCHEMA!r}")
    if wrong := next(_broken(content), None):
        raise UserError(f"{path}: is no whole certificate: {wrong}")
    found: dict[str, Any] = content
    return found


def _read(path: Path, shown: str) -> bytes:
    try:
        if path.is_dir():
            inside = f"; did you mean {path / NAME}?" if (path / NAME).is_file() else ""
            raise UserError(f"{shown}: is a folder; give the file {NAME}{inside}")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{shown}: is larger than {LARGEST // 2**20} MB; no certificate is")
        # A pipe or a device has no size to ask for.
        with open(path, "rb") as stream:
            found = stream.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(f"{shown}: no such file; `expunge certify RUN` writes one") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror or error}") from error
    if len(found) > LARGEST:
        raise UserError(f"{shown}: is larger than {LARGEST // 2**20} MB; no certificate is")
    return found


def _parsed(shown: str, found: bytes) -> Any:
    try:
        content = json.loads(found.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_refuse)
        json_hash(content)
    except UnicodeDecodeError:
        raise UserError(f"{shown}: is no text, and so no certificate") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{shown}: is no JSON that can be read: {reason[:120]}") from None
    return content


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values of one name would be read as one here, and as the other by somebody's eyes."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _broken(content: Mapping[str, Any]) -> Iterator[str]:
    """What a certificate lacks that is read later on."""
    for name, kind in _PARTS.items():
        if not isinstance(content.get(name), kind):
            yield f"{name!r} is missing or of a wrong type"
            return
    if content["kind"] != "certificate":
        yield "its kind is another"
    if not _is_record(content["model"]):
        yield "'model' holds no hashes"
    asked = content["asked"]
    for name, kind in {"benchmark": str, "options": dict, "options_left_out": list, "sha256": dict}.items():
        if not isinstance(asked.get(name), kind):
            yield f"'asked.{name}' is missing or of a wrong type"


def _is_record(model: Any, deepest: int = MOST_BASES) -> bool:
    """Whether it has the form that :func:`~expunge.pipeline.hashes.model_record` gives."""
    if deepest < 0 or not isinstance(model, dict) or not isinstance(model.get("kind"), str):
        return False
    files = model.get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in (*files.values(), model.get(DIGEST))):
        return False
    return "base" not in model or _is_record(model["base"], deepest - 1)
