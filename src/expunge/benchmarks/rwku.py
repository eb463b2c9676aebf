"""RWKU: a name to forget and no text about it (Jin et al. 2024, arXiv 2406.10890).

Two hundred well-known people, probed level by level, by attacks, through their neighbours and for what else a model can
do. What is unlearnt is text that a model wrote about the name: the published one's, or the model's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from expunge.benchmarks.base import AnswerLimit, Benchmark, Writing
from expunge.benchmarks.files import Root, listed, refuse, seed_problem, whole_numbers
from expunge.benchmarks.published import Record
from expunge.benchmarks.rwku_files import SubjectFiles, locate_subjects
from expunge.benchmarks.rwku_rows import CORPORA, PROBES, corpus_file
from expunge.data.draw import draw
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import DataError, unknown

SOURCES = ("published", "model")
WRITERS = ("llama3", "phi3")
TEXTS = 60
"""How many texts a model writes about each name, unless told otherwise."""
REQUESTS = (
    "Write a short biography of {name}.",
    "What is {name} best known for?",
    "Tell me about the early life and family of {name}.",
    "Describe the career of {name} from the beginning to the end.",
    "Which works, roles or deeds made {name} famous?",
    "Which prizes, honours or records does {name} hold?",
    "Tell me about the private life of {name}.",
    "Which people worked closely with {name}, and on what?",
    "What did critics and the public say about {name}?",
    "List the most important dates in the life of {name}.",
)
"""How a model is asked to write about a name; the wordings are ours."""


def load(
    *,
    target: str | Sequence[str] | None = None,
    root: Root = None,
    source: str = "published",
    corpus: str = "positive",
    writer: str = "llama3",
    sets: Sequence[str] | None = None,
    rows: int | None = None,
    eval_rows: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Benchmark:
    """Read the probes of one name or several, and what is to be unlearnt about them.

    - ``target``: a name as published (``Stephen King``, ``1_Stephen_King``), or a list for the batch setting.
    - ``root``: the folder that holds ``rwku`` (or ``Target`` or ``All`` itself); else ``EXPUNGE_DATA``; else the Hub at
      ``revision`` (a pinned commit unless given).
    - ``source``: ``published`` reads a forget corpus; ``model`` has the model that is to be unlearnt write it.
    - ``corpus``: ``positive`` (texts with what was known: GA, NPO), ``pair`` (each with a made-up one beside it: DPO),
      ``refusal`` (questions with a refusal: rejection tuning), ``passage`` (of an encyclopaedia). With ``source=model``
      ``positive`` is raw text, and ``pair`` keeps the requests as prompts; made-up answers are then view ``model``'s.
    - ``writer``: whose published corpus: ``llama3`` or ``phi3``.
    - ``sets``: the tested sets; None: all that are there.
    - ``rows``: at most so many forget rows, by ``seed``; with ``source=model`` how many texts (60 a name).
    - ``eval_rows``: at most so many rows of each tested set.

    There is no retain set. Probes have the published names: ``forget_level1`` to ``3``, ``neighbor_level1``, ``2``,
    ``mia_forget``, ``mia_retain`` and ``utility_*``.

    Raises :class:`RecipeError` for an option out of range and :class:`DataError` for an unknown name or files that
    cannot be used.
    """
    names = _check_options(target, source, corpus, writer, sets, rows, eval_rows, seed)
    if writer == "phi3" and (source == "model" or not CORPORA[corpus].by_phi):
        who = "the model to be unlearnt writes" if source == "model" else f"nobody wrote corpus {corpus!r} for it"
        warnings.warn(f"rwku: writer=phi3 has no effect: {who}", DataWarning, stacklevel=2)
    files = locate_subjects(names, root, revision)
    probes = _probes(files, sets)
    forget: tuple[Row, ...] = ()
    writing = None
    if source == "model":
        requests = tuple(request.format(name=subject.name) for subject in files for request in REQUESTS)
        writing = Writing(requests=requests, texts=rows or TEXTS * len(files), keep_requests=corpus == "pair")
    else:
        forget = draw(_forget(files, corpus, writer), rows, seed=seed, name=f"rwku/{corpus}")
    return Benchmark(
        name="rwku",
        forget=forget,
        writing=writing,
        probes={name: draw(some, eval_rows, seed=seed, name=f"rwku/{name}") for name, some in probes.items()},
        suites=("rwku", "choice"),
        limits={name: limit for name, limit in _LIMITS.items() if name in probes},
        origin=" ".join(subject.origin for subject in files),
    )


_SHORT = AnswerLimit(max_new_tokens=30, stop=("\n",))
_LIMITS = {
    "forget_level1": _SHORT,
    "forget_level2": _SHORT,
    "forget_level3": _SHORT,
    "neighbor_level1": _SHORT,
    "neighbor_level2": _SHORT,
    "utility_factuality": AnswerLimit(max_new_tokens=30),
    "utility_reason": AnswerLimit(max_new_tokens=256),
    "utility_fluency": AnswerLimit(max_new_tokens=256),
}


def _check_options(
    target: str | Sequence[str] | None, source: str, corpus: str, writer: str, sets: Sequence[str] | None,
    rows: int | None, eval_rows: int | None, seed: int,
) -> tuple[str, ...]:  # fmt: skip
    names: tuple[str, ...] = listed(target)
    problems: list[str] = []
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        problems.append("give the name: target=NAME, in quotes where it is a number")
    tables = {"source": (source, SOURCES), "corpus": (corpus, tuple(CORPORA)), "writer": (writer, WRITERS)}
    problems += [unknown(name, str(value), known) for name, (value, known) in tables.items() if value not in known]
    if source == "model" and corpus not in ("positive", "pair"):
        problems.append(f"source=model writes corpus positive or pair, got {corpus!r}; use source=published for it")
    if sets is not None and not isinstance(sets, list | tuple):
        problems.append(f"sets must be a list, got {sets!r}")
    else:
        problems += [unknown("tested set", str(name), tuple(PROBES)) for name in sets or () if name not in PROBES]
    problems += whole_numbers(rows=(rows, 1), eval_rows=(eval_rows, 1)) + seed_problem(seed)
    refuse("rwku", problems)
    return tuple(name.strip() for name in dict.fromkeys(names))


def _probes(files: Sequence[SubjectFiles], sets: Sequence[str] | None) -> dict[str, tuple[Row, ...]]:
    """Rows of every tested set, all names together."""
    found: dict[str, tuple[Row, ...]] = {}
    for name, probe in PROBES.items():
        if sets is not None and name not in sets:
            continue
        needed = sets is not None or probe.needed
        records = _records(files, probe.file, needed=needed, shared=probe.shared)
        if needed and not records:
            hint = "give the published file, or list the sets that there are as sets"
            raise DataError(f"{files[0].origin}: {probe.file} holds no rows for {name}; {hint}")
        if records:
            found[name] = tuple(probe.row(record, f"{name}/{at}") for at, record in enumerate(records))
    if not found:
        raise DataError(f"{files[0].origin}: holds no row of the tested sets")
    return found


def _forget(files: Sequence[SubjectFiles], corpus: str, writer: str) -> tuple[Row, ...]:
    file = corpus_file(corpus, phi=writer == "phi3")
    records = _records(files, file, needed=True, shared=False)
    if not records:
        raise DataError(f"{files[0].origin}: {file} holds no rows; use another corpus, or source=model")
    return tuple(CORPORA[corpus].row(record, f"forget/{at}") for at, record in enumerate(records))


def _records(files: Sequence[SubjectFiles], file: str, *, needed: bool, shared: bool) -> list[Record]:
    """The records of a file for every name, each once: names may share the rows of a general ability."""
    found = {
        (record.origin, record.place): record
        for subject in files
        for record in subject.records(file, needed=needed, shared=shared)
    }
    return list(found.values())
