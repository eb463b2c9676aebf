"""The verbs, from Python: each builds a recipe and runs it, exactly as the command line does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.errors import RecipeError, UserError
from expunge.recipe import Recipe, parse_recipe, read_recipe

GENERATED_TOKENS = 96
"""Longest answer that the verbs on users' own files generate; a recipe may ask for more."""


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    store: str | Path | None = None,
    data_root: str | None = None,
    redact: bool = False,
    dry_run: bool = False,
) -> Any:
    """Run a recipe (a file, a shipped recipe's name, nested dictionaries or a :class:`Recipe`).

    Started several times by a launcher (``accelerate launch``, ``torchrun``), the processes share the work, and the
    first one writes.

    Args:
        recipe: what to do.
        out: the run's folder, ``runs/<name>`` by default.
        overrides: ``key.sub=value`` settings, as ``--set`` takes them; only for files.
        store: folder of the stages, to share them between runs.
        data_root: folder with published benchmark files.
        redact: set ``evaluate.redact``: no text of any row is written.
        dry_run: only say what would be done, and what it is thought to take; nothing is written.

    Returns:
        A :class:`expunge.pipeline.RunResult`; a :class:`expunge.pipeline.VariantsResult` for a recipe with variants; a
        :class:`expunge.pipeline.foresee.Foresight` for a dry run.
    """
    from expunge.parallel import join_group
    from expunge.pipeline import run_recipe, run_variants

    join_group()
    if isinstance(recipe, (str, Path)):
        recipe = read_recipe(find_recipe(recipe), overrides)
    elif not isinstance(recipe, Recipe):
        recipe = parse_recipe(recipe)
    if redact:
        recipe = _redacted(recipe)
    out = out or Path("runs") / recipe.name
    if dry_run:
        from expunge.pipeline.foresee import foresee

        return foresee(recipe, out, store=store, data_root=data_root)
    start: Any = run_variants if recipe.is_many else run_recipe
    return start(recipe, out, store=store, data_root=data_root)


def _redacted(recipe: Recipe) -> Recipe:
    if recipe.evaluate is None:
        raise RecipeError("--redact: the recipe has no evaluate part, whose setting it is; give it one (evaluate: {})")
    return replace(recipe, evaluate=replace(recipe.evaluate, redact=True))


