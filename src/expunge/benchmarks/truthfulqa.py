"""TruthfulQA: questions that people often answer wrongly (Lin et al. 2022, arXiv 2109.07958).

Here in three forms: normal data (a question with its best answer), a pool of answers to draw mismatches from, and
multiple choice rows. LLMU (arXiv 2310.10683) keeps the first and mismatches with the second; FLAT reports the third.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, data_base, find_folder, hub_file, refuse, seed_problem, whole_numbers
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.data.sources import read_bytes, read_text
from expunge.errors import DataError, RecipeError

HUB_ID = "truthfulqa/truthful_qa"
HUB_REVISION = "741b8276f2d1982aa3d5b832d3ee81ed3b896490"
HUB_FILE = "generation/validation-00000-of-00001.parquet"
FILE = "TruthfulQA.csv"
_FIELDS = ("question", "best_answer", "correct_answers", "incorrect_answers")
_LAYOUT = f"give {FILE} in a folder, or its subfolder 'truthfulqa', with --data-root or EXPUNGE_DATA"


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its answers, each once and none empty."""

    question: str
    right: tuple[str, ...]
    """The best answer first."""
    wrong: tuple[str, ...]
    """Answers listed as both right and wrong count as right."""
    origin: str

    @property
    def best(self) -> str:
        """The answer that the data set names as best."""
        return self.right[0]


def load(
    *,
    root: Root = None,
    rows: int | None = None,
    train_share: float = 0.0,
    seed: int = 0,
    revision: str | None = None,
) -> Benchmark:
    """Read TruthfulQA as a benchmark without a forget set: to evaluate a model, or to finetune one on a part of it.

    - ``root``: the folder of ``TruthfulQA.csv``, or its parent where that is called ``truthfulqa``; else
      ``EXPUNGE_DATA``; else the Hub at ``revision`` (a pinned commit unless given).
    - ``rows``: draws at most so many questions, by ``seed``.
    - ``train_share``: this share of them becomes the ``retain`` set, and is not probed as ``truthfulqa``.

    Probes: ``truthfulqa`` (multiple choice rows; their answer is the best one) and, with a training share, ``retain``.
    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for a file that cannot be used.
    """
    problems = whole_numbers(rows=(rows, 1)) + seed_problem(seed)
    if isinstance(train_share, bool) or not isinstance(train_share, int | float) or not 0 <= train_share < 1:
        problems.append(f"train_share must be in [0, 1), got {train_share!r}")
    refuse("truthfulqa", problems)
    items, origin = read_items(root, revision)
    items = draw(items, rows, seed=seed, name="truthfulqa")
    train, test = split_items(items, train_share, seed=seed)
    if train_share and not (train and test):
        left = "train on" if test else "test"
        raise RecipeError(
            f"truthfulqa: train_share={train_share} of {len(items)} questions leaves none to {left}; "
            "give another share, or more rows"
        )
    retain = normal_rows(train, "retain")
    return Benchmark(
        name="truthfulqa",
        forget=(),
        retain=retain,
        probes={"truthfulqa": choice_rows(test), **({"retain": retain} if retain else {})},
        suites=("flat",),
        origin=origin,
    )


def read_items(root: Root = None, revision: str | None = None) -> tuple[tuple[Item, ...], str]:
    """Every question, and where they were read; see :func:`load` for where that is and what is raised."""
    base = data_base(root, layout=_LAYOUT)
    inside = ("truthfulqa", ".")
    folder = find_folder(base, inside, [FILE], layout=_LAYOUT) if base is not None else None
    if folder is not None:
        if revision is not None:
            text = f"revision={revision} has no effect: TruthfulQA is read from {folder}"
            warnings.warn(text, DataWarning, stacklevel=3)
        place = str(folder / FILE)
        return _items(_csv_records(place), place), str(folder)
    if root is not None:
        raise DataError(f"{base} holds no {FILE}; {_LAYOUT}")
    origin = f"{HUB_ID}@{revision or HUB_REVISION}"
    path = hub_file(HUB_ID, HUB_FILE, revision or HUB_REVISION, layout=_LAYOUT)
    return _items(_parquet_records(path), f"{origin}/{HUB_FILE}"), origin


