"""Reading recipes: nested dictionaries and YAML into parts, every mistake at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from expunge.errors import RecipeError, nearest
from expunge.recipe.parts import (
    AttackPart,
    BudgetPart,
    DataPart,
    EvaluatePart,
    FinetunePart,
    ModelPart,
    Recipe,
    UnlearnPart,
)


@lru_cache
def _adapter(owner: Any) -> TypeAdapter[Any]:
    """Built once: it costs a tenth of a second."""
    return TypeAdapter(owner)


def parse_recipe(data: Mapping[str, Any], origin: str = "recipe") -> Recipe:
    """Build a recipe from nested dictionaries, or list everything that is wrong with them.

    Raises:
        RecipeError: one line with every wrong key (and the nearest valid one), type and range.
    """
    recipe: Recipe = _parse(Recipe, _expand_scopes(data), origin)
    return recipe


def parse_attack(data: Mapping[str, Any]) -> AttackPart:
    """Build the settings of attacks; errors as in :func:`parse_recipe`."""
    part: AttackPart = _parse(AttackPart, _expand_scopes({"attack": data})["attack"], "attack")
    return part


def _parse(owner: Any, remaining: dict[str, Any], origin: str) -> Any:
    problems: list[str] = []
    while True:
        try:
            found = _adapter(owner).validate_python(remaining)
        except ValidationError as error:
            # A part with a wrong type or key never gets to its range checks: drop what is wrong and look again.
            problems += [_describe(item, owner) for item in error.errors()]
            dropped = [_drop(remaining, item["loc"]) for item in error.errors()]
            if not all(dropped):
                break
        except RecipeError as error:
            problems.append(str(error))
            break
        else:
            break
    if problems:
        raise RecipeError(f"{origin}: {'; '.join(dict.fromkeys(problems))}")
    return found


def _drop(data: dict[str, Any], path: tuple[str | int, ...]) -> bool:
    """Remove the value at ``path``; False if it is not there any more."""
    target: Any = data
    for step in path[:-1]:
        if not isinstance(target, dict) or step not in target:
            return False
        target = target[step]
    if not path or not isinstance(target, dict) or path[-1] not in target:
        return False
    del target[path[-1]]
    return True


def _expand_scopes(data: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``scope: lora`` stand for ``scope: {kind: lora}``."""
    out = deep_copy(data)
    for part in ("finetune", "unlearn", "attack"):
        section = out.get(part)
        if isinstance(section, Mapping) and isinstance(section.get("scope"), str):
            out[part] = {**section, "scope": {"kind": section["scope"]}}
    return out


def _describe(item: Mapping[str, Any], whole: type) -> str:
    path = [str(step) for step in item["loc"]]
    if item["type"] == "unexpected_keyword_argument":
        options = _fields_at(path[:-1], whole)
        hint = nearest(path[-1], options) or f" (known: {', '.join(sorted(options))})"
        return f"unknown key {'.'.join(path)!r}{hint}"
    where = ".".join(path)
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if item["type"] == "value_error":
        return "; ".join(f"{where}.{part}" if where else part for part in message.split("; "))
    return f"{where}: {message}, got {item['input']!r}"


def _fields_at(path: list[str], whole: type) -> list[str]:
    """The valid keys below a path of a recipe, or of the part that was read by itself."""
    parts: dict[str, type] = {
        "model": ModelPart,
        "data": DataPart,
        "finetune": FinetunePart,
        "unlearn": UnlearnPart,
        "evaluate": EvaluatePart,
        "attack": AttackPart,
        "budget": BudgetPart,
    }
    owner = next((parts[step] for step in reversed(path) if step in parts), whole)
    return [f.name for f in dataclasses.fields(owner)]


def read_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a YAML recipe and apply ``key.sub=value`` overrides.

    Raises:
        RecipeError: missing file, broken YAML, or anything :func:`parse_recipe` finds.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot read the recipe: {getattr(error, 'strerror', None) or error}") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise RecipeError(f"{where}: broken YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping of parts (model, data, unlearn ...), got {type(data).__name__}"
        )
    data.setdefault("name", path.stem)
    return parse_recipe(apply_overrides(_expand_scopes(data), overrides), str(path))


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set ``a.b=value`` pairs in nested dictionaries; values are read as YAML (``1e-5`` is a number).

    Raises:
        RecipeError: for an override that is not ``key=value``, or that goes below something that is not a mapping.
    """
    out = deep_copy(data)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set takes key=value, for instance unlearn.term.beta=0.2; got {item!r}")
        target = out
        *parents, last = key.strip().split(".")
        for step in parents:
            if target.get(step) is None:
                target[step] = {}
            target = target[step]
            if not isinstance(target, dict):
                raise RecipeError(f"--set {key}: {step!r} is not a part with keys of its own")
        target[last] = _read_scalar(text)
    return out


def _read_scalar(text: str) -> Any:
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        # YAML 1.1 reads 1e-5 as a string, which surprises everybody.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def deep_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries that can be changed without changing ``data``."""
    return {key: deep_copy(value) if isinstance(value, Mapping) else value for key, value in data.items()}
