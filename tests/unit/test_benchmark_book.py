from __future__ import annotations

import json
import os
import re
import warnings
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import book
from expunge.benchmarks.passages import NGRAM, Passage, cut_passages, without_overlap
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


def novel(name: str, sentences: int) -> str:
    """Sentences of ten words, two a line and five a paragraph, with a heading; no two sentences share a word run."""
    said = [f"{' '.join(f'{name}{i}w{k}' for k in range(9))} end." for i in range(sentences)]
    lines = [" ".join(said[i : i + 2]) for i in range(0, sentences, 2)]
    return (
        "CHAPTER I\r\n\r\n" + "\r\n\r\n".join("\r\n".join(lines[i : i + 5]) for i in range(0, len(lines), 5)) + "\x1a"
    )


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """60, 40 and 20 sentences of ten words."""
    folder = tmp_path / "books"
    folder.mkdir()
    for name, sentences in (("alpha", 60), ("beta", 40), ("gamma", 20)):
        write(folder, f"{name}.txt", novel(name, sentences))
    return folder


SMALL: dict[str, Any] = {"passage_words": 20, "prompt_words": 8}


# -- passages ------------------------------------------------------------------------------------------------------


def words_of(passages: list[Passage]) -> list[str]:
    return [" ".join(passage.words) for passage in passages]


def test_a_passage_ends_with_the_last_sentence_that_fits() -> None:
    text = "One two three. Four five six seven. Eight nine ten eleven twelve. Thirteen fourteen."
    # at most 8 words: the sentence of words 4 to 7 ends at 7, which is at least int(0.8 * 8) = 6
    # then 8 to 15: words 8 to 12 end at 5 of 8, too few, and 13, 14 end at 7; none is left
    assert words_of(cut_passages(text, 8)) == ["One two three. Four five six seven."]
    # 14 words less 7 leave 7, fewer than 8: dropped. At most 7 takes both.
    assert words_of(cut_passages(text, 7)) == [
        "One two three. Four five six seven.",
        "Eight nine ten eleven twelve. Thirteen fourteen.",
    ]


def test_without_a_sentence_end_a_passage_is_cut_at_its_longest() -> None:
    assert words_of(cut_passages("a b c d e f g", 3)) == ["a b c", "d e f"]
    # 'c.)"' ends a sentence for all its brackets; 5 words at most, at least 4
    assert words_of(cut_passages('a b (c d.") e f g h i', 5)) == ['a b (c d.")', "e f g h i"]


def test_broken_lines_are_joined_and_what_is_no_text_is_left_out() -> None:
    text = (
        "The header says things.\r\n*** START OF THE PROJECT GUTENBERG EBOOK ALPHA ***\r\n\r\nCHAPTER I.\r\n"
        "* * * *\r\n   She looked at the WAISTCOAT-\r\npocket and went on--\r\n\r\nnot far\x1a\r\n"
        "*** END OF THE PROJECT GUTENBERG EBOOK ALPHA ***\r\nThe licence says more.\r\n"
    )
    (passage,) = cut_passages(text, 10)
    assert passage.words == ("She", "looked", "at", "the", "WAISTCOAT-pocket", "and", "went", "on--", "not", "far")
    assert passage.line == 6
    # caseless scripts have no headings to tell apart
    assert words_of(cut_passages("\u0433\u043b\u0430\u0437\n\u8a00 \u8449", 3)) == [
        "\u0433\u043b\u0430\u0437 \u8a00 \u8449"
    ]


def test_a_passage_with_a_run_of_words_of_an_earlier_one_is_left_out() -> None:
    run = [f"w{i}" for i in range(NGRAM)]
    first = Passage(("x", *run), 1)
    same = Passage((*(word.upper() + "," for word in run), "y"), 2)  # case and punctuation are no difference
    shorter = Passage((*run[1:], "z"), 3)  # 12 of the 13 words, then another
    seen: set[tuple[str, ...]] = set()
    assert without_overlap([first, same, shorter], seen) == [first, shorter]
    # 14 words have 2 runs of 13, 13 words have 1
    assert len(seen) == 2 + 1
    assert without_overlap([shorter], seen) == []


# -- a text --------------------------------------------------------------------------------------------------------


def passage_of(row: Row) -> str:
    return f"{row.prompt.partition(chr(10))[2]} {row.answer}"