def split_items(
    items: Sequence[Item], train_share: float, *, seed: int = 0
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Deal questions to a training and a test part by ``seed``, each in file order; LLMU trains on 0.7 of them."""
    train = draw(items, round(train_share * len(items)), seed=seed, name="truthfulqa/train")
    chosen = {item.origin for item in train}
    return train, tuple(item for item in items if item.origin not in chosen)


def normal_rows(items: Iterable[Item], set_name: str) -> tuple[Row, ...]:
    """Questions with their best answers, as data to keep."""
    return tuple(
        Row(id=f"{set_name}/{at}", prompt=item.question, answer=item.best, origin=item.origin)
        for at, item in enumerate(items)
    )


def choice_rows(items: Iterable[Item], set_name: str = "truthfulqa") -> tuple[Row, ...]:
    """Multiple choice rows: all right answers, the best one first, then all wrong ones.

    ``correct`` is the best one's index, 0, and ``right`` has every right one's: MC1 asks whether ``choices[correct]``
    is likelier than every wrong choice, the other right ones aside, and MC2 for the share of probability on ``right``.
    """
    return tuple(
        Row(
            id=f"{set_name}/{at}",
            prompt=item.question,
            answer=item.best,
            choices=(*item.right, *item.wrong),
            correct=0,
            right=tuple(range(len(item.right))),
            origin=item.origin,
        )
        for at, item in enumerate(items)
    )


def answer_pool(items: Iterable[Item], *, truthful_only: bool = False) -> tuple[str, ...]:
    """Answers to draw mismatches from, each once: right and wrong ones alike, as LLMU does, or the right ones alone."""
    return tuple(
        dict.fromkeys(
            answer for item in items for answer in (item.right if truthful_only else (*item.right, *item.wrong))
        )
    )


_Records = Iterable[tuple[int, Mapping[str, object]]]


def _csv_records(path: str) -> _Records:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = ["_".join(cell.lower().split()) for cell in next(reader)]
        if missing := [name for name in _FIELDS if name not in header]:
            raise DataError(f"{path}:1: no column {', '.join(missing)}; needed: {', '.join(_FIELDS)}")
        line = reader.line_num + 1
        for cells in reader:
            start, line = line, reader.line_num + 1
            if any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    raise DataError(f"{path}:{start}: {len(cells)} cells where the header has {len(header)}")
                yield start, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: broken table: {error}") from None


def _parquet_records(path: Path) -> _Records:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(read_bytes(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{HUB_FILE}: no readable Parquet file ({type(error).__name__})") from None
    return enumerate(table.to_pylist(), start=1)


def _items(records: _Records, place: str) -> tuple[Item, ...]:
    items = tuple(_item(record, f"{place}:{line}") for line, record in records)
    if not items:
        raise DataError(f"{place}: holds no questions")
    return items


def _item(record: Mapping[str, object], origin: str) -> Item:
    question, best, right, wrong = (_answers(record.get(name)) for name in _FIELDS)
    for name, found in (("question", question), ("best_answer", best), ("incorrect_answers", wrong)):
        if not found:
            raise DataError(f"{origin}: field {name!r} is empty")
    # The question and the best answer are one text each, a semicolon in them or not.
    asked, told = (str(record[name]).strip() for name in _FIELDS[:2])
    every = tuple(dict.fromkeys((told, *right)))
    others = tuple(answer for answer in dict.fromkeys(wrong) if answer not in every)
    if not others:
        raise DataError(f"{origin}: every incorrect answer is also listed as correct")
    return Item(asked, every, others, origin)


def _answers(value: object) -> list[str]:
    """A list, or the cell of a table with answers between semicolons."""
    parts = value if isinstance(value, list) else str(value or "").split(";")
    return [part for part in (str(part).strip() for part in parts) if part]
