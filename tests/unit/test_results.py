"""The results pages: what is chosen by what, and that runs are made once; on made-up numbers."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import UserError
from expunge.methods.table import METHODS
from expunge.recipe import parse_recipe
from results import audit, benchmark_tables, claims, defaults, methods, running, sequential
from results.__main__ import main
from results.choice import KEPT, LIKELY, TOLD, chosen, probe_score, role_of
from results.pages import marks, put
from results.parts import PARTS, RECIPES
from results.records import BEFORE, RETAIN_MODEL, Record, Records, kept_metrics, recipe_digest, said
from results.running import Place, attack_retrained, carry_out, method_of, missing, runs_of

UNTRAINED = {"nothing", "keyword_filter", "refusal_prompt", "noise"}


def metrics(told: float = 0.5, kept: float = 1.0, **others: float) -> dict[str, list[float | None]]:
    numbers = {TOLD: told, LIKELY: told, KEPT: kept, "extraction_strength": 0.2, "model_utility": 0.6, **others}
    return {key: [value, value - 0.1, value + 0.1] for key, value in numbers.items()}


MODELS = {BEFORE: metrics(1.0), RETAIN_MODEL: metrics(0.4)}


def record(method: str = "npo", **found: Any) -> Record:
    made: dict[str, Any] = {
        "digest": "d", "settings": {"lr": 3e-5}, "metrics": metrics(), "cost": {"steps": 16, "seconds": 30.2},
        "answers": [{"prompt": "Who?", "truth": "Ada.", "answer": "Bob."}], "machine": "a CPU, 2 cores",
    }  # fmt: skip
    return Record(method=method, **{**made, **found})


def place(folder: Path) -> Place:
    return Place(folder, folder / "stages")


# -- choosing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "kept", "score"),
    [(0.4, 0.9, 1.8 / 1.9), (0.7, 0.9, 0.9 / 1.4), (0.1, 0.9, 1.8 / 1.9), (1.0, 1.0, 0.0), (0.4, 0.0, 0.0)],
    ids=["as the retain model", "half of the way", "less is no merit", "nothing done", "nothing left"],
)
def test_the_probe_score(told: float, kept: float, score: float) -> None:
    assert probe_score(metrics(told, kept), MODELS) == pytest.approx(score)


def test_what_is_said_and_what_is_likely_count_alike() -> None:
    assert probe_score({**metrics(0.4), LIKELY: [1.0, None, None]}, MODELS) == pytest.approx(2 * 0.5 / 1.5)
    same = {BEFORE: metrics(0.4), RETAIN_MODEL: metrics(0.4)}
    assert probe_score(metrics(0.9), same) == 1.0, "there was nothing to forget"


def test_the_better_probe_is_chosen_and_the_first_of_equals() -> None:
    runs = {
        "a-1": record("a", metrics=metrics(0.9)),
        "a-2": record("a", metrics=metrics(0.5)),
        "b-1": record("b"),
        "b-2": record("b"),
        "c-1": record("c", failed="diverged", metrics={}),
        "c-2": record("c", metrics=metrics(1.0, 0.0)),
        "d-1": record("d", failed="diverged", metrics={}),
    }
    assert chosen(_rates(runs), MODELS) == {"a": "a-2e-5", "b": "b-1e-5", "c": "c-2e-5", "d": "d-1e-5"}


def _rates(runs: dict[str, Record]) -> dict[str, Record]:
    return {f"{name}e-5": run for name, run in runs.items()}


def test_a_role_is_a_name_without_its_learning_rate() -> None:
    names = ("npo-3e-5", "sure_random-1e-4", "memflex-1.5e-3", "nothing")
    assert [role_of(name) for name in names] == ["npo", "sure_random", "memflex", "nothing"]


def test_what_nobody_beats_in_both() -> None:
    points = {"near": (0.0, 0.5), "useful": (0.3, 0.9), "beaten": (0.3, 0.8), "twin": (0.0, 0.5)}
    assert methods.unbeaten(points) == {"near", "useful", "twin"}


# -- keeping -------------------------------------------------------------------------------------------------------


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    records = Records(tmp_path / "data" / "part.json")
    records.models[BEFORE] = metrics()
    records.runs = {"npo-3e-5": record(), "ga": record("ga", failed="diverged")}
    records.save()
    again = Records(records.path)
    assert (again.models, again.runs) == (records.models, records.runs)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part.json").write_text('{"runs": 1}')
    with pytest.raises(UserError, match="no file of results"):
        Records(tmp_path / "part.json")


def test_what_is_kept_of_the_metrics() -> None:
    cell = {"value": 0.123456, "ci_low": None, "ci_high": 1.0, "n": 3}
    assert kept_metrics({"model_utility": cell, "another": cell}) == {"model_utility": [0.1235, None, 1.0]}


def test_a_record_is_another_recipes_where_anything_but_keeping_differs() -> None:
    def digest(**unlearn: Any) -> str:
        return recipe_digest(parse_recipe({"model": {"path": "x"}, "unlearn": {"method": "npo", **unlearn}}))

    assert digest() == digest(keep_weights=False)
    assert digest() != digest(lr=1e-5)


def test_what_a_recipe_leaves_at_its_default_does_not_count() -> None:
    written = {"model": {"path": "x", "max_length": 64}, "unlearn": {"method": "npo", "lr": 1e-5, "batch_size": 4}}
    assert said(parse_recipe(written)) == {**written, "data": {}}


# -- running -------------------------------------------------------------------------------------------------------


def test_every_method_is_run_and_one_of_each_family_at_two_learning_rates() -> None:
    recipe = RECIPES / "methods.yaml"
    counts = Counter(method_of(run) for run in runs_of(recipe).values())
    assert set(counts) == set(METHODS.names())
    families = re.split(r"^  #.*\n", recipe.read_text(encoding="utf-8").partition("variants:\n")[2], flags=re.MULTILINE)
    for family in filter(None, families):
        members = dict.fromkeys(re.findall(r"method: (\w+)", family))
        trained = [method for method in members if method not in UNTRAINED | {"finetune_retain"}]
        assert sum(counts[method] == 2 for method in trained) == bool(trained), family


def test_runs_are_picked_by_name_or_method() -> None:
    recipe = RECIPES / "methods.yaml"
    assert set(runs_of(recipe, ["npo", "ga-3e-5"])) == {"npo-3e-5", "npo-6e-5", "ga-3e-5"}
    with pytest.raises(UserError, match="did you mean"):
        runs_of(recipe, ["npoo"])


def test_each_run_is_made_once_and_failures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run_recipe(recipe: Any, out: Path, **_: Any) -> Any:
        asked.append(out.name)
        raise running.NonFiniteLossError("the loss became nan at step 2")

    monkeypatch.setattr(running, "run_recipe", run_recipe)
    runs = runs_of(RECIPES / "methods.yaml", ["npo"])
    records = Records(tmp_path / "part.json")
    carry_out(runs, records, place(tmp_path))
    carry_out(runs, Records(records.path), place(tmp_path))
    assert asked == ["npo-3e-5", "npo-6e-5"]
    assert Records(records.path).runs["npo-3e-5"].failed == "the loss became nan at step 2"
    assert missing(runs, Records(records.path)) == {}


@pytest.mark.slow
def test_a_run_leaves_its_numbers_and_three_answers(tmp_path: Path, model_folder: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"""
model: {{path: {model_folder}, max_length: 128}}
data: {{benchmark: almanac, options: {{questions: 2, rephrased: 1, retain_other: true, eval_rows: 4}}}}
finetune: {{lr: 1.0e-3, max_steps: 2, batch_size: 4}}
retain_reference: train
attack: {{attacks: ["quantise:int4"], num_resamples: 20}}
unlearn: {{max_steps: 2, batch_size: 4, keep_weights: false}}
evaluate: {{max_new_tokens: 4, num_resamples: 20}}
variants:
  npo-1e-3: {{method: npo, lr: 1.0e-3}}
