"""What benchmark ``custom`` makes where the user has nothing: probes, wrong answers, and rows to keep."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from expunge.data.draw import draw
from expunge.data.lazy import changed
from expunge.data.made import cloze_rows, held_out, neighbours, perturbed, rephrased, reverse_rows
from expunge.data.made.documents import word_spans
from expunge.data.ngrams import ngrams
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import RecipeError, unknown

MAKES = ("paraphrase", "cloze", "reverse", "perturbed", "holdout", "neighbours")
CONTINUE = "Continue this text:"
CONTINUE_OTHERWISE = "Write what comes after these words:"
"""How a text is asked for in the probe ``forget_rephrased``."""


def wanted_makes(make: object) -> tuple[str, ...]:
    """The names in ``make``, a list or a text with commas, each once; :class:`RecipeError` for an unknown one."""
    names = make.split(",") if isinstance(make, str) else make
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"custom: make must be a list of names ({', '.join(MAKES)}), got {make!r}")
    wanted = [name.strip() for name in names if name.strip()]
    if wrong := [unknown("make", name, MAKES) for name in wanted if name not in MAKES]:
        raise RecipeError(f"custom: {'; '.join(wrong)}")
    return tuple(dict.fromkeys(wanted))


@dataclass
class Maker:
    """Makes what was asked for, and notes what came of it."""

    wanted: tuple[str, ...]
    seed: int = 0
    held_share: float = 0.2
    prompt_words: int = 0
    notes: list[str] = field(default_factory=list)

    def split(self, forget: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
        """Raw text to unlearn, and a share of it that unlearning does not see; questions are not parted.

        No held-out text shares 13 words in a row with one to unlearn: where one does, it goes back among those.
        """
        if "holdout" not in self.wanted or any(row.prompt for row in forget):
            return forget, ()
        count = min(max(1, round(self.held_share * len(forget))), len(forget) - 1)
        apart = set(draw(range(len(forget)), count, seed=self.seed, name="custom/holdout")) if count else set()
        held = _unlike_the_rest(forget, sorted(apart))
        self._note("forget_unseen", len(held), f"of {len(forget)} texts to forget, not shown to unlearning")
        rest = tuple(row for at, row in enumerate(forget) if at not in held)
        unseen = [replace(forget[at], id=f"forget_unseen/{n}", made=("holdout",)) for n, at in enumerate(held)]
        return rest, tuple(unseen)

    def keep(
        self,
        forget: Sequence[Row],
        corpus: Callable[[], Iterable[Row]],
        *,
        count: int | None,
        names: Sequence[str],
        apart: Sequence[Row],
    ) -> tuple[Row, ...]:
        """Rows of the corpus to keep, none like those of ``apart``; as many as there are forget rows, unless said."""
        if "neighbours" not in self.wanted:
            return ()
        rows = neighbours(forget, corpus, count=count or len(forget), names=names, apart=apart, seed=self.seed)
        self._note("retain", len(rows), "from the corpus, near the forget rows and not of them")
        return rows

    def probes(self, forget: Sequence[Row]) -> dict[str, Sequence[Row]]:
        """The probe sets made of the forget rows; sets that came out empty are left out."""
        asking = [row for row in forget if row.prompt]
        held = self._held_questions(asking)
        sets: dict[str, list[Row]] = {"forget_test": [held_out(row, seed=self.seed) for row in held]}
        if "paraphrase" in self.wanted:
            sets["forget_rephrased"] = self._rephrased([row for row in forget if row.id not in {r.id for r in held}])
        if "cloze" in self.wanted:
            sets["forget_cloze"] = [made for row in forget for made in cloze_rows(row)]
        if "reverse" in self.wanted:
            sets["forget_reverse"] = [made for row in forget for made in reverse_rows(row)]
        for name, rows in sets.items():
            if name != "forget_test" or ("holdout" in self.wanted and asking):
                self._note(name, len(rows), f"from {len(forget)} forget rows{_given(rows)}")
        return {name: tuple(rows) for name, rows in sets.items() if rows}

    def wrong_answers(self, rows: Sequence[Row], others: Sequence[Row], name: str) -> Sequence[Row]:
        """The rows of a probe set, with wrong answers where they have none."""
        if "perturbed" not in self.wanted or all(row.perturbed_answers for row in rows):
            return rows
        out = perturbed(rows, others, seed=self.seed)
        count = sum("perturbed_answers" in row.made for row in out)
        self._note(f"wrong answers in {name}", count, f"of {len(rows)} rows")
        return out

    def shaped(self, rows: Sequence[Row], wording: str = CONTINUE) -> Sequence[Row]:
        """Raw texts as rows that show ``prompt_words`` of them and ask for the rest; too short ones stay raw."""
        return changed(rows, partial(self._shaped, wording)) if self.prompt_words else rows

    def _shaped(self, wording: str, row: Row) -> Row:
        spans = [] if row.prompt or row.history else word_spans(row.answer, self.prompt_words + 1)
        if len(spans) <= self.prompt_words:
            return row
        shown, rest = row.answer[: spans[-2][1]], row.answer[spans[-1][0] :]
        return replace(row, prompt=f"{wording}\n{shown}", answer=rest)

    def _held_questions(self, asking: Sequence[Row]) -> tuple[Row, ...]:
        if "holdout" not in self.wanted or not asking:
            return ()
        return draw(asking, max(1, round(self.held_share * len(asking))), seed=self.seed, name="custom/holdout")

    def _rephrased(self, rows: Sequence[Row]) -> list[Row]:
        asked = [rephrased(row, seed=self.seed) for row in rows if row.prompt]
        texts = [row for row in rows if not row.prompt]
        other = [row for row in self.shaped(texts, CONTINUE_OTHERWISE) if row.prompt]
        return asked + [replace(r, id=f"{r.id}/made/paraphrase", made=(*r.made, "paraphrase")) for r in other]

    def _note(self, what: str, count: int, whence: str) -> None:
        if count:
            self.notes.append(f"made by rule, not by you: {what}: {count} {whence}")
        else:
            warnings.warn(f"custom: nothing could be made for {what} ({whence})", DataWarning, stacklevel=4)


def _unlike_the_rest(rows: Sequence[Row], apart: Sequence[int]) -> list[int]:
    """Those of the places ``apart`` whose texts share no run of words with any row that is not among them."""
    runs = {at: ngrams(rows[at].answer) for at in apart}
    seen = {run for at, row in enumerate(rows) if at not in runs for run in ngrams(row.answer)}
    # What goes back may in turn share a run with what is still apart.
    while back := [at for at, own in runs.items() if not seen.isdisjoint(own)]:
        seen.update(*(runs.pop(at) for at in back))
    return list(runs)


def _given(rows: Sequence[Row]) -> str:
    given = sum(not row.made for row in rows)
    return f"; {given} of them are your own wordings" if given else ""
