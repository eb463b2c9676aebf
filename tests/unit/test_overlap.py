from __future__ import annotations

import pytest

from expunge.data.draw import draw
from expunge.data.overlap import DataWarning, check_overlap, check_sets, warn_sets
from expunge.data.rows import Row
from expunge.errors import DataError


def row(name: str, prompt: str, answer: str, **more: object) -> Row:
    return Row(id=name, prompt=prompt, answer=answer, origin=f"{name}.jsonl:1", **more)  # type: ignore[arg-type]


def test_disjoint_sets_say_nothing() -> None:
    assert check_overlap([row("f", "Who?", "Ada.")], [row("r", "When?", "Then.")]) == []
    assert check_overlap([row("f", "Who?", "Ada.")], []) == []


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("Who?", "Ada."), (" who? ", "ADA."), ("Who?\n", "Ada.\u00a0"), ("WHO?", "\tada.")],
)
def test_the_same_row_in_both_is_an_error_however_spaced_or_cased(prompt: str, answer: str) -> None:
    with pytest.raises(DataError) as caught:
        check_overlap([row("f", "Who?", "Ada."), row("g", "Why?", "So.")], [row("r", prompt, answer)])
    assert str(caught.value) == (
        "1 of 2 forget rows also stand in the retain set (f.jsonl:1 = r.jsonl:1); take them out of one of the two"
    )


def test_composed_and_decomposed_letters_are_one() -> None:
    with pytest.raises(DataError, match="1 of 1"):
        check_overlap([row("f", "Who?", "Ren\u00e9e")], [row("r", "Who?", "Rene\u0301e")])


def test_three_places_are_named_and_the_rest_counted() -> None:
    rows = [row(f"x{i}", f"Q{i}", "A") for i in range(5)]
    with pytest.raises(DataError, match=r"5 of 5 .* x2\.jsonl:1 = x2\.jsonl:1, \.\.\.\)"):
        check_overlap(rows, rows)


def test_history_tells_rows_apart() -> None:
    plain, later = row("f", "And?", "Yes."), row("r", "And?", "Yes.", history=(("user", "Hi"), ("assistant", "Hello")))
    assert check_overlap([plain], [later]) == []


def test_a_shared_prompt_and_a_repeat_are_lines_without_text() -> None:
    forget = [row("f", "Who?", "Ada."), row("g", "who?", "ada. ")]
    lines = check_overlap(forget, [row("r", "Who?", "Bob.")])
    assert lines == [
        "1 of 2 forget rows repeat an earlier one (g.jsonl:1 = f.jsonl:1)",
        "2 of 2 forget prompts also stand in the retain set with another answer (first: f.jsonl:1 and r.jsonl:1)",
    ]
    assert not any("Ada" in line or "Who" in line for line in lines)


def test_raw_texts_share_no_prompt() -> None:
    assert check_overlap([row("f", "", "One text.")], [row("r", "", "Another text.")]) == []


def test_all_pairs_of_sets_are_looked_at() -> None:
    same = row("h", "Who?", "Ada.")
    with pytest.raises(DataError, match="1 of 1 retain rows also stand in the holdout set"):
        check_sets({"forget": [row("f", "Why?", "So.")], "retain": [same], "holdout": [same]})


def test_lines_become_warnings() -> None:
    with pytest.warns(DataWarning, match="1 of 2 forget rows repeat"):
        warn_sets({"forget": [row("f", "Who?", "Ada."), row("g", "Who?", "Ada.")]})


def test_a_draw_is_seeded_nested_and_in_file_order() -> None:
    rows = list(range(100))
    small, large = draw(rows, 10, seed=0, name="a"), draw(rows, 30, seed=0, name="a")
    assert (len(small), len(large)) == (10, 30)
    assert set(small) < set(large)
    assert list(large) == sorted(large)
    assert draw(rows, 10, seed=0, name="a") == small
    assert draw(rows, 10, seed=1, name="a") != small
    assert draw(rows, 10, seed=0, name="b") != small
    assert draw(rows, None, seed=0, name="a") == draw(rows, 200, seed=0, name="a") == tuple(rows)


def test_a_draw_is_the_same_on_every_machine() -> None:
    assert draw(range(20), 5, seed=0, name="golden") == (6, 8, 11, 12, 13)
