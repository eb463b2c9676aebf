"""``expunge compare``: made-up runs on disk, differences by hand, and what every output says of them."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from command_line import Outcome, cli, done
from expunge.data.rows import Row
from expunge.evaluation.metrics import Scores, compute, metrics_for
from expunge.evaluation.samples import write_samples
from expunge.evaluation.stats import holm
from expunge.reporting import forest

pytestmark = pytest.mark.slow

N = 12
FEW = ("--resamples", 30)


def made_up(strength: float, *, seed: int = 0, empty: float = 0.0, n: int = N) -> Scores:
    """Columns of a model whose forget rows are remembered by ``strength`` plus a share of the row's number."""
    generator = np.random.default_rng(seed)
    by_row = np.arange(n) / 100
    forget = {
        "extraction_strength": strength + by_row,
        "rougeL_recall": strength + by_row / 2,
        "prob": np.full(n, strength),
        "empty": (np.arange(n) < empty * n).astype(float),
        "distinct_2": np.where(np.arange(n) < empty * n, np.nan, 0.9),
        "paraphrase_avg_loss": 2.0 - strength + generator.uniform(0, 0.2, n),
        "perturbed_avg_loss": 2.0 + generator.uniform(0, 0.2, (n, 3)),
    }
    retain = {"prob": 0.8 + 0.1 * generator.uniform(size=n), "rougeL_recall": 0.7 + 0.2 * generator.uniform(size=n)}
    return {"forget": forget, "retain": retain}


