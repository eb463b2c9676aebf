"""Replies of an endpoint, kept on disk so that the same question is paid for once."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from expunge.errors import ResourceError


class ReplyCache:
    """Replies on disk, one small file each, found by the SHA-256 of address and request.

    A file holds the reply alone. What it says may still tell of the rows that were judged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> str | None:
        """The kept reply; None where there is none, or it is damaged."""
        try:
            reply = json.loads(self._path(key).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply; it appears whole or not at all.

        Raises:
            ResourceError: the folder cannot be written.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
            ) as out:
                json.dump({"reply": reply}, out, ensure_ascii=False)
            os.replace(out.name, path)
        except OSError as error:
            raise ResourceError(
                f"cannot keep replies in {self._folder}: {error.strerror or error}; name another folder with cache"
            ) from error

    def _unusable(self, error: OSError) -> ResourceError:
        reason = error.strerror or str(error)
        return ResourceError(f"cannot keep replies in {self._folder}: {reason}; name another folder with cache")

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}.json"
