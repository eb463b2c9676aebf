"""Redaction piece by piece: which texts, what is recorded, which rows are the same, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from expunge.benchmarks.base import Benchmark, Writing
from expunge.data.rows import Row
from expunge.errors import DataError, RecipeError, UserError
from expunge.evaluation.evaluate import Evaluation
from expunge.evaluation.paired import row_differences, same_rows
from expunge.evaluation.samples import read_scores, read_texts, redacted_sets, set_digest, write_samples
from expunge.evaluation.suites.base import Probe
from expunge.evaluation.suites.llmu import similarity_to_original
from expunge.pipeline import harnessing
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.columns import CompareSettings, make_columns
from expunge.pipeline.evidence import measuring
from expunge.pipeline.finished import Finished, read_row_values
from expunge.pipeline.redacting import (
    REDACTED,
    refuse_caches_inside,
    say_what_to_share,
    shown_data,
    shown_recipe,
    take_texts_out,
    telling_texts,
    without,
)
from expunge.pipeline.stages import StageStore, stage_key
from expunge.recipe import EvaluatePart, Recipe, parse_recipe
from expunge.reporting.content import AnswerPair, Report

ROWS = tuple(Row(id=f"forget/{i}", prompt=f"Where is Zorblax {i}?", answer=f"In  Vexnarp {i}.") for i in range(3))


def recipe(**parts: Any) -> Recipe:
    named = {"benchmark": "custom", "options": {"entity": ["Zorblax", "Vex Narp"], "corpus": "texts", "seed": 3}}
    return parse_recipe({"data": named, "evaluate": {"redact": True}, **parts})


# -- which texts -------------------------------------------------------------------------------------------------------


def test_texts_are_those_that_name_what_is_forgotten() -> None:
    unlearn = {
        "method": "keyword_filter",
        "template": "Zorblax is a bird.",
        "guard": {"kind": "keyword_filter", "keywords": ["zorb"], "text": "No."},
    }
    evaluate = {
        "redact": True,
        "harness": {"tasks": ["arc_easy"], "system_instruction": "Zorblax!"},
        "measures": {"choice": {"description": "About Vexnarp."}},
    }
    found = telling_texts(recipe(unlearn=unlearn, evaluate=evaluate))
    told = {"Zorblax", "Vex Narp", "Zorblax is a bird.", "zorb", "Zorblax!", "About Vexnarp."}
    assert found == told
    benchmark = Benchmark(
        name="b", forget=(), pool=("p",), refusals=("r",), writing=Writing(requests=("Write of Zorblax.",), texts=1)
    )
    assert telling_texts(recipe(), benchmark) == {"Zorblax", "Vex Narp", "p", "r", "Write of Zorblax."}


def test_texts_of_variants_and_merges_count_too() -> None:
    variants = {"a": {"method": "npo", "template": "T1"}, "b": {"merge": {"parts": [{"template": "T2"}]}}}
    assert telling_texts(recipe(unlearn={}, variants=variants)) == {"Zorblax", "Vex Narp", "T1", "T2"}


def test_a_plugins_options_are_texts_unless_they_are_files(tmp_path: Path) -> None:
    from expunge.benchmarks.table import BENCHMARKS

    def load(*, person: str, rows: str, number: int) -> Benchmark:
        raise NotImplementedError

    BENCHMARKS.register("theirs", load)  # type: ignore[arg-type]
    try:
        data = {"benchmark": "theirs:x", "options": {"person": "Zorblax", "rows": str(tmp_path), "number": 3}}
        assert telling_texts(recipe(data=data)) == {"Zorblax"}
    finally:
        BENCHMARKS.unregister("theirs")


def test_whole_texts_are_replaced_at_any_depth() -> None:
    content = {"a": "Zorblax", "b": [{"c": "Zorblax"}, ("Zorblax", 1)], "d": "Zorblax lives", "e": None}
    clean = {"a": REDACTED, "b": [{"c": REDACTED}, [REDACTED, 1]], "d": "Zorblax lives", "e": None}
    assert without(content, {"Zorblax"}) == clean


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_shown_recipe_keeps_all_but_the_texts() -> None:
    shown = shown_recipe(recipe(name="mine"))
    assert shown["data"]["options"] == {"entity": [REDACTED, REDACTED], "corpus": "texts", "seed": 3}
    assert shown["evaluate"]["redact"] is True
    plain = recipe(evaluate={})
    assert shown_recipe(plain) == plain.as_dict()


def test_a_place_that_may_bear_the_name_is_not_shown() -> None:
    benchmark = Benchmark(name="rwku", forget=ROWS, origin="Target/1_Zorblax")
    named = recipe(data={"benchmark": "rwku", "options": {"target": "Zorblax"}})
    assert shown_data(named, benchmark)["origin"] == REDACTED
    assert shown_data(recipe(data={"benchmark": "tofu"}), benchmark)["origin"] == "Target/1_Zorblax"
    assert shown_data(named, benchmark)["forget"] == benchmark.hashes()["forget"]


def test_off_it_leaves_no_trace() -> None:
    """Stages that were kept before there was such a setting are found again."""
    assert "redact" not in recipe(evaluate={}).as_dict()["evaluate"]
    benchmark = Benchmark(name="b", forget=ROWS, probes={"forget": ROWS})
    _, off = measuring(EvaluatePart(), benchmark, seed=0)
    _, on = measuring(EvaluatePart(redact=True), benchmark, seed=0)
    assert "redact" not in off
    assert on == {**off, "redact": True}
    again = parse_recipe(recipe().as_dict())
    assert again.redact
    assert not parse_recipe({"unlearn": {}}).redact


# -- stages ------------------------------------------------------------------------------------------------------------


def test_what_is_hidden_counts_in_the_key_and_is_not_recorded(tmp_path: Path) -> None:
    parts = {"pool": ["Zorblax", "other"], "steps": 3}
    stage = StageStore(tmp_path).run("unlearn", parts, lambda work, out: {}, hide=("Zorblax",))
    assert stage.key == stage_key("unlearn", parts)
    assert stage.key != stage_key("unlearn", {"pool": [REDACTED, "other"], "steps": 3})
    recorded = json.loads((stage.path / "stage.json").read_text())
    assert recorded["parts"] == {"pool": [REDACTED, "other"], "steps": 3}


def write_written(work: Path, out: Path) -> dict[str, Any]:
    (out / "alternates.jsonl").write_text("Zorblax")
    return {"rows": 1}


def test_texts_are_taken_out_of_finished_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = StageStore(tmp_path)
    stage = store.run("alternates", {"redact": True, "writer": "Zorblax"}, write_written)
    say_what_to_share(Path("run"), tmp_path)
    assert "hold texts" in capsys.readouterr().err
    take_texts_out([stage.path], {"Zorblax"})
    assert "Zorblax" not in (stage.path / "stage.json").read_text()
    assert not (stage.path / "alternates.jsonl").exists()
    # Still a finished stage, and nothing that is not to be shared.
    assert store.run("alternates", {"redact": True, "writer": "Zorblax"}, write_written).reused
    capsys.readouterr()
    say_what_to_share(Path("run"), tmp_path)
    assert capsys.readouterr().err == ""


def test_one_line_says_what_not_to_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StageStore(tmp_path).run("target", {}, lambda work, out: (out / "model").mkdir() or {})  # type: ignore[func-returns-value]
    say_what_to_share(Path("run"), tmp_path)
    weights = f"redacted: run can be shared, but not {tmp_path}: the weights there know the rows"
    assert capsys.readouterr().err.strip() == weights
    StageStore(tmp_path).run("evaluate", {"part": {}}, lambda work, out: {})
    say_what_to_share(Path("run"), tmp_path)
    assert capsys.readouterr().err.strip() == f"{weights} and stages of runs without redact hold texts"


def test_the_harness_keeps_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path | None] = []

    def no_tasks(loaded: Any, tasks: Any, settings: Any, samples: Path | None) -> Any:
        places.append(samples)
        return {}, {"settings": {"system_instruction": settings.system_instruction}}, []

    monkeypatch.setattr(harnessing, "_run", no_tasks)
    given = {"tasks": ["arc_easy"], "system_instruction": "Zorblax!"}
    for redact in (False, True):
        stage = harnessing.harness_stage(
            StageStore(tmp_path), given, "model", SimpleNamespace, label="m", redact=redact, hide={"Zorblax!"}
        )
        assert "Zorblax" not in (stage.path / "stage.json").read_text()
        assert not stage.reused
    assert [place and place.name for place in places] == ["samples", None]


# -- samples -----------------------------------------------------------------------------------------------------------


def samples(path: Path, rows: tuple[Row, ...] = ROWS, *, redact: bool = False) -> Path:
    scores = {"forget": {"prob": np.linspace(0, 1, len(rows))}}
    generations = {"forget": tuple(f"Said {row.answer}" for row in rows)}
    write_samples(path, Evaluation(scores, generations, {"forget": rows}), redact=redact)
    return path


def test_redacted_samples_keep_ids_and_numbers(tmp_path: Path) -> None:
    plain, redacted = samples(tmp_path / "plain.parquet"), samples(tmp_path / "redacted.parquet", redact=True)
    assert b"Vexnarp" in plain.read_bytes()
    assert b"Vexnarp" not in redacted.read_bytes()
    assert pq.read_table(redacted).column_names == pq.read_table(plain).column_names
    np.testing.assert_array_equal(read_scores(redacted)["forget"]["prob"], read_scores(plain)["forget"]["prob"])
    assert [record["id"] for record in read_texts(redacted)["forget"]] == [row.id for row in ROWS]
    texts = [
        record[column] for record in read_texts(redacted)["forget"] for column in ("prompt", "answer", "generation")
    ]
    assert set(texts) == {""}
    assert redacted_sets(plain) is None
    assert redacted_sets(redacted) == {"forget": set_digest((row.id, row.answer) for row in ROWS)}


def test_a_digest_is_over_ids_and_answers_in_order() -> None:
    digest = set_digest([("a", "x y"), ("b", "z")])
    assert digest == set_digest([("a", " x  y "), ("b", "z")])
    others = [[("b", "z"), ("a", "x y")], [("a", "x y"), ("b", "w")], [("a", "x y"), ("c", "z")], [("a", "x y")]]
    assert digest not in [set_digest(other) for other in others]


def test_rows_of_a_redacted_run_are_paired_by_id_where_the_sets_are_the_same(tmp_path: Path) -> None:
    redacted = read_row_values(samples(tmp_path / "redacted.parquet", redact=True))
    plain = read_row_values(samples(tmp_path / "plain.parquet"))
    keys = tuple((row.id, 0) for row in ROWS)
    assert same_rows([redacted, plain]) == same_rows([plain, redacted]) == {"forget": keys}
    assert same_rows([redacted, redacted]) == {"forget": keys}
    assert row_differences(redacted, plain) == []


def test_rows_of_another_set_are_not_paired_with_redacted_ones(tmp_path: Path) -> None:
    """Same ids, as many rows: without the digest, one person's rows would be compared with another's."""
    other = tuple(Row(id=row.id, prompt=row.prompt, answer="In Oslo.") for row in ROWS)
    redacted = read_row_values(samples(tmp_path / "redacted.parquet", redact=True))
    for number, (rows, redact) in enumerate([(other, False), (other, True), (ROWS[:2], False)]):
        values = read_row_values(samples(tmp_path / f"{number}.parquet", rows, redact=redact))
        assert same_rows([redacted, values]) == {}
        assert row_differences(redacted, values) == [f"forget: 0 in common of 3 and {len(rows)}"]
    # Without redaction, what is in common counts as ever.
    few, plain = (read_row_values(samples(tmp_path / f"{len(rows)}.parquet", rows)) for rows in (ROWS[:2], ROWS))
    assert len(same_rows([few, plain])["forget"]) == 2


def test_redacted_answers_cannot_be_likened_to(tmp_path: Path) -> None:
    source = samples(tmp_path / "samples.parquet", redact=True)
    probe = Probe(
        name="forget", rows=ROWS, gold=(), generations=("", "", ""), loaded=None, judges=None, seed=0,
        settings={"original": str(source)},
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(DataError, match="its answers were redacted; measure that model again without --redact"):
        similarity_to_original(probe)


def test_runs_whose_texts_were_taken_out_are_not_taken_for_seeds_of_one(tmp_path: Path) -> None:
    def run(seed: int, entity: str) -> Finished:
        shown = {"seed": seed, "unlearn": {"method": "npo"}, "data": {"options": {"entity": entity}}}
        return Finished(f"run{seed}", tmp_path / str(seed), {}, tmp_path / "none", recipe=shown)

    together = make_columns([run(0, "a"), run(1, "a")], CompareSettings())
    assert [len(column.members) for column in together] == [2]
    apart = make_columns([run(0, REDACTED), run(1, REDACTED)], CompareSettings())
    assert [len(column.members) for column in apart] == [1, 1]


def test_a_message_about_the_page_quotes_no_question() -> None:
    with pytest.raises(UserError, match="report: answers, pair 1: unknown model 'befor'") as caught:
        Report("t", None, ("before",), pairs=(AnswerPair("Where is Zorblax?", "t", {"befor": "x"}),))
    assert "Zorblax" not in str(caught.value)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"unlearn": {"method": "refusal_prompt"}},
            "redact: guard refusal_prompt keeps its text in clear beside the weights; use keyword_filter",
        ),
        (
            {"unlearn": {}, "matrix": {"data.options.entity": ["Zorblax", "Vexnarp"], "seed": [0, 1]}},
            "matrix.data.options.entity: its values name folders, which redact cannot hide",
        ),
        (
            {"unlearn": {"template": REDACTED}, "evaluate": {}},
            "unlearn.template: was taken out by redact; give it again",
        ),
        (
            {"data": {"benchmark": "custom", "options": {"entity": [REDACTED]}}, "evaluate": {}},
            "data.options.entity: was taken out by redact; give it again",
        ),
    ],
)
def test_what_cannot_be_hidden_or_was_taken_out_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(recipe(**parts))
    assert message in str(caught.value)


def test_what_can_be_hidden_passes() -> None:
    check_recipe(recipe(unlearn={"method": "keyword_filter"}))
    check_recipe(recipe(unlearn={}, matrix={"seed": [0, 1]}))
    check_recipe(recipe(unlearn={"method": "refusal_prompt"}, evaluate={}))


def test_replies_are_not_kept_where_they_would_be_shared(tmp_path: Path) -> None:
    def with_cache(place: Path, *, redact: bool = True) -> Recipe:
        judge = {"kind": "endpoint", "url": "http://host/v1", "model": "m", "cache": str(place)}
        return recipe(evaluate={"redact": redact, "judges": {"harm": judge}})

    with pytest.raises(RecipeError, match=r"^evaluate.judges.harm.cache: lies in .*replies repeat the rows"):
        refuse_caches_inside(with_cache(tmp_path / "run" / "replies"), tmp_path / "run")
    refuse_caches_inside(with_cache(tmp_path / "replies"), tmp_path / "run")
    refuse_caches_inside(with_cache(tmp_path / "run" / "replies", redact=False), tmp_path / "run")
