"""Every forget term in every scope, from the tables: each takes two steps, or is refused by what it lacks.

A new term or scope is covered as soon as its table has it. The fast tier walks the diagonal.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import city_rows, colour_rows
from expunge.data.views import VIEWS
from expunge.errors import RecipeError
from expunge.methods.table import compose
from expunge.methods.terms import FORGET_TERMS, RETAIN_TERMS, Term
from expunge.recipe import UnlearnPart
from expunge.scopes import SCOPES
from expunge.training import run
from expunge.training.job import unlearn_job
from expunge.training.run import Prepared, train

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {"lora": {"rank": 4}},
    "adalora": {"adalora": {"rank": 4}},
    "layers": {"layers": {"pattern": "mlp", "layers": [1]}},
    "gated": {"gated": {"layers": [0, 1]}},
    "region": {
        "region_sure": {"how": "sure"},
        "region_random": {"how": "random", "keep": 0.3},
        "region_memflex": {"how": "memflex"},
    },
}
"""What a kind needs on a tiny model, by the name of the case; a kind that is not here takes its defaults."""

NEED_A_GPU = {"qlora"}
"""Refused here, by name."""

SCOPE_CASES: dict[str, dict[str, Any]] = {
    name: {"kind": kind, **settings}
    for kind in SCOPES.names()
    for name, settings in SETTINGS.get(kind, {kind: {}}).items()
    if kind not in NEED_A_GPU
}

FROM_ANY_MODEL = {"reference_logps", "reference_logits", "hidden", "reference_hidden", "random"}
FROM_A_VIEW = {"answer", "alternate"}

Take = Callable[..., tuple[Prepared, dict[str, torch.Tensor]]]


def view_for(term: Term) -> str:
    """The first view that carries what the term reads."""
    return next(key for key, view in VIEWS.items() if term.needs & FROM_A_VIEW <= view.provides and not view.rows)


def lacking(term: Term, scope: Mapping[str, Any]) -> frozenset[str]:
    return term.needs - FROM_ANY_MODEL - FROM_A_VIEW - SCOPES.get(scope["kind"]).provides


def part_of(term: Term, scope: Mapping[str, Any], **changes: Any) -> UnlearnPart:
    settings = {"forget_term": term.key, "retain_term": "nll", "view": view_for(term), "scope": dict(scope)}
    steps = {"layer": 1, "lr": 1e-2, "max_steps": 2, "batch_size": 2, "warmup": 0.0, "checkpoint_minutes": 60}
    return UnlearnPart(method="npo", **settings | steps | changes)


@pytest.fixture
def take(load_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Train as a run does; gives what was trained, and copies of every parameter at its start."""
    prepare = run.prepare
    seen: list[tuple[Prepared, dict[str, torch.Tensor]]] = []

    def watched(*args: Any, **kwargs: Any) -> Prepared:
        made = prepare(*args, **kwargs)
        seen.append((made, {name: p.detach().clone() for name, p in made.model.named_parameters()}))
        return made

    monkeypatch.setattr(run, "prepare", watched)

    def two_steps(part: UnlearnPart) -> tuple[Prepared, dict[str, torch.Tensor]]:
        composition = compose(part, has_retain=True)
        job = unlearn_job("t", composition, part, forget=colour_rows(), retain=city_rows(), seed=0)
        facts = train(load_tiny(max_length=64), job, work=tmp_path / "work", out=tmp_path / "out")
        assert facts["steps"] == 2
        return seen[-1]

    return two_steps


def check_steps(term: Term, scope: Mapping[str, Any], take: Take, folder: Path) -> None:
    prepared, start = take(part_of(term, scope))
    lines = [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(value) for line in lines for value in line.values()), lines
    assert all("forget_loss" in line and "retain_loss" in line for line in lines)
    assert (folder / "out" / prepared.scope.folder).is_dir()
    check_movement(prepared, start)


def check_movement(prepared: Prepared, start: Mapping[str, torch.Tensor]) -> None:
    """Something moved; what is frozen or outside the mask is bit-equal to its start."""
    masks = prepared.scope.masks(prepared.model)
    anything = False
    for name, parameter in prepared.model.named_parameters():
        changed = parameter.detach() != start[name]
        allowed = masks.get(name, torch.tensor(parameter.requires_grad))
        assert not (changed & ~allowed).any(), f"{name} moved and may not"
        anything |= bool(changed.any())
    assert anything


# -- every term in every scope -------------------------------------------------------------------------------------


def diagonal() -> set[tuple[str, str]]:
    """One case a scope, each with another term."""
    legal = {scope: [k for k, t in FORGET_TERMS.items() if not lacking(t, SCOPE_CASES[scope])] for scope in SCOPE_CASES}
    return {(legal[scope][3 * i % len(legal[scope])], scope) for i, scope in enumerate(SCOPE_CASES)}


