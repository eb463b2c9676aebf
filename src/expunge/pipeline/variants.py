"""One recipe, many methods: every variant a run of its own, all sharing what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from expunge.errors import ModelError, NonFiniteLossError, ResourceError
from expunge.evaluation.samples import read_texts
from expunge.models.load import source_fingerprint
from expunge.parallel import num_processes, process_number
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.comparing import compare_runs
from expunge.pipeline.environment import environment
from expunge.pipeline.folder import MANIFEST, VARIANTS, claim_folder, open_folder, write_json
from expunge.pipeline.redacting import (
    refuse_caches_inside,
    say_what_to_share,
    shown_recipe,
    take_texts_out,
    telling_texts,
)
from expunge.pipeline.run import RunResult, run_recipe
from expunge.progress import say
from expunge.recipe import Recipe, expand
from expunge.reporting.content import Report, plain
from expunge.reporting.html import write_report

ANSWERS = "answers.md"
"""The first answers of every variant, to be read."""


@dataclass(frozen=True)
class VariantsResult:
    """Every variant that ran, what became of the others, and all of them side by side."""

    folder: Path
    runs: Mapping[str, RunResult]
    failed: Mapping[str, str]
    """By name of the variant, in one line."""
    report: Report | None
    """None if nothing was evaluated."""


def run_variants(
    recipe: Recipe, out: str | Path, *, store: str | Path | None = None, data_root: str | None = None
) -> VariantsResult:
    """Run each variant of a recipe in ``<out>/<name>``; target, retain model and their scores are made once.

    A variant whose loss diverges, that does not fit in memory or that this model cannot do is noted, and the others go
    on. Run it again to go on where it stopped.

    Args:
        recipe: one with variants.
        out: new, empty, or holding this set of variants already.
        store: folder of the shared stages, ``<out>/stages`` by default.
        data_root: folder with published benchmark files, for benchmarks that take one.

    Raises:
        UserError: anything in any variant that is wrong, before any work.
    """
    out = Path(out)
    check_recipe(recipe)
    recipes = expand(recipe)
    for path in {variant.model.path for variant in recipes.values()}:
        source_fingerprint(path)  # a model that is not there is no single variant's failure
    claim_folder(out, VARIANTS)
    refuse_caches_inside(recipe, out)
    stages = Path(store) if store else out / "stages"
    runs: dict[str, RunResult] = {}
    failed: dict[str, str] = {}
    with open_folder(out, VARIANTS, stages=stages):
        for number, (name, variant) in enumerate(recipes.items(), start=1):
            say(f"-- {name} ({number} of {len(recipes)})")
            try:
                runs[name] = run_recipe(variant, out / name, store=stages, data_root=data_root, alone=False)
            except (NonFiniteLossError, ResourceError, ModelError) as error:
                if isinstance(error, ResourceError) and num_processes() > 1:
                    # It may be one process's alone, and the others wait for it in the middle of the variant.
                    raise
                failed[name] = str(error)
                say(f"{name}: {error}")
        report = _write(recipe, out, runs, failed) if process_number() == 0 else None
        if recipe.redact and process_number() == 0:
            folders = {stage.path for run in runs.values() for stage in run.stages.values()}
            take_texts_out(folders, telling_texts(recipe))
            say_what_to_share(out, stages)
    return VariantsResult(out, runs, failed, report)


def _write(recipe: Recipe, out: Path, runs: Mapping[str, RunResult], failed: Mapping[str, str]) -> Report | None:
    report = None
    measured = [run.folder for run in runs.values() if run.metrics]
    if measured:
        report = compare_runs(measured)
        write_report(report, out / "report.html")
        if recipe.redact:
            (out / ANSWERS).unlink(missing_ok=True)
        else:
            (out / ANSWERS).write_text(_answers(runs), encoding="utf-8")
    (out / "recipe.yaml").write_text(yaml.safe_dump(plain(shown_recipe(recipe)), sort_keys=False), encoding="utf-8")
    facts = {name: _facts(run) for name, run in runs.items()}
    manifest = {"kind": VARIANTS, "status": "done", "variants": facts, "failed": dict(failed)}
    write_json(out / MANIFEST, plain({**manifest, "environment": environment()}))
    return report


def _facts(run: RunResult) -> dict[str, object]:
    """What a variant cost, from its unlearn stage."""
    stage = run.stages.get("unlearn")
    names = ("steps", "lr", "trainable_share", "seconds", "peak_memory_gb", "stopped")
    return {name: stage.facts[name] for name in names if name in stage.facts} if stage else {}


def _answers(runs: Mapping[str, RunResult], count: int = 3) -> str:
    """The first answers of every variant to forget and retain questions, to be read."""
    blocks = []
    for name, run in runs.items():
        texts = read_texts(run.folder / "samples.parquet")
        lines = [
            f"- {record['prompt']}  \n  truth: {record['answer']}  \n  {name}: {record['generation'] or '(empty)'}"
            for probe in ("forget", "retain")
            for record in texts.get(probe, [])[:count]
        ]
        blocks.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(blocks) + "\n"
