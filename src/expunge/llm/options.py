"""Where a chat model is reached, and what may be said of it in a recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict

from expunge.errors import RecipeError

SECRETS = ("key", "api_key", "apikey", "token", "secret", "password", "authorization")
"""How fields are called that hold a key, which belongs into no recipe."""
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """A server with OpenAI's chat completions."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    url: str
    """Base address, ending in ``/v1`` for most servers."""
    model: str
    """Name of the model at that address."""
    key_env: str | None = None
    """Name of the environment variable that holds the key; None: no key is sent."""
    temperature: float = 0.0
    """0: the likeliest answer, as far as the server keeps to it."""
    max_tokens: int = 512
    """Longest reply."""
    timeout: float = 60.0
    """Seconds until a call counts as failed."""
    tries: int = 3
    """Calls until an answer counts as missing."""
    concurrency: int = 4
    """Calls under way at once, each in a thread."""
    cache: str | None = None
    """Folder that keeps the replies, so that the same question is paid for once."""
    body: dict[str, Any] = field(default_factory=dict)
    """Further fields of every request, such as ``{seed: 0}``; null takes one of ours out."""

    def __post_init__(self) -> None:
        require(
            [
                (_plain_address(self.url), "url must be http(s)://host[:port][/path], without user, password or query"),
                (bool(self.model.strip()), "model must be a name that the server knows"),
                (
                    self.key_env is None or bool(_ENVIRONMENT_NAME.fullmatch(self.key_env)),
                    # The value is not repeated: it may be the key itself.
                    "key_env must be the name of an environment variable in capitals, such as OPENAI_API_KEY",
                ),
                (0 <= self.temperature <= 2, f"temperature must be in [0, 2], got {self.temperature}"),
                (self.max_tokens >= 16, f"max_tokens must be at least 16, got {self.max_tokens}"),
                (0 < self.timeout < float("inf"), f"timeout must be above 0 seconds, got {self.timeout}"),
                (1 <= self.tries <= 10, f"tries must be in [1, 10], got {self.tries}"),
                (1 <= self.concurrency <= 64, f"concurrency must be in [1, 64], got {self.concurrency}"),
                (_is_json(self.body), "body must be made of what JSON can hold"),
                (not set(self.body) & {"messages", "stream", "n"}, "body cannot change messages, stream or n"),
                # A recipe is written into every run's folder.
                (not holds_secret(self.body), "body must not hold a key; name its environment variable with key_env"),
            ]
        )


def require(checks: Iterable[tuple[bool, str]]) -> None:
    """Raise one :class:`RecipeError` that lists every broken rule."""
    if broken := [message for holds, message in checks if not holds]:
        raise RecipeError("; ".join(broken))


def _plain_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        plain = (parts.username, parts.password, parts.port or 0)[:2] == (None, None)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and not (parts.query or parts.fragment)


def holds_secret(value: object) -> bool:
    """Whether a field at any depth is called as keys are."""
    if isinstance(value, list):
        return any(map(holds_secret, value))
    if not isinstance(value, Mapping):
        return False
    return any(str(name).lower().replace("-", "_") in SECRETS or holds_secret(inner) for name, inner in value.items())


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
