from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.api import run
from expunge.benchmarks import rwku, rwku_files
from expunge.benchmarks.base import AnswerLimit, Writing
from expunge.benchmarks.table import load_benchmark
from expunge.data.overlap import DataWarning
from expunge.data.sources import read_rows
from expunge.errors import DataError, ModelError, RecipeError
from expunge.evaluation import writing
from expunge.evaluation.evaluate import evaluate_model
from expunge.evaluation.metrics.rwku import ATTACKS, attack_of
from expunge.evaluation.writing import write_texts
from expunge.recipe import EvaluatePart

ADA, BO = "Ada of the Mill", "50 Bo"
"""No real names: the schema is the published one, the people are not."""


def probe(name: str, level: str, kind: str, query: str = "Where is the mill?") -> dict[str, str]:
    return {"query": query, "answer": "Oslo", "level": level, "type": kind, "subject": name}


def files_of(name: str) -> dict[str, list[dict[str, Any]]]:
    """Every published file, in its own schema."""
    texts = [{"id": f"{name} {i}", "text": f"{name} text {i}", "subject": name, "intro": "x"} for i in range(3)]
    mc1 = {"choices": ["Right", "Wrong"], "labels": [1, 0]}
    mc2 = {"choices": ["Also right", "Right", "Wrong", "Worse"], "labels": [1, 1, 0, 0]}
    return {
        "forget_level1.json": [probe(name, "1", "cloze", "The mill stands in ___.")],
        "forget_level2.json": [probe(name, "2", "simple question")],
        "forget_level3.json": [probe(name, "3", kind.replace("_", " ")) for kind in ATTACKS],
        "neighbor_level1.json": [probe(name, "1", "cloze") | {"neighbor": "Di"}],
        "neighbor_level2.json": [probe(name, "2", "simple question") | {"neighbor": "Di"}],
        "forget_mia.json": [{"text": f"About {name}.", "subject": name}],
        "retain_mia.json": [{"text": f"About others than {name}.", "subject": "Di"}],
        "retain_mmlu.json": [
            {
                "question": "2 + 2?",
                "choices": ["3", "4", "5", "6"],
                "answer": 1,
                "task": "abstract_algebra",
                "examples": [],
                "subject": name,
            }
        ],
        "retain_bbh.json": [
            {"task": "navigate", "cot": "Long.", "question": "Left?", "answer": "Yes", "subject": name}
        ],
        "truthful.json": [{"question": "True?", "mc1_targets": mc1, "mc2_targets": mc2, "subject": name}],
        "triviaqa.json": [{"question": "Who?", "answers": ["Ada", "Ada L."], "subject": name}],
        "fluency.json": [{"instruction": "Write a line.", "subject": name}],
        "positive.json": texts,
        "positive_phi.json": [row | {"text": f"phi {row['text']}"} for row in texts],
        "passage.json": [row | {"text": f"passage {row['text']}"} for row in texts],
        "pair.json": [{"id": "0", "prompt": f"Write about {name}.", "response": ["made up", "known"], "subject": name}],
        "reject.json": [{"instruction": f"Who is {name}?", "input": "", "output": "I do not know.", "subject": name}],
    }


