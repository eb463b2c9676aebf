"""MUSE: news articles or books to forget, six ways to ask whether it worked (Shi et al. 2024, arXiv 2407.06460).

Training texts are raw. They are tested by continuing them (VerbMem), by questions after worked examples (KnowMem) and
by telling them from texts that nobody learnt (PrivLeak). Of News there are also forget sets that grow (scalability) and
forget sets that follow one another (sustainability).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.benchmarks.base import AnswerLimit, Benchmark
from expunge.benchmarks.files import Root, data_base, refuse, seed_problem, whole_numbers
from expunge.benchmarks.setfiles import HubSets, SetFiles, kept_rows, local_set, note_overlap, rows_of, shard_names
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import DataError, unknown
from expunge.evaluation.metrics.muse import STOP_WORDS

HUB_IDS = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
HUB_REVISIONS = {
    "news": "928543ace3784ccce8cec389f6e4e771308188b2",
    "books": "fe164799e3e960d766744f77394bab95b4989373",
}
SERIES = {"scal": "scalability: forget sets that grow", "sust": "sustainability: forget sets one after the other"}
FOLDS = (1, 2, 3, 4)
LIMITS = {
    "verbmem": AnswerLimit(max_new_tokens=128),
    "knowmem_forget": AnswerLimit(max_new_tokens=32, stop=STOP_WORDS),
    "knowmem_retain": AnswerLimit(max_new_tokens=32, stop=STOP_WORDS),
}
"""How long MUSE lets a model answer, and where an answer ends: a base model goes on to ask itself questions."""

_FOLDERS = {"news": ("muse/news", "MUSE-News", "news", "bbc"), "books": ("muse/books", "MUSE-Books", "books", "hp")}
"""Where a corpus is looked for in a data root; the last is what MUSE's own repository calls it."""
_SETS: dict[str, tuple[str, ...]] = {
    "forget": ("raw/forget",),
    "retain": ("raw/retain1",),
    "retain2": ("raw/retain2",),
    "verbmem": ("verbmem/forget",),
    "knowmem_forget": ("knowmem/forget_qa",),
    "examples_forget": ("knowmem/forget_qa_icl",),
    "knowmem_retain": ("knowmem/retain_qa", "knowmem/retain2_qa"),
    "examples_retain": ("knowmem/retain_qa_icl", "knowmem/retain2_qa_icl"),
    "forget_text": ("privleak/forget",),
    "retain_text": ("privleak/retain", "privleak/retain2"),
    "holdout": ("privleak/holdout",),
}
"""Published configuration and split of each set; where there are two, the later data and an earlier name of it."""
_OPTIONAL = ("retain2", "retain_text")
_NO_SECRET = ("retain", "retain2", "retain_text")
_LAYOUT = (
    "give the published files by configuration (raw/forget, raw/retain1, verbmem/forget, knowmem/forget_qa, "
    "knowmem/forget_qa_icl, knowmem/retain_qa, knowmem/retain_qa_icl, privleak/forget, privleak/holdout; each "
    ".parquet, .jsonl or .json) in a folder muse/CORPUS with --data-root or EXPUNGE_DATA"
)


