"""The table of methods, and how a run's settings become one legal composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from expunge.data.views import VIEWS
from expunge.errors import RecipeError, unknown
from expunge.methods.base import Method
from expunge.methods.terms import FORGET_TERMS, RETAIN_TERMS, Term
from expunge.recipe import Recipe, UnlearnPart
from expunge.registry import Registry

METHODS: Registry[Method] = Registry(
    "method",
    {
        "ga": "expunge.methods.ga:GA",
        "grad_diff": "expunge.methods.ga:GRAD_DIFF",
        "ga_kl": "expunge.methods.ga:GA_KL",
        "npo": "expunge.methods.npo:NPO",
        "npo_gdr": "expunge.methods.npo:NPO_GDR",
        "npo_klr": "expunge.methods.npo:NPO_KLR",
        "simnpo": "expunge.methods.simnpo:SIMNPO",
        "dpo": "expunge.methods.refusal:DPO",
        "idk": "expunge.methods.refusal:IDK",
    },
    aliases={
        "idk_dpo": "dpo",
        "idk_nll": "idk",
        "po": "idk",
        "gradient_ascent": "ga",
        "grad_ascent": "ga",
        "kl": "ga_kl",
    },
)


@dataclass(frozen=True)
class Composition:
    """What a run optimises: terms with all their settings, weights and the data view."""

    method: Method
    forget: Term
    settings: Mapping[str, float]
    retain: Term | None
    view: str
    gamma: float
    alpha: float
    notes: tuple[str, ...] = ()


def compose(part: UnlearnPart, *, has_retain: bool) -> Composition:
    """Fill a run's settings in from its method and check that the whole is legal.

    Legal means: everything the terms need is provided by the data view, the retain set or the cached reference.

    Raises:
        RecipeError: an unknown name, or what is missing, by name.
    """
    method = METHODS.get(part.method)
    forget = FORGET_TERMS[method.forget]
    retain_key = part.retain_term or method.retain
    if retain_key != "none" and retain_key not in RETAIN_TERMS:
        raise RecipeError(unknown("retain term", retain_key, ["none", *RETAIN_TERMS]))
    retain = RETAIN_TERMS.get(retain_key)
    notes: list[str] = []
    if retain and not has_retain and not method.retain_needed and not part.retain_term:
        notes.append(
            f"no retain rows: {method.key} runs without its retain term, expect utility to suffer; set a budget"
        )
        retain = None
    if has_retain and retain is None:
        notes.append(f"{method.key} has no retain term: the retain rows are measured, not trained on")
    if retain is None and part.alpha is not None:
        notes.append(f"alpha={part.alpha:g} has no effect: this run has no retain term")
    view = part.view or method.view
    if view not in VIEWS:
        raise RecipeError(unknown("data view", view, VIEWS))
    provided = VIEWS[view].provides | {"reference_logps", "reference_logits"} | ({"retain"} if has_retain else set())
    _check_legal(method, (forget, retain), provided, view)
    composition = Composition(
        method=method,
        forget=forget,
        settings=forget.resolve({**method.settings, **part.term}),
        retain=retain,
        view=view,
        gamma=method.gamma if part.gamma is None else part.gamma,
        alpha=method.alpha if part.alpha is None else part.alpha,
        notes=tuple(notes),
    )
    if not composition.settings.get("beta", 1.0) > 0:
        raise RecipeError(f"term.beta must be above 0, got {composition.settings['beta']}")
    return composition


_REMEDY = {
    "retain": "retain rows (--retain FILE), or --retain-term none",
    "alternate": "another answer for each forget row (--view refusal)",
    "answer": "the forget rows' own answers (--view gold or refusal)",
}


def _check_legal(
    method: Method, terms: tuple[Term | None, ...], provided: frozenset[str] | set[str], view: str
) -> None:
    missing = [(term, need) for term in terms if term for need in sorted(term.needs - provided)]
    if missing:
        wants = "; ".join(f"{term.side} term {term.key!r} needs {_REMEDY.get(need, need)}" for term, need in missing)
        raise RecipeError(f"method {method.key!r} with view {view!r} cannot run: {wants}")


def check_part(recipe: Recipe) -> None:
    """Check what a recipe names (method, terms, view, scope) without data or weights, every mistake at once.

    Raises:
        RecipeError: one line with all of them.
    """
    from expunge.scopes import make_scope

    problems: list[str] = []
    for name, part in (("finetune", recipe.finetune), ("unlearn", recipe.unlearn)):
        if part is None:
            continue
        checks: list[Callable[[], object]] = [partial(make_scope, part.scope)]
        if isinstance(part, UnlearnPart):
            checks.append(partial(compose, part, has_retain=True))
        for check in checks:
            try:
                check()
            except RecipeError as error:
                problems.append(f"{name}: {error}")
    if problems:
        raise RecipeError("; ".join(problems))
