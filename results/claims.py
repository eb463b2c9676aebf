"""The page of claims: what papers say of their methods, and whether it came out so here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.reporting.tables import MISSING, format_number
from results.choice import chosen
from results.pages import DOCS, markdown_table, put, shown_rate, state
from results.records import BEFORE, RETAIN_MODEL, Metrics, Record, Records

PAGE = DOCS / "claims.md"


@dataclass(frozen=True)
class Column:
    """One number of a run."""

    title: str
    read: Callable[[Record], float]
    """NaN where the run has none."""
    metric: str = ""
    """Its key, where it is a metric: then it has an interval, and the target and the retain model have it too."""


def _metric(title: str, key: str) -> Column:
    return Column(title, lambda record: _number(record.metrics.get(key, [None])[0]), key)


def _attack(title: str, name: str, what: str) -> Column:
    return Column(title, lambda record: _number(record.attacks.get(name, {}).get(what)))


def _number(value: float | None) -> float:
    return math.nan if value is None else value


COLUMNS: dict[str, Column] = {
    "forgotten": _metric("ES", "extraction_strength"),
    "rouge": _metric("ROUGE", "forget_Q_A_ROUGE"),
    "utility": _metric("MU", "model_utility"),
    "kept": _metric("kept", "retain_Q_A_ROUGE"),
    "perplexity": _metric("PPL", "forget_perplexity"),
    "distinct": _metric("dist-2", "forget_distinct_2"),
    "kfr": _metric("KFR", "KFR"),
    "krr": _metric("KRR", "KRR"),
    "step": Column("s/step", lambda record: _number(record.cost.get("seconds")) / max(record.cost.get("steps", 0), 1)),
    "share": Column("trained", lambda record: _number(record.cost.get("trainable_share"))),
    "int4": _attack("ES in int4", "quantise:int4", "unlearned"),
    "int4_rise": _attack("rise, int4", "quantise:int4", "rise"),
    "bf16_rise": _attack("rise, bf16", "precision:bf16", "rise"),
    "fp16_rise": _attack("rise, fp16", "precision:fp16", "rise"),
}
LOWER, HIGHER = "lower", "higher"


@dataclass(frozen=True)
class Test:
    """One comparison that a claim comes down to."""

    column: str
    subject: str
    """Role of the run whose number should be lower or higher."""
    goal: str
    other: str
    within: float = 0.0
    """How far on the wrong side still counts; for "no worse than"."""
    factor: float = 1.0
    """What the other's number is multiplied by; for "at most twice"."""

    @property
    def text(self) -> str:
        """In words."""
        title = COLUMNS[self.column].title
        sign = "+" if self.goal == LOWER else "-"
        bound = f" × {self.factor:g}" if self.factor != 1 else f" {sign} {self.within:g}" if self.within else ""
        return f"{title} of {self.subject} {self.goal} than {self.other}'s{bound}"

    def judge(self, runs: Mapping[str, Record]) -> str:
        """``holds`` or ``does not hold`` with both numbers, and whether their intervals overlap."""
        column = COLUMNS[self.column]
        if any(role not in runs for role in (self.subject, self.other)):
            return "not run"
        mine, other = (column.read(runs[role]) for role in (self.subject, self.other))
        if math.isnan(mine) or math.isnan(other):
            return "not measured"
        bound = other * self.factor
        right = mine <= bound + self.within if self.goal == LOWER else mine >= bound - self.within
        numbers = f"{format_number(mine)} against {format_number(other)}"
        return f"{'holds' if right else 'does not hold'}: {numbers}{self._overlap(column, runs)}"

    def _overlap(self, column: Column, runs: Mapping[str, Record]) -> str:
        ends = [runs[role].metrics.get(column.metric, [None] * 3)[1:] for role in (self.subject, self.other)]
        (low, high), (other_low, other_high) = ends
        if low is None or high is None or other_low is None or other_high is None:
            return ""
        return ", intervals overlap" if low <= other_high and other_low <= high else ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a paper says, and what it comes down to."""

    title: str
    says: str
    source: str
    roles: tuple[str, ...]
    columns: tuple[str, ...]
    tests: tuple[Test, ...]


CLAIMS = (
    Claim(
        title="MemFlex: the region",
        says="Ascent and descent in the located weights alone forget as much, keep more, and take less time a step.",
        source="KnowUnDo, arXiv 2407.01920",
        roles=("memflex", "memflex_everywhere", "memflex_random"),
        columns=("forgotten", "rouge", "utility", "kept", "step", "share"),
        tests=(
            Test("forgotten", "memflex", LOWER, "memflex_everywhere", within=0.05),
            Test("kept", "memflex", HIGHER, "memflex_everywhere"),
            Test("utility", "memflex", HIGHER, "memflex_everywhere"),
            Test("kept", "memflex", HIGHER, "memflex_random"),
            Test("forgotten", "memflex", LOWER, "memflex_random"),
            Test("step", "memflex", LOWER, "memflex_everywhere"),
        ),
    ),
    Claim(
        title="SURE: salient rows at a large learning rate",
        says="What was forgotten stays forgotten in 4 bits, and the mask keeps what the learning rate would cost.",
        source="arXiv 2410.16454",
        roles=("sure", "sure_unmasked", "sure_random"),
        columns=("forgotten", "int4", "int4_rise", "utility", "kept"),
        tests=(
            Test("int4", "sure", LOWER, "sure_random"),
            Test("utility", "sure", HIGHER, "sure_unmasked"),
            Test("kept", "sure", HIGHER, "sure_unmasked"),
            Test("forgotten", "sure", LOWER, "sure_random"),
        ),
    ),
    Claim(
        title="GRUN: a gated edit",
        says="Few trained weights, a fraction of the time, and more utility than the same losses in full or by LoRA.",
        source="arXiv 2502.17823",
        roles=("grun", "grad_diff_lora", "grad_diff_full"),
        columns=("forgotten", "rouge", "utility", "kept", "step", "share"),
        tests=(
            Test("share", "grun", LOWER, "grad_diff_lora"),
            Test("step", "grun", LOWER, "grad_diff_full", factor=0.05),
            Test("step", "grun", LOWER, "grad_diff_lora", factor=0.15),
            Test("utility", "grun", HIGHER, "grad_diff_full"),
            Test("utility", "grun", HIGHER, "grad_diff_lora"),
            Test("rouge", "grun", LOWER, "grad_diff_full", within=0.05),
        ),
    ),
    Claim(
        title="FLAT: without retain data",
        says="With the forget rows and refusals alone it keeps more than preference without a retain term.",
        source="arXiv 2410.11143",
        roles=("flat", "npo_alone", "ga"),
        columns=("forgotten", "rouge", "utility", "kept", "perplexity"),
        tests=(
            Test("utility", "flat", HIGHER, "npo_alone"),
            Test("kept", "flat", HIGHER, "npo_alone"),
            Test("forgotten", "flat", LOWER, "npo_alone", within=0.05),
            Test("utility", "flat", HIGHER, "ga"),
        ),
    ),
    Claim(
        title="LLMU: what a step costs",
        says="It is about as cheap as plain finetuning. (Its 2 % of RLHF is cited, not measured.)",
        source="arXiv 2310.10683",
        roles=("llmu", "finetuning"),
        columns=("step", "forgotten", "utility"),
        tests=(Test("step", "llmu", LOWER, "finetuning", factor=2.0),),
    ),
    Claim(
        title="SemEval: two adapters merged",
        says="Merged, an adapter that forgets too much and one that forgets too little balance each other.",
        source="arXiv 2503.21088",
        roles=("merged", "over", "under"),
        columns=("forgotten", "rouge", "utility", "kept"),
        tests=(
            Test("forgotten", "merged", LOWER, "under"),
            Test("kept", "merged", HIGHER, "over"),
            Test("utility", "merged", HIGHER, "over"),
        ),
    ),
    Claim(
        title="ReLearn: learn something else instead",
        says="Answers stay fluent where preference wears them down, and a change of precision brings nothing back.",
        source="arXiv 2502.11190; rows written by rules here",
        roles=("relearn", "npo", "ga"),
        columns=(
            "kfr",
            "krr",
            "forgotten",
            "rouge",
            "kept",
            "perplexity",
            "distinct",
            "bf16_rise",
            "fp16_rise",
            "int4_rise",
        ),
        tests=(
            Test("kfr", "relearn", HIGHER, "npo", within=0.05),
            Test("krr", "relearn", HIGHER, "npo", within=0.05),
            Test("perplexity", "relearn", LOWER, "npo"),
            Test("rouge", "relearn", LOWER, "npo", within=0.05),
            Test("kept", "relearn", HIGHER, "npo", within=0.05),
            Test("bf16_rise", "relearn", LOWER, "npo", within=0.01),
            Test("bf16_rise", "relearn", LOWER, "ga", within=0.01),
        ),
    ),
)


def write(records: Records, names: Sequence[str]) -> list[Path]:
    """Fill the page.

    Args:
        records: of the part.
        names: of every run that the recipe asks for.
    """
    best = chosen(records.runs, records.models) if records.models else {}
    runs = {role: records.runs[name] for role, name in best.items() if not records.runs[name].failed}
    parts = [state(records, names), *(_section(claim, runs, records.models) for claim in CLAIMS)]
    put(PAGE, "claims", "\n\n".join(parts) + "\n")
    return [PAGE]


def _section(claim: Claim, runs: Mapping[str, Record], models: Mapping[str, Metrics]) -> str:
    rows = [_model_row(claim, name, models[name]) for name in (BEFORE, RETAIN_MODEL) if name in models]
    rows += [_row(claim, role, runs.get(role)) for role in claim.roles]
    table = markdown_table(["run", "lr", *(COLUMNS[key].title for key in claim.columns)], rows)
    verdicts = "\n".join(f"- {test.text}: **{test.judge(runs)}**" for test in claim.tests)
    return f"### {claim.title}\n\n{claim.says} ({claim.source})\n\n{table}\n\n{verdicts}"


def _model_row(claim: Claim, name: str, metrics: Metrics) -> list[str]:
    keys = [COLUMNS[key].metric for key in claim.columns]
    return [f"*{name}*", MISSING, *(format_number(metrics[key][0]) if key in metrics else MISSING for key in keys)]


def _row(claim: Claim, role: str, record: Record | None) -> list[str]:
    if record is None:
        return [role, "not run", *[MISSING] * len(claim.columns)]
    return [role, shown_rate(record), *(_shown(key, COLUMNS[key].read(record)) for key in claim.columns)]


def _shown(column: str, value: float) -> str:
    if column == "share" and not math.isnan(value):
        return f"{value:.2%}"
    return format_number(value)
