from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.benchmarks import wmdp
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError
from published_layouts import wmdp_texts, write_lines, write_wmdp, write_wmdp_hub


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    write_wmdp(tmp_path / "data" / "wmdp")
    mmlu = tmp_path / "data" / "mmlu" / "test.jsonl"
    mmlu.parent.mkdir()
    (tmp_path / "data" / "wmdp" / "mmlu" / "test.jsonl").rename(mmlu)
    return tmp_path / "data"


def starts(rows: Any) -> list[str]:
    return [row.answer.partition(":")[0] for row in rows]


def test_questions_and_corpora(local: Path) -> None:
    benchmark = load_benchmark("wmdp:cyber", root=local)
    assert benchmark.name == "wmdp:cyber"
    assert starts(benchmark.forget) == [f"stitch passage {i}" for i in range(4)]
    assert starts(benchmark.retain) == [f"sheep passage {i}" for i in range(3)]
    assert not any(row.prompt for row in (*benchmark.forget, *benchmark.retain))
    sizes = {name: len(rows) for name, rows in benchmark.probes.items()}
    assert sizes == {"forget": 4, "retain": 3, "wmdp_bio": 5, "wmdp_cyber": 5, "wmdp_chem": 5, "mmlu": 6}
    assert (benchmark.suites, benchmark.learnt, benchmark.holdout) == (("choice",), {}, ())
    assert benchmark.origin == str(local)


def test_a_question_keeps_its_options_and_its_subject(local: Path) -> None:
    probes = wmdp.load(root=local).probes
    row = probes["wmdp_bio"][2]
    assert row == Row(
        id="wmdp_bio/2",
        prompt="garden question 2?",
        answer="garden 2c",
        choices=("garden 2a", "garden 2b", "garden 2c", "garden 2d"),
        correct=2,
        kind="bio",
        origin=f"{local / 'wmdp' / 'bio_test.jsonl'}:3",
    )
    assert [row.kind for row in probes["mmlu"]][:2] == ["subject_0", "subject_1"]


def test_two_topics_at_once(local: Path) -> None:
    benchmark = wmdp.load(split="bio_cyber", root=local)
    # 4 texts of each topic; 8 and 3 to keep
    assert [row.kind for row in benchmark.forget] == ["bio"] * 4 + ["cyber"] * 4
    assert [row.kind for row in benchmark.retain] == ["bio"] * 8 + ["cyber"] * 3
    assert [row.id for row in benchmark.forget][-1] == "forget/7"
    assert benchmark.forget[0].answer.startswith("seed passage 0")


def test_questions_alone(local: Path) -> None:
    benchmark = wmdp.load(split="questions", root=local, tested=["bio", "mmlu"])
    assert (benchmark.forget, benchmark.retain) == ((), ())
    assert list(benchmark.probes) == ["wmdp_bio", "mmlu"]


def test_texts_are_the_first_ones_cut_to_size(local: Path) -> None:
    benchmark = wmdp.load(root=local, texts=2, max_chars=16)
    assert [row.answer for row in benchmark.forget] == ["stitch passage 0", "stitch passage 1"]
    whole = wmdp.load(root=local, max_chars=None).forget[0].answer
    # "stitch passage 0: " and 40 times "leaf "
    assert len(whole) == 18 + 40 * 5
    write_lines(local / "wmdp" / "wmdp-corpora" / "cyber-forget-corpus.jsonl", ["too short", "long enough " * 20, " "])
    assert len(wmdp.load(root=local, min_chars=200).forget) == 1


