"""WikiText: articles whose perplexity says whether a model still reads and writes English (Merity et al. 2016).

There is nothing in it to forget: it is measured beside another benchmark (``data.also``), or by ``expunge evaluate``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, data_base, hub_file, refuse, seed_problem, whole_numbers
from expunge.data.draw import draw
from expunge.data.rows import Row
from expunge.data.sources import text_lines
from expunge.data.stored import pack_large
from expunge.errors import DataError

HUB_ID = "Salesforce/wikitext"
HUB_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
HUB_FILES = {
    "test": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
    "valid": "wikitext-2-raw-v1/validation-00000-of-00001.parquet",
}
FOLDERS = ("wikitext-2", "wikitext-2-raw", ".")
FILES = {
    "test": ("test.txt", "wiki.test.raw", "wiki.test.tokens"),
    "valid": ("valid.txt", "wiki.valid.raw", "wiki.valid.tokens"),
}
WIKITEXT = "wikitext/"
"""How the ids of rows begin whose text is WikiText's: words and punctuation apart, joined numbers marked with @."""
_HEADING = re.compile(r"^ ?= (?!=).*(?<!=) = *$")
_LAYOUT = "give wiki.test.raw or test.txt in a folder, or its subfolder 'wikitext-2', with --data-root or EXPUNGE_DATA"


def load(*, root: Root = None, split: str = "test", rows: int | None = None, seed: int = 0) -> Benchmark:
    """Read a WikiText file as a benchmark with one probe set, ``wikitext``: one row of raw text an article.

    - ``root``: the folder of the file, or its parent where that is called ``wikitext-2`` or ``wikitext-2-raw``; else
      ``EXPUNGE_DATA``; else the raw files of the Hub at a pinned commit.
    - ``split``: ``test`` or ``valid``.
    - ``rows``: draws at most so many articles, by ``seed``.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for a file that cannot be used.
    """
    problems = whole_numbers(rows=(rows, 1)) + seed_problem(seed)
    if split not in FILES:
        problems.append(f"split must be {' or '.join(FILES)}, got {split!r}")
    refuse("wikitext", problems)
    base = data_base(root, layout=_LAYOUT)
    if base is not None:
        path = _file(base, split)
        found, origin = wikitext_rows(path), str(path)
    else:
        origin = f"{HUB_ID}@{HUB_REVISION}/{HUB_FILES[split]}"
        lines = _hub_lines(hub_file(HUB_ID, HUB_FILES[split], HUB_REVISION, layout=_LAYOUT))
        found = pack_large(_articles(lines, origin))
    articles = found if rows is None else draw(found, rows, seed=seed, name="wikitext")
    return Benchmark(name="wikitext", forget=(), probes={"wikitext": articles}, suites=("wikitext",), origin=origin)


def _file(base: Path, split: str) -> Path:
    for folder in FOLDERS:
        for name in FILES[split]:
            if (base / folder / name).is_file():
                return base / folder / name
    raise DataError(f"{base} holds no WikiText file of the split {split!r}; {_LAYOUT}")


def wikitext_rows(path: str | os.PathLike[str]) -> Sequence[Row]:
    """Read a WikiText file (``wiki.test.raw``, or word-level text with ``<unk>``) as one raw-text row per article.

    An article begins at a heading of the first level, `` = Title = ``.

    Raises:
        DataError: if the file cannot be read or has no heading.
    """
    return pack_large(_articles(text_lines(path), os.fspath(path)), files=[path], how="wikitext")


def _hub_lines(path: Path) -> Iterator[str]:
    """The Hub's lines, each with its line end, as the text that they were cut from; blank lines are empty there."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["text"]):
            for line in batch.column(0).to_pylist():
                yield line or " \n"


def _articles(lines: Iterable[str], origin: str) -> Iterator[Row]:
    headed = False
    texts = (text for text in _pages(lines) if text.strip())
    for number, text in enumerate(texts):
        headed = headed or bool(_HEADING.match(text.partition("\n")[0]))
        yield Row(id=f"{WIKITEXT}{number}", prompt="", answer=text, origin=origin)
    if not headed:
        raise DataError(f"{origin}: no heading like ' = Title = ' in it; give a WikiText file")


def _pages(lines: Iterable[str]) -> Iterator[str]:
    """What stands from one heading to the next, and what stands before the first."""
    page: list[str] = []
    for line in lines:
        if page and _HEADING.match(line):
            yield "".join(page).removesuffix("\n")
            page = []
        page.append(line)
    yield "".join(page)
