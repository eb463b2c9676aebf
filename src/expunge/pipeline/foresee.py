"""A dry run: which stages a recipe still has to make, and what each is thought to take. Nothing is made.

The plan is the run's own: the same code asks for the same stages with the same keys. Only the store is another one,
which looks where it would build, and what would load weights reads a model's outline instead.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from expunge.data.rows import Row
from expunge.evaluation.estimate import Answering, evaluation_cost
from expunge.methods.table import Composition
from expunge.models.load import DTYPES, pick_device
from expunge.models.outline import Outline, load_outline
from expunge.models.shape import ModelShape
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.evidence import AFTER
from expunge.pipeline.folder import RUN, VARIANTS, claim_folder
from expunge.pipeline.loading import load_data
from expunge.pipeline.measuring import Measuring
from expunge.pipeline.run import Plan
from expunge.pipeline.stages import Build, Stage, StageStore, is_finished, stage_folder, stage_key
from expunge.recipe import Recipe, UnlearnPart, expand
from expunge.training.estimate import Machine, StageCost, training_cost
from expunge.training.trainer import COMPLETE

REPORT_SECONDS = 7.0
"""Of a report: mostly bootstrap resamples, which depend little on model and machine."""
_WRITTEN = ("written", "alternates")
"""Stages in which the model writes rows that later stages read."""
_NOT_ESTIMATED = "not estimated: how much a model writes, or a task asks, is not known before"
_MERGE = "merge adapters"


@dataclass(frozen=True, kw_only=True)
class ForeseenStage:
    """A stage that a run asks for."""

    run: str
    """Which of several runs asks for it first; empty for a single one."""
    title: str
    key: str
    state: str
    """``kept``: its result is there; ``resumes``: half of it is; ``to do``."""
    cost: StageCost


@dataclass(frozen=True, kw_only=True)
class Foresight:
    """What a run is thought to take."""

    stages: tuple[ForeseenStage, ...]
    machines: Mapping[str, Machine] = field(default_factory=dict)
    """By model: where it would run, and how fast that is."""

    @property
    def seconds(self) -> float:
        """Of all stages that are to be made and were estimated."""
        return sum(stage.cost.seconds or 0.0 for stage in self.stages)

    @property
    def memory(self) -> int:
        """Bytes at the peak of the stage that needs most; 0 where all are kept."""
        return max((stage.cost.memory or 0 for stage in self.stages), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        machines = {
            name: {
                "device": str(machine.device),
                "free_bytes": machine.room,
                "block_flops_per_second": machine.rates.blocks,
                "head_flops_per_second": machine.rates.head,
                "bf16_flops_per_second": machine.rates.half,
                "copy_bytes_per_second": machine.rates.copy,
            }
            for name, machine in self.machines.items()
        }
        stages = [{**asdict(stage), "cost": asdict(stage.cost)} for stage in self.stages]
        return {"stages": stages, "seconds": self.seconds, "memory_bytes": self.memory, "machines": machines}


def foresee(
    recipe: Recipe, out: str | Path, *, store: str | Path | None = None, data_root: str | None = None
) -> Foresight:
    """Find out what :func:`~expunge.pipeline.run.run_recipe`, or a recipe of several runs, would do; takes seconds.

    Args:
        recipe: what would be done.
        out: the run's folder; nothing is written there.
        store: folder of the stages, ``<out>/stages`` by default.
        data_root: folder with published benchmark files.

    Raises:
        UserError: whatever the run itself would refuse before any work.
    """
    out = Path(out)
    check_recipe(recipe)
    claim_folder(out, VARIANTS if recipe.is_many else RUN)
    stages = Path(store) if store else out / "stages"
    found: dict[str, ForeseenStage] = {}
    machines: dict[str, Machine] = {}
    for name, one in (expand(recipe) if recipe.is_many else {"": recipe}).items():
        # First, for it says best what is wrong with a model's name.
        plan = ForeseenPlan(one, load_data(one, data_root), StageStore(stages))
        outline = load_outline(**_model_settings(one))
        machine = machines.get(one.model.path) or _machine(one, outline)
        machines[one.model.path] = machine
        for stage in plan.foresee(outline, machine):
            # What several runs have in common is made once.
            found.setdefault(f"{stage.title}-{stage.key}", replace(stage, run=name))
    return Foresight(stages=tuple(found.values()), machines=machines)


def _model_settings(recipe: Recipe) -> dict[str, Any]:
    model = asdict(recipe.model)
    model.pop("device")
    return {"source": model.pop("path"), **model}


def _machine(recipe: Recipe, outline: Outline) -> Machine:
    device, dtype = pick_device(recipe.model.device), DTYPES[recipe.model.dtype]
    return Machine.at_hand(device, ModelShape.of(outline.model), dtype)


class NotWrittenError(Exception):
    """Rows are wanted that a model has not written yet."""


class ForeseenStages(StageStore):
    """Looks at stages and makes none.

    Args:
        root: where they lie.
        cost: ``(name, label, build) -> StageCost`` of a stage that is not there.
    """

    def __init__(self, root: Path, cost: Callable[[str, str, Build], StageCost]) -> None:
        super().__init__(root)
        self.cost = cost
        self.found: list[ForeseenStage] = []

    def run(
        self,
        name: str,
        parts: Mapping[str, Any],
        build: Build,
        *,
        label: str = "",
        hide: Collection[str] = (),
        again: bool = False,
    ) -> Stage:
        """The stage as it would be, its folder there or not.

        Raises:
            NotWrittenError: if the caller would go on to read rows from it that are not there.
        """
        key = stage_key(name, parts)
        folder = stage_folder(self.root, name, key)
        kept = is_finished(folder) and (name not in _WRITTEN or (folder / f"{name}.jsonl").is_file())
        points = folder.with_suffix(".work").glob("checkpoint-*")
        state = "kept" if kept else "resumes" if any((p / COMPLETE).is_file() for p in points) else "to do"
        cost = StageCost() if kept else self.cost(name, label, build)
        self.found.append(ForeseenStage(run="", title=label or name.replace("_", " "), key=key, state=state, cost=cost))
        if name in _WRITTEN and not kept:
            raise NotWrittenError(name)
        return Stage(name, key, folder, {}, reused=kept)


class ForeseenPlan(Plan):
    """A plan that is asked, and not carried out."""

    def foresee(self, outline: Outline, machine: Machine) -> list[ForeseenStage]:
        """Every stage in the order in which a run asks for them."""
        self.outline, self.machine = outline, machine
        self.store = stages = ForeseenStages(self.store.root, self._cost)
        target = self._finetune("target", self.benchmark.target_rows())
        retain_model = self._retain_reference()
        after = self._unlearn(target)
        if self.recipe.evaluate:
            measuring = Measuring(self)
            for label, subject, source in measuring.subjects(target, after, retain_model):
                measuring.stage(label, subject, source)
            # Nothing is built, so nothing is asked of what it would report on.
            measuring.report(cast(Any, None))
        if self.recipe.attack:
            cost = StageCost(note=_NOT_ESTIMATED)
            stages.found.append(ForeseenStage(run="", title="attack", key="", state="to do", cost=cost))
        return stages.found

    def _cost(self, name: str, label: str, build: Build) -> StageCost:
        if name in ("target", "retain_model", "unlearn") and label != _MERGE:
            return build(Path(), Path())["cost"]
        if name == "evaluate":
            return self._evaluation(label)
        return StageCost(seconds=REPORT_SECONDS) if name == "report" else StageCost(note=_NOT_ESTIMATED)

    def _train(self, start: Stage | None, job: Any, work: Path, folder: Path) -> Mapping[str, Any]:
        return {"cost": training_cost(self.outline, job, self.machine)}

    def _evaluation(self, label: str) -> StageCost:
        part = self.recipe.evaluate
        assert part is not None
        taught: Answering = "learnt" if self.recipe.finetune else "own"
        limits = {name: limit.max_new_tokens for name, limit in self.benchmark.limits.items() if limit.max_new_tokens}
        return evaluation_cost(
            self.outline,
            self.benchmark.probes,
            part,
            self.machine,
            answering="changed" if label.endswith(AFTER) else taught,
            limits=limits,
        )

    def _refuse_adapter(self, target: Stage | None) -> None:
        if target is None or target.reused:
            super()._refuse_adapter(target)

    def _forget_rows(self, target: Stage | None, part: UnlearnPart, composition: Composition) -> Sequence[Row]:
        """As they are, or stand-ins of about the same length where a model is to write them."""
        try:
            return super()._forget_rows(target, part, composition)
        except NotWrittenError:
            writing = self.benchmark.writing
            texts = [" ".join(["word"] * writing.max_new_tokens)] * writing.texts if writing else []
            rows = self.benchmark.forget or tuple(
                Row(id=f"written/{n}", prompt="", answer=text) for n, text in enumerate(texts)
            )
            return tuple(replace(row, alternate=row.alternate or row.answer) for row in rows)
