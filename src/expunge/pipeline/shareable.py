"""What of a run's settings may be shown to others: numbers and words of this package, and nothing a user wrote.

A template, a guard's keywords, a file's name, the name of a person that a benchmark was asked for: each can tell what
was to be forgotten. So a text is left out unless its field takes names from a closed list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LEFT_OUT = "left out"
_NAMED = frozenset({
    "kind", "method", "forget_term", "retain_term", "term", "view", "how", "unit", "base", "refresh", "pool",
    "published", "labels", "gate", "quant_type", "majority_sign", "target_modules", "pattern", "schedule", "optimizer",
    "attacks",
})  # fmt: skip
"""Fields whose texts are names in a table of ours, words of a closed list, or names of a model's own parts."""
_PUBLIC = re.compile(r"built in|[\w.-]+/[\w.-]+@[0-9a-f]{40}(/[\w.-]+)*")


def shareable(value: Any, field: str = "") -> Any:
    """Settings as plain values, every text that may be a user's own replaced by :data:`LEFT_OUT`."""
    if isinstance(value, Mapping):
        return {str(name): shareable(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item, field) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return value if isinstance(value, str) and field in _NAMED else LEFT_OUT


def shareable_origin(origin: str) -> str:
    """Where rows came from: what is built in or lies on the Hub at a revision is named, a user's files are not."""
    parts = [part.strip() for part in origin.split(";")]
    return "; ".join(part if _PUBLIC.fullmatch(part) else "files, not named here" for part in parts)