def test_the_sets_of_a_book(shelf: Path) -> None:
    options = {"forget": shelf / "alpha.txt", "retain": [shelf / "beta.txt", shelf / "gamma.txt"], **SMALL}
    benchmark = load_benchmark("book", **options)
    # 600, 400 and 200 words in passages of two sentences: 30, 20 and 10; a fifth of 30 is 6
    assert {name: len(rows) for name, rows in benchmark.probes.items()} == {
        "forget": 24,
        "forget_test": 6,
        "retain": 30,
        "holdout": 6,
    }
    assert (benchmark.name, benchmark.suites) == ("book", ("flat",))
    assert benchmark.probes["forget"] == benchmark.forget
    assert benchmark.probes["retain"] == benchmark.retain
    assert benchmark.probes["holdout"] == benchmark.holdout
    assert [(r.id, r.prompt, r.answer) for r in benchmark.holdout] == [
        (r.id.replace("forget_test", "holdout"), r.prompt, r.answer) for r in benchmark.probes["forget_test"]
    ]
    assert [row.id for row in benchmark.retain] == [f"retain/{i}" for i in range(30)]
    parts = [f"forget={shelf / 'alpha.txt'}", f"retain={shelf / 'beta.txt'}", f"retain={shelf / 'gamma.txt'}"]
    assert benchmark.origin == " ".join(parts)


def test_a_row_asks_for_the_rest_of_its_passage(shelf: Path) -> None:
    row = book.load(forget=shelf / "gamma.txt", test_share=0, **SMALL).forget[0]
    # the first 8 of 20 words are shown; the heading is no part of the text and the first line is the file's third
    shown = " ".join(f"gamma0w{k}" for k in range(8))
    assert row.prompt == f"{book.PHRASINGS[0]}\n{shown}"
    assert row.answer == f"gamma0w8 end. {' '.join(f'gamma1w{k}' for k in range(9))} end."
    assert row.paraphrased_prompt == f"{book.OTHER_PHRASINGS[0]}\n{shown}"
    assert row.origin == f"{shelf / 'gamma.txt'}:3"


def test_every_passage_stands_once_and_none_in_two_sets(shelf: Path) -> None:
    benchmark = book.load(forget=shelf / "alpha.txt", retain=shelf / "beta.txt", **SMALL)
    forget, unseen, retain = (
        [passage_of(row) for row in rows]
        for rows in (benchmark.forget, benchmark.probes["forget_test"], benchmark.retain)
    )
    text = " ".join(novel("alpha", 60).replace("CHAPTER I", "").replace("\x1a", "").split())
    assert " ".join(sorted([*forget, *unseen], key=text.index)) == text
    assert len({*forget, *unseen, *retain}) == len(forget) + len(unseen) + len(retain) == 30 + 20


def test_the_seed_decides_what_is_unseen(shelf: Path) -> None:
    options: dict[str, Any] = {"forget": shelf / "alpha.txt", **SMALL}
    first, again, other = (book.load(**options, seed=seed) for seed in (0, 0, 1))
    assert first.hashes() == again.hashes()
    unseen = [{passage_of(row) for row in each.holdout} for each in (first, other)]
    assert unseen[0] != unseen[1]
    # passages stay in the book's order
    for rows in (first.forget, first.holdout):
        lines = [int(row.origin.rpartition(":")[2]) for row in rows]
        assert lines == sorted(lines)


def test_max_passages_caps_each_set_and_shares_retain_out_among_the_books(shelf: Path) -> None:
    paths = [shelf / "beta.txt", shelf / "gamma.txt"]
    options: dict[str, Any] = {"forget": shelf / "alpha.txt", "retain": paths, **SMALL}
    small, large = (book.load(**options, max_passages=n) for n in (3, 5))
    assert [len(rows) for rows in (small.forget, small.holdout, small.retain)] == [3, 3, 3]
    # 3 = 2 + 1 over the two books
    assert [sum("beta" in row.origin for row in small.retain), sum("gamma" in row.origin for row in small.retain)] == [
        2,
        1,
    ]
    for name in ("forget", "holdout", "retain"):
        few, more = ({passage_of(row) for row in getattr(each, name)} for each in (small, large))
        assert few < more
    # a cap moves no passage from unseen to trained
    trained = {passage_of(row) for row in large.forget}
    assert not trained & {passage_of(row) for row in book.load(**options).holdout}


def test_phrasings_take_turns(shelf: Path) -> None:
    options: dict[str, Any] = {"forget": shelf / "gamma.txt", "test_share": 0, **SMALL}
    one, three = (book.load(**options, phrasings=n).forget for n in (1, 3))
    asked = [row.prompt.partition("\n")[0] for row in one]
    assert asked == [book.PHRASINGS[i % 6] for i in range(10)]
    assert len(three) == 3 * len(one)
    for i, row in enumerate(one):
        same = three[3 * i : 3 * i + 3]
        assert {passage_of(other) for other in same} == {passage_of(row)}
        assert len({other.prompt for other in same}) == 3
    assert len({row.id for row in three}) == 30


