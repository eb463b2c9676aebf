"""Sets too large for memory: the same rows, hashes and training units as tuples, and nothing left where it must not."""

from __future__ import annotations

import json
import os
import resource
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import make_tokenizer
from expunge.benchmarks import custom, wikitext
from expunge.benchmarks.base import Benchmark
from expunge.benchmarks.table import load_benchmark
from expunge.data import stored
from expunge.data.draw import draw
from expunge.data.formats import Format
from expunge.data.lazy import JoinedRows, LazyRows, changed, chosen, joined
from expunge.data.overlap import check_sets
from expunge.data.rows import Row, content_line, row_from_line, rows_hash
from expunge.data.stored import StoredRows, pack_large
from expunge.data.views import Answers, ViewContext, answers_of, pick_mismatch
from expunge.errors import DataError, ResourceError
from expunge.methods.table import compose
from expunge.pipeline.request_rows import kept_rows
from expunge.recipe import UnlearnPart
from expunge.requests.ledger import REVOKED
from expunge.training import streams as streams_module
from expunge.training.job import job_streams, unlearn_job
from expunge.training.streams import Streams
from published_layouts import write_muse, write_wmdp

SENTENCE = "the river runs past the old mill and the miller counts his sacks by the light of the moon"
WORDS = SENTENCE.split()


def text(number: int, words: int = 30) -> str:
    """A sentence that no other number gives."""
    return " ".join(WORDS[(number * 7 + at * (1 + number % 5)) % len(WORDS)] for at in range(words)) + f" {number}."


