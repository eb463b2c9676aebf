"""What the named fields of one record mean: question and answer, raw text, a preference, or a chat.

Messages name fields and positions, never contents: a forget set must not leak into a log.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from expunge.data.rows import Row

PROMPT_FIELDS = ("question", "prompt", "text", "input", "instruction")
ANSWER_FIELDS = ("answer", "completion", "labels", "response", "output", "gt")
ACCEPTED = (
    f"accepted: {{{'|'.join(PROMPT_FIELDS)}}} with {{{'|'.join(ANSWER_FIELDS)}}}, {{text}} alone, "
    "{prompt, chosen, rejected}, or {messages}"
)

_EXTRA_FIELDS = {
    "paraphrased_prompt": ("paraphrased_question", "paraphrased_prompt"),
    "paraphrased_answer": ("paraphrased_answer",),
    "alternate": ("alternate", "idk"),
}
_PERTURBED_FIELDS = ("perturbed_answer", "perturbed_answers")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")

Record = Mapping[str, object]


class BadRecord(ValueError):  # noqa: N818  (it is also carried as a value, in the place of the record it is about)
    """One record cannot become a row; the message names the field, not what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    prompt: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    alternate: str | None = None


def row_from_record(record: object, *, row_id: str, origin: str = "") -> Row:
    """Return the :class:`Row` a record of named fields describes.

    The fields decide the kind: ``messages`` is a chat, ``chosen``/``rejected`` a preference, any of
    :data:`ANSWER_FIELDS` a question with its answer, ``text`` without one of those raw text.
    ReLearn's preference file and its written variants are read by their own names (:func:`_published`).
    Field names are matched without regard to case. Raises :class:`BadRecord` where a field is missing,
    empty, of the wrong type or said twice.
    """
    fields = _published(_named_fields(record))
    if "messages" in fields:
        example = _chat(fields)
    elif "chosen" in fields or "rejected" in fields:
        example = _preference(fields)
    elif any(name in fields for name in ANSWER_FIELDS):
        example = _Example(prompt=_prompt(fields), answer=_text(fields, _one_of(fields, ANSWER_FIELDS)))
    else:
        example = _raw_text(fields)
    extras = {name: _optional(fields, names) for name, names in _EXTRA_FIELDS.items()}
    if example.alternate is not None and extras["alternate"] is not None:
        raise BadRecord("'rejected' and 'alternate' both give another answer; keep one of them")
    return Row(
        id=row_id,
        prompt=example.prompt,
        answer=example.answer,
        history=example.history,
        paraphrased_prompt=extras["paraphrased_prompt"],
        paraphrased_answer=extras["paraphrased_answer"],
        perturbed_answers=_perturbed(fields),
        alternate=example.alternate if example.alternate is not None else extras["alternate"],
        origin=origin,
    )


def record_from_row(row: Row) -> dict[str, object]:
    """Return the record that :func:`row_from_record` reads back as ``row`` (its id and origin aside)."""
    record: dict[str, object]
    if row.history:
        turns = (*row.history, ("user", row.prompt), ("assistant", row.answer))
        record = {"messages": [{"role": role, "content": content} for role, content in turns]}
    elif row.prompt:
        record = {"question": row.prompt, "answer": row.answer}
    else:
        record = {"text": row.answer}
    extras = {
        "paraphrased_question": row.paraphrased_prompt,
        "paraphrased_answer": row.paraphrased_answer,
        "perturbed_answer": list(row.perturbed_answers) or None,
        "alternate": row.alternate,
    }
    return record | {name: value for name, value in extras.items() if value is not None}


def unique_fields(pairs: Iterable[tuple[str, object]]) -> object:
    """Return the pairs as a dict, or the :class:`BadRecord` that says which name stands twice (a JSON pairs hook)."""
    record: dict[str, object] = {}
    for name, value in pairs:
        if name in record:
            return BadRecord(f"{shown(name)} stands twice; keep one of them")
        record[name] = value
    return record


def shown(name: str) -> str:
    """Return a field name for a message; one that does not look like a name may be content and is not shown."""
    return f"field {name!r}" if _PLAIN_NAME.fullmatch(name) else "a field"