def test_rephrased_asks_for_trained_passages_in_untrained_words(shelf: Path) -> None:
    benchmark = book.load(forget=shelf / "alpha.txt", rephrased=True, **SMALL)
    rows = benchmark.probes["forget_rephrased"]
    assert [passage_of(row) for row in rows] == [passage_of(row) for row in benchmark.forget]
    assert {row.prompt.partition("\n")[0] for row in rows} == set(book.OTHER_PHRASINGS)
    assert not set(book.OTHER_PHRASINGS) & set(book.PHRASINGS)
    assert len({*book.OTHER_PHRASINGS, *book.PHRASINGS}) == 12
    assert all(text.endswith(":") and 5 <= len(text.split()) <= 10 for text in (*book.PHRASINGS, *book.OTHER_PHRASINGS))


def test_a_repeated_passage_is_left_out_with_a_warning(shelf: Path) -> None:
    twice = novel("alpha", 20) + "\r\n\r\n" + novel("alpha", 4)
    path = write(shelf, "twice.txt", twice)
    # 24 sentences make 12 passages, the last 2 of which stand at the beginning too
    with pytest.warns(DataWarning, match=r"twice\.txt: 2 of 12 passages left out: they repeat 13 words in a row"):
        assert len(book.load(forget=path, test_share=0, **SMALL).forget) == 10


def test_a_book_cannot_be_kept_and_forgotten(shelf: Path) -> None:
    with pytest.raises(DataError, match=r"alpha\.txt: all 30 passages repeat 13 words in a row"):
        book.load(forget=shelf / "alpha.txt", retain=[shelf / "alpha.txt"], **SMALL)


