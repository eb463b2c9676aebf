"""A book to forget: any plain text, cut into passages that a model is asked to continue.

The copyright task of FLAT (Wang et al. 2024, arXiv 2410.11143) and LLMU (Yao et al. 2023, arXiv 2310.10683). Their
"test" prompts ask for the passages trained on in other words; here passages that nobody was trained on are tested too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, data_base, refuse, seed_problem, whole_numbers
from expunge.benchmarks.passages import NGRAM, Passage, cut_passages, shortest, without_overlap
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning, warn_sets
from expunge.data.rows import Row
from expunge.data.sources import ROW_FILES, read_rows, read_text
from expunge.errors import DataError, RecipeError

PHRASINGS = (
    "Continue this passage from the book:",
    "Write what comes next in this text:",
    "Carry on from where this extract breaks off:",
    "Complete the following excerpt word for word:",
    "Give the lines that follow this opening:",
    "Go on with the text from here:",
)
"""How a passage is asked for in training; the wordings are ours."""
OTHER_PHRASINGS = (
    "Tell me how this excerpt goes on:",
    "Recite the rest of this paragraph:",
    "Pick up the text where it stops:",
    "Supply what is missing after these words:",
    "The page ends here, so read on for me:",
    "Quote the book from this point onwards:",
)
"""How it is asked for in the row's paraphrased prompt, which no training set has."""

PASSAGE_WORDS, PROMPT_WORDS, TEST_SHARE = 380, 200, 0.2
_CUTTING = {"passage_words": PASSAGE_WORDS, "prompt_words": PROMPT_WORDS, "phrasings": 1, "test_share": TEST_SHARE}
"""Options that only a text is cut by, as they are unless given."""
_Path = str | os.PathLike[str]


@dataclass(frozen=True)
class _Cut:
    """How text becomes rows."""

    passage_words: int
    prompt_words: int
    phrasings: int
    max_passages: int | None
    seed: int

    def rows(self, passages: Sequence[Passage], set_name: str, path: str) -> tuple[Row, ...]:
        """``phrasings`` rows for each passage; the wordings take turns, so that no set is all asked in one."""
        asked = [(index, passage, turn) for index, passage in enumerate(passages) for turn in range(self.phrasings)]
        return tuple(
            self._row(passage, index + turn, row_id=f"{set_name}/{at}", origin=f"{path}:{passage.line}")
            for at, (index, passage, turn) in enumerate(asked)
        )

    def _row(self, passage: Passage, turn: int, *, row_id: str, origin: str) -> Row:
        shown, rest = " ".join(passage.words[: self.prompt_words]), " ".join(passage.words[self.prompt_words :])
        prompt, other = (f"{wordings[turn % len(wordings)]}\n{shown}" for wordings in (PHRASINGS, OTHER_PHRASINGS))
        return Row(id=row_id, prompt=prompt, answer=rest, paraphrased_prompt=other, origin=origin)

    def drawn(self, passages: Sequence[Passage], name: str, count: int | None = None) -> tuple[Passage, ...]:
        """At most ``count`` of the passages, ``max_passages`` unless given."""
        return draw(passages, self.max_passages if count is None else count, seed=self.seed, name=f"book/{name}")


