"""`expunge certify`: what a finished run can show, in one file: what was asked, done, measured, tried and not tried."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.benchmarks.custom_made import MAKES
from expunge.data.rows import rows_hash
from expunge.errors import UserError
from expunge.methods.table import Composition, compose
from expunge.models.guards import GUARD_FILE
from expunge.models.load import BUILTIN_MODEL
from expunge.pipeline.auditing import BELOW
from expunge.pipeline.certificate_file import DIGEST, NAME, PAGE, SCHEMA, digest, write_files
from expunge.pipeline.certified_evidence import attacked, measured, verdict_on_both
from expunge.pipeline.environment import environment
from expunge.pipeline.folder import RETAIN_MODEL, RUN, read_manifest, weights_folder
from expunge.pipeline.hashes import model_record
from expunge.pipeline.shareable import LEFT_OUT, shareable, shareable_origin
from expunge.recipe import Recipe, UnlearnPart, parse_recipe
from expunge.reporting.certificate import render_certificate
from expunge.reporting.content import plain

LIMITS = (
    "It says what was measured on the rows that the hashes stand for, under the attacks listed as tried. It does not "
    "prove that anything is erased.",
    "What was not asked, and what an attack that is not listed as tried would find, is unknown.",
    "It is about the files whose hashes it holds. The same model merged, exported, quantised or trained further is "
    "another one.",
    "The digest shows whether the file was changed after it was written. It is no signature: whoever can write a file "
    "can write another certificate.",
)
"""True of every certificate."""
_COMPOSED = frozenset({
    "method", "term", "forget_term", "retain_term", "view", "template", "spare_question", "scope", "layer", "gamma",
    "alpha", "rules", "edit", "guard", "merge", "stop_loss",
})  # fmt: skip
"""Settings that the composition says already, defaults filled in."""
_NO_EFFECT = frozenset({"checkpoint_minutes", "keep_every", "track"})
_DONE = ("steps", "planned_steps", "lr", "trainable_parameters", "trainable_share", "stopped")


@dataclass(frozen=True)
class Certificate:
    """What was written, and where."""

    content: Mapping[str, Any]
    file: Path
    page: Path


@dataclass(frozen=True)
class _Run:
    """A finished run that unlearned something."""

    folder: Path
    manifest: Mapping[str, Any]
    recipe: Recipe
    unlearn: UnlearnPart
    composition: Composition

    @property
    def suppressed(self) -> bool:
        """Whether a guard stands before the weights."""
        return bool(self.composition.guard) or (weights_folder(self.folder) / GUARD_FILE).is_file()

    @property
    def asked(self) -> str | None:
        """Hash of the forget rows that its models were asked."""
        data = self.manifest["data"]
        return data.get("probe:forget", data.get("forget"))


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


def certify_run(run: str | Path, *, attacks: Sequence[str | Path] = (), out: str | Path | None = None) -> Certificate:
    """Write ``certificate.json`` and ``certificate.html`` about a finished run.

    Args:
        run: its folder.
        attacks: folders of ``expunge attack`` on this run's very model; the run's own attacks always count.
        out: folder for both files; the run's own by default.

    Raises:
        UserError: the run was not finished or unlearned nothing, its weights are not those that it made, or attacks
            are of another model.
    """
    found = _finished(run)
    own = found.folder / BELOW
    content = _content(found, [*([own] if read_manifest(own) else []), *attacks])
    folder = Path(out).expanduser() if out is not None else found.folder
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_files(folder, {NAME: text, PAGE: render_certificate(content)})
    return Certificate(content, folder / NAME, folder / PAGE)


def _finished(run: str | Path) -> _Run:
    """A run folder, if there is something to certify in it."""
    folder = Path(run).expanduser()
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{run}: no run here; give the folder of a finished `expunge unlearn` or `expunge run`")
    if (kind := manifest.get("kind")) != RUN:
        raise UserError(f"{run}: holds the result of something else ({kind}); give the folder of a single run")
    if manifest.get("status") != "done":
        raise UserError(f"{run}: the run was not finished; run the same command again first")
    if not all(isinstance(manifest.get(name), dict) for name in ("recipe", "model", "data", "stages")):
        raise UserError(f"{run}: its run.json is not whole; run the same command again")
    recipe = parse_recipe(manifest["recipe"], str(run))
    if recipe.unlearn is None:
        raise UserError(f"{run}: nothing was unlearned in this run, so there is nothing to certify")
    has_retain = manifest["data"].get("retain") != rows_hash(())
    return _Run(folder, manifest, recipe, recipe.unlearn, compose(recipe.unlearn, has_retain=has_retain))


def _content(run: _Run, attacks: Sequence[str | Path]) -> dict[str, Any]:
    model = model_record(run.folder)
    _refuse_changed(run, model)
    evidence, verdict = measured(run.folder, run.manifest["recipe"])
    tried, verdicts, warnings = attacked(run.folder, attacks, run.asked)
    both = verdict_on_both(verdict, verdicts, suppressed=run.suppressed)
    content = {
        "schema": SCHEMA,
        "kind": "certificate",
        "written": now().astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "verdict": both,
        "asked": _asked(run),
        "method": _method(run),
        "base_model": _base_model(run),
        "model": model,
        "evidence": {**evidence, "verdict": verdict},
        "attacks": tried,
        "environment": {"run": run.manifest.get("environment"), "certificate": environment()},
        "warnings": [*_warnings(run, evidence["models"]), *warnings],
        "limits": list(LIMITS),
    }
    content = plain(content)
    return {**content, DIGEST: digest(content)}


def _refuse_changed(run: _Run, model: Mapping[str, Any]) -> None:
    known = (run.manifest.get("result") or {}).get("sha256")
    if known is not None and known != model["sha256"]:
        raise UserError(
            f"{run.folder}: its weights are not those that the run made and measured; put them back, or run the same "
            "command again"
        )


# -- its parts --------------------------------------------------------------------------------------------------------


def _asked(run: _Run) -> dict[str, Any]:
    """What was to be forgotten: where from, how many rows, and their hashes."""
    data, manifest = run.recipe.data, run.manifest
    shown = {name: _option(name, value) for name, value in data.options.items()}
    return {
        "benchmark": data.benchmark,
        "also": sorted(data.also),
        "origin": shareable_origin(str(manifest["data"].get("origin", ""))),
        "options": {name: value for name, value in shown.items() if value != LEFT_OUT},
        "options_left_out": sorted(name for name, value in shown.items() if value == LEFT_OUT),
        "rows": manifest.get("rows"),
        "rows_measured": manifest["stages"].get("evaluate before", {}).get("rows"),
        DIGEST: {name: value for name, value in manifest["data"].items() if name != "origin"},
    }


def _option(name: str, value: Any) -> Any:
    """A benchmark's option as it may be shown: numbers, and what it was told to make."""
    if name == "make":
        names = value.split(",") if isinstance(value, str) else value
        return [known for known in MAKES if known in [str(one).strip() for one in names]]
    return value if value is None or isinstance(value, bool | int | float) else LEFT_OUT


