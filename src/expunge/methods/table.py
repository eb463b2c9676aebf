"""The table of methods, and how a run's settings become one legal composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from expunge.data.views import VIEWS
from expunge.errors import RecipeError, nearest, unknown
from expunge.methods.auto import Situation, settled
from expunge.methods.base import Method
from expunge.methods.terms import FORGET_TERMS, RETAIN_TERMS, Setting, Term, WeightedTerm, parse_terms
from expunge.models.guards import make_guard
from expunge.plugins import load_plugins, plugin_versions
from expunge.recipe import Recipe, UnlearnPart
from expunge.registry import Registry
from expunge.scopes import SCOPES

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
        "altpo": "expunge.methods.altpo:ALTPO",
        "relearn": "expunge.methods.relearn:RELEARN",
        "relearn_gdr": "expunge.methods.relearn:RELEARN_GDR",
        "relearn_klr": "expunge.methods.relearn:RELEARN_KLR",
        "relearn_klr_gdr": "expunge.methods.relearn:RELEARN_KLR_GDR",
        "relearn_dpo": "expunge.methods.relearn:RELEARN_DPO",
        "relearn_dpo_gdr": "expunge.methods.relearn:RELEARN_DPO_GDR",
        "relearn_dpo_klr": "expunge.methods.relearn:RELEARN_DPO_KLR",
        "grun_gd": "expunge.methods.grun:GRUN_GD",
        "grun_idk": "expunge.methods.grun:GRUN_IDK",
        "grun_npo": "expunge.methods.grun:GRUN_NPO",
        "grun_rmu": "expunge.methods.grun:GRUN_RMU",
        "wga": "expunge.methods.wga:WGA",
        "satimp": "expunge.methods.satimp:SATIMP",
        "ceu": "expunge.methods.ceu:CEU",
        "undial": "expunge.methods.undial:UNDIAL",
        "kto": "expunge.methods.kto:KTO",
        "random_label": "expunge.methods.labels:RANDOM_LABEL",
        "adversarial_label": "expunge.methods.labels:ADVERSARIAL_LABEL",
        "flat": "expunge.methods.flat:FLAT",
        "flat_tv": "expunge.methods.flat:FLAT_TV",
        "flat_kl": "expunge.methods.flat:FLAT_KL",
        "flat_js": "expunge.methods.flat:FLAT_JS",
        "flat_pearson": "expunge.methods.flat:FLAT_PEARSON",
        "flat_jeffrey": "expunge.methods.flat:FLAT_JEFFREY",
        "flat_reverse_kl": "expunge.methods.flat:FLAT_REVERSE_KL",
        "flat_squared_hellinger": "expunge.methods.flat:FLAT_SQUARED_HELLINGER",
        "flat_neyman": "expunge.methods.flat:FLAT_NEYMAN",
        "llmu": "expunge.methods.llmu:LLMU",
        "mismatch": "expunge.methods.llmu:MISMATCH",
        "rmu": "expunge.methods.rmu:RMU",
        "adaptive_rmu": "expunge.methods.rmu:ADAPTIVE_RMU",
        "task_vector": "expunge.methods.edits:TASK_VECTOR",
        "uipe": "expunge.methods.edits:UIPE",
        "noise": "expunge.methods.controls:NOISE",
        "nothing": "expunge.methods.controls:NOTHING",
        "finetune_retain": "expunge.methods.controls:FINETUNE_RETAIN",
        "refusal_prompt": "expunge.methods.guards:REFUSAL_PROMPT",
        "keyword_filter": "expunge.methods.guards:KEYWORD_FILTER",
        "semeval_merge": "expunge.methods.semeval:SEMEVAL_MERGE",
        "pdu": "expunge.methods.pdu:PDU",
        "sure": "expunge.methods.sure:SURE",
        "memflex": "expunge.methods.memflex:MEMFLEX",
        "random_region": "expunge.methods.random_region:RANDOM_REGION",
    },
    aliases={
        "grun": "grun_gd",
        "idk_dpo": "dpo",
        "idk_nll": "idk",
        "po": "idk",
        "gradient_ascent": "ga",
        "grad_ascent": "ga",
        "kl": "ga_kl",
        "ascent_plus_descent": "grad_diff",
        "ascent_plus_kl_divergence": "ga_kl",
        "ce_u": "ceu",
        "tv": "task_vector",
        "do_nothing": "nothing",
    },
)


@dataclass(frozen=True)
class Composition:
    """What a run optimises: weighted terms with all their settings, and everything else that makes the method."""

    method: Method
    forget: tuple[WeightedTerm, ...]
    """On the forget stream; weights hold gamma."""
    retain: tuple[WeightedTerm, ...]
    """On the retain stream; weights hold alpha."""
    view: str
    template: str | None
    spare_question: bool
    """Whether the gold answers' labels leave out what their question says too."""
    scope: Mapping[str, Any]
    rules: tuple[Mapping[str, Any], ...] = ()
    edit: Mapping[str, Any] = field(default_factory=dict)
    guard: Mapping[str, Any] = field(default_factory=dict)
    merge: Mapping[str, Any] = field(default_factory=dict)
    layer: int | float | None = None
    """A block's number, a share of the depth, or None where no term reads hidden states."""
    stop_loss: float | None = None
    """Mean token loss of the forget answers above which the run stops."""
    notes: tuple[str, ...] = ()

    @property
    def terms(self) -> dict[str, tuple[WeightedTerm, ...]]:
        """By stream; a side without any is left out."""
        sides = {"forget": self.forget, "retain": self.retain}
        return {stream: members for stream, members in sides.items() if members}

    @property
    def trains(self) -> bool:
        """Whether there is anything to optimise."""
        return bool(self.forget or self.retain)

    def resolved(self) -> dict[str, Any]:
        """Everything that a result depends on, as plain values."""
        sides = {"forget": self.forget, "retain": self.retain}
        terms = {side: [[t.term.key, t.weight, dict(t.settings)] for t in members] for side, members in sides.items()}
        rest = {"rules": [dict(rule) for rule in self.rules], "edit": dict(self.edit), "guard": dict(self.guard)}
        place = {"view": self.view, "template": self.template, "scope": dict(self.scope), "layer": self.layer}
        place |= {"stop_loss": self.stop_loss}
        place |= {"spare_question": True} if self.spare_question else {}
        place |= {"merge": dict(self.merge)} if self.merge else {}
        plugins = plugin_versions(self._names())
        return terms | rest | place | ({"plugins": plugins} if plugins else {})

    def _names(self) -> dict[str, list[str]]:
        """Everything that the run names in a table, by kind."""
        return {
            "method": [self.method.key],
            "forget term": [weighted.term.key for weighted in self.forget],
            "retain term": [weighted.term.key for weighted in self.retain],
            "view": [self.view],
            "scope": [str(self.scope.get("kind", "full"))],
            "rule": [str(rule.get("kind")) for rule in self.rules],
            "edit": [str(self.edit.get("kind"))],
            "guard": [str(self.guard.get("kind"))],
        }


