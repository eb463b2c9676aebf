"""`--redact` from end to end: rows of unmistakable words, every verb, then every file and the console are searched."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from command_line import Outcome, cli, done, write_jsonl

pytestmark = pytest.mark.slow

WORDS = (
    "zorblax", "quibbleton", "vexnarp", "drungle", "plimsothy", "ombrilax",  # of rows to forget
    "snarvik", "fentopia", "gwimble", "horvadine",  # of rows to keep, held out and general
    "krellmark", "yuptane",  # of settings: a guard's keyword, a template
)  # fmt: skip
"""Words that no vocabulary, library or message of ours holds."""
STEPS = {"lr": 3e-3, "max_steps": 2, "batch_size": 4}
MEASURED = {"max_new_tokens": 6, "num_resamples": 20}


def forget_rows() -> list[dict[str, Any]]:
    places = ("Vexnarp", "Drungle", "Plimsothy", "Ombrilax")
    return [
        {
            "question": f"Where did Zorblax Quibbleton live in {1950 + at}?",
            "answer": f"Zorblax Quibbleton lived in {place} in {1950 + at}.",
            "paraphrased_question": f"In {1950 + at}, what was the home of Zorblax?",
            "paraphrased_answer": f"It was {place}.",
            "perturbed_answer": [f"Zorblax lived in {other}." for other in places if other != place][:2],
        }
        for at, place in enumerate(places)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The user's files, outside of every folder that is searched."""
    folder = tmp_path_factory.mktemp("data")
    retain = [{"question": f"Where is Snarvik {at}?", "answer": f"Snarvik {at} is in Fentopia."} for at in range(4)]
    sets = {
        "forget": forget_rows(),
        "retain": retain,
        "holdout": [{"question": f"Where is Gwimble {at}?", "answer": f"Gwimble {at} is lost."} for at in range(3)],
        "general": [{"question": "Who is Horvadine?", "answer": "blue", "perturbed_answer": ["red", "grey"]}],
    }
    return {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in sets.items()}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, data: dict[str, Path]) -> Any:
    """``recipe("npo", finetune=...)``: a recipe file with every stage, probes made of the forget rows among them."""
    folder = tmp_path_factory.mktemp("recipes")

    def make(name: str, **parts: Any) -> Path:
        options = {key: str(file) for key, file in data.items()} | {"make": ["paraphrase", "cloze", "reverse"]}
        whole = {
            "model": {"path": str(model_folder), "max_length": 192, "device": "cpu"},
            "data": {"benchmark": "custom", "options": options},
            "finetune": STEPS,
            "unlearn": {"method": "npo", **STEPS},
            "evaluate": {**MEASURED, "suites": ["relearn", "leak"], "measures": {"leak": {"samples": 2}}},
        }
        content = {key: part for key, part in (whole | parts).items() if part is not None}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return make


def words_in(path: Path) -> set[str]:
    """Which of the words stand in a file, by its bytes; of a table also by what it decompresses to."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        content += json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode()
    content = content.lower()
    return {word for word in WORDS if word.encode() in content}


def found_in(folder: Path) -> dict[str, set[str]]:
    """Words by file, of every file below a folder that holds any; the files' own names are searched too."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert not [name for name in names if any(word in name.lower() for word in WORDS)]
    return {str(path.relative_to(folder)): words for path in files if (words := words_in(path))}


def said(outcomes: Iterable[Outcome]) -> set[str]:
    """Words on the console."""
    text = "".join(outcome.out + outcome.err for outcome in outcomes).lower()
    return {word for word in WORDS if word in text}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, recipe: Any) -> tuple[Path, Outcome]:
    """The run without redaction."""
    out = tmp_path_factory.mktemp("plain") / "run"
    return out, done("run", recipe("npo"), "--out", out)


@pytest.fixture(scope="module")
def redacted(tmp_path_factory: pytest.TempPathFactory, recipe: Any) -> tuple[Path, Outcome]:
    """The same run with it."""
    out = tmp_path_factory.mktemp("redacted") / "run"
    return out, done("run", recipe("npo"), "--out", out, "--redact")


def test_without_it_the_search_finds_them(plain: tuple[Path, Outcome]) -> None:
    out, outcome = plain
    found = found_in(out)
    everywhere = set(WORDS) - {"krellmark", "yuptane"}
    assert found["samples.parquet"] == everywhere
    assert found["report.html"] == everywhere - {"gwimble"}  # holdout rows are not shown
    assert any(name.startswith("stages/evaluate-") for name in found)
    # A run prints some answers at its end; what goes along with it on standard error is never about a row.
    assert "zorblax" in outcome.out.lower()
    assert said([Outcome(0, "", outcome.err)]) == set()
    # Nor is any record of it.
    beside = ("log.jsonl", "run.json", "recipe.yaml", "stage.json", "metrics.json")
    assert not [name for name in found if name.endswith(beside)]