def load(
    *,
    forget: _Path | None = None,
    retain: _Path | Sequence[_Path] | None = None,
    test: _Path | None = None,
    root: Root = None,
    passage_words: int = PASSAGE_WORDS,
    prompt_words: int = PROMPT_WORDS,
    phrasings: int = 1,
    rephrased: bool = False,
    test_share: float = TEST_SHARE,
    max_passages: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Make the sets of a book to forget from its text, and of other books to keep.

    - ``forget``: the book, plain text in UTF-8; or a file of rows that are passages already (FLAT's
      ``hp_train_qa_200.jsonl``: ``{prompt, response}``). ``retain``: one path or several, of either kind.
    - ``test``: for a file of rows, another one. If its answers are those of ``forget``, it becomes the probe
      ``forget_rephrased``; if none is, ``forget_test`` and ``holdout``.
    - ``root``: where a path that is not there by itself is looked for: ``root/books``, then ``root``; else
      ``EXPUNGE_DATA``.
    - ``passage_words``: longest passage; ``prompt_words``: how many of its words the prompt shows (FLAT's k).
    - ``phrasings``: in how many wordings (1 to 6) each passage is asked for: so many rows a passage.
    - ``rephrased``: for a text, adds the probe ``forget_rephrased``: its trained passages in wordings never trained.
    - ``test_share``: this share of the book's passages, at least one unless it is 0, is trained on by nobody.
    - ``max_passages``: at most so many passages, by ``seed``, in each of ``forget``, ``forget_test`` and ``retain``.

    Probes: ``forget`` and ``retain`` (all trained rows), ``forget_test`` (passages of the same book that nobody learns)
    and ``holdout`` (the same rows, as non-members). No two passages share 13 words in a row, whatever their books.
    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for files that cannot be used.
    """
    _check_options(forget, passage_words, prompt_words, phrasings, test_share, max_passages, seed)
    assert forget is not None
    cut = _Cut(passage_words, prompt_words, phrasings, max_passages, seed)
    seen: set[tuple[str, ...]] = set()
    book = _find(forget, root)
    _check_kind(book, test, rephrased)
    if _has_rows(book):
        sets = _given_rows(book, _find(test, root) if test is not None else None, cut, seen)
    else:
        sets = _book_rows(book, cut, test_share, seen)
    others = [_find(path, root) for path in ([retain] if isinstance(retain, str | os.PathLike) else retain or ())]
    _warn_idle(book, others, {**vars(cut), "test_share": test_share})
    kept = _retain_rows(others, cut, seen)
    unseen = sets.get("forget_test", ())
    warn_sets({"forget": sets["forget"], "forget_test": unseen, "retain": kept})
    if rephrased:
        sets["forget_rephrased"] = _rephrased(sets["forget"])
    holdout = tuple(replace(row, id=f"holdout/{at}") for at, row in enumerate(unseen))
    probes = {**sets, "retain": kept, "holdout": holdout}
    return Benchmark(
        name="book",
        forget=sets["forget"],
        retain=kept,
        holdout=holdout,
        probes={name: rows for name, rows in probes.items() if rows},
        suites=("flat",),
        origin=" ".join([f"forget={book}", *(f"retain={path}" for path in others)]),
    )


def _has_rows(path: str) -> bool:
    return Path(path).suffix.lower() in ROW_FILES


def _check_kind(book: str, test: _Path | None, rephrased: bool) -> None:
    """What an option says must fit what the book is given as."""
    if test is not None and not _has_rows(book):
        raise RecipeError("book: test is for a forget file of rows; of a text, test_share is held out")
    if rephrased and _has_rows(book):
        raise RecipeError("book: rephrased is for a text; for a forget file of rows give test=FILE with other prompts")


def _warn_idle(book: str, others: Sequence[str], given: Mapping[str, object]) -> None:
    """Say which options cut nothing; of a text to keep no share is held out."""
    cutting = not all(map(_has_rows, (book, *others)))
    idle = [
        name
        for name, default in _CUTTING.items()
        if given[name] != default and (_has_rows(book) if name == "test_share" else not cutting)
    ]
    if idle:
        text = f"book: {', '.join(idle)} {'have' if len(idle) > 1 else 'has'} no effect: files of rows are not cut"
        warnings.warn(text, DataWarning, stacklevel=3)


def _rephrased(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(
        replace(row, id=f"forget_rephrased/{at}", prompt=row.paraphrased_prompt or row.prompt, paraphrased_prompt=None)
        for at, row in enumerate(rows)
    )


def _check_options(
    forget: _Path | None, passage_words: int, prompt_words: int, phrasings: int, test_share: float,
    max_passages: int | None, seed: int,
) -> None:  # fmt: skip
    problems = [] if forget is not None else ["give the book to forget: forget=FILE"]
    counts = {"passage_words": passage_words, "prompt_words": prompt_words, "phrasings": phrasings}
    problems += [f"{name} must be a whole number, got None" for name, value in counts.items() if value is None]
    bad = whole_numbers(
        passage_words=(passage_words, 2),
        prompt_words=(prompt_words, 1),
        phrasings=(phrasings, 1),
        max_passages=(max_passages, 1),
    )
    problems += bad + seed_problem(seed)
    if not problems and prompt_words >= shortest(passage_words):
        problems.append(
            f"prompt_words={prompt_words} leaves nothing to continue: passages of passage_words={passage_words} may "
            f"have {shortest(passage_words)} words; give a smaller prompt_words"
        )
    if not bad and phrasings > len(PHRASINGS):
        problems.append(f"phrasings must be at most {len(PHRASINGS)}, got {phrasings}")
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 <= test_share < 1:
        problems.append(f"test_share must be in [0, 1), got {test_share!r}")
    refuse("book", problems)


def _find(path: _Path, root: Root) -> str:
    """The path as given if it is there, else below the data root; else as given, to be refused by name."""
    if Path(path).expanduser().is_file():
        return os.fspath(path)
    base = data_base(root, layout="give the folder that holds the books, or their folder's parent")
    below = [base / "books" / path, base / path] if base is not None else []
    return next((str(place) for place in below if place.is_file()), os.fspath(path))


def _passages(path: str, cut: _Cut, seen: set[tuple[str, ...]]) -> list[Passage]:
    """A book's passages, less those that repeat what an earlier one or an earlier book has."""
    found = cut_passages(read_text(path), cut.passage_words)
    kept = without_overlap(found, seen)
    if not kept:
        why = f"all {len(found)} passages repeat {NGRAM} words in a row of an earlier one or another set"
        few = f"too short for a passage of {cut.passage_words} words; give a longer text or a smaller passage_words"
        raise DataError(f"{path}: {why if found else few}")
    if len(kept) < len(found):
        _warn_left_out(path, len(found) - len(kept), f"{len(found)} passages", "of an earlier one")
    return kept


def _book_rows(path: str, cut: _Cut, test_share: float, seen: set[tuple[str, ...]]) -> dict[str, tuple[Row, ...]]:
    """Rows of the passages to forget, and of those that nobody learns."""
    passages = _passages(path, cut, seen)
    held = max(1, round(test_share * len(passages))) if test_share else 0
    if held >= len(passages):
        raise DataError(
            f"{path}: {len(passages)} passages leave none to forget beside {held} to test; "
            "give a longer text, a smaller passage_words or test_share=0"
        )
    apart = set(draw(range(len(passages)), held, seed=cut.seed, name="book/test"))
    found: dict[str, list[Passage]] = {"forget": [], "forget_test": []}
    for index, passage in enumerate(passages):
        found["forget_test" if index in apart else "forget"].append(passage)
    return {name: cut.rows(cut.drawn(dealt, name), name, path) for name, dealt in found.items()}


def _retain_rows(paths: Sequence[str], cut: _Cut, seen: set[tuple[str, ...]]) -> tuple[Row, ...]:
    """Rows of the books to keep, as equal a number of passages of each as there can be."""
    rows: list[Row] = []
    for number, path in enumerate(paths):
        count = cut.max_passages
        share = None if count is None else count // len(paths) + (number < count % len(paths))
        name = f"retain/{number}"
        if _has_rows(path):
            rows += _few(_unlike(read_rows(path, set_name="retain"), path, seen), share, cut, name)
        else:
            rows += cut.rows(cut.drawn(_passages(path, cut, seen), name, share), "retain", path)
    return tuple(replace(row, id=f"retain/{at}") for at, row in enumerate(rows))


def _given_rows(path: str, test: str | None, cut: _Cut, seen: set[tuple[str, ...]]) -> dict[str, tuple[Row, ...]]:
    """Rows of a file of passages; a test file's are only called unseen if their passages are."""
    rows = _unlike(read_rows(path, set_name="forget"), path, seen)
    forget = _few(rows, cut.max_passages, cut, "forget")
    if test is None:
        return {"forget": forget}
    tested = read_rows(test, set_name="forget_test")
    trained, asked = ({row.answer for row in given} for given in (rows, tested))
    if asked.isdisjoint(trained):
        unseen = _unlike(tested, test, seen)
        return {"forget": forget, "forget_test": _few(unseen, cut.max_passages, cut, "forget_test")}
    if not asked <= trained:
        raise DataError(
            f"{test}: {len(asked - trained)} of {len(asked)} passages are not in {path} and the others are; "
            "a test file has either the passages trained on, asked in other words, or none of them"
        )
    learnt = {row.answer for row in forget}
    same = [row for row in tested if row.answer in learnt]
    return {
        "forget": forget,
        "forget_rephrased": tuple(replace(row, id=f"forget_rephrased/{at}") for at, row in enumerate(same)),
    }


def _unlike(rows: Sequence[Row], path: str, seen: set[tuple[str, ...]]) -> tuple[Row, ...]:
    """Leave out rows that repeat what an earlier file has; rows of one file may share a passage."""
    runs = [Passage(tuple(f"{row.prompt} {row.answer}".split()), 0).ngrams() for row in rows]
    kept = tuple(row for row, own in zip(rows, runs, strict=True) if seen.isdisjoint(own))
    if not kept:
        raise DataError(f"{path}: all {len(rows)} rows repeat {NGRAM} words in a row of another file")
    if len(kept) < len(rows):
        _warn_left_out(path, len(rows) - len(kept), f"{len(rows)} rows", "of another file")
    seen.update(*runs)
    return kept


def _warn_left_out(path: str, count: int, total: str, whose: str) -> None:
    text = f"{path}: {count} of {total} left out: they repeat {NGRAM} words in a row {whose}"
    warnings.warn(text, DataWarning, stacklevel=5)


def _few(rows: Sequence[Row], count: int | None, cut: _Cut, name: str) -> tuple[Row, ...]:
    """Every row of at most ``count`` passages; rows of one passage have one answer."""
    chosen = set(draw(list(dict.fromkeys(row.answer for row in rows)), count, seed=cut.seed, name=f"book/{name}"))
    return tuple(row for row in rows if row.answer in chosen)