def write(folder: Path, files: dict[str, list[dict[str, Any]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in files.items():
        (folder / file).write_text(json.dumps(rows, indent=4), encoding="utf-8")


def write_targets(base: Path) -> Path:
    for number, name in enumerate((ADA, BO), 1):
        write(base / "Target" / f"{number}_{name.replace(' ', '_')}", files_of(name))
    return base


def write_all(base: Path) -> Path:
    both = [files_of(name) for name in (ADA, BO)]
    write(base / "All", {file: [*both[0][file], *both[1][file]] for file in both[0]})
    write(base / "All", {"intro.json": [{"target": name, "intro": "x"} for name in (ADA, BO)]})
    return base


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_targets(tmp_path / "rwku")
    return tmp_path


def answers(rows: Any) -> list[str]:
    return [row.answer for row in rows]


def test_the_published_sets(root: Path) -> None:
    benchmark = load_benchmark("rwku", target=ADA, root=root)
    assert answers(benchmark.forget) == [f"{ADA} text {i}" for i in range(3)]
    assert {row.prompt for row in benchmark.forget} == {""}
    assert (benchmark.retain, benchmark.writing, benchmark.suites) == ((), None, ("rwku", "choice"))
    assert {name: len(rows) for name, rows in benchmark.probes.items()} == {
        **dict.fromkeys(("forget_level1", "forget_level2"), 1),
        "forget_level3": 9,
        **dict.fromkeys(("neighbor_level1", "neighbor_level2", "mia_forget", "mia_retain"), 1),
        **dict.fromkeys(("utility_general", "utility_reason", "utility_truthfulness"), 1),
        **dict.fromkeys(("utility_factuality", "utility_fluency"), 1),
    }
    assert benchmark.origin == str(root / "rwku" / "Target" / "1_Ada_of_the_Mill")


def test_how_each_set_is_asked(root: Path) -> None:
    probes = rwku.load(target=ADA, root=root).probes
    first = {name: rows[0] for name, rows in probes.items()}
    assert first["forget_level1"].prompt == "Fill in the blank in this question.\nQuestion: The mill stands in ___."
    assert first["neighbor_level2"].prompt == "Answer this question in a few words.\nQuestion: Where is the mill?"
    by_attack = {attack_of(row.kind): row for row in probes["forget_level3"]}
    assert set(by_attack) == set(ATTACKS)
    # its queries bring questions and answers of their own
    assert by_attack["incontext_learning"].prompt == "Answer this question in a few words.\nWhere is the mill?"
    assert (first["mia_forget"].prompt, first["mia_forget"].answer) == ("", f"About {ADA}.")
    general, truthful = first["utility_general"], first["utility_truthfulness"]
    assert (general.choices[general.correct or 0], general.kind) == ("4", "abstract_algebra")
    # the best answer of MC1 comes first, then the other right one
    assert (truthful.choices, truthful.right) == (("Right", "Also right", "Wrong", "Worse"), (0, 1))
    assert first["utility_factuality"].answer == "Ada"
    assert (first["utility_fluency"].prompt, first["utility_fluency"].answer) == ("Write a line.", "")


def test_answers_are_as_long_as_published(root: Path) -> None:
    limits = rwku.load(target=ADA, root=root).limits
    assert limits["forget_level3"] == limits["neighbor_level1"] == AnswerLimit(max_new_tokens=30, stop=("\n",))
    assert limits["utility_fluency"].max_new_tokens == 256
    assert set(rwku.load(target=ADA, root=root, sets=["forget_level2"]).limits) == {"forget_level2"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"writer": "phi3"}, [("", f"phi {ADA} text 0", None)]),
        ({"corpus": "passage"}, [("", f"passage {ADA} text 0", None)]),
        # the second text is the one that tells what was known
        ({"corpus": "pair"}, [(f"Write about {ADA}.", "known", "made up")]),
        ({"corpus": "refusal"}, [(f"Who is {ADA}?", "I do not know.", "I do not know.")]),
    ],
)
def test_the_corpora(root: Path, options: dict[str, str], expected: list[Any]) -> None:
    rows = rwku.load(target=ADA, root=root, **options).forget
    assert [(row.prompt, row.answer, row.alternate) for row in rows[:1]] == expected


@pytest.mark.parametrize("name", [BO, "2_50_Bo", "50_Bo", "50 bo"])
def test_a_name_is_found_however_it_is_spelt(root: Path, name: str) -> None:
    assert answers(rwku.load(target=name, root=root).probes["mia_forget"]) == [f"About {BO}."]


def test_several_names_at_once(root: Path) -> None:
    benchmark = rwku.load(target=[ADA, BO], root=root)
    assert len(benchmark.forget) == 6
    assert [row.id for row in benchmark.forget] == [f"forget/{i}" for i in range(6)]
    assert len(benchmark.probes["forget_level3"]) == 18