def compose(part: UnlearnPart, *, has_retain: bool) -> Composition:
    """Fill a run's settings in from its method and check that the whole is legal.

    Legal means: everything the terms need is provided by the data view, the retain set or the cached reference.

    Raises:
        RecipeError: an unknown name, or what is missing, by name.
    """
    load_plugins()
    part = settled(part, Situation(retain=has_retain, to_4bit=part.to_4bit))
    method = METHODS.get(part.method)
    notes: list[str] = []
    forget = parse_terms(part.forget_term or method.forget, FORGET_TERMS, "forget term")
    retain = parse_terms(part.retain_term or method.retain, RETAIN_TERMS, "retain term")
    if retain and not has_retain and not method.retain_needed and not part.retain_term:
        notes.append(
            f"no retain rows: {method.key} runs without its retain term, expect utility to suffer; set a budget"
        )
        retain = {}
    if has_retain and not retain:
        notes.append(f"{method.key} has no retain term: the retain rows are measured, not trained on")
    if not retain and part.alpha is not None:
        notes.append(f"alpha={part.alpha:g} has no effect: this run has no retain term")
    if not forget and part.gamma is not None:
        notes.append(f"gamma={part.gamma:g} has no effect: this run has no forget term")
    view = part.view or method.view
    if part.written and not part.view:
        view = VIEWS[view].as_written or view
    if view not in VIEWS:
        raise RecipeError(unknown("data view", view, VIEWS))
    if part.template is not None and "template" not in VIEWS[view].options:
        notes.append(f"template has no effect: the data view is {view!r}")
    if part.alternates is not None and view != "model":
        notes.append(f"alternates={part.alternates} has no effect: the data view is {view!r}")
    spared = part.spare_question and VIEWS[view].gold and any("answer" in FORGET_TERMS[key].needs for key in forget)
    if part.spare_question and not spared:
        notes.append("spare_question has no effect: no forget term of this run reads the rows' own answers")
    terms = [*(FORGET_TERMS[key] for key in forget), *(RETAIN_TERMS[key] for key in retain)]
    provided = VIEWS[view].provides | _COMPUTED | ({"retain"} if has_retain else set())
    provided |= _scope_provides(part.scope or method.scope)
    _check_legal(method, terms, provided, view)
    settings = _settings(terms, {**_known(terms, method.settings), **part.term})
    gamma = method.gamma if part.gamma is None else part.gamma
    alpha = method.alpha if part.alpha is None else part.alpha
    guard = _over(method.guard, part.guard)
    notes += [*_idle_notes(part, trains=bool(terms)), *_guard_notes(guard, trains=bool(terms))]
    return Composition(
        method=method,
        forget=tuple(WeightedTerm(FORGET_TERMS[key], gamma * w, settings[key]) for key, w in forget.items()),
        retain=tuple(WeightedTerm(RETAIN_TERMS[key], alpha * w, settings[key]) for key, w in retain.items()),
        view=view,
        template=part.template,
        spare_question=spared,
        scope=part.scope or method.scope,
        rules=_rules(method, part, retain, notes),
        edit=_over(method.edit, part.edit),
        guard=guard,
        merge=_over(method.merge, part.merge, "parts"),
        layer=_layer(method, part, terms, notes),
        stop_loss=_stop_loss(method, part, terms, notes),
        notes=tuple(notes),
    )


