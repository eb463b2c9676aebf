"""The page: complete, one file, escaped, repeatable, and whole on disk or not there."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from expunge.errors import UserError
from expunge.reporting import html as page_module
from expunge.reporting.content import AnswerPair, Curve, MetricCell, MetricRow, Panel, Report, ScatterPoint, Verdict
from expunge.reporting.html import PAIRS_IN_VIEW, mark_words, render_html, write_report

NASTY = "<script>alert('x')</script> & \"quotes\" </title> {{ 7*7 }} --> مرحبا 🙂\nnext " + "W" * 300


def whole_report(**changes: object) -> Report:
    cells = {
        "before": MetricCell(0.9123, 0.89, 0.93, 400),
        "after": MetricCell(0.3912, 0.37, 0.41, 400),
        "retain model": MetricCell(0.3871, 0.36, 0.40, 400),
    }
    lone = {"before": MetricCell(None, note="no attack was run"), "after": MetricCell(1.27e-19)}
    report = Report(
        title="NPO on forget10",
        verdict=Verdict("mixed", "It forgot, mostly.", ("ROUGE-L fell.", "Utility fell too.")),
        models=("before", "after", "retain model"),
        metrics=(
            MetricRow("rouge", "ROUGE-L", "forgetting", None, cells, "Share of the answer."),
            MetricRow("quality", "Forget quality", "privacy", True, lone, kind="p_value"),
        ),
        panels=(Panel("Loss", (Curve("forget", "step", "loss", ((0, 2.0), (1, 1.0))),)),),
        scatter=(ScatterPoint("before", 0.9, 0.6, 0.88, 0.92), ScatterPoint("retain model", 0.4, 0.6)),
        pairs=(AnswerPair("Who wrote it?", "Hina Ameen wrote it in 2003.", {"before": "By Hina, 2003.", "after": ""}),),
        provenance={"recipe": {"method": "npo", "beta": 0.1, "tags": ["a", "b"]}, "resumed": False, "none": None},
        warnings=("no retain set was given",),
        footnotes=("bootstrap over questions",),
    )
    return dataclasses.replace(report, **changes)  # type: ignore[arg-type]


def report_without_figures(**changes: object) -> Report:
    """Quick to render: for the tests that look at anything but the figures."""
    return whole_report(**{"panels": (), "scatter": (), **changes})


class Tags(HTMLParser):
    """Collects start tags with their attributes, and the text outside style."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    parser.close()
    return parser


def test_the_order_is_verdict_warnings_table_plot_curves_answers_provenance() -> None:
    page = render_html(whole_report())
    body = page[page.index("<body>") :]
    parts = ["Mixed", "It forgot, mostly.", "no retain set was given", "Measurements", "Forgetting against utility"]
    parts += ["Training", "Answers side by side", "How this was made", "bootstrap over questions"]
    places = [body.index(part) for part in parts]
    assert places == sorted(places)


def test_values_intervals_words_and_notes_are_shown() -> None:
    text = parsed(render_html(report_without_figures())).text
    for part in ("0.912", "[0.890, 0.930]", "1.27×10⁻¹⁹", "no attack was run", "not measured", "n = 400"):
        assert part in text
    assert "level with retain model" in text
    assert "Share of the answer." in text
    assert "95% interval" in text