def unlearn(
    model: str | Path,
    *,
    forget: str | Path,
    out: str | Path,
    retain: str | Path | None = None,
    holdout: str | Path | None = None,
    general: str | Path | None = None,
    method: str = "auto",
    settings: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    evaluate_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Any:
    """Make ``model`` forget the rows of a file, and measure what happened to it.

    Args:
        model: folder, run, adapter, GGUF file or Hub id.
        forget: file of rows to forget.
        out: folder for the run.
        retain: file of rows to keep; without it only methods that can do without run.
        holdout: file of rows like the forget rows that no model ever saw, for membership tests.
        general: file of general rows that must survive; the built-in ones by default.
        method: a preset, or ``auto`` for the one that suits what is given.
        settings: anything of the recipe's ``unlearn`` part (``lr``, ``scope``, ``term``, ``budget`` ...).
        model_settings: anything of its ``model`` part.
        evaluate_settings: anything of its ``evaluate`` part.
        seed: everything random follows from it.
        dry_run: only say what would be done, and what it is thought to take.

    Returns:
        A :class:`expunge.pipeline.RunResult`, or what :func:`run` returns for a dry run.
    """
    files = {"forget": forget, "retain": retain, "holdout": holdout, "general": general}
    recipe = {
        "name": Path(out).resolve().name,
        "seed": seed,
        "model": {"path": str(model), **(model_settings or {})},
        "data": {"benchmark": "custom", "options": {k: str(v) for k, v in files.items() if v is not None}},
        "retain_reference": "none",
        "unlearn": {"method": method, **(settings or {})},
        "evaluate": {"max_new_tokens": GENERATED_TOKENS, **(evaluate_settings or {})},
    }
    return run(parse_recipe(recipe, "unlearn"), out=out, dry_run=dry_run)


def finetune(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    settings: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Any:
    """Teach ``model`` the rows of a file: plain learning, to make a target or a retain model.

    Args:
        model: folder, run, adapter, GGUF file or Hub id.
        data: file of rows.
        out: folder for the run.
        settings: anything of the recipe's ``finetune`` part.
        model_settings: anything of its ``model`` part.
        seed: everything random follows from it.
        dry_run: only say what would be done, and what it is thought to take.

    Returns:
        A :class:`expunge.pipeline.RunResult`, or what :func:`run` returns for a dry run.
    """
    recipe = {
        "name": Path(out).resolve().name,
        "seed": seed,
        "model": {"path": str(model), **(model_settings or {})},
        "data": {"benchmark": "custom", "options": {"forget": str(data)}},
        "finetune": dict(settings or {}),
        "retain_reference": "none",
    }
    return run(parse_recipe(recipe, "finetune"), out=out, dry_run=dry_run)


def evaluate(
    models: Sequence[str | Path],
    *,
    benchmark: str,
    out: str | Path,
    options: Mapping[str, Any] | None = None,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    reference: str | Path | None = None,
    model_settings: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    checkpoints: str = "last",
    data_root: str | None = None,
    seed: int = 0,
) -> Any:
    """Measure one or several models on a benchmark.

    Args:
        models: folders, runs, adapters, GGUF files or Hub ids.
        benchmark: ``almanac``, ``tofu:forget10``, ``custom`` ...
        out: folder for the results.
        options: the benchmark's own options.
        also: other benchmarks whose probe sets are measured too, with their options: ``{"truthfulqa": {"rows": 50}}``.
        reference: the retain model's run, model or open-unlearning log, for forget quality and PrivLeak.
        model_settings: anything of a recipe's ``model`` part.
        settings: anything of its ``evaluate`` part.
        checkpoints: ``all`` measures the kept steps of each run as well, ``10,20`` those two.
        data_root: folder with published benchmark files.
        seed: of the bootstrap.

    Returns:
        A :class:`expunge.pipeline.compare.Comparison`.
    """
    from expunge.pipeline.checkpoints import with_checkpoints
    from expunge.pipeline.compare import evaluate_models

    base = {
        "seed": seed,
        "model": dict(model_settings or {}),
        "data": {
            "benchmark": benchmark,
            "options": dict(options or {}),
            "also": dict(also or {}),
        },
        "evaluate": dict(settings or {}),
    }
    recipe = parse_recipe(base, "evaluate")
    models = with_checkpoints(models, checkpoints)
    return evaluate_models(models, recipe, Path(out), reference=reference, data_root=data_root)


def attack(
    model: str | Path,
    *,
    out: str | Path,
    attacks: Sequence[str] = (),
    original: str | Path | None = None,
    reference: str | Path | None = None,
    benchmark: str | None = None,
    options: Mapping[str, Any] | None = None,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    holdout: str | Path | None = None,
    depth: str | None = None,
    settings: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """Attack an unlearned model, and measure how much of what it forgot comes back.

    Args:
        model: the unlearned model: a folder, run, adapter, GGUF file or Hub id.
        out: folder for the result: ``attacks.json``, ``report.html``.
        attacks: names, families or ``all``; see ``expunge list attacks``.
        original: the model before unlearning; without it there is no recovery, residual or durability.
        reference: a model that never saw the forget rows: the control for attacks that tell the answer.
        benchmark: whose rows are asked, with its ``options``; or give files instead:
        forget: rows that were to be forgotten; ``retain`` and ``holdout`` are of the same source.
        depth: ``quick`` or ``full``: which attacks, and how many steps of relearning, where they are not named.
        settings: anything of :class:`expunge.recipe.AttackPart`.
        model_settings: anything of a recipe's ``model`` part.
        data_root: folder with published benchmark files.
        seed: of draws, relearning and the bootstrap.

    Returns:
        The :class:`expunge.pipeline.attacking.Audit` and its :class:`expunge.reporting.content.Report`.
    """
    from expunge.pipeline.auditing import audit

    files = {"forget": forget, "retain": retain, "holdout": holdout}
    return audit(
        model, Path(out), attacks=attacks, original=original, reference=reference, benchmark=benchmark,
        options=options or {}, files={k: str(v) for k, v in files.items() if v is not None}, depth=depth,
        settings=settings or {}, model_settings=model_settings or {}, data_root=data_root, seed=seed,
    )  # fmt: skip


def load(source: str | Path, **settings: Any) -> Any:
    """Load a model, a run or an adapter with its tokenizer and chat format.

    Returns:
        A :class:`expunge.models.load.LoadedModel`.
    """
    from expunge.models.load import load_model

    return load_model(source, **settings)


def augment(forget: str | Path, *, out: str | Path, llm: str = "rules", **settings: Any) -> Any:
    """Write ReLearn's training rows for a file of questions to forget: other ways to ask, and vague answers.

    Args:
        forget: rows with questions and answers.
        out: the file to write, JSON lines.
        llm: ``rules``, the address of an OpenAI-compatible server, ``openai``, or a model for :func:`load`.
        settings: see :func:`expunge.pipeline.augmenting.augment_file`.

    Returns:
        An :class:`expunge.pipeline.augmenting.Augmented`.
    """
    from expunge.pipeline.augmenting import augment_file

    return augment_file(forget, out=out, llm=llm, **settings)


def compose_adapters(
    adapters: Sequence[str | Path], *, out: str | Path, coefficient: float = 0.0, offset: float = 1.0
) -> Path:
    """Put the gated adapters of several requests, all of one base model, side by side as one adapter.

    Args:
        adapters: adapter or run folders, K in all.
        out: a new or empty folder.
        coefficient: the summed edits are multiplied by ``coefficient * K + offset``; 0.6 in the released code.
        offset: see there; 0.6 in the released code.

    Returns:
        ``out``.
    """
    from expunge.models.gated_files import compose_adapters

    return compose_adapters(adapters, out, coefficient=coefficient, offset=offset)


def export(source: str | Path, *, out: str | Path, dtype: str = "float32") -> Path:
    """Write a plain model folder (merged weights as safetensors, tokenizer, template, model card).

    Args:
        source: a run, a model folder or an adapter.
        out: a new or empty folder.
        dtype: precision of the written weights.
    """
    from expunge.pipeline.export import export_model

    return export_model(source, Path(out), dtype=dtype)


def certify(run: str | Path, *, attacks: Sequence[str | Path] = (), out: str | Path | None = None) -> Any:
    """Write what a finished run can show as ``certificate.json`` and ``certificate.html``.

    Args:
        run: the run's folder.
        attacks: folders of :func:`attack` on this run's very model.
        out: folder for both files; the run's own by default.

    Returns:
        A :class:`expunge.pipeline.certifying.Certificate`.
    """
    from expunge.pipeline.certifying import certify_run

    return certify_run(run, attacks=attacks, out=out)


def verify(
    certificate: str | Path,
    model: str | Path,
    *,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
) -> Any:
    """Hold a certificate against itself, a model and files of rows.

    Args:
        certificate: a ``certificate.json``.
        model: a folder, a run or an adapter, wherever it lies now.
        forget: file of the rows that were to be forgotten.
        retain: file of the rows that were to be kept.

    Returns:
        An :class:`expunge.pipeline.verifying.Verified`; its ``holds`` says whether all of it does.
    """
    from expunge.pipeline.verifying import verify_certificate

    return verify_certificate(certificate, model, forget=forget, retain=retain)


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    here = Path(__file__).resolve().parent
    folders = [here / "recipes", here.parents[1] / "recipes"]
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """A recipe file, or the shipped recipe of that name.

    Raises:
        UserError: if there is neither.
    """
    from expunge.errors import nearest

    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    stem = path.stem
    raise UserError(f"recipe {name}: no such file, and no shipped recipe of that name{nearest(stem, shipped)}")
