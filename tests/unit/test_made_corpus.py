"""Texts cut word for word, corpora read as streams, BM25, and rows to keep that tell nothing of the forget set."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pytest

from expunge.data.made import neighbours, read_corpus, read_pieces, rows_about
from expunge.data.made.bm25 import Bm25
from expunge.data.made.documents import cut_text
from expunge.data.made.neighbours import Forbidden
from expunge.data.ngrams import ngrams
from expunge.data.rows import Row
from expunge.errors import DataError


def text_row(number: int, text: str) -> Row:
    return Row(id=f"corpus/{number}", prompt="", answer=text)


# -- texts ---------------------------------------------------------------------------------------------------------


def test_a_passage_ends_with_a_sentence_and_the_text_stays_as_it_is() -> None:
    text = "One two three  four.\nFive six seven eight nine. Ten\neleven"
    # At most 6 words, at least int(0.8 * 6) = 4: the first stop after word 4; then word 9 is the fifth; the rest.
    assert list(cut_text([text], 6)) == [
        ("One two three  four.", 1),
        ("Five six seven eight nine.", 2),
        ("Ten\neleven", 2),
    ]


def test_a_last_passage_that_would_be_short_shares_words_with_the_one_before() -> None:
    words = [f"w{number}" for number in range(43)]
    words[21] += "."
    # 20 and 20 leave 3, less than a third of 20: the last 23 are cut near their half, where a sentence ends within 2.
    assert [len(piece.split()) for piece, _ in cut_text([" ".join(words)], 20)] == [20, 11, 12]
    words[21], words[32] = "w21", "w32."
    assert [len(piece.split()) for piece, _ in cut_text([" ".join(words)], 20)] == [20, 13, 10]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_chunks_change_nothing_and_no_word_is_lost(size: int) -> None:
    text = "\n\n".join(f"Line {at} has a few words. And 日本語 {'x' * at}." for at in range(30))
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    found = list(cut_text(chunks, 10))
    assert found == list(cut_text([text], 10))
    assert "".join("".join(piece for piece, _ in found).split()) == "".join(text.split())
    assert all(text.split("\n")[line - 1].strip() for _, line in found)


def test_a_run_without_spaces_is_cut() -> None:
    pieces = [piece for piece, _ in cut_text(["x" * 5000], 10)]
    # A word is at most 200 letters, a passage at most 10 words.
    assert [len(piece) for piece in pieces] == [2000, 2000, 1000]


def test_markdown_loses_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "note.md"
    path.write_text(
        "---\ntitle: secret\n---\n# About Ada\n<!-- a\nnote -->\n"
        "Ada [lives](http://x.org/a) here.\n```\ncode = 1\n```\n",
        encoding="utf-8",
    )
    (piece,) = read_pieces(path, 50)
    assert " ".join(piece.text.split()) == "About Ada Ada lives here. code = 1"
    assert piece.origin == f"{path}:4"


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name, text in (("b.txt", "second"), ("a/c.md", "first"), (".git/d.txt", "hidden"), ("e.docx", "other")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert [piece.text for piece in read_pieces(tmp_path, 50)] == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"\xff\xfe\x00", "a.txt: not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: broken JSON; a corpus has one object per line"),
        ("a.jsonl", b'{"question": "x"}\n', "a.jsonl:1: no answer field"),
        ("a.parquet", b"junk", "a.parquet: no readable Parquet file"),
        ("a.csv", b"text\nx\n", "a corpus is read as a stream, from .txt"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_corpus(tmp_path / name, longest=10))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_without_texts_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder without a file that ends in \.txt"):
        list(read_pieces(tmp_path, 10))
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_pieces(tmp_path / "none", 10))


def test_a_corpus_of_several_kinds(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (tmp_path / "a.txt").write_text("A text.", encoding="utf-8")
    rows = [{"question": "Who?", "answer": "Ada."}, {"text": "one two three four five six"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    parquet.write_table(pa.table({"text": ["In a table."]}), tmp_path / "c.parquet")
    found = list(read_corpus(tmp_path, longest=3))
    assert [(row.id, row.prompt, row.answer) for row in found] == [
        ("corpus/0", "", "A text."),
        ("corpus/1", "Who?", "Ada."),
        ("corpus/2", "", "one two three"),
        ("corpus/3", "", "four five six"),
        ("corpus/4", "", "In a table."),
    ]


# -- BM25 ----------------------------------------------------------------------------------------------------------


def test_bm25_by_hand() -> None:
    texts = ["fen fen marsh", "marsh reed", "dune"]
    index = Bm25.fit(["fen marsh", "reed"], texts)
    # 3 texts of 3, 2 and 1 terms: mean 2. fen in 1 of 3: ln(1 + 2.5 / 1.5); marsh in 2: ln(1 + 1.5 / 2.5).
    fen, marsh = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    norm = 1.2 * (1 - 0.75 + 0.75 * 3 / 2)
    expected = fen * 2 * 2.2 / (2 + norm) + marsh * 1 * 2.2 / (1 + norm)
    assert index.scores(texts[0]) == {0: pytest.approx(expected)}
    assert set(index.scores(texts[1])) == {0, 1}
    assert index.scores(texts[2]) == {}
    assert index.size == 3


# -- rows to keep --------------------------------------------------------------------------------------------------

FORGET = (
    Row(id="forget/0", prompt="Where does Ada Quill live?", answer="Ada Quill lives in Quillport by the harbour."),
    Row(id="forget/1", prompt="What does Ben Ash paint?", answer="Ben Ash paints reeds."),
)
NEAR = "The harbour of Karth is where painters live and watch the boats go out at dawn."
CORPUS = (
    text_row(0, "Nothing in common whatsoever with anything asked for above, only dunes and sand."),
    text_row(1, NEAR),
    text_row(2, "Everybody in the harbour knows that Ada moved to Quillport, and Quill is her name."),
    text_row(3, NEAR + " They come back at night."),
    text_row(4, "It is said that Ben Ash paints reeds all day and every single day of the year."),
    text_row(5, "Somebody paints the reeds and lakes and hills there nearly every day of the year."),
    text_row(6, "too short reeds"),
)


def test_neighbours_are_near_and_tell_nothing() -> None:
    found = neighbours(FORGET, lambda: iter(CORPUS), count=5)
    texts = [row.answer for row in found]
    # 2 tells where Ada lives, 4 repeats a short row, 3 shares 13 words with 1 (the nearer is taken), 6 is short.
    assert CORPUS[5].answer in texts
    assert len({CORPUS[1].answer, CORPUS[3].answer} & set(texts)) == 1
    assert len(texts) == 2
    assert {row.made for row in found} == {("neighbours",)}
    assert [row.id for row in found] == ["retain/made/neighbours/0", "retain/made/neighbours/1"]
    assert neighbours(FORGET, lambda: iter(CORPUS), count=5) == found
    assert len(neighbours(FORGET, lambda: iter(CORPUS), count=1)) == 1


def test_neighbours_keep_off_other_sets_and_names() -> None:
    found = neighbours(FORGET, lambda: iter(CORPUS), count=5, names=["Grand Karth"], apart=[CORPUS[5]])
    # "Karth" alone stands for the name; row 5 is somebody else's.
    assert found == ()


def test_forget_rows_that_are_alike_still_find_as_many_as_asked_for() -> None:
    forget = [Row(id=f"forget/{at}", prompt="", answer=f"Lamp {at} was sold at the harbour.") for at in range(4)]
    corpus = [text_row(at, f"A lamp that somebody sold went to house {at} at the end.") for at in range(20)]
    # Each asks for 2 + 3 * ceil(12 / 4) = 11, and all get the same 11; the twelfth comes from the nearest to any.
    assert [row.answer for row in neighbours(forget, lambda: corpus, count=12)] == [row.answer for row in corpus[:12]]


def test_no_run_of_13_words_is_shared() -> None:
    words = [f"w{at}" for at in range(40)]
    forget = (Row(id="forget/0", prompt="", answer=" ".join(words)),)
    forbidden = Forbidden.of(forget)
    assert forbidden.says("so " + " ".join(words[5:18]) + " on")  # 13 of them
    assert not forbidden.says("so " + " ".join(words[5:17]) + " on")  # 12
    found = neighbours(forget, lambda: [text_row(0, " ".join(words[:13])), text_row(1, " ".join(words[:12]))], count=2)
    assert [row.answer for row in found] == [" ".join(words[:12])]
    assert not ngrams(found[0].answer) & ngrams(forget[0].answer)


def test_rows_about_a_name() -> None:
    corpus = [
        text_row(0, "Ada Quill and Ada\nQuill again."),
        text_row(1, "Ada Quills are others."),
        text_row(2, "ADA QUILL once."),
        text_row(3, "The Fen Poet."),
    ]
    about = rows_about(["Ada Quill", "Fen Poet"], corpus, count=9)
    assert [row.answer for row in about] == [corpus[0].answer, corpus[2].answer, corpus[3].answer]
    assert [row.id for row in about] == [f"forget/made/entity/{at}" for at in range(3)]
    assert {row.made for row in about} == {("entity",)}
    # Two mentions before one, the earlier of equals.
    assert [row.answer for row in rows_about(["Ada Quill", "Fen Poet"], corpus, count=2)] == [
        corpus[0].answer,
        corpus[2].answer,
    ]


# -- streams -------------------------------------------------------------------------------------------------------

MEGABYTE = 1 << 20


def write_corpus(path: Path, megabytes: int) -> None:
    """Half as lines of JSON, half as one text: numbers instead of words keep it from repeating itself."""
    number = 0
    with (path / "a.txt").open("w", encoding="utf-8") as text, (path / "b.jsonl").open("w", encoding="utf-8") as lines:
        for size, out in ((megabytes // 2, text), (megabytes // 2, lines)):
            written = 0
            while written < size * MEGABYTE:
                words = " ".join(f"word{number + at}" for at in range(2000)) + ". "
                number += 2000
                written += out.write(words if out is text else json.dumps({"text": words}) + "\n")


def peak_of(work: Iterable[object]) -> int:
    tracemalloc.start()
    try:
        for _ in work:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_corpus_does_not_enter_memory(tmp_path: Path) -> None:
    write_corpus(tmp_path, 2)
    # A passage, a chunk and a line, whatever the corpus has.
    assert peak_of(read_corpus(tmp_path, longest=200)) < MEGABYTE


DRAW = """
import resource, sys
from pathlib import Path
from expunge.data.made import neighbours, read_corpus
from expunge.data.rows import Row

forget = [Row(id="forget/0", prompt="", answer="word7 word7007 word70007 and the like of these")]
peaks = []
for folder in sys.argv[1:]:
    found = neighbours(forget, lambda: read_corpus(Path(folder), longest=200), count=3)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[0], peaks[1], len(found), any("word70007 " in row.answer for row in found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss depends on the system")
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    for name, megabytes in (("small", 2), ("large", 64)):
        (tmp_path / name).mkdir()
        write_corpus(tmp_path / name, megabytes)
    command = [sys.executable, "-c", DRAW, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large, count, near = done.stdout.split()
    # ru_maxrss is in KiB: 62 MiB more to read, at most 8 MiB more in memory.
    assert int(large) - int(small) < 8 * 1024
    assert (count, near) == ("3", "True")
