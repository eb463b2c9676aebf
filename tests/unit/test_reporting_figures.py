"""The SVG figures: fit for a page, repeatable, and safe with any text."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from expunge.reporting.content import Curve, Panel, Report, ScatterPoint
from expunge.reporting.figures import _MAX_POINTS, _finite, _wide, figures_available, panel_svg, scatter_svg

pytest.importorskip("matplotlib")

POINTS = (
    ScatterPoint("before", 0.9, 0.6, 0.88, 0.92, 0.58, 0.62),
    ScatterPoint("after", 0.4, 0.55, 0.37, 0.43),
    ScatterPoint("retain model", 0.38, 0.61),
)


def scatter_report(points: tuple[ScatterPoint, ...] = POINTS) -> Report:
    return Report("t", None, tuple(point.label for point in points), scatter=points)


def panel(*ys: float, label: str = "loss") -> Panel:
    return Panel("Training", (Curve(label, "step", "loss", tuple(enumerate(ys))),))


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


def ids(svg: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', svg))


def test_matplotlib_is_found() -> None:
    assert figures_available()


@pytest.mark.parametrize("svg", [scatter_svg(scatter_report(), "one"), panel_svg(panel(3, 2, 1), "one")])
def test_a_figure_is_well_formed_named_and_self_contained(svg: str) -> None:
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "one-title"
    assert root.find("title").get("id") == "one-title"  # type: ignore[union-attr]
    assert root.get("width") is None
    assert "http" not in svg
    assert "<style" not in svg
    assert all(name.startswith("one-") for name in ids(svg))
    for target in re.findall(r'(?:href="|url\()#([^")]+)', svg):
        assert target in ids(svg)
    assert len(ids(svg)) == len(re.findall(r'\bid="', svg))


def test_two_figures_on_one_page_share_no_id() -> None:
    assert not ids(scatter_svg(scatter_report(), "a")) & ids(scatter_svg(scatter_report(), "b"))


def test_the_same_report_gives_the_same_bytes() -> None:
    assert scatter_svg(scatter_report()) == scatter_svg(scatter_report())
    assert panel_svg(panel(3, 2, 1)) == panel_svg(panel(3, 2, 1))


def test_text_is_text_and_colours_follow_the_page() -> None:
    svg = scatter_svg(scatter_report())
    assert {"before", "after", "retain model", "model utility"} <= set(texts(svg))
    assert "var(--fig-goal, " in svg
    assert not re.search(r"(?<!, )#[0-9a-f]{6}", svg)


def test_the_description_holds_the_numbers() -> None:
    assert "before: 0.900, 0.600; after: 0.400, 0.550; retain model: 0.380, 0.610" in scatter_svg(scatter_report())
    assert "loss ends at 1.00" in panel_svg(panel(3, 2, 1))


def test_without_a_retain_model_there_is_no_goal() -> None:
    assert "--fig-goal" not in scatter_svg(scatter_report(POINTS[:2]))


def test_many_models_are_named_in_a_legend() -> None:
    points = tuple(ScatterPoint(f"_model {i}", 0.5, 0.5) for i in range(9))
    assert [text.strip("\u200b") for text in texts(scatter_svg(scatter_report(points)))[-9:]] == [
        f"_model {i}" for i in range(9)
    ]


@pytest.mark.parametrize(
    "label", ["</text><script>x</script>", "cost $x^2$ \\frac{", "-->", '"q" id="z" #2356a8', "问"]
)
def test_labels_are_shown_as_they_are(label: str) -> None:
    svg = scatter_svg(scatter_report((ScatterPoint(label, 0.1, 0.2),)))
    assert "<script" not in svg
    assert label in texts(svg)


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert scatter_svg(scatter_report((ScatterPoint("before", math.nan, 0.2),))) == ""
    assert panel_svg(panel(math.nan, math.inf)) == ""
    assert panel_svg(Panel("empty", ())) == ""
    assert "<svg" in panel_svg(panel(1.0, math.nan, 2.0))
    assert "<svg" in panel_svg(panel(1.0))


def test_log_axis_only_for_a_wide_range() -> None:
    assert _wide([1.0, 10.0, 1e4])
    assert not _wide([0.0, 1.0, 1e4])
    assert not _wide([1e-6, *[1.0] * 40])
    assert {"1", "10000"} <= set(texts(panel_svg(panel(1.0, 10.0, 1e4))))


def test_a_long_curve_is_thinned_but_keeps_its_ends_spikes_and_gaps() -> None:
    ys = [math.sin(i / 500) for i in range(20000)]
    ys[777], ys[12345] = 99.0, math.nan
    points = _finite(panel(*ys).curves[0])
    assert len(points) <= 1.6 * _MAX_POINTS
    assert points[0] == (0, ys[0])
    assert points[-1] == (19999, ys[-1])
    assert (777, 99.0) in points
    assert sum(math.isnan(y) for _, y in points) == 1
    assert [x for x, _ in points] == sorted(x for x, _ in points)
