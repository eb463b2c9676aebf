"""The harness's tasks on a model, as a stage: run once, kept by content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expunge.errors import RecipeError, unknown
from expunge.evaluation.harness import HarnessSettings, run_harness
from expunge.evaluation.harness_suites import HARNESS_SUITES, run_harness_suite
from expunge.evaluation.lm_eval_bridge import task_manager
from expunge.evaluation.metrics import Metric, MetricValue
from expunge.evaluation.suites.base import described
from expunge.models.load import LoadedModel, let_go
from expunge.pipeline.folder import write_json
from expunge.pipeline.known import content_hash
from expunge.pipeline.redacting import without
from expunge.pipeline.stages import Stage, StageStore
from expunge.reporting.content import plain

VALUES = "harness.json"
"""Values by ``task/metric``, in a stage's folder."""


def check_harness(given: Mapping[str, Any]) -> None:
    """Refuse settings that make no sense and tasks that nobody knows, before anything is loaded.

    Raises:
        RecipeError: one line with everything that is wrong, or lm-eval is not installed.
        UserError: lm-eval knows a task not; the nearest is offered.
    """
    if not given:
        return
    tasks, settings = _read(given)
    if find_spec("lm_eval") is None:
        raise RecipeError('evaluate.harness needs the package lm-eval: pip install "expunge[eval]"')
    # Suites are lists of our own, of tasks that are known.
    if single := [task for task in tasks if task not in HARNESS_SUITES]:
        task_manager(single, settings.include_path)


def harness_stage(
    store: StageStore, given: Mapping[str, Any], subject: Any, load: Callable[[], LoadedModel], *, label: str,
    redact: bool = False, hide: Collection[str] = (),
) -> Stage:  # fmt: skip
    """Run tasks and suites of tasks on one model, unless that was done before.

    Args:
        store: where stages are kept.
        given: ``evaluate.harness``: ``tasks`` and any of :class:`HarnessSettings`.
        subject: what the model is, for the stage's key.
        load: loads it.
        label: names it in messages.
        redact: leave out the tasks' rows and what the model said.
        hide: texts of the settings that are not recorded.
    """
    tasks, settings = _read(given)

    def build(work: Path, folder: Path) -> Mapping[str, Any]:
        loaded = load()
        values, provenance, notes = _run(loaded, tasks, settings, None if redact else folder / "samples")
        let_go(loaded)
        write_json(folder / VALUES, {key: plain(asdict(value)) for key, value in values.items()})
        return {"provenance": without(plain(provenance), hide), "notes": notes}

    # A folder of task files counts by what stands in it.
    own = {"include_path": [_folder_hash(Path(folder)) for folder in settings.include_path]}
    parts = {"subject": subject, "tasks": tasks, "settings": asdict(settings) | own}
    parts |= {"redact": True} if redact else {}
    return store.run("harness", parts, build, label=f"harness {label}", hide=hide)


def _folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, at any depth; hidden ones and caches left out."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not any(part.startswith((".", "__pycache__")) for part in name.parts):
            digest.update(f"{name}\n{content_hash(str(path))}\n".encode())
    return digest.hexdigest()


def read_harness(stage: Stage) -> dict[str, MetricValue]:
    """The values of a finished stage."""
    content = json.loads((stage.path / VALUES).read_text(encoding="utf-8"))
    return {key: MetricValue(**cell) for key, cell in content.items()}


def described_harness(values: Mapping[str, MetricValue]) -> dict[str, Metric]:
    """What the values are, for tables."""
    about = "lm-evaluation-harness's own metric; interval: value ± 1.96 of its standard errors."
    return {
        key: dataclasses.replace(described(key, key, about), higher_is_better=value.higher_is_better)
        for key, value in values.items()
    }


def _read(given: Mapping[str, Any]) -> tuple[list[str], HarnessSettings]:
    known = [field.name for field in dataclasses.fields(HarnessSettings)]
    problems = [unknown("key", key, ("tasks", *known)) for key in given if key not in ("tasks", *known)]
    tasks = given.get("tasks")
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if not (isinstance(tasks, list) and tasks and all(isinstance(task, str) and task for task in tasks)):
        problems.append(f"tasks must be a list of task or suite names, such as [arc_easy], got {tasks!r}")
    if problems:
        raise RecipeError(f"evaluate.harness: {'; '.join(problems)}")
    options: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items() if key != "tasks"
    }
    return list(dict.fromkeys(tasks or ())), HarnessSettings(**options)


def _run(
    loaded: LoadedModel, tasks: Sequence[str], settings: HarnessSettings, samples: Path | None
) -> tuple[dict[str, MetricValue], dict[str, Any], list[str]]:
    """Suites one by one, and all other tasks together."""
    values: dict[str, MetricValue] = {}
    provenance: dict[str, Any] = {}
    notes: list[str] = []
    single = [task for task in tasks if task not in HARNESS_SUITES]
    found = {
        task: run_harness_suite(loaded, task, settings, samples_folder=samples / task if samples else None)
        for task in tasks
        if task in HARNESS_SUITES
    }
    if single:
        found["tasks"] = run_harness(loaded, single, settings, samples_folder=samples)
    for name, result in found.items():
        # Suites share tasks, and may ask them with other shots: then the later one's values bear its name.
        values |= {
            # by their texts, for a missing bound is NaN, which equals nothing
            f"{name}:{key}" if repr(values.get(key, value)) != repr(value) else key: value
            for key, value in result.values.items()
        }
        provenance[name] = result.provenance
        notes += result.notes
    return values, provenance, list(dict.fromkeys(notes))