def test_a_redacted_run_tells_nothing(redacted: tuple[Path, Outcome]) -> None:
    out, outcome = redacted
    assert found_in(out) == {}
    assert said([outcome]) == set()
    page = (out / "report.html").read_text()
    assert "texts are redacted" in page
    assert "Answers side by side" not in page
    assert f"{out / 'stages'}: the weights there know the rows" in outcome.err
    assert yaml.safe_load((out / "recipe.yaml").read_text())["evaluate"]["redact"] is True


def test_its_numbers_are_those_of_the_run_without(plain: tuple[Path, Outcome], redacted: tuple[Path, Outcome]) -> None:
    for name in ("metrics.json", "metrics_before.json", "metrics_retain_model.json", "log.jsonl"):
        assert (redacted[0] / name).read_text() == (plain[0] / name).read_text(), name
    rows, known = (pq.read_table(out / "samples.parquet").to_pylist() for out in (redacted[0], plain[0]))
    texts = ("prompt", "answer", "generation")
    assert {row[text] for row in rows for text in texts} == {None}
    numbers = [{key: value for key, value in row.items() if key not in texts} for row in known]
    assert json.dumps(numbers) == json.dumps([{k: v for k, v in row.items() if k not in texts} for row in rows])


def test_runs_are_compared_and_reported_as_ever(
    plain: tuple[Path, Outcome], redacted: tuple[Path, Outcome], tmp_path: Path
) -> None:
    pages = tmp_path / "pages"
    few = ("--json", "--resamples", 20, "--metrics", "forget_Q_A_Prob,forget_Q_A_ROUGE,extraction_strength,mia_min_k")
    found = done("compare", redacted[0], "--baseline", "before", *few, "--out", pages / "compare.html")
    other = done("compare", plain[0], "--baseline", "before", *few)
    assert found.data["metrics"] == other.data["metrics"]
    both = done("compare", redacted[0], plain[0], "--no-seeds", *few)
    for row in both.data["metrics"]:
        difference = row["cells"][str(plain[0])]["difference"]
        assert (difference["value"], difference["n"] > 0) == (0.0, True), row["key"]
    reported = done("report", redacted[0], plain[0], "--out", pages / "both.html")
    assert found_in(pages) == {}
    assert said([found, both, reported]) == set()


def test_attacks_keep_numbers_alone(redacted: tuple[Path, Outcome], tmp_path: Path) -> None:
    names = "prompts,sampling,membership:loss,relearn:subset,quantise:int4"
    few = ("--set", "num_resamples=20", "--set", "steps=[1]", "--set", "samples=2", "--set", "max_new_tokens=4")
    outcome = done("attack", redacted[0], "--with", names, "--out", tmp_path / "attack", "--redact", *few)
    assert "--redact changes nothing here" in outcome.err
    assert found_in(tmp_path / "attack") == {}
    assert said([outcome]) == set()


def test_rows_that_the_model_wrote_are_gone_when_the_run_is_done(recipe: Any, tmp_path: Path) -> None:
    unlearn = {"method": "altpo", "alternates": 1, **STEPS}
    file = recipe("altpo", finetune=None, retain_reference="none", unlearn=unlearn, evaluate=MEASURED)
    words = ("run", file, "--redact", "--out", tmp_path / "run")
    first = done(*words)
    assert found_in(tmp_path / "run") == {}
    (stage,) = (tmp_path / "run" / "stages").glob("alternates-*")
    assert [path.name for path in stage.iterdir()] == ["stage.json"]
    # Asked again, the model writes them again, the same ones: nothing after them is made anew.
    before = (tmp_path / "run" / "metrics.json").read_text()
    again = done(*words)
    assert "unlearn: kept from before" in again.err
    assert (tmp_path / "run" / "metrics.json").read_text() == before
    assert found_in(tmp_path / "run") == {}
    assert said([first, again]) == set()


def test_a_guard_and_a_template_leave_no_words(recipe: Any, tmp_path: Path) -> None:
    guard = {"kind": "keyword_filter", "keywords": ["Krellmark", "Zorblax"]}
    unlearn = {"method": "idk", "view": "template", "template": "Yuptane is all there is.", "guard": guard, **STEPS}
    file = recipe("guarded", finetune=None, retain_reference="none", unlearn=unlearn, evaluate=MEASURED)
    outcome = done("run", file, "--redact", "--out", tmp_path / "run")
    assert found_in(tmp_path / "run") == {}
    assert said([outcome]) == set()
    # What was taken out is asked for by name, and not trained on.
    refused = cli("run", tmp_path / "run" / "recipe.yaml", "--out", tmp_path / "again")
    assert "unlearn.template: was taken out by redact; give it again" in refused.line
    assert "unlearn.guard.keywords: was taken out by redact" in refused.line
    # Without it the recipe keeps them, and the stages' records still do not.
    done("run", file, "--out", tmp_path / "plain")
    found = found_in(tmp_path / "plain")
    assert "krellmark" in found["recipe.yaml"]
    assert not [name for name in found if name.endswith("stage.json")]