def test_one_file_that_asks_for_nothing() -> None:
    page = render_html(whole_report())
    tags = parsed(page).tags
    assert not re.search(r"https?:|//cdn|@import|url\((?!#)", page)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in tags}
    for _, attrs in tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    policy = next(attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render_html(whole_report()) == render_html(whole_report())


def test_ids_are_unique_on_the_page() -> None:
    panel = whole_report().panels[0]
    ids = [attrs["id"] for _, attrs in parsed(render_html(whole_report(panels=(panel, panel)))).tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_text_from_anywhere_is_escaped() -> None:
    report = Report(
        title=NASTY,
        verdict=Verdict("bad", NASTY, (NASTY,)),
        models=(NASTY, "after"),
        metrics=(MetricRow("k", NASTY, NASTY, True, {NASTY: MetricCell(0.5, note=NASTY)}, NASTY),),
        panels=(Panel(NASTY, (Curve(NASTY, NASTY, NASTY, ((0, 1.0), (1, 2.0))),)),),
        scatter=(ScatterPoint(NASTY, 0.1, 0.2),),
        pairs=(AnswerPair(NASTY, NASTY, {NASTY: NASTY}, NASTY),),
        provenance={NASTY: {NASTY: [NASTY, {NASTY: NASTY}]}},
        warnings=(NASTY,),
        footnotes=(NASTY,),
        before=NASTY,
        reference=NASTY + "2",
        scatter_axes=(NASTY, NASTY),
    )
    page = render_html(report)
    assert "<script" not in page
    tags = [tag for tag, _ in parsed(page).tags]
    clean = [tag for tag, _ in parsed(page.replace("W" * 300, "W")).tags]
    assert tags == clean
    assert tags.count("title") == 3  # the page, the scatter, one panel
    assert "{{ 7*7 }}" in page
    assert "مرحبا 🙂" in page


def test_answers_keep_line_ends_and_lose_only_illegal_characters() -> None:
    pair = AnswerPair("q", "t", {"before": "one\r\ntwo\x00\x1b\ud800"})
    page = render_html(report_without_figures(pairs=(pair,)))
    assert "one\ntwo\ufffd\ufffd\ufffd" in page
    page.encode("utf-8")


def test_an_empty_answer_differs_from_one_never_asked() -> None:
    text = parsed(render_html(report_without_figures())).text
    assert text.count("empty answer") == 1  # after said nothing
    assert text.count("not asked") == 1  # the retain model has no entry


def test_the_rest_of_many_pairs_waits_behind_a_summary() -> None:
    pairs = tuple(AnswerPair(f"q{i}", "t", {}, "forget") for i in range(PAIRS_IN_VIEW + 3))
    page = render_html(report_without_figures(pairs=pairs))
    assert "Show 3 more" in page
    assert page.index(f">q{PAIRS_IN_VIEW - 1}<") < page.index("Show 3 more") < page.index(f">q{PAIRS_IN_VIEW}<")


def test_marks_show_what_the_true_answer_adds() -> None:
    page = render_html(report_without_figures())
    assert "By <mark>Hina</mark>, <mark>2003</mark>." in page
    pieces = mark_words("By Hina, 2003. <b>", {"hina", "2003"})
    assert pieces == [("By ", False), ("Hina", True), (", ", False), ("2003", True), (". <b>", False)]
    assert mark_words("", {"x"}) == []


def test_no_reference_model_is_said() -> None:
    report = Report("t", None, ("before", "after"), (MetricRow("k", "k", "g", None, {"after": MetricCell(0.5)}),))
    text = parsed(render_html(report)).text
    assert "There is no retain model here" in text
    assert "goal: a retain model's value" in text


def test_a_bare_report_is_a_page() -> None:
    page = render_html(Report("only a title", None, ("before",)))
    assert "only a title" in page
    for part in ("Measurements", "Training", "Answers", "How this was made", "Warning"):
        assert part not in page[page.index("<body>") :]


def test_without_matplotlib_the_page_says_how_to_get_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    page = render_html(whole_report())
    assert "<svg" not in page
    assert 'pip install "expunge[report]"' in parsed(page).text
    assert "[0.890, 0.930]" in page
    assert "[0.880, 0.920]" in page  # the plot's numbers


def test_without_figures_in_the_report_matplotlib_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "figures_available", lambda: False)
    assert "expunge[report]" not in render_html(whole_report(panels=(), scatter=()))


def test_writing_makes_folders_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert write_report(report_without_figures(), target) == target
    write_report(report_without_figures(title="second"), str(target))
    assert "<title>second</title>" in target.read_text(encoding="utf-8")
    assert [item.name for item in target.parent.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_page_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = write_report(report_without_figures(title="old"), tmp_path / "report.html")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_module.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write the report to .*report.html': No space left on device"):
        write_report(report_without_figures(title="new"), target)
    assert "<title>old</title>" in target.read_text(encoding="utf-8")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_or_a_file_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name a file"):
        write_report(report_without_figures(), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(report_without_figures(), tmp_path / "file" / "report.html")


def test_the_snippet_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[2] / "docs" / "report.md"
    snippet = re.search(r"```python\n(.*?)```", source.read_text(encoding="utf-8"), re.DOTALL)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet.group(1), "docs/report.md", "exec"), {})
    assert "level with retain model" in (tmp_path / "report.html").read_text(encoding="utf-8")
