"""What can be known of a recipe before data or weights are touched: every mistake at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from expunge.attacks.table import QUICK, attacks_named
from expunge.benchmarks.table import BENCHMARKS, benchmark_options
from expunge.errors import RecipeError, UserError, nearest
from expunge.evaluation.judges import check_judges
from expunge.evaluation.suites import check_measures, get_suites
from expunge.methods.auto import Situation, settled
from expunge.methods.table import METHODS, check_part, compose
from expunge.pipeline.harnessing import check_harness
from expunge.pipeline.redacting import check_redaction
from expunge.plugins import load_plugins
from expunge.recipe import DataPart, EvaluatePart, Recipe, UnlearnPart, expand
from expunge.scopes import SCOPES, make_scope
from expunge.training.edits import check_edit
from expunge.training.merge import compose_members, make_merge
from expunge.training.rules import make_rules
from expunge.training.trainer import check_optimizer

_NEVER = "checkpoint_minutes"
"""The one number that may be infinite: no resume points."""


def check_recipe(recipe: Recipe) -> None:
    """Check names, options, numbers and optional packages.

    Raises:
        RecipeError: one line with everything that is wrong.
    """
    load_plugins()
    if recipe.is_many:
        check_redaction(recipe)
        _check_variants(recipe)
        return
    checks: list[Callable[[], object]] = [
        partial(_check_purpose, recipe),
        partial(_check_numbers, recipe.as_dict()),
        partial(_check_scopes, recipe),
        partial(_check_rules, recipe.unlearn),
        partial(_check_edit, recipe.unlearn),
        partial(_check_merge, recipe),
        partial(_check_benchmarks, recipe.data),
        partial(_check_measures, recipe.evaluate),
        partial(_check_attack, recipe),
        partial(check_redaction, recipe),
        *(partial(_check_tracker, part.track) for part in (recipe.finetune, recipe.unlearn) if part),
        *(partial(check_optimizer, part.optimizer) for part in (recipe.finetune, recipe.unlearn) if part),
    ]
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("; ".join(dict.fromkeys(problems)))


def _check_variants(recipe: Recipe) -> None:
    """Every mistake of every variant at once; one that several share is said once."""
    problems: dict[str, list[str]] = {}
    for name, variant in expand(recipe).items():
        try:
            check_recipe(variant)
        except RecipeError as error:
            problems.setdefault(str(error), []).append(name)
    if problems:
        raise RecipeError("; ".join(f"variants {', '.join(names)}: {text}" for text, names in problems.items()))


def _check_purpose(recipe: Recipe) -> None:
    if not (recipe.finetune or recipe.unlearn or recipe.evaluate):
        raise RecipeError("the recipe does nothing: give it a finetune, unlearn or evaluate part")


def _check_attack(recipe: Recipe) -> None:
    if recipe.attack is None:
        return
    attacks_named(recipe.attack.attacks or QUICK)
    make_scope(recipe.attack.scope)
    if recipe.unlearn is None:
        raise RecipeError("attack: the recipe unlearns nothing; give it an unlearn part, or use `expunge attack`")


def _check_numbers(content: Mapping[str, Any]) -> None:
    wrong = [path for path, value in _floats(content) if not math.isfinite(value)]
    if wrong:
        raise RecipeError("; ".join(f"{path} must be a finite number" for path in wrong))


def _floats(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _floats(value, f"{path}.")
        elif isinstance(value, float) and not (key == _NEVER and value == math.inf):
            yield path, value


def _check_scopes(recipe: Recipe) -> None:
    """Types before ranges: a text where a number belongs would be compared with one."""
    problems = []
    for name, part in (("finetune", recipe.finetune), ("unlearn", recipe.unlearn)):
        scope = (part.scope if part else None) or {}
        kind = scope.get("kind", "full")
        if not isinstance(kind, str):
            problems.append(f"{name}.scope.kind must be a name, got {kind!r}")
        elif kind in SCOPES:
            problems += [f"{name}.scope.{problem}" for problem in _wrong_types(SCOPES.get(kind), scope)]
    if problems:
        raise RecipeError("; ".join(problems))
    check_part(recipe)


def _check_rules(part: UnlearnPart | None) -> None:
    if part is None:
        return
    try:
        composition = compose(part, has_retain=True)
    except RecipeError:
        # What keeps the parts from fitting together is said by the check of the scopes and terms.
        make_rules(part.rules or ())
    else:
        make_rules(composition.rules, composition.terms)


def _check_edit(part: UnlearnPart | None) -> None:
    if part is None:
        return
    try:
        composition = compose(part, has_retain=True)
        kind = make_scope(composition.scope).lr_kind
    except RecipeError:
        # As above: what else is wrong is said elsewhere.
        check_edit(part.edit or {})
    else:
        check_edit(composition.edit, lr_kind=kind, trains=composition.trains)


def _check_merge(recipe: Recipe) -> None:
    part = recipe.unlearn
    if part is None:
        return
    part = settled(part, Situation(to_4bit=part.to_4bit))
    if not (part.merge or METHODS.get(part.method).merge):
        return
    merge = compose(part, has_retain=True).merge
    for member, composition in compose_members(part, make_merge(merge), has_retain=True) if merge else ():
        _check_edit(member)
        make_rules(composition.rules, composition.terms)
    if merge and recipe.finetune and make_scope(recipe.finetune.scope or {}).folder == "adapter":
        raise RecipeError("merge: finetune.scope must be full; adapters are merged on whole weights")


def _wrong_types(scope: Any, settings: Mapping[str, Any]) -> Iterator[str]:
    types = get_type_hints(scope)
    for key in (field.name for field in dataclasses.fields(scope) if field.name in settings):
        try:
            TypeAdapter(types[key], config=ConfigDict(strict=True)).validate_python(settings[key])
        except ValidationError as error:
            if not isinstance(settings[key], list):  # a list stands for a tuple
                yield f"{key}: {error.errors()[0]['msg'].lower()}, got {settings[key]!r}"


def _check_benchmarks(data: DataPart) -> None:
    for spec, options in ((data.benchmark, data.options), *data.also.items()):
        _check_benchmark(spec, options)


def _check_benchmark(spec: str, options: Mapping[str, Any]) -> None:
    name, colon, _ = spec.partition(":")
    name = BENCHMARKS.canonical(name)
    accepted = [key for key in benchmark_options(spec) if not (colon and key == "split")]
    for option in options:
        if option not in accepted:
            hint = nearest(str(option), accepted)
            raise RecipeError(f"benchmark {name!r} has no option {option!r}{hint}; accepted: {', '.join(accepted)}")


def _check_measures(part: EvaluatePart | None) -> None:
    """The benchmark's own suites are known only once it is loaded; those that are named, now."""
    if part is None:
        return
    check_judges(part.judges)
    check_harness(part.harness)
    if part.suites is not None:
        check_measures(get_suites(part.suites), part.measures)


def _check_tracker(name: str) -> None:
    """A missing tracker must not be found out after the model was loaded."""
    if name != "none" and find_spec(name) is None:
        raise RecipeError(f'track={name} (--report-to {name}) needs its package: pip install "expunge[track]"')
