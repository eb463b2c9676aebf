"""The page of benchmarks: the same five methods on each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from expunge.benchmarks.files import data_base
from expunge.errors import DataError
from expunge.reporting.tables import MISSING, format_number
from results.choice import role_of
from results.pages import DOCS, markdown_table, put, shown_rate, state
from results.records import BEFORE, RETAIN_MODEL, Metrics, Records
from results.running import Place

PAGE = DOCS / "benchmarks.md"
ROUGE = "_Q_A_ROUGE"
COLUMNS = {
    "extraction_strength": "ES",
    "exact_memorization": "EM",
    "forget_Q_A_Prob": "probability",
    "model_utility": "MU",
    "mia_min_k": "min-k",
    "forget_perplexity": "PPL",
    "forget_distinct_2": "dist-2",
    "forget_empty_rate": "empty",
}
"""Metrics of every table; ROUGE-L recall of each tested set comes before them."""
BOOK, CORPUS, CHARS = "alice29.txt", ("asyoulik.txt", "plrabn12.txt"), 9000
"""Of the user's own texts: a book's beginning, and what there is besides."""


def page(section: str) -> Callable[[Records, Sequence[str]], list[Path]]:
    """What fills one benchmark's section."""
    return partial(_write, section)


def _write(section: str, records: Records, names: Sequence[str]) -> list[Path]:
    put(PAGE, section, f"{state(records, names)}\n\n{_table(records, names)}\n")
    return [PAGE]


def _table(records: Records, names: Sequence[str]) -> str:
    models = [records.models[name] for name in (BEFORE, RETAIN_MODEL) if name in records.models]
    measured = [*models, *(record.metrics for record in records.runs.values())]
    sets = dict.fromkeys(key for metrics in measured for key in metrics if key.endswith(ROUGE))
    keys = [*sets, *(key for key in COLUMNS if any(key in metrics for metrics in measured))]
    rows = [
        [f"*{name}*", MISSING, *_values(records.models[name], keys), MISSING]
        for name in (BEFORE, RETAIN_MODEL)
        if name in records.models
    ]
    for name in names:
        record = records.runs.get(name)
        if record is None or record.failed:
            said = record.failed if record else "not run"
            rows.append([role_of(name), said, *[MISSING] * (len(keys) + 1)])
        else:
            seconds = f"{record.cost['seconds']:.0f}" if "seconds" in record.cost else MISSING
            rows.append([role_of(name), shown_rate(record), *_values(record.metrics, keys), seconds])
    heads = [f"ROUGE, {key.removesuffix(ROUGE)}" if key in sets else COLUMNS[key] for key in keys]
    return markdown_table(["method", "lr", *heads, "s"], rows)


def _values(metrics: Metrics, keys: Sequence[str]) -> list[str]:
    return [format_number(metrics[key][0]) if key in metrics else MISSING for key in keys]


def own_texts(place: Place) -> Place:
    """The folders of someone who brings texts: the beginning of a book to forget, and others to draw neighbours from.

    Raises:
        DataError: the books are not there.
    """
    base = data_base(place.data_root, layout="it must hold books/")
    books = (base or Path()) / "books"
    if not (books / BOOK).is_file():
        raise DataError(f"{books / BOOK}: not there; --data-root DIR names the folder that holds books/")
    files = place.out / "files"
    for name, text in {
        f"forget/{BOOK}": (books / BOOK).read_text(encoding="utf-8")[:CHARS],
        **{f"corpus/{name}": (books / name).read_text(encoding="utf-8") for name in CORPUS},
    }.items():
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(text, encoding="utf-8")
    return replace(place, data_root=str(files))
