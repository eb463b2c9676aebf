"""The user's own files as a benchmark: a forget set, and whatever else there is; what is missing can be made."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from expunge.benchmarks.base import AnswerLimit, Benchmark
from expunge.benchmarks.custom_made import Maker, wanted_makes
from expunge.benchmarks.files import Root, data_base, listed, refuse, seed_problem, whole_numbers
from expunge.data.draw import draw
from expunge.data.lazy import joined
from expunge.data.made import is_text, read_corpus, read_pieces, rows_about
from expunge.data.made.documents import TEXT_FILES, files_below
from expunge.data.overlap import DataWarning, warn_sets
from expunge.data.rows import Row
from expunge.data.sources import ROW_FILES, stream_rows
from expunge.data.stored import pack_large
from expunge.errors import DataError, RecipeError

RETAIN_PROBE_ROWS = 200
"""At most so many retain rows are tested; a larger retain set is sampled by seed."""
BLANK_TOKENS = 24
"""A blank is filled with a few words; longer answers are cut."""

HELD_SHARE = 0.2
NUM_ABOUT = 200

_NO_SECRET = ("retain", "general")
"""Sets that may be kept in the cache, where they are large."""

_Path = str | os.PathLike[str]


def load(
    *,
    forget: _Path | Sequence[_Path] | None = None,
    retain: _Path | Sequence[_Path] | None = None,
    holdout: _Path | Sequence[_Path] | None = None,
    general: _Path | Sequence[_Path] | None = None,
    seed: int = 0,
    documents: _Path | Sequence[_Path] | None = None,
    entity: str | Sequence[str] | None = None,
    corpus: _Path | None = None,
    make: str | Sequence[str] = (),
    passage_words: int = 200,
    prompt_words: int = 0,
    held_share: float = HELD_SHARE,
    num_neighbours: int | None = None,
    num_about: int = NUM_ABOUT,
    root: Root = None,
) -> Benchmark:
    """Read the user's files into a :class:`Benchmark`.

    What to forget is one of: ``forget``, a file of rows or a text, or several; ``documents``, texts and folders of
    texts; ``entity``, a name or several, whose rows are picked from ``corpus`` (at most ``num_about``).
    Without ``retain`` there is nothing to keep by name and utility rests on the general rows. ``holdout`` are rows like
    the forget set that no model saw, for membership tests. ``general`` are rows about anything else, for utility;
    without it the built-in ones are used. Probes: ``forget`` (all), ``retain`` (at most :data:`RETAIN_PROBE_ROWS`,
    drawn by ``seed``), ``holdout`` and ``general``.

    A text (``.txt``, ``.md``, a folder of them; any set may be one) is cut into passages of at most ``passage_words``
    words, raw text unless ``prompt_words`` of them are to be shown and the rest asked for.

    ``make`` adds by rule what is missing; everything made is marked in :attr:`Row.made` and counted in the notes:

    - ``paraphrase``: probe ``forget_rephrased``, the forget questions in other words;
    - ``cloze``, ``reverse``: probes ``forget_cloze`` and ``forget_reverse``, blanks for a fact or for its subject;
    - ``perturbed``: wrong answers for the forget and retain probes that have none;
    - ``holdout``: of questions, probe ``forget_test``: ``held_share`` of them in wordings no other set has; of texts,
      probe ``forget_unseen``: that share of the passages, which the target model learns and unlearning does not see;
    - ``neighbours``: ``num_neighbours`` rows of ``corpus`` to keep, by default as many as forget rows.

    Paths that are not there by themselves are looked for below ``root``, else ``EXPUNGE_DATA``.
    Raises :class:`RecipeError` for options that do not go together and :class:`DataError` at a bad file or a row
    standing in two sets; lesser oddities are ``DataWarning``s.
    """
    names: tuple[str, ...] = listed(entity)
    wanted = wanted_makes(make)
    _check_source(forget, documents, names, corpus, wanted)
    _check_numbers(seed, passage_words, prompt_words, num_neighbours, num_about, held_share)
    _warn_idle(names, wanted, corpus, num_neighbours, num_about, held_share)
    given = {"forget": forget, "retain": retain, "holdout": holdout, "general": general}
    paths = {
        name: [_find(path, root) for path in _listed(several)] for name, several in given.items() if several is not None
    }
    texts = [_text_path(_find(path, root)) for path in _listed(documents)]
    pool = partial(read_corpus, _find(corpus or "", root), longest=passage_words)
    maker = Maker(wanted, seed, held_share, prompt_words)

    sets = {name: _read(several, name, passage_words) for name, several in paths.items()}
    if texts:
        sets = {"forget": pack_large(_passages(texts, "forget", passage_words)), **sets}
    if names:
        sets = {"forget": _about(names, rows_about(names, pool(), count=num_about), maker), **sets}
    others = joined(*(rows for name, rows in sets.items() if name != "forget"))
    whole = sets.pop("forget")
    raw, unseen = maker.split(whole)
    kept = maker.keep(whole, pool, count=num_neighbours, names=names, apart=others)
    sets = {"forget": raw, "retain": joined(sets.pop("retain", ()), kept), **sets, "forget_unseen": unseen}
    sets = {name: rows for name, rows in sets.items() if rows}
    # All pairs: a row to forget is no measure of utility, and a trained row is not held out.
    warn_sets(sets)
    sets = {name: maker.shaped(rows) for name, rows in sets.items()}
    probes = {**_probes(sets, maker, seed), **maker.probes(raw)}
    return Benchmark(
        name="custom",
        forget=sets["forget"],
        retain=sets.get("retain", ()),
        holdout=sets.get("holdout", ()),
        learnt={"forget": sets["forget_unseen"]} if unseen else {},
        probes=probes,
        utility_sets=("general",),
        limits={
            name: AnswerLimit(max_new_tokens=BLANK_TOKENS)
            for name in ("forget_cloze", "forget_reverse")
            if name in probes
        },
        origin=_origin(paths, texts, names, corpus, wanted),
        notes=tuple(maker.notes),
    )


def _probes(sets: dict[str, Sequence[Row]], maker: Maker, seed: int) -> dict[str, Sequence[Row]]:
    """The sets as they are tested."""
    probes = dict(sets)
    if "retain" in sets:
        probes["retain"] = draw(sets["retain"], RETAIN_PROBE_ROWS, seed=seed, name="custom/retain")
    if "general" not in sets:
        probes["general"] = built_in_general()
    forget, retain = probes["forget"], probes.get("retain", ())
    probes["forget"] = maker.wrong_answers(forget, retain, "forget")
    if retain:
        probes["retain"] = maker.wrong_answers(retain, forget, "retain")
    return probes


def _read(paths: Sequence[str], name: str, passage_words: int) -> Sequence[Row]:
    """The rows of a set's files; of several, every id bears the number of its file."""
    files: list[str] = []
    if name in _NO_SECRET:
        files = [file for path in paths for file in (files_below(path, TEXT_FILES) if is_text(path) else [path])]
    return pack_large(_stream(paths, name, passage_words), files=files, how=[name, passage_words, *paths])


