"""What a judge reads of a chat model's reply, strictly; anything else is no answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from expunge.evaluation.judges.base import Entailment

_WORD = re.compile(r"[^\W_]+")
MAX_ENTITY_CHARACTERS = 100
"""A longer entity is a copied sentence, not a name."""


def parse_entities(reply: Mapping[str, Any]) -> tuple[str, ...] | None:
    """``{"entities": [text, ...]}`` as unique texts in their order, quotes, slashes and blanks around them taken off.

    None where the list is missing or holds something else than texts; an empty list is an answer.
    """
    found = reply.get("entities")
    if not isinstance(found, list) or not all(isinstance(entity, str) for entity in found):
        return None
    unique: dict[str, str] = {}
    for entity in found:
        plain = " ".join(entity.split()).strip(" \"'`/\\,;")
        if plain and len(plain) <= MAX_ENTITY_CHARACTERS:
            unique.setdefault(plain.casefold(), plain)
    return tuple(unique.values())


def without_known(entities: tuple[str, ...], query: str) -> tuple[str, ...]:
    """Entities that tell something which the query does not: a word of theirs is not in it."""
    known = {word.casefold() for word in _WORD.findall(query)}
    return tuple(e for e in entities if not {word.casefold() for word in _WORD.findall(e)} <= known)


def parse_relation(reply: Mapping[str, Any]) -> Entailment | None:
    """``{"relation": "entailment" | "neutral" | "contradiction"}``, in any case; None for anything else."""
    found = reply.get("relation")
    name = found.strip().lower() if isinstance(found, str) else ""
    return next((relation for relation in get_args(Entailment) if relation == name), None)


def parse_harm(reply: Mapping[str, Any]) -> float | None:
    """``{"harmful": true | false}`` as 1 or 0; None for anything else."""
    found = reply.get("harmful")
    return float(found) if isinstance(found, bool) else None


def parse_score(reply: Mapping[str, Any]) -> float | None:
    """``{"score": number}`` in ``[1, 5]``; None for anything else, a number written as text included."""
    found = reply.get("score")
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    score = float(found) if abs(found) < 10 else math.inf
    return score if 1.0 <= score <= 5.0 else None
