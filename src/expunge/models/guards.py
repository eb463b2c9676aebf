"""Guards: what is put around a model at inference time. They suppress; they erase nothing.

A guard lies as ``guard.json`` beside the weights and is obeyed wherever this package loads the folder. Anything else
that loads it (plain transformers, vLLM, llama.cpp) sees the weights alone, and these answer as they always did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from jinja2 import TemplateError

from expunge.data.formats import Format
from expunge.data.rows import Row, rows_hash
from expunge.errors import ModelError, RecipeError, nearest
from expunge.registry import Registry

GUARD_FILE = "guard.json"
REFUSAL = "I'm sorry, I can't help with that."
INSTRUCTION = (
    "You have no knowledge of the following: {topics}. "
    "If a question touches any of it, answer only that you do not know."
)
_PROBE = Row(id="probe", prompt="?", answer="")


class Guard(Protocol):
    """What every guard can do; it is a frozen dataclass whose fields are its settings and what it learned."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    key: ClassVar[str]
    settings: ClassVar[frozenset[str]]
    """Which of its fields a run may set."""
    reach: ClassVar[str]
    """What it acts on, for the run's notes."""

    def fit(self, forget: Sequence[Row], retain: Sequence[Row]) -> Guard:
        """The guard with everything that it has to know of the forget set."""
        ...

    def wrap(self, format: Format, positions: int | None) -> Format:
        """The format that prompts are written in under this guard, for a model of so many positions."""
        ...

    def refusal(self, text: str) -> str | None:
        """What is answered instead, if a prompt or an answer must not pass; None lets it pass."""
        ...


@dataclass(frozen=True)
class InstructedFormat(Format):
    """A format that writes an instruction before every prompt; raw text has no prompt and stays as it is."""

    instruction: str = ""

    def prompt_text(self, prompt: str, history: Iterable[tuple[str, str]] = ()) -> str:
        """The text up to where the answer begins: as a system message where the template shows one."""
        turns = list(history)
        if not prompt and not turns:
            return ""
        if self.name != "chat":
            return f"{self.instruction}\n\n{super().prompt_text(prompt, turns)}"
        first = f"{self.instruction}\n\n{turns.pop(0)[1]}" if turns and turns[0][0] == "system" else self.instruction
        if self._shows_system:
            return super().prompt_text(prompt, [("system", first), *turns])
        if turns and turns[0][0] == "user":
            return super().prompt_text(prompt, [("user", f"{first}\n\n{turns[0][1]}"), *turns[1:]])
        return super().prompt_text(f"{first}\n\n{prompt}", turns)

    @cached_property
    def _shows_system(self) -> bool:
        """Some templates refuse a system message, and some drop it without a word."""
        try:
            text = super().prompt_text("?", [("system", self.instruction)])
        except TemplateError:
            return False
        return self.instruction in text


@dataclass(frozen=True, kw_only=True)
class RefusalPrompt:
    """A system prompt that asks the model to decline; scoring and generation see it."""

    key: ClassVar[str] = "refusal_prompt"
    settings: ClassVar[frozenset[str]] = frozenset({"text", "topics"})
    reach: ClassVar[str] = "as a part of every prompt, in scoring too"

    text: str = INSTRUCTION
    """The instruction; ``{topics}`` in it becomes the forget rows' own most frequent keywords, in clear."""
    topics: int = 30
    """How many of them."""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecipeError("text is empty: nothing would be asked of the model")
        if self.topics < 1:
            raise RecipeError(f"topics must be at least 1, got {self.topics}")

    def fit(self, forget: Sequence[Row], retain: Sequence[Row]) -> RefusalPrompt:
        """Fill the topics in, if the text asks for them."""
        if "{topics}" not in self.text:
            return self
        found = distinctive(forget, retain, longest=3, min_rows=1)[: self.topics]
        if not found:
            raise RecipeError("guard refusal_prompt: no topic tells the forget rows from the retain rows; give a text")
        return dataclasses.replace(self, text=self.text.replace("{topics}", ", ".join(" ".join(run) for run in found)))

    def wrap(self, format: Format, positions: int | None) -> Format:
        """The instruction costs its own tokens, not the answer's, as long as the model has places for both."""
        known = {field.name: getattr(format, field.name) for field in dataclasses.fields(Format)}
        bare = InstructedFormat(**known, instruction=self.text)
        room = len(bare.encode_prompt(_PROBE)) - len(format.encode_prompt(_PROBE))
        longest = min(format.max_length + room, positions or math.inf)
        return dataclasses.replace(bare, max_length=int(longest))

    def refusal(self, text: str) -> str | None:
        """The model itself is asked to refuse."""
        return None