def _stream(paths: Sequence[str], name: str, passage_words: int) -> Iterator[Row]:
    for number, path in enumerate(paths, 1):
        for row in _passages([path], name, passage_words) if is_text(path) else stream_rows(path, set_name=name):
            yield row if len(paths) == 1 else replace(row, id=f"{number}/{row.id}")


def _passages(paths: Sequence[str], name: str, passage_words: int) -> Iterator[Row]:
    pieces = (piece for path in paths for piece in read_pieces(path, passage_words))
    number = -1
    for number, piece in enumerate(pieces):
        yield Row(id=f"{name}/{number}", prompt="", answer=piece.text, origin=piece.origin)
    if number < 0:
        raise DataError(f"{', '.join(paths)}: no words to make rows of; the {name} set needs at least one")


def _about(names: Sequence[str], rows: tuple[Row, ...], maker: Maker) -> tuple[Row, ...]:
    if not rows:
        raise DataError(
            # How many, not which: the names are what is to be forgotten.
            f"entity: no row of the corpus holds {f'any of {len(names)} names' if len(names) > 1 else 'the name'}; "
            "check the spelling, add other names as a list, or give documents"
        )
    maker.notes.append(f"picked from the corpus by name: {len(rows)} rows to forget")
    return rows


def _text_path(path: str) -> str:
    """The path of a document, which must be no file of rows: their syntax would be learnt as text."""
    if Path(path).suffix.lower() in ROW_FILES and not Path(path).expanduser().is_dir():
        raise DataError(f"{path}: is a file of rows, not a text; give it with forget=FILE")
    return path


