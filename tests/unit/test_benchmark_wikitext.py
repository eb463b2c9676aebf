from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import wikitext
from expunge.benchmarks.base import Benchmark, with_probes_of
from expunge.benchmarks.table import load_benchmark
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError
from expunge.pipeline.loading import load_data
from expunge.recipe import parse_recipe

DATA = Path(os.environ.get("EXPUNGE_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("test", "valid"):
        text = "".join(f" \n = {split} {name} = \n \n Words of {name} . \n" for name in "ABCDE")
        (tmp_path / "wikitext-2").mkdir(exist_ok=True)
        (tmp_path / "wikitext-2" / f"{split}.txt").write_text(text, encoding="utf-8")
    return tmp_path


def titles(benchmark: Benchmark) -> list[str]:
    return [row.answer.split("=")[1].strip() for row in benchmark.probes["wikitext"]]


def test_articles_become_one_probe_set_of_raw_text(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load_benchmark("wikitext", root=root)
    assert titles(benchmark) == [f"test {name}" for name in "ABCDE"]
    assert all(not row.prompt for row in benchmark.probes["wikitext"])
    assert (benchmark.forget, benchmark.retain, benchmark.suites) == ((), (), ("wikitext",))
    assert benchmark.origin == str(root / "wikitext-2" / "test.txt")
    monkeypatch.setenv("EXPUNGE_DATA", str(root / "wikitext-2"))
    assert titles(load_benchmark("wikitext:valid"))[0] == "valid A"
    small, larger = (set(titles(load_benchmark("wikitext", root=root, rows=n, seed=3))) for n in (2, 4))
    assert len(small) == 2
    assert small < larger


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "wikitext: rows must be a whole number of at least 1, got 0"),
        ({"split": "train"}, "wikitext: split must be test or valid, got 'train'"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_bad_options_are_one_line(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_benchmark("wikitext", root=root, **options)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no WikiText file of the split 'test'; give wiki\.test\.raw"):
        load_benchmark("wikitext", root=tmp_path)


def test_the_hub_gives_the_same_articles_at_a_pinned_commit(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    from pyarrow import parquet

    text = (root / "wikitext-2" / "valid.txt").read_text(encoding="utf-8")
    # as the Hub's own script cuts the raw file: blank lines become empty texts
    lines = [line if line.strip() else "" for line in text.splitlines(keepends=True)]
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "hub.parquet")
    asked: list[tuple[str, str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / "hub.parquet")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    benchmark = load_benchmark("wikitext:valid")
    assert asked == [(wikitext.HUB_ID, wikitext.HUB_FILES["valid"], wikitext.HUB_REVISION)]
    assert benchmark.hashes() == load_benchmark("wikitext:valid", root=root).hashes()


def test_a_recipe_measures_other_benchmarks_too(root: Path) -> None:
    data = {"benchmark": "almanac", "options": {"questions": 1}, "also": {"wikitext": {"rows": 2}}}
    recipe = parse_recipe({"name": "t", "data": data}, "t")
    alone = load_benchmark("almanac", questions=1)
    both = load_data(recipe, str(root))
    assert {name: rows for name, rows in both.probes.items() if name != "wikitext"} == alone.probes
    assert len(both.probes["wikitext"]) == 2
    assert (both.forget, both.retain, both.utility_sets) == (alone.forget, alone.retain, alone.utility_sets)
    assert both.suites == ("wikitext",)
    assert both.origin == f"built in; {root / 'wikitext-2' / 'test.txt'}"


def test_probe_sets_of_one_name_and_benchmarks_without_any_are_refused() -> None:
    rows = (Row(id="general/0", prompt="Who?", answer="Ada"),)
    one = Benchmark(name="one", forget=(), probes={"general": rows})
    with pytest.raises(RecipeError, match=r"data\.also: two and one both have probe sets called general"):
        with_probes_of(one, Benchmark(name="two", forget=(), probes={"general": rows}))
    with pytest.raises(RecipeError, match=r"data\.also: two has no probe sets"):
        with_probes_of(one, Benchmark(name="two", forget=()))


def test_the_published_file() -> None:
    if not (DATA / "wikitext-2" / "test.txt").exists():
        pytest.skip("no wikitext-2; set EXPUNGE_DATA to a folder with wikitext-2/")
    rows = load_benchmark("wikitext", root=DATA).probes["wikitext"]
    assert len(rows) == 62
    assert rows[0].answer.lstrip().startswith("= Robert <unk> =")
