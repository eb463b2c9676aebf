"""Where RWKU's files of a name lie: a folder for each name, or one file for all of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from expunge.benchmarks.files import Root, commit_of, data_base, hub_file
from expunge.benchmarks.published import Record, records_of
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, nearest

T = TypeVar("T")

HUB_ID = "jinzhuoran/RWKU"
HUB_REVISION = "d72f493d481d1b0a9bdc6e869d32baeffad8904f"
NAMES_FILE = "intro.json"
"""The names, in the order that numbers their folders: ``{target}``."""

_LAYOUT = (
    "give the published folders (Target/1_Stephen_King/forget_level1.json ... or All/forget_level1.json ...) in a "
    "folder 'rwku' with --data-root or EXPUNGE_DATA"
)


@dataclass(frozen=True)
class SubjectFiles:
    """The files about one name."""

    name: str
    origin: str
    folder: Path | None
    """None: fetched from the Hub, file by file."""
    of_all: bool
    """The folder's files are about every name; a name's rows are picked by their subject."""
    hub_folder: str = ""
    revision: str = ""

    def records(self, file: str, *, needed: bool = True, shared: bool = False) -> tuple[Record, ...]:
        """The name's records of a file; none where the file is not there and not needed.

        ``shared`` takes all of a file for all names whose rows have no such subject: what a model can do in general.

        Raises:
            DataError: a needed file is not there, a file of one name has a row of another, or a file of all names has a
                row that names none where it must.
        """
        path, shown = self._path(file)
        if not needed and not path.is_file():
            return ()
        records = records_of(path, shown)
        # In a file about everybody a row that names nobody would be nobody's.
        subject = Record.text if self.of_all and not shared else Record.maybe
        own = tuple(record for record in records if _same(subject(record, "subject"), self.name))
        if self.of_all:
            return records if shared and not own else own
        other = [r for r in records if r.maybe("subject") and not _same(r.maybe("subject"), self.name)]
        if other and not shared:
            raise DataError(f"{other[0].origin}: is not about {self.name}, whose folder it is in")
        return records

    def _path(self, file: str) -> tuple[Path, str]:
        if self.folder is not None:
            return self.folder / file, str(self.folder / file)
        name = f"{self.hub_folder}/{file}"
        return hub_file(HUB_ID, name, self.revision, layout=_LAYOUT), f"{self.origin}/{file}"


def locate_subjects(names: Sequence[str], root: Root, revision: str | None) -> tuple[SubjectFiles, ...]:
    """The files of each name: below the data root, else on the Hub.

    Raises:
        DataError: the folder or the name is not there.
    """
    base = data_base(root, layout=_LAYOUT)
    places = [base / "rwku", base / "RWKU", *([base] if root is not None else [])] if base is not None else []
    for place in places:
        if (place / "Target").is_dir() or (place / "All").is_dir():
            if revision is not None:
                text = f"revision={revision} has no effect: RWKU is read from {place}"
                warnings.warn(text, DataWarning, stacklevel=3)
            return tuple(_local(place, name) for name in names)
    if root is not None:
        raise DataError(f"{base} holds no RWKU files; {_LAYOUT}")
    return _hub(names, revision or HUB_REVISION)


def _local(place: Path, name: str) -> SubjectFiles:
    target, everyone = place / "Target", place / "All"
    folders = {_plain(path.name): path for path in sorted(target.iterdir()) if path.is_dir()} if target.is_dir() else {}
    if folder := _pick(folders, name):
        return SubjectFiles(_shown(folder.name), str(folder), folder, of_all=False)
    if (everyone / NAMES_FILE).is_file():
        known = {_plain(shown): shown for shown in _names(everyone / NAMES_FILE, str(everyone / NAMES_FILE))}
        if shown := _pick(known, name):
            return SubjectFiles(shown, str(everyone), everyone, of_all=True)
        folders |= dict.fromkeys(known, everyone)
    raise DataError(_no_such(name, folders, str(place)))


def _hub(names: Sequence[str], revision: str) -> tuple[SubjectFiles, ...]:
    path = hub_file(HUB_ID, f"All/{NAMES_FILE}", revision, layout=_LAYOUT)
    revision = commit_of(path, revision)
    origin = f"{HUB_ID}@{revision}"
    known = {
        _plain(shown): (number, shown) for number, shown in enumerate(_names(path, f"{origin}/All/{NAMES_FILE}"), 1)
    }
    found = []
    for name in names:
        entry = _pick(known, name)
        if entry is None:
            raise DataError(_no_such(name, known, origin))
        number, shown = entry
        folder = f"Target/{number}_{shown.replace(' ', '_')}"
        place = {"hub_folder": folder, "revision": revision}
        found.append(SubjectFiles(shown, f"{origin}/{folder}", None, of_all=False, **place))
    return tuple(found)


def _names(path: Path, shown: str) -> list[str]:
    """Every name once, in the file's order."""
    return list(dict.fromkeys(record.text("target") for record in records_of(path, shown)))


def _pick(known: Mapping[str, T], name: str) -> T | None:
    # "50 Cent" begins with a number that is no folder's: as written first.
    return known.get(name.replace("_", " ").casefold()) or known.get(_plain(name))


def _plain(name: str) -> str:
    return _shown(name).casefold()


def _shown(folder: str) -> str:
    return re.sub(r"^\d+_", "", folder).replace("_", " ").strip()


def _same(subject: str, name: str) -> bool:
    return subject.replace("_", " ").casefold() == name.casefold()


def _no_such(name: str, known: Mapping[str, object], origin: str) -> str:
    hint = nearest(name.replace("_", " ").casefold(), known)
    return f"{origin}: no target {name!r} among its {len(known)}{hint}; names are spelt as published"