def write_model(
    folder: Path, ending: str, scores: Scores, reference: Scores | None, *, order: Sequence[int] | None = None,
    ids: str = "", answers: str = "answer", legacy: bool = False,
) -> None:  # fmt: skip
    """One model's ``metrics.json`` and ``samples.parquet``."""
    rows = {
        name: tuple(
            Row(id=f"{ids}{name}/{i}", prompt=f"{name} {i}?", answer=f"{answers} {i}")
            for i in (order or range(len(columns["prob"])))
        )
        for name, columns in scores.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(folder / f"samples{ending}.parquet", SimpleNamespace(scores=scores, rows=rows, generations={}))  # type: ignore[arg-type]
    values = compute(scores, reference, metrics_for(scores, legacy=legacy), num_resamples=20)
    found = {key: dataclasses.asdict(value) for key, value in values.items()}
    (folder / f"metrics{ending}.json").write_text(json.dumps(found))


def write_run(
    folder: Path, after: Scores, *, method: str = "npo", seed: int = 0, retain: Scores | None = None,
    before: Scores | None = None, **options: Any,
) -> Path:  # fmt: skip
    """A run folder as ``expunge run`` leaves it, without weights."""
    write_model(folder, "", after, retain, **options)
    if retain is not None:
        write_model(folder, "_retain_model", retain, retain)
    if before is not None:
        write_model(folder, "_before", before, retain)
    recipe = {"name": folder.name, "seed": seed, "unlearn": {"method": method}, "evaluate": {"legacy": False}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps({"kind": "run", "status": "done", "recipe": recipe}))
    return folder


RETAIN = made_up(0.1, seed=9)


@pytest.fixture
def ga(tmp_path: Path) -> Path:
    return write_run(tmp_path / "ga", made_up(0.5), method="ga", retain=RETAIN, before=made_up(0.85, seed=8))


@pytest.fixture
def npo(tmp_path: Path) -> Path:
    return write_run(tmp_path / "npo", made_up(0.2, seed=1), retain=RETAIN)


def compared(*words: object) -> Any:
    return done("compare", *words, *FEW, "--json").data


def row(data: Any, key: str) -> Any:
    return next(r for r in data["metrics"] if r["key"] == key)["cells"]


def refused(outcome: Outcome, *words: str) -> None:
    for word in words:
        assert word.lower() in outcome.line.lower(), outcome.line


# -- differences ---------------------------------------------------------------------------------------------------


def test_differences_to_the_first_run(ga: Path, npo: Path) -> None:
    data = compared(ga, npo)
    assert (data["schema"], data["baseline"], data["reference"]) == ("expunge.compare/1", "ga", "retain model")
    assert data["models"] == ["before", "retain model", "ga", "npo"]
    cells = row(data, "extraction_strength")
    # rows are strength + i/100, i = 0..11: means 0.555 and 0.255, and every row differs by exactly -0.3
    assert cells["ga"]["value"] == pytest.approx(0.555)
    assert cells["npo"]["value"] == pytest.approx(0.255)
    found = cells["npo"]["difference"]
    assert [found[k] for k in ("value", "ci_low", "ci_high")] == pytest.approx([-0.3] * 3)
    assert (found["n"], found["test"], found["p"]) == (N, "sign-flip", 2 / 2**N)
    assert (found["excludes_zero"], found["mark"]) == (True, "**")
    assert cells["ga"]["difference"] is None
    assert cells["npo"]["to_reference"]["value"] == pytest.approx(0.1)  # 0.2 - 0.1


def test_p_values_are_adjusted_over_the_runs_of_the_table(ga: Path, npo: Path) -> None:
    data = compared(ga, npo)
    found = [r["cells"]["npo"]["difference"] for r in data["metrics"] if "npo" in r["cells"]]
    tested = [d for d in found if d["p"] is not None]
    assert data["num_tests"] == len(tested) > 5
    assert [d["p_holm"] for d in tested] == pytest.approx(list(holm([d["p"] for d in tested])))
    assert row(data, "extraction_strength")["before"]["difference"]["p_holm"] is None, "before is no claim"


def test_another_baseline_by_name_or_folder(ga: Path, npo: Path) -> None:
    assert compared(ga, npo, "--baseline", "npo")["baseline"] == "npo"
    assert compared(ga, npo, "--baseline", npo)["baseline"] == "npo"
    data = compared(ga, npo, "--baseline", "before")
    assert row(data, "extraction_strength")["ga"]["difference"]["value"] == pytest.approx(0.5 - 0.85)
    refused(cli("compare", ga, npo, "--baseline", "npoo"), "--baseline", "npoo", "did you mean 'npo'")


def test_a_single_run_is_compared_with_what_it_started_from(ga: Path) -> None:
    data = compared(ga)
    assert data["baseline"] == "before"
    assert row(data, "extraction_strength")["ga"]["difference"]["value"] == pytest.approx(-0.35)


def test_only_the_metrics_asked_for_in_that_order(ga: Path, npo: Path) -> None:
    data = compared(ga, npo, "--metrics", "model_utility,extraction_strength", "--metrics", "forget_empty_rate")
    assert [r["key"] for r in data["metrics"]] == ["model_utility", "extraction_strength", "forget_empty_rate"]
    refused(cli("compare", ga, "--metrics", "model_utilty"), "--metrics", "did you mean 'model_utility'")


# -- which rows ----------------------------------------------------------------------------------------------------


def test_rows_are_matched_by_id(ga: Path, tmp_path: Path) -> None:
    scores = made_up(0.2)
    order = list(reversed(range(N)))
    turned = {name: {c: v[::-1] for c, v in columns.items()} for name, columns in scores.items()}
    other = write_run(tmp_path / "turned", turned, order=order, retain=RETAIN)
    found = row(compared(ga, other), "extraction_strength")["turned"]["difference"]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((-0.3, -0.3)), "row by row the difference is the same"


def test_rows_that_differ_are_said_and_left_out(ga: Path, tmp_path: Path) -> None:
    fewer = write_run(tmp_path / "fewer", made_up(0.2, n=10), retain=RETAIN)
    data = compared(ga, fewer)
    found = row(data, "extraction_strength")["fewer"]["difference"]
    assert (found["n"], found["value"]) == (10, pytest.approx(-0.3))
    note = next(note for note in data["notes"] if "fewer" in note)
    assert "not asked the same rows as ga" in note
    assert "forget: 10 in common of 10 and 12" in note


@pytest.mark.parametrize("changed", [{"ids": "other-"}, {"answers": "another"}])
def test_nothing_in_common_is_no_difference(ga: Path, tmp_path: Path, changed: dict[str, str]) -> None:
    other = write_run(tmp_path / "other", made_up(0.2), retain=RETAIN, **changed)
    found = row(compared(ga, other), "extraction_strength")["other"]["difference"]
    assert (found["value"], found["mark"]) == (None, "")
    assert found["note"] == "no row of the forget set in common"


def test_without_per_row_values_only_values(ga: Path, npo: Path) -> None:
    (npo / "samples.parquet").unlink()
    data = compared(ga, npo)
    cell = row(data, "extraction_strength")["npo"]
    assert cell["value"] == pytest.approx(0.255)
    assert cell["difference"]["value"] is None
    assert "npo: no per-row values were kept (samples.parquet): no differences" in data["notes"]
    assert "difference to" not in done("compare", npo, *FEW).out


def test_two_definitions_are_not_subtracted(ga: Path, npo: Path) -> None:
    metrics = json.loads((npo / "metrics.json").read_text())
    metrics["model_utility"]["value"] += 0.01  # as another definition would give
    metrics["extraction_strength"]["version"] = 99
    (npo / "metrics.json").write_text(json.dumps(metrics))
    data = compared(ga, npo)
    for key in ("model_utility", "extraction_strength"):
        found = row(data, key)["npo"]["difference"]
        assert (found["value"], found["note"]) == (None, "the two were not measured by the same definition")
    assert row(data, "forget_Q_A_Prob")["npo"]["difference"]["value"] is not None


# -- the retain model ----------------------------------------------------------------------------------------------


def test_forget_quality_is_read_in_logs_with_its_distance(ga: Path, npo: Path) -> None:
    data = compared(ga, npo)
    keys = [r["key"] for r in data["metrics"]]
    assert "forget_quality" not in keys
    assert keys.index("forget_quality_distance") == keys.index("forget_quality_log10") + 1
    logs, distances = row(data, "forget_quality_log10"), row(data, "forget_quality_distance")
    assert (logs["retain model"]["value"], distances["retain model"]["value"]) == (0.0, 0.0)
    assert logs["ga"]["to_reference"]["value"] == pytest.approx(logs["ga"]["value"])
    assert logs["ga"]["value"] < math.log10(0.05)
    assert distances["ga"]["value"] == 1.0, "its truth ratios lie apart from the retain model's"
    assert logs["npo"]["difference"]["test"] == "bootstrap"
    asked = compared(ga, npo, "--metrics", "forget_quality")
    assert "see forget_quality_log10" in row(asked, "forget_quality")["npo"]["difference"]["note"]


def test_a_run_without_a_retain_model_borrows_one_and_says_so(ga: Path, tmp_path: Path) -> None:
    alone = write_run(tmp_path / "alone", made_up(0.2, seed=1))
    data = compared(ga, alone)
    assert row(data, "forget_quality_log10")["alone"]["value"] is not None
    assert any("alone has no retain model of its own" in note for note in data["notes"])


def test_one_retain_model_for_all(ga: Path, npo: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "reference", made_up(0.5))
    cells = row(compared(ga, npo, "--reference", other), "forget_quality_log10")
    assert cells["ga"]["value"] == 0.0, "its truth ratios are those of the reference"
    refused(cli("compare", ga, "--reference", tmp_path / "none"), "--reference", "run with samples.parquet")


# -- seeds ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    strengths = (0.20, 0.24, 0.28)
    return [
        write_run(tmp_path / f"npo_s{i}", made_up(s, seed=i), seed=i, retain=RETAIN) for i, s in enumerate(strengths)
    ]


def test_seeds_of_one_recipe_become_one_column(ga: Path, seeds: list[Path]) -> None:
    data = compared(ga, *seeds)
    assert data["models"] == ["before", "retain model", "ga", "npo"]
    assert data["columns"]["npo"]["seeds"] == [0, 1, 2]
    cell = row(data, "extraction_strength")["npo"]
    # means 0.255, 0.295, 0.335: mean 0.295, sd sqrt((0.04^2 + 0 + 0.04^2) / 2) = 0.04
    assert (cell["value"], cell["sd"]) == (pytest.approx(0.295), pytest.approx(0.04))
    assert cell["seeds"] == pytest.approx([0.255, 0.295, 0.335])
    assert cell["ci_high"] - cell["value"] == pytest.approx(4.302653 * 0.04 / math.sqrt(3), rel=1e-5)
    assert cell["difference"]["value"] == pytest.approx(0.24 - 0.5)
    assert cell["difference"]["seeds_low"] is None, "one side has a single seed"
    assert "0.295 ± 0.0400" in done("compare", ga, *seeds, *FEW).out


def test_two_groups_vary_over_seeds_as_well(seeds: list[Path], tmp_path: Path) -> None:
    others = [
        write_run(tmp_path / f"ga_s{i}", made_up(s, seed=i), seed=i, method="ga", retain=RETAIN)
        for i, s in enumerate((0.3, 0.5))
    ]
    data = compared(*seeds, *others)
    assert data["models"] == ["retain model", "npo", "ga"]
    found = row(data, "extraction_strength")["ga"]["difference"]
    # 0.455 - 0.295 on every row, but seeds at 0.355 and 0.555: no claim over seeds
    assert (found["value"], found["ci_low"]) == (pytest.approx(0.16), pytest.approx(0.16))
    assert found["seeds_low"] < 0 < found["seeds_high"]
    assert found["p"] > 0.05
    assert "Welch over seeds" in found["test"]
    assert (found["excludes_zero"], found["mark"]) == (False, "")


def test_seeds_kept_apart(seeds: list[Path]) -> None:
    assert compared(*seeds, "--no-seeds")["models"] == ["retain model", "npo_s0", "npo_s1", "npo_s2"]


def test_other_recipes_and_the_same_seed_twice_are_not_put_together(seeds: list[Path], tmp_path: Path) -> None:
    again = write_run(tmp_path / "again", made_up(0.3), seed=2, retain=RETAIN)
    assert compared(seeds[0], seeds[2], again)["models"] == ["retain model", "npo_s0", "npo_s2", "again"]
    other = write_run(tmp_path / "other", made_up(0.3), seed=7, method="simnpo", retain=RETAIN)
    assert compared(seeds[0], other)["models"] == ["retain model", "npo_s0", "other"]


def test_groups_by_name(ga: Path, seeds: list[Path]) -> None:
    data = compared("--group", f"mine={seeds[0]},{ga}", "--group", f"rest={seeds[1]},{seeds[2]}")
    assert data["models"] == ["before", "retain model", "mine", "rest"]
    assert row(data, "extraction_strength")["mine"]["value"] == pytest.approx((0.255 + 0.555) / 2)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("npo", ["NAME=RUN"]),
        ("=A,B", ["NAME=RUN"]),
        ("x=A", ["at least two runs"]),
        ("x=A,A", ["at least two runs"]),
        ("B=A,A2", ["a run has this name already"]),
        ("x=A,nowhere", ["no finished run"]),
    ],
)
def test_groups_that_are_none(group: str, said: list[str], seeds: list[Path], ga: Path) -> None:
    places = {"A2": str(seeds[1]), "A": str(seeds[0]), "B": "ga"}
    for word, place in places.items():
        name, _, rest = group.partition("=")
        name = place if name == word else name
        rest = ",".join(place if part == word else part for part in rest.split(","))
        group = f"{name}={rest}" if "=" in group else group
    refused(cli("compare", ga, "--group", group), "--group" if "finished" not in said[0] else "", *said)