def _listed(paths: _Path | Sequence[_Path] | None) -> Sequence[_Path]:
    if paths is None:
        return ()
    return [paths] if isinstance(paths, str | os.PathLike) else paths


def _find(path: _Path, root: Root) -> str:
    """The path as given if it is there, else below the data root; else as given, to be refused by name."""
    name = os.fspath(path)
    if not name or Path(name).expanduser().exists():
        return name
    base = data_base(root, layout="give the folder that holds your files")
    return str(base / name) if base is not None and (base / name).exists() else name


def _check_source(
    forget: object, documents: object, names: Sequence[str], corpus: _Path | None, wanted: Sequence[str]
) -> None:
    """What to forget is said once, and a corpus is there where one is drawn from."""
    sources = {"forget": forget, "documents": documents, "entity": names}
    said = [name for name, value in sources.items() if value]
    if not said:
        raise RecipeError(
            "benchmark 'custom' needs a forget file: give forget=FILE (--forget FILE), or documents=FOLDER, or "
            "entity=NAME with corpus=PATH"
        )
    problems = [f"{' and '.join(said)} each say what to forget; give one"] if len(said) > 1 else []
    if not all(isinstance(name, str) and name.strip() for name in names):
        problems.append("entity must be a name or a list of names, in quotes where one is a number")
    drawing = [name for name, used in (("entity", bool(names)), ("make: neighbours", "neighbours" in wanted)) if used]
    if drawing and not corpus:
        problems.append(f"{' and '.join(drawing)} draw from a corpus; give corpus=PATH")
    refuse("custom", problems)


def _warn_idle(
    names: Sequence[str], wanted: Sequence[str], corpus: _Path | None, num_neighbours: int | None, num_about: int,
    held_share: float,
) -> None:  # fmt: skip
    """Say which options nothing reads."""
    kept = "neighbours" in wanted
    idle = {
        "corpus": (bool(corpus) and not (names or kept), "entity or make: [neighbours]"),
        "num_neighbours": (num_neighbours is not None and not kept, "make: [neighbours]"),
        "num_about": (num_about != NUM_ABOUT and not names, "entity"),
        "held_share": (held_share != HELD_SHARE and "holdout" not in wanted, "make: [holdout]"),
    }
    for name, (unused, without) in idle.items():
        if unused:
            warnings.warn(f"custom: {name} has no effect without {without}", DataWarning, stacklevel=3)


def _check_numbers(
    seed: object, passage_words: int, prompt_words: int, num_neighbours: object, num_about: object, share: object
) -> None:
    counts = {"passage_words": passage_words, "prompt_words": prompt_words, "num_about": num_about}
    problems = [f"{name} must be a whole number, got None" for name, value in counts.items() if value is None]
    problems += whole_numbers(
        passage_words=(passage_words, 2),
        prompt_words=(prompt_words, 0),
        num_neighbours=(num_neighbours, 1),
        num_about=(num_about, 1),
    )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        problems.append(f"held_share must be between 0 and 1, got {share!r}")
    if not problems and prompt_words >= passage_words:
        problems.append(f"prompt_words={prompt_words} leaves nothing of a passage of {passage_words} to ask for")
    refuse("custom", problems + seed_problem(seed))


def _origin(
    paths: dict[str, list[str]], texts: Sequence[str], names: Sequence[str], corpus: _Path | None, wanted: Sequence[str]
) -> str:
    parts = [f"{name}={','.join(several)}" for name, several in paths.items()]
    parts += [f"documents={path}" for path in texts]
    # Not the names themselves: a record of the run should not hold what was to be forgotten.
    parts += [f"entity={len(names)} name{'s'[: len(names) > 1]}"] if names else []
    parts += [f"corpus={os.fspath(corpus)}"] if corpus else []
    return " ".join([*parts, *([f"made={','.join(wanted)}"] if wanted else [])])


def built_in_general() -> Sequence[Row]:
    """Rows about anything else, for utility where the user has none."""
    from expunge.benchmarks import almanac

    return almanac.load().probes["general"]
