"""``evaluate.redact``: evidence that can be shared, without a word of the rows that it is about.

Every text goes, of every set: an answer to a harmless question may still tell what was to be forgotten. Ids and numbers
stay. Of the settings, those go that name what is forgotten; names that a user gave to files and runs stay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.table import BENCHMARKS
from expunge.errors import RecipeError
from expunge.methods.table import compose
from expunge.progress import say
from expunge.recipe import Recipe, expand

REDACTED = "(redacted)"
"""Stands where a text was."""
NOTE = "texts are redacted: what was asked, the true answers and what the models said are not shown"
WORKING_FILES = ("written.jsonl", "alternates.jsonl")
"""Rows that a model wrote for its unlearning, in the folders of their stages."""
_STAGES_WITH_TEXTS = ("written", "alternates", "evaluate", "harness", "report")
_OPTIONS = {"custom": ("entity",), "rwku": ("target",)}
"""Options of our own benchmarks that name what is forgotten."""
_UNLEARN, _EVALUATE = ("template", "keywords"), ("description", "system_instruction")
"""Settings, at any depth of these parts, that are texts of the user's own."""
_HASHED_GUARD = "keyword_filter"


# -- which texts -------------------------------------------------------------------------------------------------------


def telling_texts(recipe: Recipe, benchmark: Benchmark | None = None) -> frozenset[str]:
    """The texts among a recipe's settings, and what a benchmark hands to stages beside its rows."""
    runs = expand(recipe).values() if recipe.is_many else (recipe,)
    found = {text for run in runs for text in _texts_of(run)}
    if benchmark:
        found.update((*benchmark.pool, *benchmark.refusals))
        found.update(benchmark.writing.requests if benchmark.writing else ())
    return frozenset(found - {""})


def _texts_of(recipe: Recipe) -> Iterator[str]:
    for spec, options in ((recipe.data.benchmark, recipe.data.options), *recipe.data.also.items()):
        yield from _strings(_naming(spec, options))
    content = recipe.as_dict()
    for part, names in (("unlearn", _UNLEARN), ("evaluate", _EVALUATE)):
        yield from _named(content[part] or {}, names)


def _naming(spec: str, options: Mapping[str, Any]) -> list[Any]:
    """Values of the options that name what is forgotten; of a plugin's benchmark, every one that is no file."""
    name = BENCHMARKS.canonical(spec.partition(":")[0].strip())
    if BENCHMARKS.get(name).__module__.partition(".")[0] == __name__.partition(".")[0]:
        return [options[key] for key in _OPTIONS.get(name, ()) if key in options]
    return [text for text in _strings(list(options.values())) if not Path(text).expanduser().exists()]


def _named(content: Any, names: Collection[str]) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _strings(value) if key in names else _named(value, names)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _named(value, names)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for member in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(member)


# -- what is written ---------------------------------------------------------------------------------------------------


def without(content: Any, texts: Collection[str]) -> Any:
    """Nested values in which every text that is one of ``texts`` is replaced by :data:`REDACTED`."""
    if isinstance(content, str):
        return REDACTED if content in texts else content
    if isinstance(content, Mapping):
        return {key: without(value, texts) for key, value in content.items()}
    return [without(value, texts) for value in content] if isinstance(content, list | tuple) else content


def shown_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as its run's folder shows it: whole, or where it says ``redact`` without its texts."""
    content = recipe.as_dict()
    return without(content, telling_texts(recipe)) if recipe.redact else content


def shown_data(recipe: Recipe, benchmark: Benchmark) -> dict[str, Any]:
    """Where the rows came from, and their hashes. A place may bear the name that was asked for: then it is not said."""
    named = recipe.redact and any(_strings(_naming(recipe.data.benchmark, recipe.data.options)))
    return {"origin": REDACTED if named else benchmark.origin, **benchmark.hashes()}


def take_texts_out(folders: Iterable[Path], texts: Collection[str]) -> None:
    """Rid the folders of finished stages of rows that a model wrote, and of texts that an older version recorded."""
    for folder in folders:
        for name in WORKING_FILES:
            (folder / name).unlink(missing_ok=True)
        record = folder / "stage.json"
        content = json.loads(record.read_text(encoding="utf-8"))
        if (clean := {**content, "parts": without(content["parts"], texts)}) != content:
            partial = record.with_name(f"{record.name}.partial")
            partial.write_text(json.dumps(clean, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(partial, record)


def say_what_to_share(out: Path, stages: Path) -> None:
    """One line: what can be shared, and which folder cannot."""
    with_texts = any(next(stages.glob(f"*/{name}"), None) for name in WORKING_FILES) or any(
        record.parent.name.startswith(_STAGES_WITH_TEXTS) and '"redact": true' not in record.read_text(encoding="utf-8")
        for record in stages.glob("*/stage.json")
    )
    why = "the weights there know the rows" if any(stages.glob("*/model")) or any(stages.glob("*/adapter")) else ""
    also = "stages of runs without redact hold texts" if with_texts else ""
    if reasons := " and ".join(filter(None, (why, also))):
        say(f"redacted: {out} can be shared, but not {stages}: {reasons}")


# -- what cannot be ----------------------------------------------------------------------------------------------------


def check_redaction(recipe: Recipe) -> None:
    """Refuse what redaction cannot hide, and settings that it took out.

    Raises:
        RecipeError: one line with all of it.
    """
    problems = [f"{path}: was taken out by redact; give it again" for path in _taken(recipe.as_dict())]
    if recipe.redact:
        texts = telling_texts(recipe)
        problems += [
            f"matrix.{path}: its values name folders, which redact cannot hide; make each a run of its own"
            for path, values in recipe.matrix.items()
            if texts.intersection(_strings(values))
        ]
        problems += [] if recipe.is_many else _guard_problems(recipe)
    if problems:
        raise RecipeError("; ".join(problems))


def _taken(content: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _taken(value, f"{above}{key}.")
        elif REDACTED in _strings(value):
            yield f"{above}{key}"


def _guard_problems(recipe: Recipe) -> list[str]:
    if recipe.unlearn is None:
        return []
    try:
        kind = compose(recipe.unlearn, has_retain=True).guard.get("kind", _HASHED_GUARD)
    except RecipeError:  # what keeps the parts from fitting together is said by other checks
        return []
    if kind == _HASHED_GUARD:
        return []
    return [f"redact: guard {kind} keeps its text in clear beside the weights; use {_HASHED_GUARD}, which keeps hashes"]


def refuse_caches_inside(recipe: Recipe, out: Path) -> None:
    """Refuse to keep judges' replies, which repeat what they judge, in a folder that is to be shared.

    Raises:
        RecipeError: naming the setting.
    """
    if not recipe.redact or recipe.evaluate is None:
        return
    for role, options in recipe.evaluate.judges.items():
        cache = options.get("cache")
        if isinstance(cache, str) and Path(cache).expanduser().resolve().is_relative_to(out.resolve()):
            raise RecipeError(
                f"evaluate.judges.{role}.cache: lies in {out}, which redact makes fit to be shared, and replies repeat "
                "the rows; give another folder"
            )