def _method(run: _Run) -> dict[str, Any]:
    """What was done: the composition with all its settings, how it was trained, what came of it."""
    method, part = run.composition.method, dataclasses.asdict(run.unlearn)
    training = {name: value for name, value in part.items() if name not in _COMPOSED | _NO_EFFECT}
    done = run.manifest["stages"].get("unlearn", {})
    return {
        "name": method.key,
        "title": method.title,
        "paper": method.paper,
        "claim": method.claim,
        "suppression": run.suppressed,
        "composition": _composition(run.composition),
        "training": shareable(training),
        "done": {name: done[name] for name in _DONE if name in done},
        "seed": run.recipe.seed,
    }


def _composition(composition: Composition) -> dict[str, Any]:
    resolved = composition.resolved()
    # Which package brought what: not a user's words.
    plugins = {"plugins": resolved.pop("plugins")} if "plugins" in resolved else {}
    terms = {
        side: [
            {"term": of.term.key, "weight": of.weight, "settings": _settings(of.settings, of.term.choices)}
            for of in members
        ]
        for side, members in (("forget", composition.forget), ("retain", composition.retain))
    }
    return {**shareable(resolved), **terms, **plugins}


def _settings(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name in choices else shareable(value) for name, value in settings.items()}


def _base_model(run: _Run) -> dict[str, Any]:
    """The model that all began with; by name where that is public."""
    found, source = run.manifest["model"], run.recipe.model.path
    public = source == BUILTIN_MODEL or found.get("on_hub") is True
    return {
        "name": source if public else None,
        DIGEST: found.get("sha256"),
        "finetuned_first": run.recipe.finetune is not None,
    }


def _warnings(run: _Run, models: Sequence[str]) -> Iterator[str]:
    """What is true of this certificate and not of every one."""
    claim, key = run.composition.method.claim, run.composition.method.key
    if run.suppressed:
        yield (
            "This is suppression, not erasure: a guard stands before the weights, and whoever loads them without it "
            "gets the answers that the weights give."
        )
    if claim in ("control", "keeps"):
        yield f"The method {key} is a control: it is not meant to make a model forget."
    if not models:
        yield "Nothing was measured in this run."
    elif RETAIN_MODEL not in models:
        yield "No model that never saw the rows was measured: how much of them is left by chance is unknown."
    if "result" not in run.manifest:
        yield (
            "The run did not write down the hash of its weights: that they are the measured ones rests on its folder "
            "having been left alone."
        )
    made, here = (run.manifest.get("environment") or {}).get("code"), environment()["code"]
    if made != here:
        yield (
            "The run was made by other code than wrote this certificate; the composition is the recipe's as this code "
            "reads it."
        )
