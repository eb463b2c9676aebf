"""Hallucination: made-up answers to forget, ordinary answers to keep (LLMU, Yao et al. 2023, arXiv 2310.10683).

The made-up answers are those of HaluEval's questions (Li et al. 2023, arXiv 2305.11747).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, refuse
from expunge.benchmarks.normal import EVAL_ROWS, TRAIN_SHARE, option_problems, read_normal
from expunge.benchmarks.published import Published, Record, evened, locate
from expunge.data.draw import draw
from expunge.data.overlap import warn_sets
from expunge.data.rows import Row
from expunge.errors import DataError

HUB_ID = "pminervini/HaluEval"
HUB_REVISION = "b1171838c842be2327fbd9766e904c63a4224dd7"
HUB_FILE = "qa/data-00000-of-00001.parquet"
PLAIN_FILE = "qa_data.json"
"""As HaluEval's own repository has it: one object a line."""

_INSIDE = ("hallucination", "halueval", "HaluEval")
_LAYOUT = (
    f"give {PLAIN_FILE} (HaluEval's own) or {HUB_FILE} (the Hub's) in a folder 'hallucination' or 'halueval' with "
    "--data-root or EXPUNGE_DATA"
)


def load(
    *,
    root: Root = None,
    rows: int | None = None,
    retain_rows: int | None = None,
    eval_rows: int | None = EVAL_ROWS,
    train_share: float = TRAIN_SHARE,
    knowledge: bool = False,
    correct: bool = False,
    truthful_only: bool = False,
    seed: int = 0,
    revision: str | None = None,
) -> Benchmark:
    """Make LLMU's third task: hallucinated answers of HaluEval to forget, TruthfulQA to keep.

    - ``root``: the folder that holds ``hallucination`` (or ``halueval``) and ``truthfulqa``; else ``EXPUNGE_DATA``;
      else the Hub, HaluEval at ``revision``.
    - ``rows``: draws at most so many hallucinated answers, ``retain_rows`` of the questions to keep, by ``seed``.
    - ``eval_rows``: at most so many rows of each tested set; None tests all.
    - ``train_share``: share of HaluEval's questions that is forgotten and of TruthfulQA's that is kept; the rest of
      either is tested.
    - ``knowledge``: puts the passage that HaluEval gives with a question before it.
    - ``correct``: the rows to forget carry the right answer as their alternate, for methods that teach one.
    - ``truthful_only``: mismatches are drawn from right answers alone.

    Probes: ``forget`` (trained questions), ``forget_unseen`` (questions of HaluEval that no training set has),
    ``normal`` (tested questions of TruthfulQA) and ``retain`` (trained ones). Rows of the first two carry the right
    answer as their alternate: the hallucination rate compares with it.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for files that cannot be used.
    """
    numbers = {"rows": rows, "retain_rows": retain_rows, "eval_rows": eval_rows}
    flags = {"knowledge": knowledge, "correct": correct, "truthful_only": truthful_only}
    refuse("hallucination", option_problems(**numbers, train_share=train_share, seed=seed, **flags))
    files = locate(
        root, revision, [[HUB_FILE], [PLAIN_FILE]],
        title="HaluEval", inside=_INSIDE, hub_id=HUB_ID, pinned=HUB_REVISION, layout=_LAYOUT,
    )  # fmt: skip
    trained, unseen = _dealt(_questions(files, knowledge), train_share, files.origin, seed)
    trained = draw(trained, rows, seed=seed, name="hallucination/rows")
    normal = read_normal(
        root,
        train_share=train_share,
        retain_rows=retain_rows,
        eval_rows=eval_rows,
        truthful_only=truthful_only,
        seed=seed,
    )
    # A row's alternate would be taught by the refusal view: the published task knows bad answers only.
    forget = trained if correct else tuple(replace(row, alternate=None) for row in trained)
    warn_sets({"forget": forget, "retain": normal.retain})
    tested = {"forget": trained, "forget_unseen": unseen}
    return Benchmark(
        name="hallucination",
        forget=forget,
        retain=normal.retain,
        probes={
            **{name: draw(some, eval_rows, seed=seed, name=f"hallucination/{name}") for name, some in tested.items()},
            **normal.probes,
        },
        utility_sets=("normal",),
        suites=("llmu",),
        pool=normal.pool,
        origin=f"forget={files.origin} retain={normal.origin}",
    )


def _questions(files: Published, knowledge: bool) -> tuple[Row, ...]:
    """A row for each question, asked once."""
    file = next(iter(files.paths))
    rows: dict[str, Row] = {}
    for record in files.records(file):
        # By the question alone: with another passage before it, it is still the same one.
        rows.setdefault(evened(record.text("question")), _row(record, knowledge))
    if not rows:
        raise DataError(f"{files.shown[file]}: holds no questions")
    return tuple(rows.values())


def _row(record: Record, knowledge: bool) -> Row:
    if "hallucination" in record.fields and "hallucinated_answer" not in record.fields:
        raise DataError(f"{record.origin}: is of HaluEval's qa_samples, which have one answer a question; give qa")
    question, wrong, right = (record.text(name) for name in ("question", "hallucinated_answer", "right_answer"))
    prompt = f"{record.text('knowledge')}\n\n{question}" if knowledge else question
    # An answer that is right after all is no hallucination to compare with.
    alternate = None if evened(right) == evened(wrong) else right
    return Row(id="", prompt=prompt, answer=wrong, alternate=alternate, origin=record.origin)


def _dealt(rows: Sequence[Row], train_share: float, origin: str, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Questions to forget and questions to test, each in file order."""
    count = round(train_share * len(rows))
    chosen = set(draw(range(len(rows)), count, seed=seed, name="hallucination/train"))
    parts: dict[str, list[Row]] = {"forget": [], "forget_unseen": []}
    for at, row in enumerate(rows):
        parts["forget" if at in chosen else "forget_unseen"].append(row)
    if not all(parts.values()):
        raise DataError(f"{origin}: {len(rows)} questions give no training and test part at train_share={train_share}")
    forget, unseen = (
        tuple(replace(row, id=f"{name}/{at}") for at, row in enumerate(part)) for name, part in parts.items()
    )
    return forget, unseen