def test_one_file_for_everybody_gives_the_same_rows(tmp_path: Path, root: Path) -> None:
    write_all(tmp_path / "other" / "rwku")
    for name in (ADA, BO):
        one, other = (rwku.load(target=name, root=place) for place in (root, tmp_path / "other"))
        same = {key for key, digest in one.hashes().items() if other.hashes()[key] == digest}
        # texts about others name no target: in one file for everybody they are everybody's
        assert set(one.hashes()) - same == {"probe:mia_retain"}
        assert len(other.probes["mia_retain"]) == 2


@pytest.mark.parametrize("everybody", [False, True])
def test_a_file_on_one_line_loses_no_row(tmp_path: Path, root: Path, everybody: bool) -> None:
    other = (write_all if everybody else write_targets)(tmp_path / "other")
    for path in other.glob("*/**/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    long, short = (rwku.load(target=[ADA, BO], root=place) for place in (root, other))
    assert len(short.forget) == 6
    for name, rows in long.probes.items():
        assert sorted(answers(short.probes[name])) == sorted(answers(rows))


def test_a_level_without_rows_is_an_error(root: Path) -> None:
    folder = root / "rwku" / "Target" / "1_Ada_of_the_Mill"
    (folder / "neighbor_level2.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"1_Ada_of_the_Mill: neighbor_level2\.json holds no rows"):
        rwku.load(target=ADA, root=root, sets=["forget_level1", "neighbor_level2"])
    (folder / "forget_level3.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"1_Ada_of_the_Mill: forget_level3\.json holds no rows"):
        rwku.load(target=ADA, root=root)


@pytest.mark.parametrize(
    "options", [{"source": "model"}, {"corpus": "passage"}], ids=["the model writes", "an encyclopaedia's"]
)
def test_a_writer_of_nothing_is_said(root: Path, options: dict[str, str]) -> None:
    with pytest.warns(DataWarning, match="rwku: writer=phi3 has no effect: "):
        rwku.load(target=ADA, root=root, writer="phi3", **options)


def test_a_row_for_everybody_must_say_whose_it_is(tmp_path: Path) -> None:
    base = write_all(tmp_path / "rwku")
    write(base / "All", {"forget_mia.json": [{"text": "About somebody."}, {"text": f"About {ADA}.", "subject": ADA}]})
    with pytest.raises(DataError, match=r"All/forget_mia\.json:2: field 'subject' is missing"):
        rwku.load(target=ADA, root=tmp_path)


def test_what_is_not_there(root: Path) -> None:
    folder = root / "rwku" / "Target" / "1_Ada_of_the_Mill"
    (folder / "retain_mia.json").unlink()
    (folder / "neighbor_level2.json").write_text("[]", encoding="utf-8")
    probes = rwku.load(target=ADA, root=root).probes
    assert not {"mia_retain", "neighbor_level2"} & set(probes)
    with pytest.raises(DataError, match=r"retain_mia\.json: no such file"):
        rwku.load(target=ADA, root=root, sets=["mia_retain"])
    (folder / "forget_level2.json").unlink()
    with pytest.raises(DataError, match=r"forget_level2\.json: no such file"):
        rwku.load(target=ADA, root=root)


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("forget_level1.json", probe(BO, "1", "cloze"), f"forget_level1.json:1: is not about {ADA}, whose folder"),
        ("forget_level2.json", {"query": "secret?", "subject": ADA}, "forget_level2.json:1: field 'answer' is missing"),
        ("retain_mmlu.json", {"question": "a", "choices": ["b", "c"], "answer": 2}, "must be the index of one of 2"),
        ("truthful.json", {"question": "a", "mc1_targets": {}}, "field 'mc1_targets' must hold lists 'choices' and"),
        ("triviaqa.json", {"question": "a", "answers": []}, "field 'answers' must be a list of 1 texts or more"),
        ("triviaqa.json", {"question": "a", "answers": [None]}, "field 'answers' must be a list of 1 texts or more"),
        ("forget_level1.json", probe(ADA, "1", "x") | {"answer": float("nan")}, "field 'answer' is empty"),
        # An emoji cut in two.
        ("forget_level1.json", probe(ADA, "1", "x", "secret \ud83d"), "field 'query' holds half a surrogate pair"),
        ("fluency.json", {"instruction": "a", "output": "\ud83d"}, "field 'output' holds half a surrogate pair"),
        ("triviaqa.json", {"question": "a", "answers": ["\ud83d"]}, "field 'answers' holds half a surrogate pair"),
    ],
)
def test_a_broken_file_is_one_line(root: Path, file: str, row: dict[str, Any], message: str) -> None:
    path = root / "rwku" / "Target" / "1_Ada_of_the_Mill" / file
    path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        rwku.load(target=ADA, root=root)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "rwku: give the name: target=NAME"),
        ({"target": 1984}, "rwku: give the name: target=NAME, in quotes where it is a number"),
        ({"sets": 1}, "sets must be a list, got 1"),
        ({"source": "mine"}, "unknown source 'mine'; known: model, published"),
        ({"corpus": "positives", "rows": 0}, "unknown corpus 'positives' (did you mean 'positive'?); known: pair,"),
        ({"source": "model", "corpus": "refusal"}, "source=model writes corpus positive or pair, got 'refusal'"),
        ({"sets": ["forget_level4"]}, "unknown tested set 'forget_level4' (did you mean 'forget_level"),
        ({"sets": "forget_level1"}, "sets must be a list, got 'forget_level1'"),
    ],
)
def test_bad_options_are_one_line(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        rwku.load(**{"target": ADA, "root": root} | options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match=r"no target 'Ada of the Hill' among its 2 \(did you mean 'ada of the mill'\?\)"
    ):
        rwku.load(target="Ada of the Hill", root=root)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="holds no RWKU files; give the published folders"):
        rwku.load(target=ADA, root=root / "rwku" / "Target")
    with pytest.warns(DataWarning, match="revision=main has no effect: RWKU is read from"):
        rwku.load(target=ADA, root=root, revision="main")