ROWS = (
    Row(id="s/0", prompt="Wer?", answer="Ada.", perturbed_answers=("Bob.", "Eve."), paraphrased_prompt="Wer ist es?"),
    Row(id="s/1", prompt="", answer="Es war einmal \u2028 \x00 …", origin="a:2"),
    Row(id="s/2", prompt="Who?", answer="Ada.", history=(("system", "Be brief."), ("user", "Hi")), alternate="No."),
    Row(id="s/3", prompt="Who?", answer="a", choices=("a", "b"), correct=0, right=(0, 1), kind="level 1", lead="Sure:"),
    Row(id="s/4", prompt="Who?", answer="Ada.", paraphrased_answer="It is Ada.", made=("cloze",), origin="b:1"),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, and a threshold that the sets here exceed."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stored, "LARGE", 300)
    return tmp_path / "cache" / stored.FOLDER


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Call something with every set a tuple."""

    def call(function: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(stored, "LARGE", 10**9)
            return function()

    return call


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A small forget file and a retain text of some passages, a few of which are long."""
    forget, retain = tmp_path / "forget.jsonl", tmp_path / "retain.txt"
    rows = [{"question": f"Who is {number}?", "answer": f"Number {number}."} for number in range(3)]
    forget.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    retain.write_text("\n\n".join(text(number, 20 + number % 3 * 15) for number in range(40)), encoding="utf-8")
    return {"forget": forget, "retain": retain}


def load(files: dict[str, Path], **options: Any) -> Benchmark:
    return custom.load(**files, passage_words=50, **options)


def packed(rows: tuple[Row, ...]) -> LazyRows:
    """These rows in an unnamed file."""
    found = pack_large(rows)
    assert isinstance(found, StoredRows)
    return found


# -- the same rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_comes_back_as_it_was(row: Row) -> None:
    assert row_from_line(content_line(row), row.origin) == row


def test_a_packed_set_is_the_tuple(cache: Path) -> None:
    rows = ROWS + tuple(Row(id=f"t/{n}", prompt="", answer=text(n), origin=f"c:{n}") for n in range(200))
    found = packed(rows)
    assert (len(found), tuple(found), found[:3], found[-2:]) == (205, rows, rows[:3], rows[-2:])
    assert [found[place] for place in (0, 204, 64, 63, 65, -1, -205)] == [
        rows[place] for place in (0, 204, 64, 63, 65, -1, -205)
    ]
    assert rows_hash(found) == rows_hash(rows)
    assert draw(found, 7, seed=1, name="x") == draw(rows, 7, seed=1, name="x")
    with pytest.raises(IndexError):
        found[205]


def test_a_batch_holds_few_rows_and_little_text(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BATCH_CHARS", 1000)
    found = packed(tuple(Row(id=f"t/{n}", prompt="", answer="x" * (10 if n < 150 else 2000)) for n in range(154)))
    assert max(np.diff(found.about.starts)) <= stored._BATCH_ROWS
    assert found.about.starts[-3:] == [151, 152, 153]
    assert found[152].answer == "x" * 2000


def test_sets_of_ordinary_size_stay_tuples(cache: Path) -> None:
    assert pack_large(iter(ROWS)) == ROWS
    assert joined(ROWS[:2], (), ROWS[2:]) == ROWS
    assert chosen(ROWS, [1, 3]) == (ROWS[1], ROWS[3])
    assert not cache.exists()


def test_joined_chosen_and_changed_sets_are_what_tuples_would_be(cache: Path) -> None:
    rows = tuple(Row(id=f"t/{n}", prompt="", answer=text(n)) for n in range(70))
    large = packed(rows)
    for lazy, plain in (
        (joined(ROWS, large, (), ROWS[:1]), (*ROWS, *rows, *ROWS[:1])),
        (chosen(large, [3, 69, 4]), (rows[3], rows[69], rows[4])),
        (changed(large, lambda row: Row(id=row.id, prompt="?", answer=row.answer)), tuple(
            Row(id=row.id, prompt="?", answer=row.answer) for row in rows)),
    ):  # fmt: skip
        assert isinstance(lazy, LazyRows)
        assert tuple(lazy) == plain
        assert [lazy[place] for place in range(len(plain))] == list(plain)
        assert rows_hash(lazy) == rows_hash(plain)
    assert joined((), large) is large


def test_a_custom_corpus_is_the_same_benchmark(
    cache: Path, files: dict[str, Path], in_memory: Callable[..., Any]
) -> None:
    plain, large = in_memory(lambda: load(files)), load(files)
    assert isinstance(plain.retain, tuple)
    assert isinstance(large.retain, StoredRows)
    assert isinstance(large.target_rows(), JoinedRows)
    assert (tuple(large.retain), large.forget) == (plain.retain, plain.forget)
    assert {name: tuple(rows) for name, rows in large.probes.items()} == plain.probes
    assert large.hashes() == plain.hashes()
    for rows, others in ((large.target_rows(), plain.target_rows()), (large.retain_rows(), plain.retain_rows())):
        assert (rows_hash(rows), tuple(rows)) == (rows_hash(others), others)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "folder", "several"])
def test_files_of_every_kind_are_packed_alike(
    cache: Path, files: dict[str, Path], in_memory: Callable[..., Any], tmp_path: Path, kind: str
) -> None:
    texts = [text(number) for number in range(30)]
    path = tmp_path / f"corpus.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps({'text': one})}\n" for one in texts), encoding="utf-8")
    elif kind == "csv":
        path.write_text("text\n" + "".join(f'"{one}"\n' for one in texts), encoding="utf-8")
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        path.mkdir()
        for number, one in enumerate(texts):
            (path / f"{number}.txt").write_text(one, encoding="utf-8")
    retain: Any = [path, files["retain"]] if kind == "several" else path
    given = {**files, "retain": retain}
    plain, large = in_memory(lambda: load(given)), load(given)
    assert isinstance(large.retain, StoredRows)
    assert tuple(large.retain) == plain.retain


def test_texts_that_show_their_first_words_are_asked_alike(
    cache: Path, files: dict[str, Path], in_memory: Callable[..., Any]
) -> None:
    plain, large = in_memory(lambda: load(files, prompt_words=5)), load(files, prompt_words=5)
    assert isinstance(large.retain, LazyRows)
    assert (tuple(large.retain), large.hashes()) == (plain.retain, plain.hashes())
    assert plain.retain[0].prompt


