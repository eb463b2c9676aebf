"""WikiText: articles whose perplexity says whether a model still reads and writes English (Merity et al. 2016).

There is nothing in it to forget: it is measured beside another benchmark (``data.also``), or by ``expunge evaluate``.
"""

from __future__ import annotations

from pathlib import Path

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, data_base, refuse, seed_problem, whole_numbers
from expunge.data.draw import draw
from expunge.errors import DataError
from expunge.evaluation.windows import wikitext_rows

FOLDERS = ("wikitext-2", "wikitext-2-raw", ".")
FILES = {
    "test": ("test.txt", "wiki.test.raw", "wiki.test.tokens"),
    "valid": ("valid.txt", "wiki.valid.raw", "wiki.valid.tokens"),
}
_LAYOUT = "give wiki.test.raw or test.txt in a folder, or its subfolder 'wikitext-2', with --data-root or EXPUNGE_DATA"


def load(*, root: Root = None, split: str = "test", rows: int | None = None, seed: int = 0) -> Benchmark:
    """Read a WikiText file as a benchmark with one probe set, ``wikitext``: one row of raw text an article.

    - ``root``: the folder of the file, or its parent where that is called ``wikitext-2`` or ``wikitext-2-raw``; else
      ``EXPUNGE_DATA``.
    - ``split``: ``test`` or ``valid``.
    - ``rows``: draws at most so many articles, by ``seed``.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for a file that cannot be used.
    """
    problems = whole_numbers(rows=(rows, 1)) + seed_problem(seed)
    if split not in FILES:
        problems.append(f"split must be {' or '.join(FILES)}, got {split!r}")
    refuse("wikitext", problems)
    base = data_base(root, layout=_LAYOUT)
    if base is None:
        raise DataError(f"wikitext is read from a local file; {_LAYOUT}")
    path = _file(base, split)
    articles = draw(wikitext_rows(path), rows, seed=seed, name="wikitext")
    return Benchmark(name="wikitext", forget=(), probes={"wikitext": articles}, suites=("wikitext",), origin=str(path))


def _file(base: Path, split: str) -> Path:
    for folder in FOLDERS:
        for name in FILES[split]:
            if (base / folder / name).is_file():
                return base / folder / name
    raise DataError(f"{base} holds no WikiText file of the split {split!r}; {_LAYOUT}")