def load(
    *,
    split: str = "news",
    root: Root = None,
    series: str | None = None,
    fold: int | None = None,
    turns: bool = False,
    shots: int | None = None,
    rows: int | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Benchmark:
    """Read one corpus of MUSE, from a folder of its files or from the Hub.

    - ``split``: ``news`` or ``books``.
    - ``root``: the folder that holds ``muse/news``, ``MUSE-News``, ``news`` or the configurations themselves; else
      ``EXPUNGE_DATA``; else the Hub at ``revision`` (a pinned commit unless given).
    - ``series`` and ``fold``: take forget set 1 to 4 of ``scal`` (each contains the one before) or ``sust`` (none
      shares a text with another) instead of the one forget set. News only.
    - ``turns``: the worked examples of KnowMem are earlier turns of a chat, for a chat model; otherwise they stand in
      the prompt, which is complete as it is and wants the format ``bare``. ``shots``: at most so many of the ten.
    - ``rows``: draws at most so many texts of each training set, ``eval_rows`` of each tested set, by ``seed``.

    Training sets: ``forget`` and ``retain`` (``retain1``, which unlearning may use). The target and the retain model
    also learn ``retain2``, whose knowledge is tested. Probes: ``verbmem``, ``knowmem_forget``, ``knowmem_retain``, and
    raw text: ``forget``, ``retain`` and ``holdout``, which nobody learnt.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for files that are missing or broken.
    """
    _check_options(split, series, fold, turns, shots, rows, eval_rows, seed)
    source = _locate(root, revision, split)
    names = _SETS if series is None else _SETS | {"forget": (f"{series}/forget_{fold}",)}
    files = {name: source.files(stems, optional=name in _OPTIONAL) for name, stems in names.items()}
    sets = {
        name: kept_rows(found, name) if name in _NO_SECRET else rows_of(found, name)
        for name, found in files.items()
        if found
    }
    note_overlap({name: sets[name] for name in ("forget", "retain", "retain2", "holdout") if name in sets})
    label = f"muse/{split}"
    for name in ("forget", "retain", "retain2"):
        sets[name] = _drawn(sets.get(name, ()), rows, seed, f"{label}/{name}")
    probes = {
        name: _drawn(members, eval_rows, seed, f"{label}/probe/{name}")
        for name, members in _probes(sets, turns, shots).items()
    }
    return Benchmark(
        name=f"muse:{split}" if series is None else f"muse:{split}:{series}{fold}",
        forget=sets["forget"],
        retain=sets["retain"],
        holdout=probes["holdout"],
        learnt={"retain": sets["retain2"]} if sets["retain2"] else {},
        probes=probes,
        suites=("muse",),
        limits=LIMITS,
        origin=source.origin,
    )


def _drawn(rows: Sequence[Row], count: int | None, seed: int, name: str) -> Sequence[Row]:
    """A draw; a whole set stays where it is."""
    return rows if count is None else draw(rows, count, seed=seed, name=name)


def _check_options(
    split: str, series: str | None, fold: int | None, turns: bool, shots: int | None, rows: int | None,
    eval_rows: int | None, seed: int,
) -> None:  # fmt: skip
    problems = [] if split in HUB_IDS else [unknown("MUSE corpus", str(split), HUB_IDS)]
    if series is not None and series not in SERIES:
        problems.append(unknown("series", str(series), SERIES))
    if series is None and fold is not None:
        problems.append(f"fold={fold} is a fold of a series; give series=scal or series=sust")
    if series is not None and (isinstance(fold, bool) or fold not in FOLDS):
        problems.append(f"series={series} has folds 1 to 4, got fold={fold!r}")
    if series is not None and split == "books":
        problems.append("series: MUSE publishes folds of news alone; use split=news")
    if not isinstance(turns, bool):
        problems.append(f"turns must be true or false, got {turns!r}")
    problems += whole_numbers(shots=(shots, 0), rows=(rows, 1), eval_rows=(eval_rows, 1)) + seed_problem(seed)
    refuse("muse", problems)


def _probes(sets: dict[str, Sequence[Row]], turns: bool, shots: int | None) -> dict[str, Sequence[Row]]:
    probes = {"verbmem": sets["verbmem"]}
    for side in ("forget", "retain"):
        examples = sets[f"examples_{side}"][:shots]
        asked = sets[f"knowmem_{side}"]
        probes[f"knowmem_{side}"] = after_turns(examples, asked) if turns else after_examples(examples, asked)
    probes["forget"] = sets["forget_text"]
    if "retain_text" in sets:
        probes["retain"] = sets["retain_text"]
    return probes | {"holdout": sets["holdout"]}


def after_examples(examples: Sequence[Row], asked: Iterable[Row]) -> tuple[Row, ...]:
    """Questions behind the worked examples, in one text: ``Question: q``, a new line, ``Answer: a``, an empty line."""
    before = "".join(f"Question: {row.prompt}\nAnswer: {row.answer}\n\n" for row in examples)
    return tuple(replace(row, prompt=f"{before}Question: {row.prompt}\nAnswer:") for row in asked)


def after_turns(examples: Sequence[Row], asked: Iterable[Row]) -> tuple[Row, ...]:
    """The same as turns of a chat."""
    pairs = [(("user", row.prompt), ("assistant", row.answer)) for row in examples]
    history = tuple(turn for pair in pairs for turn in pair)
    return tuple(replace(row, history=history) for row in asked)


@dataclass(frozen=True)
class _Folder:
    """MUSE's files in a local folder."""

    path: Path

    @property
    def origin(self) -> str:
        return str(self.path)

    def files(self, stems: Sequence[str], *, optional: bool) -> SetFiles | None:
        found = local_set(self.path, stems)
        if found is None and not optional:
            raise DataError(f"{self.path} lacks {stems[0]}; {_LAYOUT}")
        return found


@dataclass(frozen=True)
class _Hub:
    """MUSE's files on the Hub."""

    sets: HubSets

    @property
    def origin(self) -> str:
        return self.sets.origin

    def files(self, stems: Sequence[str], *, optional: bool) -> SetFiles | None:
        """An older commit may have a set under its earlier name only."""
        *others, last = stems
        for stem in others:
            try:
                return self.sets.files(*shard_names(stem))
            except DataError:
                continue
        return self.sets.files(*shard_names(last))


def _locate(root: Root, revision: str | None, split: str) -> _Folder | _Hub:
    """A folder given by hand must have the corpus, EXPUNGE_DATA may; the Hub otherwise."""
    base = data_base(root, layout=_LAYOUT)
    if base is not None:
        own = {Path(name).name.lower() for name in _FOLDERS[split]}
        others = {Path(name).name.lower() for names in _FOLDERS.values() for name in names} - own
        # A folder of the other corpus must not pass for this one.
        itself = () if root is None or base.name.lower() in others else (".",)
        for folder in (base / name for name in (*_FOLDERS[split], *itself)):
            if local_set(folder, _SETS["verbmem"]) or local_set(folder, _SETS["forget"]):
                if revision is not None:
                    text = f"revision={revision} has no effect: MUSE is read from {folder}"
                    warnings.warn(text, DataWarning, stacklevel=3)
                return _Folder(folder)
    if root is not None:
        raise DataError(f"{base} holds no MUSE {split} files; {_LAYOUT}")
    return _Hub(HubSets(HUB_IDS[split], revision or HUB_REVISIONS[split], _LAYOUT))