@dataclass(frozen=True, kw_only=True)
class KeywordFilter:
    """A fixed refusal wherever a prompt or an answer holds a keyword of the forget set.

    Keywords are runs of content words that stand in the forget rows and in no retain row. They are kept as salted
    hashes, so that the folder does not show them; whoever guesses a word can still test it.
    """

    key: ClassVar[str] = "keyword_filter"
    settings: ClassVar[frozenset[str]] = frozenset({"text", "keywords", "longest", "min_rows"})
    reach: ClassVar[str] = "on generated answers alone: log-probs stay the model's own"

    text: str = REFUSAL
    """What is answered."""
    keywords: tuple[str, ...] = ()
    """Your own keywords, instead of those found in the forget rows."""
    longest: int = 3
    """Most words in one keyword."""
    min_rows: int = 1
    """In how many forget rows a keyword must stand."""
    salt: str = ""
    hashes: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise RecipeError(f"longest must be at least 1, got {self.longest}")
        if self.min_rows < 1:
            raise RecipeError(f"min_rows must be at least 1, got {self.min_rows}")
        if not self.text.strip():
            raise RecipeError("text is empty: a refused prompt must be answered with something")
        if empty := [keyword for keyword in self.keywords if not _words(keyword)]:
            raise RecipeError(f"keyword {empty[0]!r} holds no word")

    def fit(self, forget: Sequence[Row], retain: Sequence[Row]) -> KeywordFilter:
        """Find the keywords and keep their hashes alone.

        Raises:
            RecipeError: if no word tells the forget rows from the retain rows.
        """
        named = [tuple(_words(keyword)) for keyword in self.keywords]
        found = named or distinctive(forget, retain, longest=self.longest, min_rows=self.min_rows)
        if not found:
            raise RecipeError(
                f"guard keyword_filter: no run of up to {self.longest} words tells the forget rows from the retain "
                "rows; name some (keywords: [...]), or lower min_rows"
            )
        salt = rows_hash(forget)[:32]
        hashes = frozenset(_hash(salt, words) for words in found)
        longest = max(map(len, found))
        return dataclasses.replace(self, keywords=(), longest=longest, salt=salt, hashes=hashes)

    def wrap(self, format: Format, positions: int | None) -> Format:
        """Prompts are written as ever."""
        return format

    def refusal(self, text: str) -> str | None:
        """The fixed refusal if any run of words is a keyword."""
        runs = _runs(_words(text), self.longest)
        return self.text if any(_hash(self.salt, run) in self.hashes for run in runs) else None


GUARDS: Registry[Any] = Registry("guard", {"refusal_prompt": RefusalPrompt, "keyword_filter": KeywordFilter})