def whole(text: str, field: str) -> str:
    """Return the text of a field, or raise the :class:`BadRecord` that says that a character of it is cut in two."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord(f"field {field!r} holds half a surrogate pair, which no tokenizer can read") from None
    return text


def _named_fields(record: object) -> dict[str, object]:
    if not isinstance(record, Mapping):
        raise BadRecord(f"a row must be an object of named fields, got {_kind(record)}")
    folded = unique_fields((str(name).strip().lower(), value) for name, value in record.items())
    if isinstance(folded, BadRecord):
        raise folded
    return dict(folded) if isinstance(folded, dict) else {}


def _published(fields: Record) -> Record:
    """Fields of ReLearn's files under the names used here; other records as they are.

    ``{question, positive_answer, negative_answer}``: the original answer is the negative one, the vague one becomes the
    alternate. ``{original_question, original_answer, question_variants, answer_variants}``, lists or null: the first
    variant of each is used; the first answer is the one to the original question.
    """
    if {"positive_answer", "negative_answer"} <= fields.keys():
        return _renamed(fields, {"negative_answer": "answer", "positive_answer": "alternate"})
    if {"original_question", "original_answer"} <= fields.keys():
        first = {name: _first(fields, name) for name in ("question_variants", "answer_variants")}
        names = {"original_question": "question", "original_answer": "answer", "answer_variants": "alternate"}
        return _renamed({**fields, **first}, names | {"question_variants": "paraphrased_question"})
    return fields


def _renamed(fields: Record, names: Mapping[str, str]) -> Record:
    renamed = unique_fields((names.get(name, name), value) for name, value in fields.items())
    if isinstance(renamed, BadRecord):
        raise renamed
    return dict(renamed) if isinstance(renamed, dict) else {}


def _first(fields: Record, name: str) -> object:
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise BadRecord(f"field {name!r} must be a list of texts or null, got {_kind(value)}")
    return value[0] if value else None


def _raw_text(fields: Record) -> _Example:
    """A row without an answer is raw text only if ``text`` is the one field that could be a prompt."""
    if _slip(fields, ANSWER_FIELDS) or [name for name in PROMPT_FIELDS if name in fields] != ["text"]:
        raise BadRecord(_missing("answer", fields, ANSWER_FIELDS))
    return _Example(prompt="", answer=_text(fields, "text"))


def _preference(fields: Record) -> _Example:
    for name in ("chosen", "rejected"):
        if name not in fields:
            raise BadRecord(_missing(repr(name), fields, (name,)))
    if doubled := [name for name in ANSWER_FIELDS if name in fields]:
        raise BadRecord(f"fields 'chosen' and {doubled[0]!r} both give the answer; keep one of them")
    return _Example(prompt=_prompt(fields), answer=_text(fields, "chosen"), alternate=_text(fields, "rejected"))


def _chat(fields: Record) -> _Example:
    messages = fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise BadRecord(f"field 'messages' must be a list of {{role, content}}, got {_kind(messages)}")
    turns = [_turn(turn, index) for index, turn in enumerate(messages)]
    roles = [role for role, _ in turns]
    if "assistant" not in roles:
        raise BadRecord("field 'messages' has no turn of role 'assistant', which would be the answer")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    if last == 0 or roles[last - 1] != "user":
        raise BadRecord("field 'messages': the turn before the last assistant turn must be of role 'user'")
    return _Example(prompt=turns[last - 1][1], answer=turns[last][1], history=tuple(turns[: last - 1]))


def _turn(turn: object, index: int) -> tuple[str, str]:
    place = f"messages[{index}]"
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        raise BadRecord(f"field '{place}' must be an object with 'role' and 'content'")
    return _text(turn, "role", place=place), _text(turn, "content", place=place)


def _prompt(fields: Record) -> str:
    present = {name for name in PROMPT_FIELDS if name in fields}
    if {"instruction", "input"} <= present <= {"instruction", "input", "text"}:
        # Alpaca's layout: the input may be empty, and `text` repeats the whole example already formatted.
        context = _optional(fields, ("input",))
        instruction = _text(fields, "instruction")
        return f"{instruction}\n\n{context}" if context is not None else instruction
    return _text(fields, _one_of(fields, PROMPT_FIELDS))


def _one_of(fields: Record, names: tuple[str, ...]) -> str:
    present = [name for name in names if name in fields]
    role = "prompt" if names is PROMPT_FIELDS else "answer"
    if not present:
        raise BadRecord(_missing(role, fields, names))
    if len(present) > 1:
        raise BadRecord(f"fields {' and '.join(map(repr, present))} could each be the {role}; keep one of them")
    return present[0]


def _missing(what: str, fields: Record, names: tuple[str, ...]) -> str:
    plain = [name for name in fields if _PLAIN_NAME.fullmatch(name)]
    hidden = f" and {len(fields) - len(plain)} not shown" if len(fields) > len(plain) else ""
    found = (", ".join(plain[:12]) or "none") + hidden
    slip = _slip(plain, names)
    hint = f" (is {slip[0]!r} meant to be {slip[1]!r}?)" if slip else ""
    return f"no {what} field{hint}; found: {found}; {ACCEPTED}"


def _slip(fields: Iterable[str], names: tuple[str, ...]) -> tuple[str, str] | None:
    """A field that is almost one of ``names``, with the name it almost is."""
    for field in fields:
        if field not in PROMPT_FIELDS and (close := difflib.get_close_matches(field, names, n=1, cutoff=0.75)):
            return field, close[0]
    return None


def _optional(fields: Record, names: tuple[str, ...]) -> str | None:
    """The first of ``names`` that is there; null or blank (an empty cell of a table) counts as not there."""
    for name in names:
        value = fields.get(name)
        if not _is_blank(value):
            return _text(fields, name)
    return None


def _perturbed(fields: Record) -> tuple[str, ...]:
    for name in _PERTURBED_FIELDS:
        value = fields.get(name)
        if _is_blank(value):
            continue
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _json_list(value, name)
        answers = value if isinstance(value, list) else [value]
        return tuple(_text({f"{name}[{i}]": answer}, f"{name}[{i}]") for i, answer in enumerate(answers))
    return ()


def _json_list(cell: str, name: str) -> list[object]:
    """A table's cell holds several answers as a JSON list; Python's own list notation would be read as one answer."""
    try:
        return list(json.loads(cell))
    except ValueError:
        raise BadRecord(f"field {name!r} starts with '[' but is no JSON list of texts") from None


def _is_blank(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _text(fields: Record, name: str, *, place: str = "") -> str:
    value, field = fields[name], f"{place}.{name}" if place else name
    if _is_blank(value):
        raise BadRecord(f"field {field!r} is empty")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRecord(f"field {field!r} must be text or a number, got {_kind(value)}")
    return whole(str(value), field)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return {"dict": "an object", "str": "text", "bool": "true/false", "int": "a number", "float": "a number"}.get(
        type(value).__name__, type(value).__name__
    )