# -- what it looks like --------------------------------------------------------------------------------------------


def test_a_collapsed_run_is_never_the_best(ga: Path, tmp_path: Path) -> None:
    silent = write_run(tmp_path / "silent", made_up(0.0, empty=0.75), retain=RETAIN)
    data = compared(ga, silent)
    cells = row(data, "extraction_strength")
    assert cells["silent"]["value"] < cells["ga"]["value"]
    assert (cells["ga"]["best"], cells["silent"]["best"]) == (True, False)
    assert data["columns"]["silent"]["warning"] == "75% of forget answers are empty"
    for form in ((), ("--markdown",), ("--latex",)):
        said = " ".join(done("compare", ga, silent, *FEW, *form).out.replace("\\", "").split())
        assert "silent: 75% of forget answers are empty; low scores are no evidence of forgetting." in said


def test_the_console_fits_eighty_columns(ga: Path, npo: Path) -> None:
    out = done("compare", ga, npo, *FEW).out
    assert "Forget: extraction strength ↓" in out
    assert "-0.300 [-0.300, -0.300]**" in out
    assert "(baseline)" in out
    assert "Holm's adjustment" in out
    assert max(map(len, out.splitlines())) <= 80


def test_markdown_for_a_page(ga: Path, npo: Path) -> None:
    out = done("compare", ga, npo, *FEW, "--metrics", "extraction_strength", "--markdown").out
    lines = out.splitlines()
    assert lines[0] == "| metric | before | retain model | ga | npo |"
    assert lines[2].startswith("| Forget: extraction strength ↓ | 0.905 ")
    assert "| **0.255** " in lines[2]
    assert r"| baseline | -0.300 \[-0.300, -0.300\]\*\* |" in out
    assert "over n = 12 rows" in out


