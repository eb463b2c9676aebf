"""What a training is given besides the model: rows, terms, scope, rules and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.data.formats import Format
from expunge.data.rows import Row
from expunge.data.views import TEMPLATE, VIEWS, View, ViewContext, answers_of
from expunge.methods.table import Composition
from expunge.methods.terms import RETAIN_TERMS, WeightedTerm
from expunge.models.guards import Guard, make_guard
from expunge.progress import say
from expunge.recipe import BudgetPart, TrainPart
from expunge.training.plan import StepPlan
from expunge.training.rules import make_rules
from expunge.training.streams import Streams


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that one training needs besides the model."""

    title: str
    rows: Mapping[str, Sequence[Row]]
    """By stream: ``forget``, ``retain``."""
    sides: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """All forget and retain rows as they came, for a scope that looks at both whatever the terms read."""
    terms: Mapping[str, tuple[WeightedTerm, ...]]
    """By stream."""
    pace: str
    """The stream whose epochs are counted."""
    part: TrainPart
    epochs: float
    lr_factor: float = 1.0
    finetune: bool = False
    seed: int = 0
    scope: Mapping[str, Any] = field(default_factory=lambda: {"kind": "full"})
    view: View = field(default_factory=lambda: VIEWS["gold"])
    context: ViewContext = field(default_factory=ViewContext)
    """What the view draws from."""
    spare_question: bool = False
    """Whether the forget rows' own answers are supervised only where they say more than their question."""
    layer: int | float | None = None
    rules: tuple[Mapping[str, Any], ...] = ()
    edit: Mapping[str, Any] = field(default_factory=dict)
    guard: Guard | None = None
    """What is put beside the saved weights; training itself does not see it."""
    stop_loss: float | None = None
    """Mean token loss of the forget answers above which the run stops."""
    budget: BudgetPart | None = None
    probe_rows: Sequence[Row] = ()
    """What the budget looks at."""
    watchers: tuple[Any, ...] = ()
    """Further trainer callbacks, asked after all others."""

    def __post_init__(self) -> None:
        make_rules(self.rules, self.terms)


def finetune_job(title: str, rows: Sequence[Row], part: TrainPart, *, epochs: float, seed: int) -> Job:
    """Plain learning of ``rows``: the retain term alone."""
    terms = {"retain": (WeightedTerm(RETAIN_TERMS["nll"], 1.0, {}),)}
    return Job(
        title=title,
        rows={"retain": rows},
        terms=terms,
        pace="retain",
        part=part,
        epochs=epochs,
        scope=part.scope or {"kind": "full"},
        finetune=True,
        seed=seed,
    )


def unlearn_job(
    title: str,
    composition: Composition,
    part: TrainPart,
    *,
    forget: Sequence[Row],
    retain: Sequence[Row],
    seed: int,
    refusals: tuple[str, ...] = (),
    pool: Sequence[str] = (),
    budget: BudgetPart | None = None,
    probe_rows: Sequence[Row] = (),
) -> Job:
    """A composition over a forget set and, if its retain term reads them, retain rows."""
    sides = {"forget": composition.forget, "retain": composition.retain}
    terms = {stream: members for stream, members in sides.items() if members}
    rows = {"forget": forget, "retain": retain}
    pool = pool or answers_of(retain or forget)
    context = ViewContext(seed, refusals, pool, TEMPLATE if composition.template is None else composition.template)
    view = VIEWS[composition.view]
    guard = make_guard(composition.guard)
    guard = guard.fit(forget, retain) if guard else None
    if view.rows:
        forget = view.rows(forget, context)
    if composition.spare_question and not any(row.prompt for row in forget):
        say("note: spare_question has no effect: no forget row has a question")
    return Job(
        title=title,
        rows={stream: {"forget": forget, "retain": retain}[stream] for stream in terms},
        sides={side: members for side, members in rows.items() if members},
        terms=terms,
        pace="forget" if composition.forget else "retain",
        part=part,
        epochs=composition.method.epochs if part.epochs is None else part.epochs,
        lr_factor=composition.method.lr_factor,
        seed=seed,
        scope=composition.scope,
        view=view,
        context=context,
        spare_question=composition.spare_question,
        layer=composition.layer,
        rules=composition.rules,
        edit=composition.edit,
        guard=guard,
        stop_loss=composition.stop_loss,
        budget=budget,
        probe_rows=probe_rows,
    )


def job_streams(format: Format, job: Job) -> Streams:
    """The rows that a job's steps show, planned."""
    rows = {name: format.split_text(members) for name, members in job.rows.items()}
    if not rows:
        return Streams(format, {}, {}, StepPlan({}, 0))
    plan = StepPlan.make(
        {name: len(members) for name, members in rows.items()},
        pace=job.pace,
        batch_size=job.part.batch_size,
        seed=job.seed,
        epochs=job.epochs,
        max_steps=job.part.max_steps,
    )
    needs = {
        name: frozenset().union(*(weighted.term.needs for weighted in members)) for name, members in job.terms.items()
    }
    return Streams(format, rows, needs, plan, job.seed, job.view, job.context, job.spare_question)