def make_guard(settings: Mapping[str, Any]) -> Guard | None:
    """Build a guard from ``{kind: ..., ...}``; None from an empty one.

    Raises:
        RecipeError: one line with every unknown setting, wrong type and value out of range.
    """
    if not settings:
        return None
    kind = settings.get("kind")
    if not isinstance(kind, str):
        raise RecipeError(f"guard.kind must be one of {', '.join(GUARDS.names())}, got {kind!r}")
    guard = GUARDS.get(kind)
    given = {key: value for key, value in settings.items() if key != "kind"}
    problems = []
    for name, value in given.items():
        if name not in guard.settings:
            known = ", ".join(sorted(guard.settings))
            problems.append(f"no setting {name!r}{nearest(str(name), guard.settings)}; known: {known}")
        elif wrong := _wrong_type(value, getattr(guard, name)):
            # Keywords tell what is to be forgotten: they are not repeated.
            got = f"a {type(value).__name__}" if name == "keywords" else repr(value)
            problems.append(f"{name} must be {wrong}, got {got}")
    if not problems:
        try:
            return guard(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
        except RecipeError as error:
            problems.append(str(error))
    raise RecipeError("; ".join(f"guard {kind}: {problem}" for problem in problems))


def _wrong_type(value: Any, default: Any) -> str:
    """What a setting must be, if it is not like its default; else an empty text."""
    if isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        return "" if fits else "a list of texts"
    if isinstance(default, int):
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a whole number"
    return "" if isinstance(value, str) else "a text"


# -- kept beside the weights -------------------------------------------------------------------------------------------


def remember_guard(folder: Path, guard: Guard) -> None:
    """Write the guard beside saved weights; its file is the same for the same rows."""
    fields = {f.name: getattr(guard, f.name) for f in dataclasses.fields(guard)}
    plain = {name: sorted(value) if isinstance(value, frozenset) else value for name, value in fields.items()}
    text = json.dumps({"kind": guard.key, **plain}, indent=1, ensure_ascii=False)
    (folder / GUARD_FILE).write_text(text + "\n", encoding="utf-8")


def recall_guard(folder: Path) -> Guard | None:
    """The guard that lies in a folder; None where there is none.

    Raises:
        ModelError: if the file cannot be understood: a guard must never be dropped in silence.
    """
    path = folder / GUARD_FILE
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        guard = GUARDS.get(kept.pop("kind"))
        if "hashes" in kept:
            kept["hashes"] = frozenset(kept["hashes"])
        return guard(**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: the guard cannot be read ({reason}); delete the file to use the weights unguarded"
        ) from error


# -- keywords ----------------------------------------------------------------------------------------------------------

_STOP_WORDS = frozenset(re.findall(r"\w+", """
a about above after again all also although always am an and another any are as at away back be because been before
being below between both but by can cannot could did do does doing down during each either else ever every few for
from further get gets got had has have having he her here hers herself him himself his how however i if in into is
it its itself just know less let like made make makes many may me might more most much must my myself near never no
nor not now of off often on once one only onto or other our ours out over own per perhaps please put quite rather
really same say says see she should since so some still such take than that the their theirs them themselves then
there these they thing things this those though three through thus to together too two under until up upon us use
used using very was we well were what whatever when where whether which while who whom whose why will with within
without would yes yet you your yours yourself
answer question name names first last new old good great people person time times year years day days way life work
works world part place known called
"""))  # fmt: skip


def _words(text: str) -> list[str]:
    """Words in one spelling: compatibility forms, accents and case are folded, a possessive ending dropped."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).casefold()
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return [word.removesuffix("'s").replace("'", "") for word in re.findall(r"\w+(?:'\w+)*", letters)]


def _runs(words: list[str], longest: int) -> Iterator[tuple[str, ...]]:
    for size in range(1, longest + 1):
        for start in range(len(words) - size + 1):
            yield tuple(words[start : start + size])


def _content(run: tuple[str, ...]) -> bool:
    return not any(word in _STOP_WORDS or (len(word) < 3 and not word.isdigit()) for word in run)


def _texts(row: Row) -> tuple[str, ...]:
    return (row.prompt, row.answer, *(content for _, content in row.history))


def distinctive(forget: Iterable[Row], retain: Iterable[Row], *, longest: int, min_rows: int) -> list[tuple[str, ...]]:
    """Runs of content words that stand in at least ``min_rows`` forget rows and in no retain row, most frequent first.

    A run that holds a shorter such run adds nothing and is left out.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    for row in forget:
        counts.update({run for text in _texts(row) for run in _runs(_words(text), longest) if _content(run)})
    # Only runs that the forget rows have: all runs of a large retain set would not fit into memory.
    common = {run for row in retain for text in _texts(row) for run in _runs(_words(text), longest) if run in counts}
    found = {run for run, count in counts.items() if count >= min_rows and run not in common}
    shortest = (run for run in found if not any(part in found for part in _runs(list(run), len(run) - 1)))
    return sorted(shortest, key=lambda run: (-counts[run], run))


def _hash(salt: str, words: tuple[str, ...]) -> str:
    return hashlib.sha256(f"{salt}/{' '.join(words)}".encode()).hexdigest()[:32]