def test_latex_for_a_paper(ga: Path, seeds: list[Path], tmp_path: Path) -> None:
    odd = write_run(tmp_path / "50%_a&b", made_up(0.4), method="x", retain=RETAIN)
    out = done("compare", ga, odd, *seeds, *FEW, "--metrics", "extraction_strength", "--latex").out
    assert out.startswith("% needs \\usepackage{booktabs}\n\\begin{table}")
    assert "metric & before & retain model & ga & 50\\%\\_a\\&b & npo \\\\" in out
    assert r"$\mathbf{0.295} \pm 0.0400^{**}$" in out
    caption = next(line for line in out.splitlines() if line.startswith("\\caption"))
    for word in ("n = 12 rows", r"95\%", "sign-flip", "Holm", r"p $\leq$ 0.05", "standard deviation over seeds"):
        assert word in caption
    assert out.count("{") == out.count("}")


def test_the_page_holds_the_plot_and_the_numbers(ga: Path, npo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "new" / "compare.html"
    words = ("compare", ga, npo, *FEW, "--metrics", "extraction_strength,model_utility")
    outcome = done(*words, "--out", page)
    assert f"written: {page}" in outcome.err
    text = page.read_text()
    assert "Differences to ga" in text
    assert "<svg" in text
    assert "−0.300 [−0.300, −0.300]**" in text
    assert "https://" not in text
    done(*words, "--out", page, "--json")


def test_the_plot_as_a_file(ga: Path, npo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("compare", ga, npo, *FEW, "--metrics", "extraction_strength,model_utility", "--plot")
    done(*words, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    done(*words, tmp_path / "f.svg")
    said = "".join(ElementTree.parse(tmp_path / "f.svg").getroot().itertext())
    for word in ("Model utility ↑", "npo", "difference to ga"):
        assert word in said
    first = (tmp_path / "f.svg").read_bytes()
    done(*words, tmp_path / "f.svg")
    assert (tmp_path / "f.svg").read_bytes() == first


def test_plots_that_cannot_be(ga: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(cli("compare", ga, "--plot", tmp_path / "f.pdf"), "--plot", ".png or .svg")
    (tmp_path / "d.svg").mkdir()
    refused(cli("compare", ga, "--plot", tmp_path / "d.svg"), "is a folder")
    refused(cli("compare", ga, "--out", tmp_path), "is a folder")
    monkeypatch.setattr(forest, "figures_available", lambda: False)
    refused(cli("compare", ga, "--plot", tmp_path / "f.svg"), "matplotlib", "expunge[report]")


def test_nothing_to_draw_is_said(ga: Path, npo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (npo / "samples.parquet").unlink()
    refused(cli("compare", npo, "--plot", tmp_path / "f.svg"), "no difference to draw")


def test_words_that_do_not_go_together(ga: Path) -> None:
    refused(cli("compare", ga, "--json", "--latex"), "give one of them")
    refused(cli("compare", ga, "--resamples", 3), "--resamples", "at least 10")
    refused(cli("compare"), "missing argument")
    refused(cli("compare", ga, "--group", "x=a,b", "--group", "x=c,d"), "given twice")
    refused(cli("compare", ga.parent), "no finished run")


def test_the_same_words_give_the_same_bytes(ga: Path, npo: Path) -> None:
    assert done("compare", ga, npo, *FEW, "--json").out == done("compare", ga, npo, *FEW, "--json").out


def test_a_link_goes_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.pipeline.finished import short_names

    (tmp_path / "model").mkdir()
    (tmp_path / "target").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    assert short_names([tmp_path / "target", ".", tmp_path / "model"]) == ["target", ".", str(tmp_path / "model")]
    assert short_names([tmp_path / "target", ".."]) == ["target", tmp_path.name]