"""
    )
    records = Records(tmp_path / "part.json")
    carry_out(runs_of(recipe), records, place(tmp_path / "runs"))
    found = Records(records.path).runs["npo-1e-3"]
    assert {TOLD, KEPT, "extraction_strength"} <= found.metrics.keys()
    assert found.cost["steps"] == 2
    assert {"unlearned", "original", "reference", "rise", "residual"} <= found.attacks["quantise:int4"].keys()
    assert "kept" in found.durability
    assert len(found.answers) == 3
    assert records.models.keys() == {BEFORE, RETAIN_MODEL}
    assert not (tmp_path / "runs" / "npo-1e-3" / "model").exists()
    attack_retrained(next(iter(runs_of(recipe).values())), records, place(tmp_path / "runs"))
    control = Records(records.path).runs["retrained"]
    assert control.attacks["quantise:int4"]["unlearned"] == control.attacks["quantise:int4"]["reference"]


# -- pages ---------------------------------------------------------------------------------------------------------


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = marks("a")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    put(page, "a", "new\n")
    assert page.read_text() == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(UserError, match="must hold the lines"):
        put(page, "b", "new\n")


def test_the_page_shows_what_was_chosen_and_what_was_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAGE", "ANSWERS", "README", "PLOT"):
        place = tmp_path / getattr(methods, name).name
        if name != "PLOT":
            shutil.copyfile(getattr(methods, name), place)
        monkeypatch.setattr(methods, name, place)
    records = Records(tmp_path / "part.json")
    records.models = {BEFORE: metrics(1.0), RETAIN_MODEL: metrics(0.4, forget_perplexity=40)}
    records.runs = {
        "npo-3e-5": record(metrics=metrics(0.9)),
        "npo-6e-5": record(settings={"lr": 6e-5}, metrics=metrics(forget_perplexity=40)),
        "ga-1e-5": record("ga", settings={"lr": 1e-5}, metrics={}, failed="the loss became nan"),
    }
    written = methods.write(records, ["npo-3e-5", "npo-6e-5", "ga-1e-5", "rmu-2e-3"])
    page = methods.PAGE.read_text()
    assert "3 of 4 runs. Seconds and memory on: a CPU, 2 cores." in page
    row = next(line for line in page.splitlines() if line.startswith("| npo | 6e-5 |"))
    assert "0.200" in row
    assert "| 16 | 30 |" in row
    assert "| rmu | not run |" in page
    assert "| ga | the loss became nan |" in page
    assert "| npo | 3e-5 | 0.900 | 0.900 | 1.00 | 0.286 |  |" in page
    assert "| npo | 6e-5 | 0.500 | 0.500 | 1.00 | 0.909 | x |" in page
    assert "1. Bob." in methods.ANSWERS.read_text()
    assert [path.name for path in written][:3] == ["methods.md", "methods_answers.md", "README.md"]
    short = methods.README.read_text()
    assert "| *retain model* | 0.200 |" in short
    assert "| npo | 0.200 |" in short
    assert "So far 3 of 4 runs have been made." in short
    assert "| ga |" not in short


def test_the_short_table_holds_fluent_methods_that_none_beats() -> None:
    goal = metrics(extraction_strength=0.1, forget_perplexity=40)
    found = {
        name: record(metrics=metrics(extraction_strength=strength, model_utility=utility, forget_perplexity=perplexity))
        for name, strength, utility, perplexity in (
            ("useful", 0.7, 0.7, 20), ("near", 0.2, 0.6, 60), ("beaten", 0.3, 0.6, 40), ("gibberish", 0.1, 0.6, 61),
        )
    }  # fmt: skip
    lines = methods._briefly({RETAIN_MODEL: goal}, found).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["*retain model*", "near", "useful"]
    assert methods._briefly({}, found) == "Nothing has been run yet."


# -- claims --------------------------------------------------------------------------------------------------------


def runs_with(**found: dict[str, list[float | None]]) -> dict[str, Record]:
    return {role: record(role, metrics=values) for role, values in found.items()}


@pytest.mark.parametrize(
    ("mine", "other", "goal", "bounds", "said"),
    [
        (0.5, 0.9, "higher", {}, "does not hold: 0.500 against 0.900"),
        (0.9, 0.5, "higher", {}, "holds: 0.900 against 0.500"),
        (0.6, 0.5, "lower", {}, "does not hold: 0.600 against 0.500, intervals overlap"),
        (0.6, 0.5, "lower", {"within": 0.1}, "holds: 0.600 against 0.500, intervals overlap"),
        (0.9, 0.5, "lower", {"factor": 2.0}, "holds: 0.900 against 0.500"),
    ],
)
def test_a_comparison(mine: float, other: float, goal: str, bounds: dict[str, float], said: str) -> None:
    test = claims.Test("utility", "a", goal, "b", **bounds)
    runs = runs_with(a=metrics(model_utility=mine), b=metrics(model_utility=other))
    assert test.judge(runs) == said


def test_what_was_not_run_or_measured_is_no_verdict() -> None:
    runs = runs_with(a=metrics(), b=metrics())
    assert claims.Test("utility", "a", "lower", "c").judge(runs) == "not run"
    assert claims.Test("int4", "a", "lower", "b").judge(runs) == "not measured"


def test_every_claim_reads_roles_and_columns_that_there_are() -> None:
    roles = {role_of(name) for name in runs_of(RECIPES / "claims.yaml")}
    for claim in claims.CLAIMS:
        assert set(claim.roles) <= roles
        assert set(claim.columns) <= claims.COLUMNS.keys()
        for test in claim.tests:
            assert {test.subject, test.other} <= set(claim.roles)
            assert test.column in claim.columns, "a verdict's numbers stand in the table"


def test_the_page_of_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "claims.md"
    shutil.copyfile(claims.PAGE, page)
    monkeypatch.setattr(claims, "PAGE", page)
    records = Records(tmp_path / "part.json")
    records.models = {BEFORE: metrics(1.0), RETAIN_MODEL: metrics(0.4)}
    records.runs = {"flat-2e-5": record(settings={"lr": 2e-5}), "npo_alone-1e-5": record(settings={"lr": 1e-5})}
    claims.write(records, list(runs_of(RECIPES / "claims.yaml")))
    text = page.read_text()
    assert "2 of 26 runs" in text
    assert "| flat | 2e-5 |" in text
    assert "MU of flat higher than npo_alone's: **holds: 0.600 against 0.600, intervals overlap**" in text
    assert "| sure | not run |" in text


# -- audit ---------------------------------------------------------------------------------------------------------


def attacked(durable: float, **residuals: float) -> dict[str, Any]:
    found = {name.replace("_", ":"): {"residual": value, "rise": 0.0} for name, value in residuals.items()}
    durability = {"value": durable, "low": durable - 0.1, "high": durable + 0.1, "worst": "quantise:int4", "kept": 0.9}
    return {"attacks": found, "durability": durability}


def test_the_page_of_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "audit.md"
    shutil.copyfile(audit.PAGE, page)
    monkeypatch.setattr(audit, "PAGE", page)
    monkeypatch.setattr(audit, "PLOT", tmp_path / "audit.svg")
    records = Records(tmp_path / "part.json")
    records.runs = {
        "npo-3e-5": record(settings={"lr": 3e-5}, **attacked(0.7, quantise_int4=0.3, prompts_prefill=0.1)),
        "sure-1e-4": record("sure", failed="the loss became nan", metrics={}),
        "retrained": record("retrained", settings={}, **attacked(1.0, quantise_int4=0.0)),
    }
    audit.write(records, ["npo-3e-5", "sure-1e-4", "rmu-4e-3", "retrained"])
    text = page.read_text()
    assert "| npo | 3e-5 | 0.200 | – | 0.600 | 0.900 | 0.700 [0.600, 0.800] | quantise:int4 |" in text
    assert "| sure | the loss became nan |" in text
    assert "| rmu | not run |" in text
    assert "| method | quantise:int4 | prompts:prefill |" in text
    assert "| retrained | 0 | – |" in text


# -- benchmarks ----------------------------------------------------------------------------------------------------


def test_the_page_of_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "defaults.md"
    page.write_text("".join("\n".join(marks(name)) + "\n" for name in ("state", "with", "beaten", "without")))
    monkeypatch.setattr(defaults, "PAGE", page)
    monkeypatch.setattr(defaults, "DOCS", tmp_path)
    table = Records(tmp_path / "data" / "methods.json")
    table.runs = {
        "npo-3e-5": record(metrics=metrics(extraction_strength=0.3)),
        "idk-3e-5": record(metrics=metrics(extraction_strength=0.1, model_utility=0.7)),
    }
    records = Records(tmp_path / "none.json")
    records.models = {BEFORE: metrics(extraction_strength=1.0), RETAIN_MODEL: metrics(extraction_strength=0.1)}
    table.models = records.models
    table.save()
    attacked = {"quantise:int4": {"unlearned": 0.31}}
    records.runs = {
        "mix_both-3e-5": record("satimp", attacks=attacked),
        "alone_npo-3e-5": record(metrics=metrics(extraction_strength=0.25)),
        "alone_flat-3e-5": record(failed="diverged", metrics={}),
    }
    assert defaults.write(records, [*records.runs, "mix_other-3e-5"]) == [page]
    text = page.read_text(encoding="utf-8")
    assert "3 of 4 runs" in text
    assert "| mix_both | 3e-5 | 0.200 | – | – | 0.600 | – | – | – | – | 0.310 | – | 30 |" in text
    assert "| mix_both | 1 of 2 | idk |" in text
    assert "| alone_npo | 3e-5 | 0.250 |" in text
    assert "| alone_flat | diverged |" in text


def test_who_beats_whom() -> None:
    goal = metrics(extraction_strength=0.1)
    others = {
        "farther": record(metrics=metrics(extraction_strength=0.3)),
        "equal": record(metrics=metrics(extraction_strength=0.2)),
        "below the goal": record(metrics=metrics(extraction_strength=-0.1, model_utility=0.6)),
        "more useful": record(metrics=metrics(extraction_strength=0.3, model_utility=0.61)),
    }
    assert defaults.beaten(metrics(extraction_strength=0.2), others, goal) == ["farther", "below the goal"]


def test_the_sections_of_the_page_of_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "benchmarks.md"
    shutil.copyfile(benchmark_tables.PAGE, page)
    monkeypatch.setattr(benchmark_tables, "PAGE", page)
    records = Records(tmp_path / "part.json")
    records.models = {BEFORE: metrics(forget_test_Q_A_ROUGE=0.9)}
    records.runs = {"npo-4e-5": record(settings={"lr": 4e-5}, metrics=metrics(forget_test_Q_A_ROUGE=0.3))}
    benchmark_tables.page("book")(records, ["npo-4e-5", "flat-2e-5"])
    text = page.read_text()
    assert "ROUGE, forget_test | ES | MU | s |" in text
    assert "| npo | 4e-5 | 0.500 | 1.00 | 0.300 | 0.200 | 0.600 | 30 |" in text
    assert "| flat | not run |" in text


def test_ones_own_texts_come_from_the_books(tmp_path: Path) -> None:
    books = tmp_path / "data" / "books"
    books.mkdir(parents=True)
    with pytest.raises(UserError, match="not there"):
        benchmark_tables.own_texts(Place(tmp_path / "out", tmp_path, str(tmp_path / "data")))
    for name in (benchmark_tables.BOOK, *benchmark_tables.CORPUS):
        (books / name).write_text("The cat sat. " * 1000)
    made = benchmark_tables.own_texts(Place(tmp_path / "out", tmp_path, str(tmp_path / "data")))
    assert made.data_root == str(tmp_path / "out" / "files")
    assert len((tmp_path / "out" / "files" / "forget" / benchmark_tables.BOOK).read_text()) == benchmark_tables.CHARS


def test_every_part_has_its_recipe_and_its_place_on_a_page() -> None:
    for part in PARTS.values():
        assert part.names()
        assert part.minutes > 0


# -- requests in sequence ------------------------------------------------------------------------------------------


def test_what_is_left_of_the_requests_so_far() -> None:
    sets = {name: {"strength": values} for name, values in {
        "request 1": [1.0, 0.2, 0.4], "request 2": [1.0, 0.9, 0.0], "retain": [1.0] * 3, "general": [1.0] * 3,
    }.items()}  # fmt: skip
    found = record(matrix={"times": ["base", "after 1", "after 2"], "sets": sets})
    assert sequential.forgotten(found) == pytest.approx([0.2, 0.2])


@pytest.mark.slow
def test_requests_are_carried_out_by_each_strategy(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "sequential.md"
    shutil.copyfile(sequential.PAGE, page)
    monkeypatch.setattr(sequential, "PAGE", page)
    monkeypatch.setattr(sequential, "PLOT", tmp_path / "sequential.svg")
    recipe = {
        "model": {"path": str(model_folder), "max_length": 128},
        "data": {"benchmark": "almanac", "options": {"questions": 1}},
        "finetune": {"lr": 1e-3, "max_steps": 2, "batch_size": 4},
        "retain_reference": "none",
    }
    monkeypatch.setattr(sequential, "_recipe", lambda: parse_recipe(recipe))
    for name, value in (("SLICES", 2), ("SLICE_ROWS", 5)):
        monkeypatch.setattr(sequential, name, value)
    steps = {"lr": 1e-3, "max_steps": 2, "batch_size": 4}
    ways = {"full": ("chain", {"method": "npo", **steps}), "grun": ("compose", {"method": "grun_gd", **steps})}
    monkeypatch.setattr(sequential, "STRATEGIES", ways)
    part, records = sequential.Sequential(), Records(tmp_path / "part.json")
    part.run(records, place(tmp_path / "runs"), ["full"])
    assert part.missing(Records(records.path)) == ["grun"]
    part.run(records, place(tmp_path / "runs"), [])
    part.write(Records(records.path))
    text = page.read_text()
    assert "2 of 2 runs" in text
    assert "| ES of | base | after 1 | after 2 |" in text
    assert [len(one["strength"]) for one in records.runs["grun"].matrix["sets"].values()] == [3, 3, 3, 3]


# -- the command ---------------------------------------------------------------------------------------------------


def test_without_a_part_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in PARTS)


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metods"]) == 2
    assert "did you mean 'methods'" in capsys.readouterr().err
