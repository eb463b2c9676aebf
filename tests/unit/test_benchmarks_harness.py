"""The benchmark: both sides do the same work, and the report's arithmetic, on made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run
from benchmarks.cases import CASES, Case, Order, pick_cases
from benchmarks.page import PAGE, markdown, write_page
from benchmarks.plan import Amount
from benchmarks.summary import difference, run_seconds, share_of_rate, summarise
from benchmarks.work import useful_flops
from expunge.errors import ResourceError, UserError
from results.pages import marks

FAST = ("npo-8", "grun-8")
"""Cases that every test run holds; the others have the same shape and belong to the slow tier."""


def shrunk(case: Case) -> Case:
    """The case on the tiny model and a few rows, three steps long; a rate at which a wrong gradient shows."""
    sizes: dict[str, Any] = {"forget": 4, "retain": 4, "others": 2, "batch": 2, "warmup": 0, "steps": 3, "run_steps": 6}
    sides = {
        label: replace(o, model="tiny", length=min(o.length, 128), new_tokens=6, lr=1e-3, **sizes)
        for label, o in case.sides.items()
    }
    return replace(case, sides=sides)


def held_cases() -> list[Any]:
    """One case of every kind of work that is compared on the CPU."""
    held: dict[tuple[Any, ...], Case] = {}
    for case in CASES.values():
        order = case.sides.get("plain")
        if order and case.group != "gpu":
            kind = (order.kind, order.method, str(order.settings), order.rows, case.group == "bf16")
            held.setdefault(kind, case)
    return [
        pytest.param(case, id=case.name, marks=() if case.name in FAST else pytest.mark.slow) for case in held.values()
    ]


@pytest.mark.parametrize("case", held_cases())
def test_every_side_does_the_same_work(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.worker import measure

    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    case = shrunk(case)
    found = {label: measure(order) for label, order in case.sides.items()}
    assert difference(case, found) == ""
    plain, ours = found["plain"], found[list(found)[-1]]
    if plain["losses"]:
        assert len(plain["losses"]) == len(ours["losses"]) == len(ours["seconds"]) == 3
        assert len(set(plain["losses"])) == 3, "nothing was learnt, so that equal losses say little"
        assert (plain["tokens"], plain["labels"], plain["flops"]) == (ours["tokens"], ours["labels"], ours["flops"])
    else:
        # What the plain side measures is compared; ours scores everything everywhere.
        assert plain["scores"].keys() < ours["scores"].keys()
        assert len(plain["scores"]) == 2 * 4 + 2 + 3 + 1
        assert len(plain["answers"]) == 4 + 4 + 2


def answer(seconds: list[float], **changes: Any) -> dict[str, Any]:
    """What a process reports, with 1 GF and 100 tokens a step."""
    fixed = {"setup": 0.0, "peak": 1000, "losses": [1.0, 2.0, 3.0], "norms": [1.0, 1.0, 1.0], "tokens": 100.0}
    rest = {
        "labels": 50.0,
        "flops": 1e9,
        "route": "default",
        "rows": "a file",
        "parts": {},
        "scores": {},
        "answers": [],
    }
    return {"seconds": seconds, **fixed, **rest, **changes}


STEP = Order(model="toy", warmup=1, steps=3, run_steps=10)
TOY = Case(name="npo-8", group="steps", title="toy", sides={"plain": STEP, "ours": replace(STEP, way="ours")})


def test_ratio_is_the_median_over_pairs_of_median_timed_steps() -> None:
    rounds = [
        {"plain": answer([9, 4, 5, 6]), "ours": answer([9, 1, 2, 9])},
        {"plain": answer([9, 8, 8, 8]), "ours": answer([9, 2, 2, 2], peak=500)},
        {"plain": answer([9, 3, 3, 3]), "ours": answer([9, 1, 1, 1], peak=800)},
    ]
    plain, ours = summarise(TOY, rounds)
    # Medians without the first step: 5/2, 8/2 and 3/1.
    assert (ours.lowest, ours.ratio, ours.highest) == (2.5, 3.0, 4.0)
    assert (plain.seconds, ours.seconds) == (5.0, 2.0)
    assert ours.tokens_per_second == 100 / 2
    # 1000/1000, 500/1000 and 800/1000.
    assert ours.memory == 0.8
    assert plain.ratio == plain.memory == 1.0


def test_whole_run_counts_what_is_paid_once_and_the_slow_first_steps() -> None:
    # 4 steps taken of 10: once 7 + (9 + 1 + 2 + 3) + 6 further steps at 2 seconds.
    assert run_seconds(STEP, answer([9, 1, 2, 3], setup=7.0)) == 7 + 15 + 12
    rounds = [{"plain": answer([5, 5, 5, 5]), "ours": answer([1, 1, 1, 1], setup=15.0)}]
    ours = summarise(TOY, rounds)[1]
    assert ours.ratio == 5.0
    assert ours.all_in == 50 / 25
    assert ours.setup == 15.0


def test_share_is_of_the_rate_of_the_own_route() -> None:
    rates = {"default": {"block": 2e9}, "onednn": {"block": 8e9}}
    rounds = [{"plain": answer([1, 1, 1, 1]), "ours": answer([1, 0.25, 0.25, 0.25], route="onednn")}]
    plain, ours = summarise(TOY, rounds)
    # 1 GF in 1 s of 2 GF/s; 1 GF in 0.25 s of 8 GF/s.
    assert share_of_rate(plain, rates) == 0.5
    assert share_of_rate(ours, rates) == 0.5
    assert share_of_rate(ours, rates, "default") == 2.0
    assert share_of_rate(ours, {"default": {"block": 2e9}}) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"losses": [1.0, 2.0, 3.0002]}, ""),
        ({"losses": [1.0, 2.0, 3.0004]}, "losses"),
        ({"losses": [1.0, 2.0, float("nan")]}, "losses"),
        ({"losses": [1.0, 2.0]}, "losses"),
        ({"norms": [1.0, 1.0, 1.002]}, "norms"),
        ({"scores": {"forget avg_loss": 1.0002}}, "forget avg_loss"),
        ({"scores": {"forget rougeL_recall": 0.5, "forget avg_loss": 1.0}}, ""),
        ({"answers": ["a", "x"]}, "answers"),
    ],
)
def test_sides_that_differ_are_found(changes: Mapping[str, Any], said: str) -> None:
    plain = answer([1, 1, 1, 1], scores={"forget avg_loss": 1.0, "forget rougeL_recall": 1.0})
    plain |= {"answers": ["a", "b"]} if "answers" in changes else {}
    found = difference(TOY, {"plain": plain, "ours": answer([1, 1, 1, 1], **changes)})
    assert said in found if said else found == ""


def test_only_like_is_compared_with_like() -> None:
    low = replace(STEP, bf16=True)
    sides = {"plain": STEP, "plain, bf16": low, "ours, bf16": replace(low, way="ours")}
    case = replace(TOY, sides=sides)
    found = {
        "plain": answer([1, 1, 1, 1]),
        "plain, bf16": answer([1, 1, 1, 1], losses=[1.0, 1.5, 2.0]),
        "ours, bf16": answer([1, 1, 1, 1], losses=[1.0, 1.52, 2.0]),
    }
    assert difference(case, found) == ""
    found["ours, bf16"]["losses"] = [1.0, 2.0, 3.0]
    assert difference(case, found).startswith("ours, bf16 against plain, bf16: losses")


def test_useful_operations_of_a_frozen_and_a_trained_model() -> None:
    from conftest import make_llama
    from expunge.methods.terms import FORGET_TERMS, WeightedTerm
    from expunge.recipe import TrainPart
    from expunge.training.job import Job

    job = Job(
        title="",
        rows={},
        terms={"forget": (WeightedTerm(FORGET_TERMS["ga"], 1.0, {}),)},
        pace="forget",
        part=TrainPart(),
        epochs=1,
    )
    model = make_llama()
    # Queries and outputs 32 x 32, keys and values 32 x 16, three matrices of 32 x 64.
    block = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    head = 320 * 32
    work = Amount(tokens=10, labels=3)
    assert useful_flops(model, job, work) == 6 * 2 * block * 10 + 6 * head * 3
    model.requires_grad_(False)
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    # The lower block runs forward alone; the upper one also hands gradients down, and one matrix has one of its own.
    expected = (2 * block + 4 * block + 2 * 32 * 64) * 10 + 4 * head * 3
    assert useful_flops(model, job, work) == expected


# -- the runner -------------------------------------------------------------------------------------------------------


class Asked:
    """Stands in for measuring processes; counts the orders, and runs out of memory after so many."""

    def __init__(self, lasts: int = 100) -> None:
        self.ways: list[str] = []
        self.lasts = lasts

    def __call__(self, order: Order, module: str = "benchmarks.worker") -> dict[str, Any]:
        if module == "benchmarks.foresight":
            assert order.way == "ours"
            return {"seconds": 10.0, "memory": 1500, "rates": {}}
        if order.kind == "machine":
            return MACHINE
        if len(self.ways) == self.lasts:
            raise ResourceError("out of memory: 7 GB")
        self.ways.append(order.way)
        return answer([2.0 if order.way == "plain" else 0.5] * (order.warmup + order.steps))


MACHINE = {
    "cpu": "a processor", "cores": 2, "threads": 1, "memory_gb": 24.0, "flags": ["avx2"], "gpu": "",
    "versions": {"torch": "2"}, "rates": {"default": {"block": 2e9, "head": 1e9}},
}  # fmt: skip


def bench(out: Path, *words: str) -> int:
    return run.main(["--cases", "grad_diff-4", "--threads", "1", "--out", str(out), *words])


def test_rounds_are_interleaved_and_not_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    monkeypatch.setattr(run, "ask", asked)
    out = tmp_path / "results.json"
    assert bench(out, "--pairs", "1") == 0
    # Ours once more between two dry runs.
    assert asked.ways == ["plain", "ours", "ours"]
    # No headline: two pairs at most.
    assert bench(out, "--pairs", "5") == 0
    assert asked.ways[3:] == ["plain", "ours"]
    assert bench(out, "--pairs", "5") == 0
    assert len(asked.ways) == 5
    assert bench(out, "--foresee") == 0
    assert asked.ways[5:] == ["ours"]
    assert bench(out, "--cases", "npo-4", "--foresee") == 0
    assert len(asked.ways) == 6, "nothing was measured that could be foreseen"
    assert bench(out, "--pairs", "1", "--again") == 0
    assert asked.ways[6:] == ["plain", "ours", "ours"]
    assert len(json.loads(out.read_text())["cases"]["grad_diff-4"]["rounds"]) == 1


def test_sides_shown_for_comparison_get_two_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked()
    monkeypatch.setattr(run, "ask", asked)
    assert bench(tmp_path / "results.json", "--cases", "npo-8,npo-bf16-8", "--pairs", "3") == 0
    assert asked.ways == 2 * (["plain", "plain", "ours"] * 2 + ["plain", "ours"] + ["ours"])
    said = capsys.readouterr().out
    assert "| ours | 0.50 |" in said
    # 50 steps of 0.5 s; 1000 bytes were measured.
    assert "| npo-8 | ours | 10.0 | 25.0 | 0.40 | 0.0 | 0.0 | 1.50 |" in said


def test_other_settings_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ask", Asked())
    out = tmp_path / "results.json"
    assert bench(out, "--pairs", "1") == 0
    assert bench(out, "--pairs", "2", "--steps", "1") == 2
    assert "measured with other settings" in capsys.readouterr().err


def test_a_side_without_memory_is_said_and_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ask", Asked(lasts=1))
    assert bench(tmp_path / "results.json") == 1
    said = capsys.readouterr()
    assert "- grad_diff-4: ours: out of memory: 7 GB" in said.out
    assert "GradDiff" not in said.out


def test_unknown_case_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'npo-8'"):
        pick_cases("npo_8")
    assert not any(case.group == "gpu" for case in pick_cases(""))
    assert all(case.group == "gpu" for case in pick_cases("", gpu=True))
    assert "tofu" not in [case.name for case in pick_cases("", small=True)]


def test_page_holds_the_tables_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    begin, end = marks("cpu")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    rounds = [{"plain": answer([8, 4, 4, 4]), "ours": answer([8, 1, 1, 1], setup=2.0)}]
    orders = {label: asdict(order) for label, order in TOY.sides.items()}
    results = {"machine": MACHINE, "cases": {"npo-8": {"orders": orders, "rounds": rounds, "refused": ""}}}
    write_page(results, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{begin}\n")
    assert text.endswith(f"{end}\nafter\n")
    assert "old" not in text
    assert "Models: toy. Rows: a file." in text
    assert "**4.00x** [4.00, 4.00]" in text
    # Plain 8 + 3 x 4 + 6 x 4 seconds; ours once 2, 8 + 3 x 1 + 6 x 1.
    assert f"{44 / 19:.2f}x of 10 steps" in text
    # 1 GF in 4 s of 2 GF/s.
    assert "reaches 12% of the default route's rate" in text
    assert "worse than" in text


def test_nothing_measured_is_said_and_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    assert markdown({"machine": {}, "cases": {}}) == "Nothing has been measured yet.\n"
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError, match="must hold the lines"):
        write_page({"machine": {}, "cases": {}}, page)
    assert page.read_text(encoding="utf-8") == "no marks"


def test_the_page_has_a_place_for_either_machine() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for section in ("cpu", "gpu") for mark in marks(section))


@pytest.mark.parametrize("name", ["npo-8", "grun-8", "tofu-small"])
def test_what_a_dry_run_says_of_a_case_needs_no_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.foresight import foresee

    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    found = foresee(shrunk(CASES[name]).sides["ours"])
    assert 0 < found.seconds < 100
    assert 1e8 < found.memory < 1e11
