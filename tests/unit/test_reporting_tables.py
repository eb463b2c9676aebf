"""Numbers, comparisons and the metric table in every format."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from expunge.errors import UserError
from expunge.reporting.content import MetricCell, MetricRow, Report
from expunge.reporting.tables import (
    console_table,
    format_interval,
    format_number,
    goal_text,
    json_table,
    latex_table,
    markdown_table,
    movement,
)

MODELS = ("before", "after", "retain model")


def report(models: tuple[str, ...] = MODELS) -> Report:
    rouge = {
        "before": MetricCell(0.9123, 0.8921, 0.9319, 400),
        "after": MetricCell(0.3912, 0.3705, 0.4111, 400),
        "retain model": MetricCell(0.3871, 0.3666, 0.4074, 400),
    }
    quality = {"before": MetricCell(1.27e-19), "after": MetricCell(None, note="KS needs the\nretain log")}
    rows = (
        MetricRow("forget_rouge", "ROUGE-L, forget_set", "forgetting", None, rouge, "Recall."),
        MetricRow("forget_quality", "Forget quality", "forgetting", True, quality, kind="p_value"),
        MetricRow("ppl", "Perplexity | 50% & <more>", "fluency", False, {"before": MetricCell(12.34)}),
    )
    kept = tuple(
        MetricRow(r.key, r.label, r.group, r.higher_is_better, {m: c for m, c in r.cells.items() if m in models},
                  r.definition, r.kind)
        for r in rows
    )  # fmt: skip
    return Report("NPO on forget10", None, models, kept)


def printed(table: object, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.9123, "0.912"),
        (0.9996, "1.00"),
        (-0.0512, "-0.0512"),
        (0.00123, "0.00123"),
        (0.000999, "9.99e-04"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12346"),
        (123456.0, "1.23e+05"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_powers_of_ten_in_each_style() -> None:
    assert format_number(-1.27e-19, style="plain") == "-1.27e-19"
    assert format_number(-1.27e-19, style="html") == "−1.27×10⁻¹⁹"
    assert format_number(-1.27e-19, style="latex") == r"-1.27\times10^{-19}"


def test_a_zero_p_value_is_an_underflow_not_a_zero() -> None:
    assert format_number(0.0, kind="p_value") == "<1e-300"
    assert format_number(0.0, kind="p_value", style="html") == "<1×10⁻³⁰⁰"
    assert format_number(0.0) == "0"


def test_intervals() -> None:
    assert format_interval(MetricCell(0.5, 0.25, 0.75)) == "[0.250, 0.750]"
    assert format_interval(MetricCell(None, 0.25, 0.75)) == ""


def test_goal_in_words() -> None:
    rouge, quality, perplexity = report().metrics
    assert goal_text(rouge, report()) == "goal: the retain model's value"
    assert goal_text(rouge, report(("before", "after"))) == "goal: a retain model's value"
    assert goal_text(quality, report()) == "higher is better"
    assert goal_text(perplexity, report()) == "lower is better"


@pytest.mark.parametrize(
    ("higher", "before", "after", "retain", "expected"),
    [
        # 0.39 - 0.02 <= 0.38 <= 0.39 + 0.02: inside
        (None, (0.9, 0.02), (0.39, 0.02), 0.38, ("good", "level with retain model")),
        # |0.9 - 0.38| = 0.52 > |0.5 - 0.38| = 0.12
        (None, (0.9, 0.02), (0.5, 0.02), 0.38, ("good", "closer")),
        # |0.4 - 0.38| = 0.02 < |0.1 - 0.38| = 0.28
        (None, (0.4, 0.01), (0.1, 0.02), 0.38, ("bad", "farther")),
        # [0.88, 0.92] and [0.85, 0.89] overlap
        (None, (0.9, 0.02), (0.87, 0.02), 0.38, ("flat", "no clear change")),
        (None, (0.9, 0.02), (0.5, 0.02), None, ("", "")),
        (True, (0.6, 0.01), (0.5, 0.01), None, ("bad", "worse")),
        (True, (0.5, 0.01), (0.6, 0.01), None, ("good", "better")),
        (False, (0.6, 0.01), (0.5, 0.01), None, ("good", "better")),
        (True, (0.5, 0.1), (0.6, 0.01), None, ("flat", "no clear change")),
        (True, (0.5, None), (0.5, None), None, ("flat", "unchanged")),
        (True, (0.5, None), (0.51, None), None, ("good", "better")),
        (True, (None, None), (0.51, None), None, ("", "")),
    ],
)
def test_movement(higher: bool | None, before: tuple, after: tuple, retain: float | None, expected: tuple) -> None:
    def cell(value: float | None, half: float | None) -> MetricCell:
        return MetricCell(value) if value is None or half is None else MetricCell(value, value - half, value + half)

    cells = {"before": cell(*before), "after": cell(*after), "retain model": MetricCell(retain)}
    row = MetricRow("k", "k", "g", higher, cells)
    whole = Report("t", None, MODELS, (row,))
    assert movement(row, whole, "after") == expected
    assert movement(row, whole, "before") == ("", "")
    assert movement(row, whole, "retain model") == ("", "")


def test_console_table_fits_80_columns_and_says_everything() -> None:
    text = printed(console_table(report()))
    assert max(map(len, text.splitlines())) <= 80
    for part in ("0.912", "[0.892, 0.932]", "1.27e-19", "– 1)", "1) KS needs the retain log", "2) not measured"):
        assert part in text
    assert "≈ goal: the retain model's value" in text
    assert "[a, b] 95% interval" in text
    assert "…" not in text


def test_console_table_puts_many_models_under_each_other() -> None:
    models = ("before", *[f"npo with a rather long label {i}" for i in range(5)], "retain model")
    row = MetricRow("k", "Key", "g", True, {m: MetricCell(0.5, 0.25, 0.75) for m in models})
    text = printed(console_table(Report("t", None, models, (row,))))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.500 [0.250, 0.750]") == 7
    assert "npo with a rather long label 4" in text


def test_console_table_reads_no_markup_or_terminal_codes_in_labels() -> None:
    row = MetricRow("k", "[red]x[/red]", "[bold]", True, {"\x1b[31mm": MetricCell(0.5, note="[b]\x1b[2J")})
    text = printed(console_table(Report("[blink]", None, ("\x1b[31mm",), (row,))))
    assert "[red]x[/red]" in text
    assert "[blink]" in text
    assert "\x1b" not in text


def test_markdown_table_exactly() -> None:
    assert markdown_table(report(), ["forget_rouge", "forget_quality"]) == (
        "| metric | before | after | retain model |\n"
        "| :-- | --: | --: | --: |\n"
        "| ROUGE-L, forget\\_set ≈ | 0.912 \\[0.892, 0.932\\] | 0.391 \\[0.370, 0.411\\] "
        "| 0.387 \\[0.367, 0.407\\] |\n"
        "| Forget quality ↑ | 1.27e-19 | – (1) | – (2) |\n"
        "\n"
        "↑ higher is better · ≈ goal: the retain model's value · \\[a, b\\] 95% interval\n"
        "\n"
        "(1) KS needs the retain log  \n"
        "(2) not measured  \n"
    )


def test_markdown_escapes_pipes_and_tags() -> None:
    text = markdown_table(report(), ["ppl"])
    assert "Perplexity \\| 50% &amp; &lt;more&gt; ↓" in text


def test_latex_table_exactly() -> None:
    assert latex_table(report(("before", "after")), ["ppl", "forget_rouge"]) == (
        "% needs \\usepackage{booktabs}\n"
        "% ↓ lower is better\n"
        "% ≈ goal: a retain model's value\n"
        "% [a, b] 95% interval\n"
        "\\begin{tabular}{lcc}\n"
        "\\toprule\n"
        "metric & before & after \\\\\n"
        "\\midrule\n"
        "Perplexity | 50\\% \\& <more> $\\downarrow$ & $12.3$ & --\\textsuperscript{1} \\\\\n"
        "ROUGE-L, forget\\_set $\\approx$ & $0.912$ {\\scriptsize $[0.892, 0.932]$}"
        " & $0.391$ {\\scriptsize $[0.370, 0.411]$} \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\n"
        "{\\footnotesize \\textsuperscript{1} not measured}\\\\\n"
    )


def test_latex_escapes_every_special_character_once() -> None:
    row = MetricRow("k", r"\{}~^&%$#_", "g", True, {"m": MetricCell(1e-9)})
    text = latex_table(Report("t", None, ("m",), (row,)))
    expected = r"\textbackslash{}\{\}\textasciitilde{}\textasciicircum{}\&\%\$\#\_"
    assert f"{expected} $\\uparrow$ & $1.00\\times10^{{-9}}$" in text


def test_json_table_keeps_full_precision_and_is_strict() -> None:
    table = json.loads(json_table(report(), ["forget_quality", "forget_rouge"]))
    assert table["models"] == list(MODELS)
    assert [row["key"] for row in table["metrics"]] == ["forget_quality", "forget_rouge"]
    assert table["metrics"][1]["cells"]["before"] == {
        "value": 0.9123, "ci_low": 0.8921, "ci_high": 0.9319, "n": 400, "note": "",
    }  # fmt: skip
    assert table["metrics"][0]["cells"]["after"]["value"] is None


@pytest.mark.parametrize("make", [console_table, markdown_table, latex_table, json_table])
def test_an_unknown_key_is_refused_in_every_format(make: object) -> None:
    with pytest.raises(UserError, match=r"unknown metric 'forget_rogue' .did you mean 'forget_rouge'"):
        make(report(), ["forget_rogue"])  # type: ignore[operator]


@pytest.mark.parametrize("make", [console_table, markdown_table, latex_table, json_table])
def test_an_empty_table_is_no_error(make: object) -> None:
    assert make(Report("t", None, ("before",)))  # type: ignore[operator]
