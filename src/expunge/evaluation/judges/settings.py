"""Which judge fills which role, read from ``evaluate.judges`` and checked before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from expunge.errors import RecipeError, nearest, unknown
from expunge.llm.options import SECRETS, EndpointOptions, require

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True)
class OfflineOptions:
    """A stated rule of ours: nothing to set."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True, kw_only=True)
class MiniLMOptions:
    """all-MiniLM-L6-v2, taken once from a Python package."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    batch_size: int = 32
    """Texts encoded together."""

    def __post_init__(self) -> None:
        require([(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")])


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """A model in safetensors, from a folder or the Hub."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    model: str
    """A folder or a Hub id."""
    revision: str | None = None
    """Commit or tag on the Hub."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` ..."""
    batch_size: int = 16
    """Texts read together."""
    max_length: int = 512
    """Tokens that are read; the rest of a text is cut off."""

    def __post_init__(self) -> None:
        require(
            [
                (bool(self.model.strip()), "model must name a folder or a Hub id"),
                (self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}"),
                (self.max_length >= 8, f"max_length must be at least 8, got {self.max_length}"),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class EntailmentOptions(ModelOptions):
    """An NLI classifier."""

    labels: tuple[str, ...] = ()
    """Relations in the order of the model's classes, where its own names do not tell them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = ["contradiction", "entailment", "neutral"]
        named = sorted(self.labels) in ([], wanted)
        require([(named, f"labels must be {', '.join(wanted)} in the model's order, got {list(self.labels)}")])


@dataclass(frozen=True, kw_only=True)
class HarmOptions(ModelOptions):
    """A moderation or toxicity classifier."""

    label: str | None = None
    """The class whose probability is meant, where its name does not tell."""
    with_prompt: bool = False
    """Give the model prompt and answer as a pair, as question-answer moderation wants."""


@dataclass(frozen=True, kw_only=True)
class GibberishOptions(ModelOptions):
    """A gibberish detector; OpenUnlearning reads 32 tokens (MUSE: 512)."""

    max_length: int = 32
    """Tokens that are read; the rest of a text is cut off."""
    label: str | None = None
    """The class that means clean, where its name does not tell."""


@dataclass(frozen=True)
class Choice:
    """One role and the judge that fills it."""

    role: str
    kind: str
    options: Any
    """One of the option classes above."""


KINDS: Mapping[str, Mapping[str, type]] = {
    "entities": {"rules": OfflineOptions, "endpoint": EndpointOptions},
    "entailment": {"rules": OfflineOptions, "hf": EntailmentOptions, "endpoint": EndpointOptions},
    "encoder": {"hashed": OfflineOptions, "minilm": MiniLMOptions, "hf": ModelOptions},
    "harm": {"rules": OfflineOptions, "hf": HarmOptions, "endpoint": EndpointOptions},
    "gibberish": {"rules": OfflineOptions, "hf": GibberishOptions},
    "reward": {"none": OfflineOptions, "hf": ModelOptions},
    "rater": {"none": OfflineOptions, "endpoint": EndpointOptions},
}
"""What can fill each role; the first kind is the default, and needs no network."""
ROLES = tuple(KINDS)

_HOW = ("device", "batch_size", "key_env", "timeout", "tries", "concurrency", "cache")
"""Options that change how an answer is had, not which."""


def read_judges(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Choice]:
    """Every role with its judge; a role that the settings leave out has its offline default.

    Args:
        settings: ``evaluate.judges``: by role, ``kind`` and the options of that kind. Nothing is loaded or asked.

    Raises:
        RecipeError: one line with every unknown role, kind and option (and the nearest valid one), type and range.
    """
    problems: list[str] = []
    choices = {role: _default(role) for role in ROLES}
    for role, given in settings.items():
        if role not in KINDS:
            problems.append(f"evaluate.judges: {unknown('role', str(role), ROLES)}")
            continue
        found = _choice(role, given)
        if isinstance(found, Choice):
            choices[role] = found
        else:
            problems += [f"evaluate.judges.{role}{line}" for line in found]
    if problems:
        raise RecipeError("; ".join(problems))
    return choices


def check_judges(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise what :func:`read_judges` raises; cheap, and touches nothing outside the settings."""
    read_judges(settings)


def judge_identity(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What decides the judges' answers, by role, defaults filled in: for the key of a cached stage.

    Batch sizes, devices, key names, retries and cache folders are left out.
    """
    return {
        choice.role: {"kind": choice.kind}
        | {name: value for name, value in dataclasses.asdict(choice.options).items() if name not in _HOW}
        for choice in read_judges(settings).values()
    }


def _default(role: str) -> Choice:
    kind, options = next(iter(KINDS[role].items()))
    return Choice(role, kind, options())


def _choice(role: str, given: object) -> Choice | list[str]:
    """The judge that one role's settings describe, or what is wrong with them, each as the end of a path."""
    kinds = KINDS[role]
    if not isinstance(given, Mapping):
        return [f": takes a mapping such as {{kind: {next(iter(kinds))}}}, got {type(given).__name__}"]
    if "kind" not in given:
        return [f": kind is missing; known: {', '.join(kinds)}"]
    kind = given["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        return [f": {unknown('kind', str(kind), kinds)}"]
    options = {str(name): value for name, value in given.items() if name != "kind"}
    made, problems = read_options(kinds[kind], options)
    return problems or Choice(role, kind, made)


def read_options(owner: type, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """An option class from its fields, or every mistake in them, each as the end of a path."""
    known = [f.name for f in dataclasses.fields(owner)]
    problems = [_stray(name, known) for name in given if name not in known]
    rest = {name: value for name, value in given.items() if name in known}
    try:
        return TypeAdapter(owner).validate_python(rest), problems
    except ValidationError as error:
        return None, problems + [line for item in error.errors() for line in _describe(item)]
    except RecipeError as error:
        return None, [*problems, *_ranges(str(error))]


def _stray(name: str, known: Iterable[str]) -> str:
    if name.lower() in SECRETS:
        return f".{name}: a key does not belong in a recipe; name the environment variable that holds it with key_env"
    names = sorted(known)
    hint = nearest(name, names) or (f" (known: {', '.join(names)})" if names else " (this kind has no options)")
    return f": unknown option {name!r}{hint}"


def _describe(item: Mapping[str, Any]) -> list[str]:
    # Values are not repeated: one of them may be a key in the wrong place.
    where = ".".join(str(step) for step in item["loc"])
    if item["type"] == "missing":
        return [f".{where}: is missing"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return _ranges(message)
    return [f".{where}: {message[0].lower()}{message[1:]}, got {type(item['input']).__name__}"]


def _ranges(message: str) -> list[str]:
    return [f".{part}" for part in message.split("; ")]
