"""The records of a report: what they accept, what they refuse, and their JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from expunge.errors import UserError
from expunge.reporting.content import AnswerPair, MetricCell, MetricRow, Report, ScatterPoint, Verdict, plain, printable


def row(key: str, group: str = "forgetting", **cells: MetricCell) -> MetricRow:
    return MetricRow(key, key, group, True, cells)


def test_a_cell_without_a_number_is_missing_and_has_no_interval() -> None:
    assert MetricCell(None, 0.1, 0.2).missing
    assert MetricCell(math.nan, 0.1, 0.2).interval is None
    assert MetricCell(0.15, 0.1, None).interval is None
    assert MetricCell(0.15, 0.1, math.nan).interval is None
    assert MetricCell(0.15, 0.1, 0.2).interval == (0.1, 0.2)


def test_a_row_gives_an_empty_cell_for_a_model_that_was_not_measured() -> None:
    assert row("a", before=MetricCell(1.0)).cell("after").missing


def test_models_have_roles_by_name() -> None:
    report = Report("t", None, ("before", "npo", "rmu", "retain model"))
    assert report.unlearned == ("npo", "rmu")
    assert report.has_reference
    assert not Report("t", None, ("before", "after")).has_reference


def test_rows_are_grouped_in_order_of_first_appearance_or_as_asked() -> None:
    report = Report("t", None, ("m",), (row("a", "x"), row("b", "y"), row("c", "x")))
    assert [item.key for item in report.rows()] == ["a", "c", "b"]
    assert [item.key for item in report.rows(["b", "a"])] == ["b", "a"]
    with pytest.raises(UserError, match=r"unknown metric 'bb' \(did you mean 'b'\?\); known: a, b, c"):
        report.rows(["bb"])


@pytest.mark.parametrize(
    "extra",
    [
        {"metrics": (row("a", befor=MetricCell(1.0)),)},
        {"pairs": (AnswerPair("q", "t", {"befor": "x"}),)},
        {"scatter": (ScatterPoint("befor", 0.1, 0.2),)},
    ],
)
def test_a_label_that_is_no_column_is_refused_with_the_nearest(extra: dict) -> None:
    with pytest.raises(UserError, match=r"unknown model 'befor' .did you mean 'before'"):
        Report("t", None, ("before", "after"), **extra)


def test_repeats_and_unknown_words_are_refused() -> None:
    with pytest.raises(UserError, match="model 'a' comes twice"):
        Report("t", None, ("a", "a"))
    with pytest.raises(UserError, match="metric 'k' comes twice"):
        Report("t", None, ("a",), (row("k"), row("k")))
    with pytest.raises(UserError, match="models is empty"):
        Report("t", None, ())
    with pytest.raises(UserError, match="unknown level 'great'"):
        Verdict("great", "x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown kind 'percent'"):
        MetricRow("k", "k", "g", True, {}, kind="percent")  # type: ignore[arg-type]


def test_json_is_strict_lossless_and_stable() -> None:
    cells = {"before": MetricCell(math.nan, n=3, note="nan"), "after": MetricCell(1 / 3, -math.inf, 0.5)}
    pair = AnswerPair("سؤال?", "t\x00", {"before": "\ud800"})
    report = Report("t", Verdict("bad", "h", ("s",)), ("before", "after"), (row("k", **cells),), pairs=(pair,))
    text = report.to_json()
    back = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not strict JSON"))
    assert text == report.to_json()
    assert back["schema"] == "expunge.report/1"
    assert back["metrics"][0]["cells"]["before"] == {
        "value": None, "ci_low": None, "ci_high": None, "n": 3, "note": "nan",
    }  # fmt: skip
    assert back["metrics"][0]["cells"]["after"]["value"] == 1 / 3
    assert back["pairs"][0] == {
        "question": "سؤال?", "truth": "t\x00", "answers": {"before": "\ud800"}, "set_name": "forget",
    }  # fmt: skip
    assert back["verdict"] == {"level": "bad", "headline": "h", "sentences": ["s"]}


def test_plain_turns_what_provenance_holds_into_json_types() -> None:
    value = {"path": Path("a/b"), "rate": np.float32(0.5), "n": np.int64(3), "names": {"b", "a"}, "pair": (1, None)}
    assert plain(value) == {"path": "a/b", "rate": 0.5, "n": 3, "names": ["a", "b"], "pair": [1, None]}


def test_printable_replaces_only_what_no_writer_can_show() -> None:
    assert printable("a\r\nb\rc\td\x00\x1b\x85\ud800é🙂") == "a\nb\nc\td\ufffd\ufffd\ufffd\ufffdé🙂"
