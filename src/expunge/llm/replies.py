"""Reading a chat model's reply: the first JSON object in it, strictly; anything else is no answer."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)


def first_object(reply: str) -> dict[str, Any] | None:
    """The first JSON object of a reply; None when it is broken or not there.

    A block of thoughts (``<think>...</think>``) is no part of the answer. The object may stand in prose or in a code
    fence. NaN and Infinity, which JSON does not know, make it broken.
    """
    text = _THOUGHT.sub(" ", reply)
    start = text.find("{")
    if start < 0:
        return None
    try:
        found, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
