"""WMDP: hazardous knowledge to unlearn from corpora, measured by multiple choice (Li et al. 2024, arXiv 2403.03218).

A topic (``bio``, ``cyber``) has a corpus to forget and one to keep, both raw text, and questions; ``chem`` has
questions alone. MMLU says what is left of everything else. The corpora are never shown in messages.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from expunge.benchmarks import wikitext
from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.files import Root, data_base, refuse, seed_problem, whole_numbers
from expunge.benchmarks.multiple_choice import MMLU_LAYOUT, MMLU_NAMES, choice_rows, mmlu_files
from expunge.benchmarks.setfiles import SUFFIXES, HubSets, SetFiles, local_set, note_overlap, shard_names, stream_set
from expunge.data.draw import draw
from expunge.data.fields import BadRecord, row_from_record
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.data.stored import pack_large
from expunge.errors import DataError, RecipeError, nearest, unknown

QUESTIONS_HUB_ID = "cais/wmdp"
QUESTIONS_REVISION = "8b85378e501fe9b3fb2694b04bcd2970bc7c7235"
CORPORA_HUB_ID = "cais/wmdp-corpora"
CORPORA_REVISION = "daf89fa9b618b63a624228061a9cebacca88009c"

SPLITS: dict[str, tuple[str, ...]] = {
    "bio": ("bio",),
    "cyber": ("cyber",),
    "bio_cyber": ("bio", "cyber"),
    "questions": (),
}
"""Topics whose corpora are unlearnt; ``questions`` has no training sets, to evaluate a model."""
SUBJECTS = ("bio", "cyber", "chem")
TESTED = (*SUBJECTS, "mmlu")
TEXTS, MAX_CHARS = 1000, 2000
PROBED_TEXTS = 100
"""Most texts of the forget and of the retain set that are probed, unless told otherwise."""

_HUB_SHARDS = {"bio-retain-corpus": 4, "cyber-forget-corpus": 1, "cyber-retain-corpus": 1}
GATED = "bio-forget-corpus"
WIKITEXT = "wikitext"
CORPORA = (GATED, *_HUB_SHARDS, WIKITEXT)
_OTHER_NAMES = {
    GATED: ("bio_remove_dataset",),
    WIKITEXT: ("wikitext-2-raw-v1/test", "wikitext-2/test", "wikitext-2/wiki.test"),
}
"""How else a corpus is called where it is published."""
_INSIDE = ("wmdp/wmdp-corpora", "wmdp-corpora", "wmdp", ".")
"""Where questions and corpora are looked for in a data root."""
_TEXT_SUFFIXES = (*SUFFIXES, ".txt")
_LAYOUT = (
    "give the published files (wmdp-SUBJECT/test-00000-of-00001.parquet or SUBJECT_test.jsonl; "
    "TOPIC-forget-corpus.jsonl, TOPIC-retain-corpus.jsonl or folders of the Hub's shards) in a folder wmdp "
    "with --data-root or EXPUNGE_DATA"
)
_GATED_LAYOUT = (
    "its owners give the bio forget corpus on request only, and it is never fetched: "
    "give their file with bio_forget=FILE, or as wmdp/bio-forget-corpus.jsonl in the data root"
)


def load(
    *,
    split: str = "cyber",
    root: Root = None,
    bio_forget: str | os.PathLike[str] | None = None,
    retain: str | Sequence[str] | None = None,
    texts: int | None = TEXTS,
    min_chars: int = 0,
    max_chars: int | None = MAX_CHARS,
    tested: Sequence[str] | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
) -> Benchmark:
    """Read WMDP's questions and the corpora of its topics, each from a folder if it is there, else from the Hub.

    - ``split``: whose corpora are unlearnt: ``bio``, ``cyber``, ``bio_cyber``; ``questions``: none, for evaluation.
    - ``root``: the folder that holds ``wmdp`` or the files themselves, which must have all of them; else
      ``EXPUNGE_DATA``, which may; else the Hub at pinned commits.
    - ``bio_forget``: the gated corpus, a file of yours: ``{text}`` records, or one text a line in a ``.txt``.
    - ``retain``: corpora to keep instead of the topics' own: ``wikitext`` (as in RMU's recipes), a published corpus's
      name, or a file.
    - ``texts``: the first so many texts of each corpus, in file order as RMU reads them; shorter ones than
      ``min_chars`` are passed over, longer ones than ``max_chars`` cut there (RMU sees the first 512 or 768 tokens).
    - ``tested``: which of ``bio``, ``cyber``, ``chem``, ``mmlu`` are probed; by default all, from a folder those there.
    - ``eval_rows``: draws at most so many rows of each probe, by ``seed``; unless given, all questions and 100 texts.

    Probes: ``wmdp_bio``, ``wmdp_cyber``, ``wmdp_chem`` and ``mmlu`` (multiple choice), ``forget`` and ``retain`` (raw
    text). Raises :class:`RecipeError` for an option out of range and :class:`DataError` for files that are missing or
    broken.
    """
    _check_options(split, tested, texts, min_chars, max_chars, eval_rows, seed)
    place = _Place(data_base(root, layout=_LAYOUT), given=root is not None)
    cut = partial(_text_row, min_chars=min_chars, max_chars=max_chars)
    topics = SPLITS[split]
    idle = {"bio_forget": bio_forget is not None and "bio" not in topics}
    idle |= {"texts": not topics and texts != TEXTS, "min_chars": not topics and min_chars > 0}
    _warn_idle(split, idle | {"max_chars": not topics and max_chars != MAX_CHARS})
    keep = _kept(retain, topics)
    forget = _texts([place.forget_corpus(topic, bio_forget) for topic in topics], topics, "forget", cut, texts)
    kept = _texts([place.corpus(name) for name in keep], keep, "retain", cut, texts)
    note_overlap({"forget": forget, "retain": kept})
    probes = {
        name: draw(rows, PROBED_TEXTS if eval_rows is None else eval_rows, seed=seed, name=f"wmdp/{name}")
        for name, rows in (("forget", forget), ("retain", kept))
        if rows
    }
    for subject in TESTED if tested is None else tested:
        name = subject if subject == "mmlu" else f"wmdp_{subject}"
        if files := place.questions(subject, needed=tested is not None):
            kind = "" if subject == "mmlu" else subject
            probes[name] = choice_rows(files, name, subject=kind, count=eval_rows, seed=seed)
    if not any(row.choices for rows in probes.values() for row in rows):
        raise DataError(f"{place.base} holds no questions of WMDP or MMLU; {_LAYOUT}")
    return Benchmark(
        name=f"wmdp:{split}", forget=forget, retain=kept, probes=probes, suites=("choice",), origin=place.origin
    )


def _check_options(
    split: str, tested: Sequence[str] | None, texts: int | None, min_chars: int, max_chars: int | None,
    eval_rows: int | None, seed: int,
) -> None:  # fmt: skip
    problems = [] if split in SPLITS else [unknown("WMDP split", str(split), SPLITS)]
    if tested is not None and (not isinstance(tested, list | tuple) or not tested):
        problems.append(f"tested must be a list of {', '.join(TESTED)}, got {tested!r}")
    elif tested is not None:
        problems += [unknown("subject", str(name), TESTED) for name in tested if name not in TESTED]
    bad = whole_numbers(texts=(texts, 1), min_chars=(min_chars, 0), max_chars=(max_chars, 1), eval_rows=(eval_rows, 1))
    if min_chars is None:
        problems.append("min_chars must be a whole number, got None")
    elif not bad and max_chars is not None and min_chars > max_chars:
        problems.append(f"min_chars={min_chars} is more than max_chars={max_chars}")
    refuse("wmdp", problems + bad + seed_problem(seed))


def _warn_idle(split: str, idle: Mapping[str, bool]) -> None:
    if names := [name for name, unused in idle.items() if unused]:
        text = f"wmdp: {', '.join(names)} {'have' if len(names) > 1 else 'has'} no effect with split={split}"
        warnings.warn(text, DataWarning, stacklevel=3)


def _kept(retain: str | Sequence[str] | None, topics: Sequence[str]) -> tuple[str, ...]:
    """Names of the corpora to keep: published ones or files."""
    if retain is None:
        return tuple(f"{topic}-retain-corpus" for topic in topics)
    names = (retain,) if isinstance(retain, str) else tuple(retain)
    if not topics:
        raise RecipeError("wmdp: retain is for a split that is unlearnt; split=questions has no training sets")
    for name in names:
        if name not in CORPORA and not Path(name).expanduser().is_file():
            raise RecipeError(
                f"wmdp: retain={name} is no file and no corpus{nearest(name, CORPORA)}; corpora: {', '.join(CORPORA)}"
            )
    return names


def _texts(
    corpora: Sequence[SetFiles], kinds: Sequence[str], set_name: str, cut: partial[Row | None], count: int | None
) -> Sequence[Row]:
    """Rows of several corpora, one after the other; their kind is the topic or name, of a file without its folder."""
    files = [path for corpus in corpora for path in corpus.paths] if set_name == "retain" else []
    how = [set_name, [corpus.shown for corpus in corpora], [*kinds], cut.keywords, count]
    return pack_large(_stream(corpora, kinds, set_name, cut, count), files=files, how=how)


def _stream(
    corpora: Sequence[SetFiles], kinds: Sequence[str], set_name: str, cut: partial[Row | None], count: int | None
) -> Iterator[Row]:
    number = itertools.count()
    for files, kind in zip(corpora, kinds, strict=True):
        subject = Path(kind).stem.removesuffix("-retain-corpus")
        for row in stream_set(files, set_name, cut, count=count):
            yield replace(row, id=f"{set_name}/{next(number)}", kind=subject)


def _text_row(record: object, row_id: str, origin: str, *, min_chars: int, max_chars: int | None) -> Row | None:
    """Raw text, however its file says it; None for one that is too short."""
    text = record if isinstance(record, str) else record.get("text") if isinstance(record, dict) else None
    if isinstance(text, str) and len(text.strip()) < max(min_chars, 1):
        return None
    if text is None:
        raise BadRecord("a row of a corpus must have a field 'text', or be a text")
    row = row_from_record({"text": text}, row_id=row_id, origin=origin)
    return replace(row, answer=row.answer[:max_chars])


@dataclass(frozen=True)
class _Place:
    """Where questions and corpora come from: a folder's own files first."""

    base: Path | None
    given: bool
    """The folder was given by hand: what it lacks is not looked for elsewhere."""

    @property
    def origin(self) -> str:
        hub = f"{QUESTIONS_HUB_ID}@{QUESTIONS_REVISION} {CORPORA_HUB_ID}@{CORPORA_REVISION}"
        return str(self.base) if self.given else f"{self.base} {hub}" if self.base else hub

    def questions(self, subject: str, *, needed: bool) -> SetFiles | None:
        """The questions of a subject; None where a folder given by hand lacks what it need not have."""
        if subject == "mmlu":
            files, lacking = self._find(MMLU_NAMES) or mmlu_files(self.base, local_only=self.given), MMLU_LAYOUT
        else:
            files, lacking = self._find((f"wmdp-{subject}/test", f"wmdp-{subject}", f"{subject}_test")), _LAYOUT
            if files is None and not self.given:
                hub = HubSets(QUESTIONS_HUB_ID, QUESTIONS_REVISION, _LAYOUT)
                return hub.files(*shard_names(f"wmdp-{subject}/test"))
        if files is None and needed:
            raise DataError(f"{self.base} holds no questions of {subject}; {lacking}")
        return files

    def forget_corpus(self, topic: str, bio_forget: str | os.PathLike[str] | None) -> SetFiles:
        """The corpus to forget; that of ``bio`` from a local file alone."""
        if topic != "bio":
            return self.corpus(f"{topic}-forget-corpus")
        if bio_forget is not None:
            return _file(bio_forget)
        return self.corpus(GATED)

    def corpus(self, name: str) -> SetFiles:
        """A corpus by its published name, or a file of the user's."""
        if name not in CORPORA:
            return _file(name)
        found = self._find((f"{name}/train", f"{name}/test", name, *_OTHER_NAMES.get(name, ())))
        if found is not None:
            return found
        if name == GATED:
            raise DataError(f"no {GATED} here; {_GATED_LAYOUT}")
        if self.given:
            raise DataError(f"{self.base} holds no {name}; {_LAYOUT}")
        if name == WIKITEXT:
            hub = HubSets(wikitext.HUB_ID, wikitext.HUB_REVISION, "give wikitext-2/test.txt in the data root")
            return hub.files(*shard_names("wikitext-2-raw-v1/test"))
        hub = HubSets(CORPORA_HUB_ID, CORPORA_REVISION, _LAYOUT)
        return hub.files(*shard_names(f"{name}/train", _HUB_SHARDS[name]))

    def _find(self, names: Sequence[str]) -> SetFiles | None:
        if self.base is None:
            return None
        found = (local_set(self.base / inside, names, _TEXT_SUFFIXES) for inside in _INSIDE)
        return next((files for files in found if files), None)


def _file(path: str | os.PathLike[str]) -> SetFiles:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{os.fspath(path)}: no such file; {_GATED_LAYOUT}")
    return SetFiles((file,), (os.fspath(path),))