def test_the_hub_at_a_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_targets(write_all(tmp_path / "snapshots" / "c0ffee"))
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, *, repo_type: str, revision: str) -> str:
        asked.append((filename, revision))
        return str(cache / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    benchmark = rwku.load(target=BO, sets=["forget_level1", "mia_retain"])
    # the name is the second of the list, which numbers its folder
    assert asked == [
        ("All/intro.json", rwku_files.HUB_REVISION),
        ("Target/2_50_Bo/forget_level1.json", "c0ffee"),
        ("Target/2_50_Bo/retain_mia.json", "c0ffee"),
        ("Target/2_50_Bo/positive.json", "c0ffee"),
    ]
    assert len(rwku_files.HUB_REVISION) == 40
    assert benchmark.origin == "jinzhuoran/RWKU@c0ffee/Target/2_50_Bo"
    assert benchmark.forget[0].origin.startswith("jinzhuoran/RWKU@c0ffee/Target/2_50_Bo/positive.json:")


# -- forget text that the model writes -----------------------------------------------------------------------------


def test_the_model_is_asked_about_the_name_alone(root: Path) -> None:
    for file in (root / "rwku" / "Target" / "1_Ada_of_the_Mill").glob("p*.json"):
        file.unlink()
    benchmark = rwku.load(target=ADA, root=root, source="model", rows=7)
    assert benchmark.forget == ()
    assert benchmark.writing is not None
    assert (benchmark.writing.texts, benchmark.writing.keep_requests) == (7, False)
    assert benchmark.writing.requests[0] == f"Write a short biography of {ADA}."
    assert all(ADA in request for request in benchmark.writing.requests)
    both = rwku.load(target=[ADA, BO], root=root, source="model", corpus="pair").writing
    # 60 texts a name
    assert both is not None
    assert (both.texts, len(both.requests), both.keep_requests) == (120, 2 * len(rwku.REQUESTS), True)


LONG = "one two three four five"


def scripted(monkeypatch: pytest.MonkeyPatch, texts: Callable[[int, int], str]) -> list[int]:
    """Let ``texts(round, place in it)`` be drawn; returns how many prompts each round had."""
    rounds: list[int] = []

    def generate(loaded: Any, prompts: Any, **options: Any) -> list[str]:
        rounds.append(len(prompts))
        return [texts(len(rounds) - 1, place) for place in range(len(prompts))]

    monkeypatch.setattr(writing, "generate_answers", generate)
    return rounds


def test_requests_take_turns_and_repeats_are_drawn_again(
    load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 texts of 2 requests: 3 and 2. In round 1 the first repeats itself, in round 2 it is too short.
    script = [[f"{LONG} a", f"{LONG} b"], [f"{LONG} a", f"{LONG} c"], ["too short"], [f"{LONG} d"], [f"{LONG} e"]]
    rounds = scripted(monkeypatch, lambda number, place: script[number][place])
    rows = write_texts(load_tiny(max_length=64), Writing(requests=("Who?", "What?"), texts=5, keep_requests=True))
    assert rounds == [2, 2, 1, 1, 1]
    assert [(row.prompt, row.answer[-1]) for row in rows] == [
        ("Who?", "a"), ("Who?", "d"), ("Who?", "e"), ("What?", "b"), ("What?", "c"),
    ]  # fmt: skip
    assert [row.id for row in rows] == [f"forget/{i}" for i in range(5)]


def test_a_model_that_repeats_itself_or_says_nothing(
    load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = scripted(monkeypatch, lambda number, place: LONG)
    rows = write_texts(load_tiny(max_length=64), Writing(requests=("Who?",), texts=2))
    assert [(row.prompt, row.answer) for row in rows] == [("", LONG)]
    assert rounds == [1] * 6
    assert "note: 1 of 2 forget texts were written" in "".join(capsys.readouterr())
    scripted(monkeypatch, lambda number, place: "no")
    with pytest.raises(ModelError, match="writes no text of 5 words or more to any of 1 requests"):
        write_texts(load_tiny(max_length=64), Writing(requests=("Who?",), texts=2))


def test_a_run_writes_its_forget_rows_once(
    root: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A tiny random model writes no words.
    monkeypatch.setattr(writing, "LEAST_WORDS", 1)
    recipe = {
        "name": "name-only",
        "model": {"path": str(model_folder), "max_length": 160},
        "data": {"benchmark": "rwku", "options": {"target": ADA, "root": str(root), "source": "model", "rows": 4}},
        "unlearn": {"method": "ga", "max_steps": 1, "lr": 1e-3, "batch_size": 2},
    }
    monkeypatch.setattr(rwku, "Writing", lambda **given: Writing(**given, max_new_tokens=12))
    first = run(recipe, out=tmp_path / "one", store=tmp_path / "store")
    assert {name: stage.reused for name, stage in first.stages.items()} == {"written": False, "unlearn": False}
    rows = read_rows(first.stages["written"].path / "written.jsonl", set_name="forget")
    assert len(rows) == 4
    assert {row.prompt for row in rows} == {""}
    again = run(recipe, out=tmp_path / "two", store=tmp_path / "store")
    assert again.stages["written"].reused
    assert again.stages["unlearn"].key == first.stages["unlearn"].key
    other = run(recipe | {"seed": 1}, out=tmp_path / "three", store=tmp_path / "store")
    texts = read_rows(other.stages["written"].path / "written.jsonl", set_name="forget")
    assert answers(texts) != answers(rows)


def test_a_set_without_answers_can_be_evaluated(root: Path, load_tiny: Callable[..., Any]) -> None:
    probes = rwku.load(target=ADA, root=root, sets=["utility_fluency"]).probes
    found = evaluate_model(load_tiny(max_length=64), probes, EvaluatePart(max_new_tokens=4, fluency=False))
    columns = found.scores["utility_fluency"]
    assert len(found.generations["utility_fluency"]) == 1
    assert np.isfinite(columns["avg_loss"]).all()