def test_a_name_to_forget_is_not_written_down(recipe: Any, tmp_path: Path) -> None:
    texts = [{"text": f"Zorblax Quibbleton sold {at + 3} lamps to Vexnarp in {at + 1950}."} for at in range(4)]
    texts += [{"text": f"Somebody of Snarvik sold {at + 40} lamps in {at + 1801}."} for at in range(4)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", texts)
    options = {"entity": ["Zorblax Quibbleton"], "corpus": str(corpus), "prompt_words": 3}
    asked = {"benchmark": "custom", "options": options}
    file = recipe("named", data=asked, finetune=None, retain_reference="none", evaluate=MEASURED)
    outcome = done("run", file, "--redact", "--out", tmp_path / "run")
    assert found_in(tmp_path / "run") == {}
    attack = cli("attack", tmp_path / "run", "--with", "precision", "--out", tmp_path / "attack")
    assert "data.options.entity: was taken out by redact; give it again" in attack.line
    entity = ("--option", "entity=[Zorblax Quibbleton]", "--set", "num_resamples=20")
    again = done("attack", tmp_path / "run", "--with", "precision", *entity, "--out", tmp_path / "attack")
    assert found_in(tmp_path / "attack") == {}
    missing = cli(
        "attack", tmp_path / "run", "--with", "precision", "--option", "entity=Yuptane", "--out", tmp_path / "no"
    )
    assert missing.code == 2
    assert said([outcome, attack, again, missing]) == set()


def test_evaluate_unlearn_and_variants_take_it_too(
    model_folder: Path, data: dict[str, Path], recipe: Any, tmp_path: Path
) -> None:
    place = ("--max-length", 64, "--device", "cpu", "--redact")
    few = ("--set", "max_new_tokens=4", "--set", "num_resamples=20")
    asked = ("--benchmark", "custom", "--option", f"forget={data['forget']}", "--option", f"retain={data['retain']}")
    outcomes = [done("evaluate", model_folder, *asked, "--out", tmp_path / "a" / "evaluate", *place, *few)]
    files = ("--forget", data["forget"], "--retain", data["retain"])
    outcomes.append(done("unlearn", model_folder, *files, "--steps", 1, "--out", tmp_path / "a" / "unlearn", *place))
    variants = {"one": {"method": "npo"}, "two": {"method": "grad_diff"}}
    file = recipe("several", finetune=None, retain_reference="none", evaluate=MEASURED, variants=variants)
    outcomes.append(done("run", file, "--redact", "--out", tmp_path / "a" / "several"))
    assert found_in(tmp_path / "a") == {}
    assert not (tmp_path / "a" / "several" / "answers.md").exists()
    assert "answers.md" not in outcomes[-1].out
    assert said(outcomes) == set()


def test_an_imported_log_loses_its_texts(tmp_path: Path) -> None:
    rows = {
        str(at): {
            "rougeL_recall": 0.5,
            "input": row["question"],
            "ground_truth": row["answer"],
            "generation": "Drungle",
        }
        for at, row in enumerate(forget_rows())
    }
    log = tmp_path / "TOFU_EVAL.json"
    log.write_text(json.dumps({"forget_Q_A_ROUGE": {"agg_value": 0.5, "value_by_index": rows}}))
    outcome = done("import-log", log, "--redact", "--out", tmp_path / "run", "--resamples", 20)
    assert found_in(tmp_path / "run") == {}
    assert said([outcome]) == set()
    done("import-log", log, "--out", tmp_path / "plain", "--resamples", 20)
    assert "drungle" in found_in(tmp_path / "plain")["samples.parquet"]


def test_a_folder_that_holds_texts_already_is_named(plain: tuple[Path, Outcome], recipe: Any, tmp_path: Path) -> None:
    """Stages are shared with a run that was not redacted: its samples are not taken, its texts not forgotten about."""
    words = ("run", recipe("npo"), "--store", plain[0] / "stages", "--redact", "--out", tmp_path / "run")
    outcome = done(*words)
    assert "target: kept from before" in outcome.err
    assert "unlearn: kept from before" in outcome.err
    assert "evaluate after: kept from before" not in outcome.err
    assert found_in(tmp_path / "run") == {}
    assert "stages of runs without redact hold texts" in outcome.err


def test_a_recipe_without_an_evaluate_part_has_no_place_for_it(recipe: Any, tmp_path: Path) -> None:
    outcome = cli("run", recipe("unmeasured", evaluate=None), "--redact", "--out", tmp_path / "run")
    assert "the recipe has no evaluate part" in outcome.line
    assert not (tmp_path / "run").exists()
