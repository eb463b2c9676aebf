"""What is measured: the orders that measuring processes are given, and the table of cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from expunge.errors import UserError, unknown

FORGET_ROWS, RETAIN_ROWS = 40, 100
"""TOFU's forget01, and as many retain rows as its probes use."""
EPOCHS, GATED_EPOCHS = 10, 40
"""Passes over the forget rows of a whole run, over which one-off costs are spread: TOFU's baselines, and GRUN's."""
GROUPS = {
    "steps": "One step",
    "bf16": "bfloat16",
    "kl": "KL in place of NLL on retain rows",
    "suite": "TOFU evaluation",
    "scaling": "Scaling",
    "gpu": "GPU",
}
"""Sections of the results page in order, with their titles."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One side of one pair: everything that a measuring process is told."""

    kind: Literal["steps", "suite", "machine"] = "steps"
    way: Literal["plain", "ours"] = "plain"
    method: str = "npo"
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings of the recipe's unlearn part: a scope, an optimiser."""
    model: str = ""
    """``smollm2``, a folder, or a shape with random weights; empty: the model of the whole benchmark."""
    dtype: str = "float32"
    """Precision of the weights."""
    bf16: bool = False
    """bfloat16 autocast."""
    onednn: bool = False
    """Give the plain side the float32 matrix route that expunge takes by itself."""
    batch: int = 8
    """Rows of each stream in a step."""
    rows: Literal["qa", "length", "text"] = "qa"
    """Questions with answers; the same filled up to ``length`` tokens; raw text in pieces of ``length`` tokens."""
    length: int = 512
    """Longest sequence in tokens."""
    forget: int = FORGET_ROWS
    retain: int = RETAIN_ROWS
    others: int = FORGET_ROWS
    """Rows of every other probe set of the suite."""
    new_tokens: int = 200
    """Longest generated answer of the suite."""
    lr: float = 1e-5
    warmup: int = 2
    """Steps that are run and not timed."""
    steps: int = 5
    """Timed steps."""
    run_steps: int = EPOCHS * math.ceil(FORGET_ROWS / 8)
    """Steps of the whole run that is planned, which one-off costs belong to."""
    device: str = "cpu"
    seed: int = 0
    threads: int = 1


FEW_PAIRS = 2
"""Rounds of what is no headline."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sides that are measured in turn, the first of which is what the others are compared with."""

    name: str
    group: str
    title: str
    sides: dict[str, Order]
    """By label."""
    headline: bool = False
    """Whether it gets all the pairs that are asked for; others get ``FEW_PAIRS`` at most."""
    beside: tuple[str, ...] = ()
    """Sides that are shown for comparison, in the first ``FEW_PAIRS`` rounds only."""
    large: bool = False
    """Whether ``--small`` leaves it out."""

    def sides_of(self, number: int) -> dict[str, Order]:
        """What round ``number``, counted from 0, measures."""
        return {label: order for label, order in self.sides.items() if number < FEW_PAIRS or label not in self.beside}


ROUTED = "plain, oneDNN"


def _versus(order: Order, *, onednn: bool = False) -> dict[str, Order]:
    """The plain way, if wanted also with expunge's matrix route, and ours."""
    beside = {ROUTED: replace(order, onednn=True)} if onednn else {}
    return {"plain": order} | beside | {"ours": replace(order, way="ours")}


def _step_orders(batch: int) -> dict[str, tuple[str, Order]]:
    """Title and order of a step by method, at one batch size."""
    epoch = math.ceil(FORGET_ROWS / batch)
    base = Order(batch=batch, run_steps=EPOCHS * epoch)
    # Their cache may fill as rows come up: they are timed once every row has been seen.
    seen = replace(base, warmup=math.ceil(RETAIN_ROWS / batch))
    return {
        "grad_diff": ("GradDiff", replace(base, method="grad_diff")),
        "npo": ("NPO", base),
        "npo_klr": ("NPO + KL", replace(base, method="npo_klr")),
        "dpo": ("DPO", replace(base, method="dpo")),
        "flat": ("FLAT", replace(base, method="flat")),
        "rmu": ("RMU", replace(seen, method="rmu")),
        "grun": ("GRUN", replace(seen, method="grun_gd", run_steps=GATED_EPOCHS * epoch)),
        "lora": ("NPO, LoRA", replace(base, settings={"scope": {"kind": "lora", "rank": 16}})),
    }


def _steps() -> Iterator[Case]:
    for batch in (8, 4):
        for key, (title, order) in _step_orders(batch).items():
            headline = batch == 8 and key in ("npo", "grun")
            yield Case(
                name=f"{key}-{batch}",
                group="steps",
                title=f"{title}, {batch} + {batch}",
                sides=_versus(order, onednn=headline),
                headline=headline,
                beside=(ROUTED,),
            )