def test_muse_and_wmdp_are_packed_alike(
    cache: Path, in_memory: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "LARGE", 60)
    muse, wmdp = write_muse(tmp_path / "muse" / "news"), write_wmdp(tmp_path / "wmdp")
    for read in (
        lambda: load_benchmark("muse:news", root=muse),
        lambda: load_benchmark("wmdp:cyber", root=wmdp, texts=None),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, large = in_memory(read), read()
        assert isinstance(large.retain, StoredRows)
        assert (tuple(large.forget), tuple(large.retain)) == (plain.forget, plain.retain)
        assert large.hashes() == plain.hashes()
    # Of MUSE retain1 and retain2 and retain, of WMDP retain: what is to be forgotten or held out is nowhere.
    kept = " ".join(path.read_bytes().decode("latin-1") for path in cache.glob("*.arrow"))
    assert "retain1 text number" in kept
    assert not any(name in kept for name in ("forget text", "member text", "holdout text", "unseen text", "stitch"))


def test_articles_of_wikitext_are_packed_alike(cache: Path, in_memory: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "wiki.test.raw"
    pages = "".join(f" \n = Title {number} = \n \n {text(number)} \n\n = = Part = = \n more \n" for number in range(9))
    path.write_text(f"before\n{pages}", encoding="utf-8")
    plain, large = in_memory(lambda: wikitext.wikitext_rows(path)), wikitext.wikitext_rows(path)
    assert isinstance(large, StoredRows)
    assert tuple(large) == plain
    # As the lines of the whole file, cut before every heading and joined again.
    assert [row.answer for row in plain] == ["before\n ", *(
        f" = Title {number} = \n \n {text(number)} \n\n = = Part = = \n more " + ("\n " if number < 8 else "\n")
        for number in range(9)
    )]  # fmt: skip


def test_rows_in_two_sets_are_found_in_large_ones_too(cache: Path, files: dict[str, Path]) -> None:
    rows = packed(tuple(Row(id=f"r/{n}", prompt="Who?", answer=text(n), origin=f"r:{n}") for n in range(70)))
    others = packed(tuple(Row(id=f"f/{n}", prompt="Who?", answer=text(n), origin=f"f:{n}") for n in range(60, 80)))
    with pytest.raises(DataError, match=r"^10 of 20 forget rows also stand in the retain set \(f:60 = r:60, f:61 = "):
        check_sets({"forget": others, "retain": rows})
    (files["forget"].parent / "copy.txt").write_text(load(files).retain[5].answer, encoding="utf-8")
    with pytest.raises(DataError, match="1 of 1 forget rows also stand in the retain set"):
        load({**files, "forget": files["forget"].parent / "copy.txt"})


# -- the same training -------------------------------------------------------------------------------------------------


def planned(benchmark: Benchmark, *, view: str = "gold", method: str = "grad_diff", max_length: int = 48) -> Streams:
    part = UnlearnPart(method=method, view=view if view != "gold" else None, max_steps=12, batch_size=3)
    composition = compose(part, has_retain=True)
    job = unlearn_job("x", composition, part, forget=benchmark.forget, retain=benchmark.retain, seed=3)
    return job_streams(Format.bind(make_tokenizer(), max_length=max_length), job)


def every_unit(streams: Streams) -> list[Any]:
    return [unit for step in range(streams.plan.num_steps) for unit in streams.units(step)]


@pytest.mark.parametrize(("method", "view"), [("grad_diff", "gold"), ("dpo", "mismatch")])
def test_training_shows_the_same_units(
    cache: Path, files: dict[str, Path], in_memory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch,
    method: str, view: str,
) -> None:  # fmt: skip
    plain = planned(in_memory(lambda: load(files)), method=method, view=view)
    large = planned(load(files), method=method, view=view)
    assert isinstance(large.rows["retain"], LazyRows)
    assert len(large.rows["retain"]) == len(plain.rows["retain"]) > 40
    assert tuple(large.rows["retain"]) == plain.rows["retain"]
    monkeypatch.setattr(streams_module, "KEPT_SEQUENCES", 2)
    units = every_unit(large)
    assert units == every_unit(plain)
    assert len({unit.entropy[2] for unit in units if unit.stream == "retain"}) > 20
    assert len(large._encoded) == 2 < len(plain._encoded)


def test_the_other_answers_of_a_large_pool_are_drawn_alike(cache: Path) -> None:
    rows = tuple(Row(id=f"r/{n}", prompt="", answer=text(n % 30)) for n in range(70))
    large, plain = answers_of(packed(rows)), answers_of(rows)
    assert isinstance(large, Answers)
    assert (tuple(large), large[1:3], large.places(text(4))) == (plain, plain[1:3], [4, 34, 64])
    for row in (*rows, Row(id="other", prompt="", answer="another")):
        for epoch in range(3):
            # What was drawn is a draw among the texts that are not the row's own.
            others = [text for text in plain if text != row.answer]
            drawn = pick_mismatch(row, epoch, ViewContext(seed=5, pool=plain))
            assert drawn == pick_mismatch(row, epoch, ViewContext(seed=5, pool=large))
            assert drawn == pick_mismatch(row, epoch, ViewContext(seed=5, pool=tuple(others)))
            assert drawn in others


def test_pieces_are_counted_once_and_kept(cache: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = planned(load(files)).rows["retain"]
    assert len(list(cache.glob("*.counts"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Format, "_counts", lambda self, rows: pytest.fail("counted again"))
        assert tuple(planned(load(files)).rows["retain"]) == tuple(first)
    assert len(planned(load(files), max_length=64).rows["retain"]) < len(first)
    for path in cache.glob("*.counts"):
        path.write_bytes(path.read_bytes()[:-4] + b"\x09\x00\x00\x00")
    assert tuple(planned(load(files)).rows["retain"]) == tuple(first)


# -- the cache ---------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def test_a_set_is_packed_once_and_anew_when_its_file_changes(
    cache: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(files)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "_pack", lambda rows, file: pytest.fail("packed again"))
        again = load(files)
        assert (tuple(again.retain), again.hashes()) == (tuple(first.retain), first.hashes())
    assert names(cache) == [".arrow", ".json"]
    files["retain"].write_text(files["retain"].read_text(encoding="utf-8").replace("river", "brook"), encoding="utf-8")
    other = load(files)
    assert "brook" in other.retain[0].answer + other.retain[1].answer
    assert other.hashes()["retain"] != first.hashes()["retain"]
    # Cut otherwise, they are other rows.
    assert len(custom.load(**files, passage_words=20).retain) > len(other.retain)
    assert names(cache) == [".arrow"] * 3 + [".json"] * 3


@pytest.mark.parametrize("damage", ["a bit", "cut short", "empty", "no note", "another note", "broken note"])
def test_a_damaged_file_is_packed_again(cache: Path, files: dict[str, Path], damage: str) -> None:
    whole = tuple(load(files).retain)
    arrow, note = next(cache.glob("*.arrow")), next(cache.glob("*.json"))
    data = arrow.read_bytes()
    if damage == "a bit":
        arrow.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif damage in ("cut short", "empty"):
        arrow.write_bytes(data[: -100 if damage == "cut short" else 0])
    elif damage == "no note":
        note.unlink()
    else:
        note.write_text('{"rows": 3}' if damage == "another note" else "{", encoding="utf-8")
    assert tuple(load(files).retain) == whole
    assert arrow.read_bytes() == data


def test_what_is_interrupted_leaves_nothing(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("what it is made of", encoding="utf-8")

    def interrupted() -> Iterator[Row]:
        for number in range(300):
            yield Row(id=f"r/{number}", prompt="", answer=text(number))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_large(interrupted(), files=[path])
    assert names(cache) == []


def test_what_a_killed_call_left_is_not_trusted_and_goes(cache: Path, files: dict[str, Path]) -> None:
    whole = tuple(load(files).retain)
    arrow, note = next(cache.glob("*.arrow")), next(cache.glob("*.json"))
    note.unlink()
    half = arrow.with_name(f"{arrow.name}.1.partial")
    half.write_bytes(arrow.read_bytes()[:500])
    arrow.unlink()
    old, young = half.with_name("old.2.partial"), half.with_name("young.3.partial")
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert tuple(load(files).retain) == whole
    assert (old.exists(), young.exists(), half.exists()) == (False, True, True)


def test_a_large_forget_set_is_in_no_folder(
    cache: Path, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    swapped = {"documents": files["retain"], "retain": files["forget"], "holdout": tmp_path / "holdout.txt"}
    swapped["holdout"].write_text("\n\n".join(text(number, 25) for number in range(90, 120)), encoding="utf-8")
    benchmark = load(swapped)
    assert isinstance(benchmark.forget, StoredRows)
    assert isinstance(benchmark.holdout, StoredRows)
    assert len(tuple(benchmark.forget)) > 20
    assert (list(scratch.iterdir()), cache.exists()) == ([], False)


def test_a_full_disk_is_one_line_and_nothing_half_written(cache: Path, files: dict[str, Path]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ResourceError, match=r"cannot be packed in .*packed: .*set EXPUNGE_CACHE to") as caught:
            load(files)
        with pytest.raises(ResourceError, match="set TMPDIR to"):
            pack_large(Row(id=f"r/{number}", prompt="", answer=text(number)) for number in range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert names(cache) == []


def test_a_cache_that_cannot_be_written_is_one_line(
    cache: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(files["forget"] / "below a file"))
    with pytest.raises(ResourceError, match=r"a large set of texts cannot be packed in .*Not a directory"):
        load(files)


def test_a_bad_row_is_said_as_ever_and_nothing_is_kept(cache: Path, files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "retain.jsonl"
    lines = [json.dumps({"text": text(number)}) for number in range(30)]
    path.write_text("\n".join([*lines, '{"text": ""}', *lines, "{"]), encoding="utf-8")
    with pytest.raises(DataError, match=r"retain.jsonl:31: field 'text' is empty \(and 1 more bad row: line 62\)"):
        load({**files, "retain": path})
    assert names(cache) == []


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_corpus_does_not_enter_memory(cache: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    load(files)  # What the first call imports and builds is not counted.
    monkeypatch.setattr(stored, "LARGE", 50_000)

    def peak_of(count: int) -> tuple[int, int]:
        path = files["retain"].with_name(f"{count}.jsonl")
        lines = (json.dumps({"text": text(number, 200)}) + "\n" for number in range(count))
        path.write_text("".join(lines), encoding="utf-8")
        tracemalloc.start()
        try:
            benchmark = load({**files, "retain": path})
            benchmark.hashes()
            rows_hash(benchmark.target_rows())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(benchmark.retain) == count
        return path.stat().st_size, peak

    peak_of(600)  # Buffers of a fixed size are filled once.
    (small, low), (large, high) = peak_of(1000), peak_of(3000)
    assert high - low < (large - small) / 10


# -- requests ----------------------------------------------------------------------------------------------------------


def test_retain_rows_of_requests_are_kept_once_however_large(cache: Path) -> None:
    first = tuple(Row(id=f"1/{n}", prompt="", answer=text(n)) for n in range(60))
    second = tuple(Row(id=f"2/{n}", prompt="", answer=f"{text(n)} ") for n in range(50, 120))
    gone = (Row(id="f", prompt="", answer=text(100)), Row(id="g", prompt="", answer=text(3)))

    def request(retain: Sequence[Row], forget: tuple[Row, ...] = (), state: str = "pending") -> Any:
        return SimpleNamespace(request=SimpleNamespace(state=state), forget=forget, retain=retain)

    def every(make: Callable[[tuple[Row, ...]], Sequence[Row]]) -> Sequence[Row]:
        return kept_rows([request(make(first), gone), request(make(second)), request((), first[:5], REVOKED)])

    plain, large = every(tuple), every(packed)
    assert isinstance(large, JoinedRows)
    assert tuple(large) == plain
    expected = [row for row in first if row.id != "1/3"] + [row for row in second[10:] if row.id != "2/100"]
    assert list(plain) == expected