def test_other_corpora_to_keep(local: Path, tmp_path: Path) -> None:
    (local / "wikitext-2").mkdir()
    (local / "wikitext-2" / "test.txt").write_text(" \n = River = \n A long line on rivers . \n", encoding="utf-8")
    mine = tmp_path / "mine.jsonl"
    write_lines(mine, wmdp_texts("meadow", 2))
    benchmark = wmdp.load(root=local, retain=["wikitext", str(mine)], min_chars=12)
    assert starts(benchmark.retain) == ["A long line on rivers .", "meadow passage 0", "meadow passage 1"]
    with pytest.raises(
        RecipeError, match=r"wmdp: retain=wikitex is no file and no corpus \(did you mean 'wikitext'\?\)"
    ):
        wmdp.load(root=local, retain="wikitex")
    with pytest.raises(RecipeError, match="split=questions has no training sets"):
        wmdp.load(split="questions", root=local, retain="wikitext")


def test_the_gated_corpus_is_never_fetched(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> str:
        raise AssertionError("the bio forget corpus was asked for")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    corpus = local / "wmdp" / "wmdp-corpora" / "bio-forget-corpus.jsonl"
    for root in (local, None):
        corpus.rename(tmp_path / "asked-for.jsonl")
        with pytest.raises(DataError) as caught:
            wmdp.load(split="bio", root=root)
        assert str(caught.value).startswith(
            "no bio-forget-corpus here; its owners give the bio forget corpus on request"
        )
        (tmp_path / "asked-for.jsonl").rename(corpus)
    moved = corpus.rename(tmp_path / "asked-for.jsonl")
    benchmark = wmdp.load(split="bio", root=local, bio_forget=moved)
    assert starts(benchmark.forget) == [f"seed passage {i}" for i in range(4)]
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file; its owners give"):
        wmdp.load(split="bio", root=local, bio_forget="nowhere.jsonl")


def test_the_gated_corpus_under_its_other_name(local: Path) -> None:
    corpus = local / "wmdp" / "wmdp-corpora" / "bio-forget-corpus.jsonl"
    corpus.rename(local / "wmdp" / "bio_remove_dataset.jsonl")
    assert len(wmdp.load(split="bio", root=local).forget) == 4


def test_what_a_folder_lacks_is_not_asked_unless_it_was_named(local: Path) -> None:
    (local / "mmlu" / "test.jsonl").unlink()
    assert list(wmdp.load(root=local).probes) == ["forget", "retain", "wmdp_bio", "wmdp_cyber", "wmdp_chem"]
    with pytest.raises(DataError, match="holds no questions of mmlu; give MMLU's test questions as"):
        wmdp.load(root=local, tested=["cyber", "mmlu"])


def test_mmlu_may_lie_beside_the_corpora(local: Path) -> None:
    (local / "mmlu").rename(local / "wmdp" / "mmlu")
    assert len(wmdp.load(root=local).probes["mmlu"]) == 6


def test_an_option_without_effect_is_said(local: Path) -> None:
    with pytest.warns(DataWarning, match="wmdp: bio_forget has no effect with split=cyber"):
        wmdp.load(root=local, bio_forget="nowhere.jsonl")
    with pytest.warns(DataWarning, match="wmdp: texts, max_chars have no effect with split=questions"):
        wmdp.load(split="questions", root=local, texts=5, max_chars=None)


def test_a_corpus_is_the_same_wherever_it_lies(local: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "mine.jsonl" for name in ("here", "there")]
    for path in paths:
        write_lines(path, wmdp_texts("meadow", 2))
    one, other = (wmdp.load(root=local, retain=str(path)) for path in paths)
    assert {row.kind for row in one.retain} == {"mine"}
    assert one.hashes() == other.hashes()


def test_draws_are_by_seed_and_nested(local: Path) -> None:
    small, large = (wmdp.load(root=local, eval_rows=n).probes["mmlu"] for n in (2, 4))
    assert {row.prompt for row in small} < {row.prompt for row in large}
    assert [len(rows) for rows in wmdp.load(root=local, eval_rows=2).probes.values()] == [2, 2, 2, 2, 2, 2]


def test_the_hub_at_its_pinned_commits(tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_wmdp_hub(tmp_path / "hub")
    asked: dict[str, set[str]] = {}
    pins = {
        "cais/wmdp": wmdp.QUESTIONS_REVISION,
        "cais/wmdp-corpora": wmdp.CORPORA_REVISION,
        "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
        "Salesforce/wikitext": wmdp.wikitext.HUB_REVISION,
    }

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        assert (revision, repo_type) == (pins[repo_id], "dataset")
        asked.setdefault(repo_id, set()).add(filename)
        return str(folder / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    corpus = local / "wmdp" / "wmdp-corpora" / "bio-forget-corpus.jsonl"
    benchmark = wmdp.load(split="bio_cyber", bio_forget=corpus)
    assert asked["cais/wmdp-corpora"] == {
        "cyber-forget-corpus/train-00000-of-00001.parquet",
        "cyber-retain-corpus/train-00000-of-00001.parquet",
        *(f"bio-retain-corpus/train-{part:05d}-of-00004.parquet" for part in range(4)),
    }
    assert asked["cais/mmlu"] == {"all/test-00000-of-00001.parquet"}
    assert benchmark.hashes() == wmdp.load(split="bio_cyber", root=local).hashes()
    assert benchmark.origin.startswith(f"cais/wmdp@{wmdp.QUESTIONS_REVISION} cais/wmdp-corpora@")
    assert len(wmdp.load(retain="wikitext").retain) == 1
    assert asked["Salesforce/wikitext"] == {"wikitext-2-raw-v1/test-00000-of-00001.parquet"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "cyb"}, "unknown WMDP split 'cyb' (did you mean 'cyber'?); known: bio, bio_cyber, cyber, questions"),
        ({"tested": "bio"}, "tested must be a list of bio, cyber, chem, mmlu, got 'bio'"),
        ({"tested": 3}, "tested must be a list of bio, cyber, chem, mmlu, got 3"),
        ({"tested": ["boi"]}, "unknown subject 'boi' (did you mean 'bio'?)"),
        ({"texts": 0, "min_chars": -1}, "texts must be a whole number of at least 1, got 0; min_chars must be"),
        ({"min_chars": 300, "max_chars": 200}, "min_chars=300 is more than max_chars=200"),
        ({"min_chars": None}, "min_chars must be a whole number, got None"),
    ],
)
def test_bad_options_are_one_line(local: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        wmdp.load(**{"root": local} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"abstract": "secret"},
            "cyber-forget-corpus.jsonl:2: a row of a corpus must have a field 'text', or be a text",
        ),
        ({"text": ["secret"]}, "cyber-forget-corpus.jsonl:2: field 'text' must be text or a number, got a list"),
    ],
)
def test_a_bad_text_is_named_and_not_shown(local: Path, record: dict[str, Any], message: str) -> None:
    write_lines(local / "wmdp" / "wmdp-corpora" / "cyber-forget-corpus.jsonl", [*wmdp_texts("stitch", 1), record])
    with pytest.raises(DataError) as caught:
        wmdp.load(root=local)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("field", ["question", "choices"])
def test_a_question_that_no_tokenizer_can_read(local: Path, field: str) -> None:
    record: dict[str, Any] = {"question": "secret?", "choices": ["a", "b"], "answer": 0}
    record[field] = "secret \ud83d" if field == "question" else ["secret \ud83d", "b"]
    write_lines(local / "wmdp" / "bio_test.jsonl", [record])
    with pytest.raises(DataError) as caught:
        wmdp.load(root=local)
    assert str(caught.value).endswith(
        f"bio_test.jsonl:1: field {field!r} holds half a surrogate pair, which no tokenizer can read"
    )


def test_an_empty_folder_never_goes_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> str:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refused)
    with pytest.raises(DataError, match="holds no cyber-forget-corpus; give the published files"):
        wmdp.load(root=tmp_path)
    with pytest.raises(DataError, match="holds no questions of WMDP or MMLU; give the published files"):
        wmdp.load(split="questions", root=tmp_path)
