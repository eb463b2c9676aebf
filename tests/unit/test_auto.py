"""What method ``auto`` stands for, and that a run says and keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import city_rows, colour_rows
from expunge.benchmarks.base import Benchmark
from expunge.data.rows import Row
from expunge.errors import RecipeError
from expunge.methods.auto import AUTO, Situation, default_for, settled
from expunge.methods.table import METHODS, compose
from expunge.pipeline.composing import composed
from expunge.recipe import UnlearnPart

SITUATIONS = [Situation(retain=retain, to_4bit=to_4bit) for retain in (True, False) for to_4bit in (True, False)]
PASSAGES = (Row(id="forget/0", prompt="", answer="The river runs past the old mill."),)


def benchmark(forget: tuple[Row, ...], retain: tuple[Row, ...]) -> Benchmark:
    return Benchmark(name="own", forget=forget, retain=retain, probes={"forget": forget})


@pytest.mark.parametrize("situation", SITUATIONS, ids=str)
def test_every_situation_has_a_method_that_can_run_in_it(situation: Situation) -> None:
    default = default_for(situation)
    assert METHODS.get(default.method).claim == "forgets"
    assert default.reason
    made = compose(UnlearnPart(method=default.method), has_retain=situation.retain)
    assert made.trains
    assert bool(made.retain) == situation.retain
    for forget in (colour_rows(), PASSAGES):
        part, *_ = composed(
            UnlearnPart(to_4bit=situation.to_4bit), benchmark(forget, city_rows() if situation.retain else ())
        )
        assert part.method == default.method


def test_a_method_that_is_named_stays() -> None:
    part = UnlearnPart(method="npo", lr=1e-5)
    assert settled(part, Situation(retain=False)) is part


def test_the_method_and_its_reason_are_said_and_other_settings_stay() -> None:
    part, composition, _ = composed(UnlearnPart(lr=1e-5), benchmark(colour_rows(), city_rows()))
    default = default_for(Situation())
    assert (part.method, part.lr) == (default.method, 1e-5)
    assert composition.method.key == default.method
    assert composition.notes[0].startswith(f"method auto is {default.method} here: {default.reason}")


def test_bits_are_no_matter_to_a_method_that_is_named() -> None:
    _, composition, _ = composed(UnlearnPart(method="npo", to_4bit=True), benchmark(colour_rows(), city_rows()))
    assert composition.notes[0] == "to_4bit has no effect: the method is 'npo', not auto"


def test_a_wish_for_4_bits_that_changes_nothing_is_said() -> None:
    def notes(*, retain: bool) -> str:
        rows = benchmark(colour_rows(), city_rows() if retain else ())
        return " ".join(composed(UnlearnPart(to_4bit=True), rows)[1].notes)

    assert "to_4bit has no effect without retain rows" in notes(retain=False)
    assert "to_4bit" not in notes(retain=True)


def test_auto_is_no_method_of_its_own() -> None:
    with pytest.raises(RecipeError):
        METHODS.get(AUTO)


def test_the_page_names_every_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "unlearn.md").read_text(encoding="utf-8")
    section = page.partition("## Which method")[2].partition("\n## ")[0]
    for situation in SITUATIONS:
        default = default_for(situation)
        assert f"[`{default.method}`](methods/{default.method}.md)" in section
        assert default.reason in " ".join(section.split())