def test_books_are_found_below_the_data_root(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"forget": "alpha.txt", "retain": ["beta.txt"], **SMALL}
    for root in (shelf, shelf.parent):
        assert len(book.load(root=root, **options).retain) == 20
    monkeypatch.setenv("EXPUNGE_DATA", str(shelf.parent))
    assert book.load(**options).origin.startswith(f"forget={shelf / 'alpha.txt'} ")
    with pytest.raises(DataError, match=r"^alfa\.txt: no such file"):
        book.load(forget="alfa.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forget": None}, "book: give the book to forget: forget=FILE"),
        ({"passage_words": 1}, "passage_words must be a whole number of at least 2, got 1"),
        ({"passage_words": None}, "passage_words must be a whole number, got None"),
        # int(0.8 * 20) = 16 words may be all there are
        ({"prompt_words": 16}, "prompt_words=16 leaves nothing to continue: passages of passage_words=20 may have 16"),
        ({"phrasings": 7}, "phrasings must be at most 6, got 7"),
        ({"max_passages": 0, "phrasings": 0}, "phrasings must be a whole number of at least 1, got 0; max_passages"),
        ({"test_share": 1.0}, "test_share must be in [0, 1), got 1.0"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"test": "beta.txt"}, "test is for a forget file of rows; of a text, test_share is held out"),
    ],
)
def test_bad_options_are_one_line(shelf: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        book.load(**{"forget": shelf / "alpha.txt", **SMALL} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_too_short_is_one_line(shelf: Path) -> None:
    with pytest.raises(DataError, match=r"gamma\.txt: too short for a passage of 380 words; give a longer text"):
        book.load(forget=shelf / "gamma.txt")
    with pytest.raises(DataError, match=r"1 passages leave none to forget beside 1 to test"):
        book.load(forget=shelf / "gamma.txt", passage_words=200, prompt_words=20)


# -- files of rows -------------------------------------------------------------------------------------------------


def flat_rows(passages: range, wordings: tuple[str, ...]) -> list[dict[str, str]]:
    """FLAT's layout: every passage once in each wording."""
    return [
        {"prompt": f"{wording} p{i} begins", "response": " ".join(f"p{i}w{k}" for k in range(20))}
        for wording in wordings
        for i in passages
    ]


def write_rows(folder: Path, name: str, rows: list[dict[str, str]]) -> Path:
    return write(folder, name, "\n".join(map(json.dumps, rows)))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_rows(tmp_path, "hp_train_qa_200.jsonl", flat_rows(range(8), ("Finish:", "Go on:", "More:")))


def test_flats_files_load_as_they_are(flat: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("book", forget=flat)
    assert len(benchmark.forget) == 8 * 3
    assert (benchmark.forget[0].prompt, benchmark.forget[0].origin) == ("Finish: p0 begins", f"{flat}:1")
    assert list(benchmark.probes) == ["forget"]
    # the published test file asks for the same passages in other words: that is no unseen text
    test = write_rows(tmp_path, "hp_test_qa_200.jsonl", flat_rows(range(8), ("Recite:", "Quote:", "Say:")))
    benchmark = book.load(forget=flat, test=test)
    assert {name: len(rows) for name, rows in benchmark.probes.items()} == {"forget": 24, "forget_rephrased": 24}
    assert benchmark.holdout == ()


def test_a_cap_takes_whole_passages_of_a_file(flat: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path, "test.jsonl", flat_rows(range(8), ("Recite:",)))
    benchmark = book.load(forget=flat, test=test, max_passages=2)
    assert len(benchmark.forget) == 2 * 3
    assert {row.answer for row in benchmark.probes["forget_rephrased"]} == {row.answer for row in benchmark.forget}


def test_unseen_passages_of_a_file_are_tested_and_held_out(flat: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path, "test.jsonl", flat_rows(range(8, 11), ("Finish:",)))
    benchmark = book.load(forget=flat, test=test)
    assert {name: len(rows) for name, rows in benchmark.probes.items()} == {
        "forget": 24,
        "forget_test": 3,
        "holdout": 3,
    }
    half = write_rows(tmp_path, "half.jsonl", flat_rows(range(6, 10), ("Recite:",)))
    # passages 6 and 7 were trained on, 8 and 9 were not
    with pytest.raises(DataError, match=r"half\.jsonl: 2 of 4 passages are not in .* and the others are"):
        book.load(forget=flat, test=half)


def test_kept_rows_that_repeat_the_book_are_left_out(flat: Path, tmp_path: Path) -> None:
    rows = [*flat_rows(range(7, 12), ("Finish:",)), {"text": " ".join(f"q{k}" for k in range(30))}]
    path = write_rows(tmp_path, "keep.jsonl", rows)
    with pytest.warns(DataWarning, match=r"keep\.jsonl: 1 of 6 rows left out: they repeat 13 words in a row"):
        benchmark = book.load(forget=flat, retain=path)
    assert len(benchmark.retain) == 5
    with pytest.raises(DataError, match="all 24 rows repeat 13 words in a row of another file"):
        book.load(forget=flat, retain=flat)


def test_an_option_without_effect_on_rows_is_said(flat: Path, shelf: Path) -> None:
    with pytest.warns(DataWarning, match="book: phrasings, test_share have no effect: files of rows are not cut"):
        book.load(forget=flat, phrasings=3, test_share=0.5)
    # A text to keep is cut, but no share of it is held out.
    with pytest.warns(DataWarning, match="book: test_share has no effect: "):
        book.load(forget=flat, retain=shelf / "gamma.txt", test_share=0, **SMALL)


def test_rephrased_needs_a_text(flat: Path) -> None:
    with pytest.raises(RecipeError, match="rephrased is for a text; for a forget file of rows give test=FILE"):
        book.load(forget=flat, rephrased=True)


# -- the public-domain texts ---------------------------------------------------------------------------------------


def real_data() -> Path:
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    for base in (Path(os.environ.get("EXPUNGE_DATA") or shared), shared):
        if (base / "books" / "alice29.txt").is_file():
            return base
    pytest.skip("the books are not here (set EXPUNGE_DATA to the folder that holds books/)")


def test_no_two_passages_of_real_books_overlap() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        benchmark = load_benchmark(
            "book", root=real_data(), forget="alice29.txt", retain=["asyoulik.txt", "plrabn12.txt"], max_passages=40
        )
    rows = [*benchmark.forget, *benchmark.probes["forget_test"], *benchmark.retain]
    runs = []
    for row in rows:
        plain = re.findall(r"\w+", passage_of(row).lower().replace("_", " "))
        assert 0.8 * 380 <= len(passage_of(row).split()) <= 380
        assert len(row.prompt.partition("\n")[2].split()) == 200
        runs.append({tuple(plain[i : i + 13]) for i in range(len(plain) - 12)})
        assert not re.search(r"[\r\n\x1a]|  ", passage_of(row))
        assert not re.search(r"CHAPTER|THE END", passage_of(row))
    assert all(one.isdisjoint(other) for one, other in combinations(runs, 2))
    # most passages begin with a sentence
    starts = [row.prompt.partition("\n")[2][:3] for row in benchmark.forget]
    assert sum(bool(re.match(r"[`'\"(\[]*[A-Z]", start)) for start in starts) > 0.8 * len(starts)
