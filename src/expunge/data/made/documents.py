"""The user's texts, read as a stream and cut into passages word for word; a file of any size stays on disk."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from expunge.errors import DataError, nearest

TEXT_FILES = (".txt", ".text", ".md", ".markdown")
SHORTEST = 0.8
"""A passage ends at the last sentence end after this share of its longest length."""
LAST = 3
"""The last passage has at least a third of the longest length, where there is one before it."""

_CHUNK = 1 << 14
_FRONT_LINES = 1000
"""Longest front matter; a rule at the top that no second one follows by then is a rule."""
# Scripts without spaces count a word a character; a run without any space is cut, or it would be read as one word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{1,200}")
_ASCII_WORD = re.compile(r"\S{1,200}")
"""The same where no other characters are, found in half the time."""
_SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)\]_*]*$")
_LINK = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive words of a text, as they stand there."""

    text: str
    line: int
    """Line of the file, from 1, that it begins on."""
    path: str

    @property
    def origin(self) -> str:
        """Where it stands, as ``file:line``."""
        return f"{self.path}:{self.line}"


def is_text(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a text file by its name, or a folder."""
    return Path(path).suffix.lower() in TEXT_FILES or Path(path).expanduser().is_dir()


def files_below(path: str | os.PathLike[str], endings: tuple[str, ...]) -> tuple[str, ...]:
    """The file itself, or every file below a folder that ends in one of ``endings``, in the order of their names.

    Hidden files and folders (``.git``) are passed over. Raises :class:`DataError` where there is none.
    """
    name, place = os.fspath(path), Path(path).expanduser()
    if place.is_file():
        return (name,)
    if not place.is_dir():
        siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"{name}: no such file or folder{nearest(place.name, siblings)}")
    found = sorted(
        file
        for file in place.rglob("*")
        if file.suffix.lower() in endings
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(place).parts)
    )
    if not found:
        raise DataError(f"{name}: is a folder without a file that ends in {', '.join(endings)}; give one that has some")
    return tuple(str(file) for file in found)


def read_pieces(path: str | os.PathLike[str], longest: int) -> Iterator[Piece]:
    """The passages of a text file, or of every one below a folder; each file by itself, none of its words left out.

    Markdown loses what is no text: front matter, comments, fences, heading marks and link targets.
    Raises :class:`DataError` for a file that cannot be read or a folder without texts.
    """
    for name in files_below(path, TEXT_FILES):
        with _open(name) as file:
            chunks = _plain_markdown(file) if Path(name).suffix.lower() in (".md", ".markdown") else _chunks(file)
            try:
                for text, line in cut_text(chunks, longest):
                    yield Piece(text, line, name)
            except UnicodeDecodeError:
                raise DataError(f"{name}: not UTF-8; save it as UTF-8") from None


def cut_text(chunks: Iterable[str], longest: int) -> Iterator[tuple[str, int]]:
    """Cut a text that comes in chunks into passages of at most ``longest`` words, each with the line it begins on.

    A passage ends with the last sentence or paragraph that leaves it at least :data:`SHORTEST` of ``longest``, else
    after ``longest`` words. The last one may be shorter; where it would have less than a third of ``longest``, it
    shares words with the one before. Inside a passage the text is as it was. At most two passages and one chunk are in
    memory.
    """
    held, line = "", 1
    for chunk in itertools.chain(chunks, (None,)):
        held += chunk or ""
        words = list((_ASCII_WORD if held.isascii() else _WORD).finditer(held))
        at = done = 0
        # The last word may go on in the next chunk, and the last two passages are cut together.
        while len(words) - at > (2 * longest if chunk is not None else 0):
            end = _passage_end(held, words, at, longest)
            line += held.count("\n", done, words[at].start())
            done = words[at].start()
            yield held[done : words[end - 1].end()], line
            at = end
        rest = words[at].start() if at < len(words) else len(held)
        line += held.count("\n", done, rest)
        held = held[rest:]


def in_chunks(text: str) -> Iterator[str]:
    """A text that is in memory already, as :func:`cut_text` wants it: a list of all its words would be far larger."""
    return (text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK))


def word_spans(text: str, count: int) -> list[tuple[int, int]]:
    """Where the first ``count`` words of a text begin and end, as passages count them."""
    return [match.span() for match in itertools.islice(_WORD.finditer(text), count)]


def _passage_end(text: str, words: list[re.Match[str]], at: int, longest: int) -> int:
    """Index after the last word of the passage that begins at ``at``."""
    left = len(words) - at
    if left <= longest:
        return len(words)
    length = _first_end(text, words, at, range(longest, max(1, int(SHORTEST * longest)) - 1, -1))
    if left - length < longest // LAST:
        # Neither half may be longer than the longest.
        half, room = left // 2, longest // 10
        near = range(max(left - longest, half - room), min(longest, half + room) + 1)
        length = _first_end(text, words, at, sorted(near, key=lambda length: abs(2 * length - left)))
    return at + length


def _first_end(text: str, words: list[re.Match[str]], at: int, lengths: Sequence[int]) -> int:
    """The first length after which a sentence or a paragraph ends; without any the first."""
    return next((length for length in lengths if _ends(text, words, at + length)), lengths[0])


def _ends(text: str, words: list[re.Match[str]], end: int) -> bool:
    """Whether a sentence or a paragraph ends before the word ``end``."""
    gap = text[words[end - 1].end() : words[end].start()]
    return bool(_SENTENCE_END.search(words[end - 1].group())) or gap.count("\n") > 1


def _open(name: str) -> TextIO:
    try:
        return Path(name).expanduser().open(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or type(error).__name__})") from None


def _chunks(file: TextIO) -> Iterator[str]:
    return iter(lambda: file.read(_CHUNK), "")


def _plain_markdown(file: TextIO) -> Iterator[str]:
    """Lines of Markdown as text; a line that is left out leaves its line end, so that lines are still counted."""
    comment = False
    for line in _after_front_matter(iter(lambda: file.readline(_CHUNK), "")):
        mark = line.strip()
        if mark.startswith(("```", "~~~")):
            yield "\n"
        elif comment or mark.startswith("<!--"):
            rest, comment = _after_comment(line)
            yield _LINK.sub(r"\1", rest)
        else:
            yield _LINK.sub(r"\1", _HEADING.sub("", line))


def _after_front_matter(lines: Iterator[str]) -> Iterator[str]:
    """The lines, those of front matter (from ``---`` to ``---`` or ``...``) emptied."""
    held = list(itertools.islice(lines, 1))
    if [line.strip() for line in held] == ["---"]:
        for line in itertools.islice(lines, _FRONT_LINES):
            held.append(line)
            if line.strip() in ("---", "..."):
                held = ["\n"] * len(held)
                break
    return itertools.chain(held, lines)


def _after_comment(line: str) -> tuple[str, bool]:
    """What follows the comment that a line begins in, and whether one goes on in the next line."""
    rest = line
    while True:
        _, closed, rest = rest.partition("-->")
        if not closed:
            return "\n", True
        if not rest.lstrip().startswith("<!--"):
            return rest, False