FAST = diagonal()
PAIRS = [
    pytest.param(term, scope, marks=() if (term, scope) in FAST else pytest.mark.slow, id=f"{term}-{scope}")
    for term, scope in itertools.product(FORGET_TERMS, SCOPE_CASES)
    if not lacking(FORGET_TERMS[term], SCOPE_CASES[scope])
]
REFUSED = [
    (term, scope)
    for term, scope in itertools.product(FORGET_TERMS, SCOPE_CASES)
    if lacking(FORGET_TERMS[term], SCOPE_CASES[scope])
]


@pytest.mark.parametrize(("term", "scope"), PAIRS)
def test_a_term_takes_two_steps_in_a_scope(term: str, scope: str, take: Take, tmp_path: Path) -> None:
    check_steps(FORGET_TERMS[term], SCOPE_CASES[scope], take, tmp_path)


@pytest.mark.parametrize(("term", "scope"), REFUSED)
def test_a_term_without_what_it_needs_is_refused_by_name(term: str, scope: str) -> None:
    with pytest.raises(RecipeError, match=f"forget term '{term}' needs") as caught:
        compose(part_of(FORGET_TERMS[term], SCOPE_CASES[scope]), has_retain=True)
    assert "\n" not in str(caught.value)
    if lacking(FORGET_TERMS[term], SCOPE_CASES[scope]) == {"gates"}:
        assert "gated" in str(caught.value), "it says where gates come from"


@pytest.mark.parametrize("key", [key for key, term in FORGET_TERMS.items() if "alternate" in term.needs])
def test_a_term_without_another_answer_is_refused_by_name(key: str) -> None:
    with pytest.raises(RecipeError, match=f"forget term '{key}' needs another answer .*--view refusal"):
        compose(part_of(FORGET_TERMS[key], {"kind": "full"}, view="gold"), has_retain=True)


@pytest.mark.parametrize("key", RETAIN_TERMS)
def test_a_retain_term_without_retain_rows_is_refused_by_name(key: str) -> None:
    scope = {"kind": "gated"} if "gates" in RETAIN_TERMS[key].needs else {"kind": "full"}
    with pytest.raises(RecipeError, match=f"retain term '{key}' needs retain rows"):
        compose(part_of(FORGET_TERMS["ga"], scope, retain_term=key), has_retain=False)


def test_every_scope_is_met_and_the_diagonal_has_one_case_of_each() -> None:
    assert {scope["kind"] for scope in SCOPE_CASES.values()} | NEED_A_GPU == set(SCOPES.names())
    assert {scope for _, scope in FAST} == set(SCOPE_CASES)
    assert len({term for term, _ in FAST}) >= min(len(SCOPE_CASES), len(FORGET_TERMS)) // 2
    assert len(PAIRS) + len(REFUSED) == len(FORGET_TERMS) * len(SCOPE_CASES)


def test_what_needs_a_gpu_says_so(load_tiny: Callable[..., Any]) -> None:
    part = part_of(FORGET_TERMS["ga"], {"kind": "qlora"})
    composition = compose(part, has_retain=True)
    job = unlearn_job("t", composition, part, forget=colour_rows(), retain=city_rows(), seed=0)
    loaded = load_tiny(max_length=64)
    with pytest.raises(RecipeError, match=r"scope qlora needs (the package bitsandbytes|a GPU)"):
        run.prepare(loaded, job)


def test_the_check_of_movement_can_fail(take: Take) -> None:
    prepared, start = take(part_of(FORGET_TERMS["ga"], {"kind": "lora", "rank": 4}))
    check_movement(prepared, start)
    frozen = next(name for name, p in prepared.model.named_parameters() if not p.requires_grad)
    with pytest.raises(AssertionError, match="moved and may not"):
        check_movement(prepared, start | {frozen: start[frozen] + 1})
    with pytest.raises(AssertionError, match="assert False"):
        check_movement(prepared, {name: p.detach() for name, p in prepared.model.named_parameters()})


# -- every retain term, and sums, in scopes of each kind -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("retain", "scope"), itertools.product(RETAIN_TERMS, SCOPE_CASES))
def test_a_retain_term_takes_two_steps_in_a_scope(retain: str, scope: str, take: Take) -> None:
    part = part_of(FORGET_TERMS["npo"], SCOPE_CASES[scope], retain_term=retain)
    if missing := RETAIN_TERMS[retain].needs - FROM_ANY_MODEL - FROM_A_VIEW - {"retain"}:
        provided = SCOPES.get(SCOPE_CASES[scope]["kind"]).provides
        if missing - provided:
            with pytest.raises(RecipeError, match=f"retain term '{retain}' needs"):
                take(part)
            return
    prepared, start = take(part)
    check_movement(prepared, start)


def test_sums_of_terms_and_rules_in_a_region_of_an_adapter(take: Take) -> None:
    scope = {"kind": "region", "how": "sure", "base": "lora", "lora": {"rank": 4}}
    rules = [{"kind": "gru"}, {"kind": "sam"}]
    part = part_of(FORGET_TERMS["dpo"], scope, forget_term="0.5*npo+dpo", retain_term="nll+kl", rules=rules)
    prepared, start = take(part)
    assert prepared.scope.masks(prepared.model)
    check_movement(prepared, start)