_COMPUTED = frozenset({"reference_logps", "reference_logits", "hidden", "reference_hidden", "random"})
"""What any model gives, and the trainer computes where a term needs it."""
_DEFAULT_LAYER = 7 / 32


def _scope_provides(scope: Mapping[str, Any]) -> frozenset[str]:
    """What a kind of scope gives to terms; an unknown kind is refused where the scope is made."""
    kind = str(scope.get("kind", "full"))
    return SCOPES.get(kind).provides if kind in SCOPES else frozenset()


def _known(terms: list[Term], settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """A preset's settings that still mean something after a run has replaced its terms."""
    return {key: value for key, value in settings.items() if any(key in term.settings for term in terms)}


def _settings(terms: list[Term], given: Mapping[str, Setting]) -> dict[str, dict[str, Setting]]:
    """Each term's settings; a name that several terms share reaches all of them, one that none has is refused."""
    known = sorted({name for term in terms for name in term.settings})
    for name in given:
        if name not in known:
            raise RecipeError(
                f"no term of this run has a setting {name!r}{nearest(name, known)}; "
                f"they have: {', '.join(known) or 'none'}"
            )
    return {term.key: term.resolve({k: v for k, v in given.items() if k in term.settings}) for term in terms}


def _layer(method: Method, part: UnlearnPart, terms: list[Term], notes: list[str]) -> int | float | None:
    if not any({"hidden", "reference_hidden"} & term.needs for term in terms):
        if part.layer is not None:
            notes.append(f"layer={part.layer} has no effect: no term of this run reads hidden states")
        return None
    if part.layer is not None:
        return part.layer
    return _DEFAULT_LAYER if method.layer is None else method.layer


def _rules(
    method: Method, part: UnlearnPart, retain: Mapping[str, float], notes: list[str]
) -> tuple[Mapping[str, Any], ...]:
    if part.rules is not None:
        return tuple(part.rules)
    if method.rules and method.retain != "none" and not retain:
        notes.append(f"no retain side: {method.key} runs without its gradient rules")
        return ()
    return method.rules


def _over(preset: Mapping[str, Any], given: Mapping[str, Any] | None, owner: str = "kind") -> Mapping[str, Any]:
    """A run's own ``{kind: ..., ...}`` instead of the preset's; one that names no kind changes the preset's."""
    if given is None:
        return preset
    return {**preset, **given} if given and owner not in given else given


def _idle_notes(part: UnlearnPart, *, trains: bool) -> list[str]:
    given = [name for name in ("lr", "epochs", "max_steps", "budget") if getattr(part, name) is not None]
    return [] if trains else [f"{name} has no effect: this run trains nothing" for name in given]


def _guard_notes(guard: Mapping[str, Any], *, trains: bool) -> list[str]:
    """A guard must never pass for unlearning."""
    if (made := make_guard(guard)) is None:
        return []
    weights = "the guard is no part of the weights" if trains else "the weights are unchanged"
    return [f"suppression, not erasure: {weights}; the guard holds only where expunge loads the folder, {made.reach}"]


def _stop_loss(method: Method, part: UnlearnPart, terms: list[Term], notes: list[str]) -> float | None:
    read = any(t.side == "forget" and "answer" in t.needs for t in terms) and any(t.head for t in terms)
    if not read and part.stop_loss is not None:
        notes.append("stop_loss has no effect: no term of this run reads the probability of the forget rows' answers")
    if not read:
        return None
    return method.stop_loss if part.stop_loss is None else part.stop_loss


_REMEDY = {
    "retain": "retain rows (--retain FILE), or --retain-term none",
    "alternate": "another answer for each forget row (--view refusal)",
    "answer": "the forget rows' own answers (--view gold or refusal)",
    "gates": "the gated scope (--scope gated)",
}


def _check_legal(method: Method, terms: list[Term], provided: frozenset[str] | set[str], view: str) -> None:
    missing = [(term, need) for term in terms for need in sorted(term.needs - provided)]
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
        checks: list[Callable[[], object]] = [partial(make_scope, part.scope or {"kind": "full"})]
        if isinstance(part, UnlearnPart):
            checks.append(partial(compose, part, has_retain=True))
        for check in checks:
            try:
                check()
            except RecipeError as error:
                problems.append(f"{name}: {error}")
    if problems:
        raise RecipeError("; ".join(problems))
