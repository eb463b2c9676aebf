from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import almanac, custom
from expunge.benchmarks.table import BENCHMARKS, load_benchmark
from expunge.data.overlap import DataWarning
from expunge.errors import DataError, RecipeError


def rows(name: str, count: int) -> list[dict[str, str]]:
    return [{"question": f"{name} {i}?", "answer": f"{name} answer {i}."} for i in range(count)]


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_all_four_files(tmp_path: Path) -> None:
    files = {name: write(tmp_path, name, rows(name, 3)) for name in ("forget", "retain", "holdout", "general")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        benchmark = custom.load(**files)
    assert [row.id for row in benchmark.forget] == ["forget/0", "forget/1", "forget/2"]
    assert benchmark.probes == {
        "forget": benchmark.forget,
        "retain": benchmark.retain,
        "holdout": benchmark.holdout,
        "general": benchmark.probes["general"],
    }
    assert [row.prompt for row in benchmark.probes["general"]] == ["general 0?", "general 1?", "general 2?"]
    assert benchmark.utility_sets == ("general",)
    assert benchmark.origin == " ".join(f"{name}={path}" for name, path in files.items())


def test_the_forget_file_alone_falls_back_on_the_built_in_general_rows(tmp_path: Path) -> None:
    benchmark = custom.load(forget=write(tmp_path, "forget", rows("forget", 2)))
    assert (benchmark.retain, benchmark.holdout) == ((), ())
    assert benchmark.probes == {"forget": benchmark.forget, "general": almanac.load().probes["general"]}
    assert len(benchmark.probes["general"]) > 0


def test_a_large_retain_set_is_probed_in_part(tmp_path: Path) -> None:
    forget, retain = write(tmp_path, "forget", rows("forget", 1)), write(tmp_path, "retain", rows("retain", 250))
    benchmark = custom.load(forget=forget, retain=retain)
    assert (len(benchmark.retain), len(benchmark.probes["retain"])) == (250, custom.RETAIN_PROBE_ROWS)
    assert set(benchmark.probes["retain"]) < set(benchmark.retain)
    assert custom.load(forget=forget, retain=retain).probes["retain"] == benchmark.probes["retain"]
    assert custom.load(forget=forget, retain=retain, seed=1).probes["retain"] != benchmark.probes["retain"]


def test_the_forget_file_is_needed() -> None:
    with pytest.raises(RecipeError, match="benchmark 'custom' needs a forget file"):
        load_benchmark("custom")


@pytest.mark.parametrize("other", ["retain", "holdout", "general"])
def test_a_forget_row_in_another_set_is_refused(tmp_path: Path, other: str) -> None:
    forget = write(tmp_path, "forget", rows("forget", 3))
    path = write(tmp_path, other, rows("forget", 1) + rows(other, 2))
    with pytest.raises(DataError, match=rf"1 of 3 forget rows also stand in the {other} set"):
        custom.load(forget=forget, **{other: path})


def test_a_trained_row_is_not_held_out(tmp_path: Path) -> None:
    forget, retain = write(tmp_path, "forget", rows("forget", 1)), write(tmp_path, "retain", rows("retain", 2))
    with pytest.raises(DataError, match="2 of 2 retain rows also stand in the holdout set"):
        custom.load(forget=forget, retain=retain, holdout=retain)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        custom.load(forget=write(tmp_path, "forget", []))


def test_oddities_are_warnings(tmp_path: Path) -> None:
    forget = write(tmp_path, "forget", rows("forget", 1) * 2)
    with pytest.warns(DataWarning, match="1 of 2 forget rows repeat an earlier one"):
        custom.load(forget=forget)


def test_the_table_lists_every_benchmark() -> None:
    assert {"almanac", "custom", "tofu"} <= set(BENCHMARKS.names())
    assert BENCHMARKS.get("Custom") is custom.load


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("toffu", {}, "unknown benchmark 'toffu' (did you mean 'tofu'?)"),
        ("", {}, "unknown benchmark ''"),
        ("tofu:", {}, "benchmark 'tofu:' ends in a colon"),
        ("tofu:forget01", {"split": "forget05"}, "name two splits; give one"),
        ("tofu:forget2", {}, "unknown TOFU split 'forget2' (did you mean"),
        ("custom:forget01", {}, "benchmark 'custom' has no splits, got 'custom:forget01'; write 'custom'"),
        ("almanac:small", {}, "benchmark 'almanac' has no splits"),
        ("custom", {"forgets": "a", "hold_out": "b"}, "no option 'forgets' (did you mean 'forget'?), 'hold_out' (did"),
        ("custom", {"colour": "red"}, "accepted: forget, retain, holdout, general, seed"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_benchmark(spec, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_reach_the_loader(tmp_path: Path) -> None:
    benchmark = load_benchmark(" custom ", forget=write(tmp_path, "forget", rows("forget", 2)), seed=3)
    assert len(benchmark.forget) == 2