def _others() -> Iterator[Case]:
    npo = _step_orders(8)["npo"][1]
    low = replace(npo, bf16=True)
    yield Case(
        name="npo-bf16-8",
        group="bf16",
        title="NPO, 8 + 8, autocast",
        sides={"plain": npo, "plain, bf16": low, "ours, bf16": replace(low, way="ours")},
        headline=True,
        beside=("plain, bf16",),
    )
    ours = replace(npo, way="ours")
    yield Case(
        name="kl-8",
        group="kl",
        title="NPO, 8 + 8, both ours",
        sides={"NLL": replace(ours, method="npo_gdr"), "KL": replace(ours, method="npo_klr")},
        headline=True,
    )
    suite = Order(kind="suite")
    small = replace(suite, forget=10, retain=25, others=10)
    title = "forget01: {0.forget} forget, {0.retain} retain, {0.others} of each other set"
    yield Case(
        name="tofu-small",
        group="suite",
        title=title.format(small),
        sides=_versus(small, onednn=True),
        headline=True,
        beside=(ROUTED,),
    )
    yield Case(name="tofu", group="suite", title=title.format(suite), sides=_versus(suite), large=True)


def _scaling() -> Iterator[Case]:
    for batch in (2, 16):
        order = _step_orders(batch)["npo"][1]
        yield Case(name=f"npo-{batch}", group="scaling", title=f"NPO, {batch} + {batch}", sides=_versus(order))
    for length in (128, 256, 512, 1024):
        order = Order(rows="length", length=length, batch=2, forget=8, retain=8, warmup=1, steps=3, run_steps=40)
        title = f"NPO, 2 + 2 sequences of {length} tokens"
        yield Case(name=f"length-{length}", group="scaling", title=title, sides=_versus(order))
    text = Order(rows="text", length=2048, batch=2, forget=4, retain=4, warmup=1, steps=2, run_steps=20)
    title = "NPO, 2 + 2 pieces of text of 2,048 tokens"
    yield Case(name="muse-2048", group="scaling", title=title, sides=_versus(text))
    for key, words in (("49k", "49,152"), ("128k", "128,256")):
        order = replace(_step_orders(8)["npo"][1], model=f"smollm2-{key}")
        title = f"NPO, 8 + 8, {words} words, random weights"
        yield Case(name=f"vocabulary-{key}", group="scaling", title=title, sides=_versus(order))


def _gpu() -> Iterator[Case]:
    lora = {"scope": {"kind": "lora", "rank": 16}}
    base = Order(device="cuda", dtype="bfloat16", model="llama-3.2-1b", run_steps=50)
    large = replace(base, model="llama-3.1-8b")
    kl = replace(large, way="ours", method="npo_klr")
    lean = replace(base, way="ours", settings={"optimizer": "adamw_bnb_8bit"})
    for name, title, sides in (
        ("gpu-npo-1b", "NPO, 8 + 8, Llama-3.2-1B's shape, full", _versus(base)),
        ("gpu-npo-8b", "NPO, 8 + 8, Llama-3.1-8B's shape, LoRA", _versus(replace(large, settings=lora))),
        ("gpu-full-1b", "NPO, 8 + 8, Llama-3.2-1B's shape, full, 8-bit optimiser", {"ours": lean}),
        ("gpu-lora-8b", "NPO + KL, 8 + 8, Llama-3.1-8B's shape, LoRA", {"ours": replace(kl, settings=lora)}),
        (
            "gpu-qlora-8b",
            "NPO + KL, 8 + 8, Llama-3.1-8B's shape, QLoRA",
            {"ours": replace(kl, settings={"scope": {"kind": "qlora", "rank": 16}})},
        ),
    ):
        yield Case(name=name, group="gpu", title=title, sides=sides, headline=True)


CASES: dict[str, Case] = {case.name: case for part in (_steps, _others, _scaling, _gpu) for case in part()}
"""Every case by name, in the order of the results page."""


def pick_cases(names: str, *, gpu: bool = False, small: bool = False) -> list[Case]:
    """The cases of a comma-separated list; without one, those of the CPU, or of the GPU.

    Args:
        names: from ``--cases``; may be empty.
        gpu: what no name means.
        small: leave out the whole evaluation suite, whose reduced form stays, where no name is given.

    Raises:
        UserError: for a name that is not in the table.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in CASES:
            raise UserError(unknown("case", name, CASES))
    if wanted:
        return [CASES[name] for name in wanted]
    found = [case for case in CASES.values() if (case.group == "gpu") == gpu]
    return [case for case in found if not (small and case.large)]
