"""Answers that the model makes up (AltPO), and ReLearn's rewritten rows, through the whole path on a tiny model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyarrow import parquet

from command_line import COLOURS, FORGET, NAMES, forget_imports, write_data, write_jsonl
from conftest import colour_rows
from expunge.api import run
from expunge.data.augment import leaks, relearn_pairs, relearn_rows
from expunge.data.rows import Row
from expunge.data.sources import read_rows, write_rows
from expunge.errors import DataError, ModelError, RecipeError, UserError
from expunge.evaluation import alternates
from expunge.evaluation.alternates import add_alternates
from expunge.evaluation.generator import Sampling, _Draw, generate_answers
from expunge.methods.table import compose
from expunge.models.load import LoadedModel, load_model
from expunge.pipeline import forget_rows
from expunge.pipeline import run as run_module
from expunge.recipe import UnlearnPart
from expunge.training.job import Job, unlearn_job

pytestmark = pytest.mark.slow

Load = Callable[..., LoadedModel]
ROWS = colour_rows()
STEPS = {"lr": 3e-3, "max_steps": 2, "batch_size": 4, "micro_batch_tokens": 2048}


# -- drawing -------------------------------------------------------------------------------------------------------


def prompts_of(loaded: LoadedModel, rows: Sequence[Row] = ROWS) -> list[list[int]]:
    return [loaded.format.encode_prompt(row) for row in rows]


def drawn(loaded: LoadedModel, prompts: list[list[int]], **options: Any) -> list[str]:
    batch_size = options.pop("batch_size", 64)
    return generate_answers(
        loaded, prompts, max_new_tokens=6, batch_size=batch_size, sampling=Sampling(**options) if options else None
    )


def test_draws_follow_from_seed_and_prompt_alone(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    prompts = prompts_of(loaded)
    first = drawn(loaded, prompts, seed=1)
    torch.manual_seed(99)
    assert drawn(loaded, prompts, seed=1) == first
    # Whatever else is in the batch, padding included.
    assert drawn(loaded, prompts, seed=1, batch_size=1) == first
    assert drawn(loaded, prompts[::-1], seed=1) == first[::-1]
    assert drawn(loaded, prompts, seed=2) != first


def test_drawing_leaves_the_greedy_pass_alone(load_tiny: Load) -> None:
    loaded = load_tiny(max_length=64)
    prompts = prompts_of(loaded)
    greedy = drawn(loaded, prompts)
    state = torch.get_rng_state()
    drawn(loaded, prompts, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn(loaded, prompts) == greedy
    # As cold as can be, the likeliest token is the only one left.
    assert drawn(loaded, prompts, seed=1, temperature=1e-4) == greedy


def test_tokens_are_drawn_in_proportion() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, -torch.inf]]).log_softmax(-1)
    counts: Counter[int] = Counter()
    for seed in range(1500):
        processor = _Draw(Sampling(seed).draws([[5, 6]], 1), temperature=1.0, steps=torch.tensor([0]))
        kept = processor(torch.zeros(1, 2, dtype=torch.long), scores)
        assert int((kept > -torch.inf).sum()) == 1
        counts[int(kept.argmax())] += 1
    assert counts[3] == 0
    for token, share in enumerate(scores.exp()[0, :3].tolist()):
        # Four standard deviations of a binomial share.
        assert counts[token] / 1500 == pytest.approx(share, abs=4 * (share * (1 - share) / 1500) ** 0.5)


# -- made-up answers -----------------------------------------------------------------------------------------------


def test_every_question_gets_its_answers(load_tiny: Load, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_tiny(max_length=64)
    made = add_alternates(loaded, ROWS, count=3, seed=1)
    assert [row.id for row in made] == [f"forget/{i}/alternate/{n}" for i in range(6) for n in range(3)]
    for i, row in enumerate(made):
        gold = ROWS[i // 3]
        assert replace(row, id=gold.id, alternate=None) == gold
        assert row.alternate
        assert row.alternate.strip() == row.alternate
        assert gold.answer not in row.alternate
    assert len({row.alternate for row in made}) > 12
    assert add_alternates(load_tiny(max_length=64), ROWS, count=3, seed=1) == made
    assert add_alternates(loaded, ROWS, count=3, seed=2) != made
    shown = "".join(capsys.readouterr())
    assert not any(word in shown for word in (*NAMES, *COLOURS, *long_alternates(made)))


def long_alternates(rows: Sequence[Row]) -> list[str]:
    """A random model's shortest answers are a letter or two, which stand everywhere."""
    found = [row.alternate for row in rows if row.alternate and len(row.alternate) > 6]
    assert found
    return found


def test_rows_that_bring_an_alternate_are_left_alone(load_tiny: Load) -> None:
    mine = replace(ROWS[2], alternate="Cy likes snow.")
    made = add_alternates(load_tiny(max_length=64), (*ROWS[:2], mine, ROWS[3]), count=2)
    assert made[4] == mine
    assert [row.id for row in made[:4]] == [f"forget/{i}/alternate/{n}" for i in range(2) for n in range(2)]
    assert len(made) == 7
    untouched = tuple(replace(row, alternate="x") for row in ROWS)
    assert add_alternates(load_tiny(), untouched) == untouched


def scripted(monkeypatch: pytest.MonkeyPatch, answer: Callable[[int, Sampling], str]) -> list[Sampling]:
    """Let ``answer(how many rounds came before, how it is drawn)`` be every row's draw; returns the rounds."""
    rounds: list[Sampling] = []

    def generate(loaded: LoadedModel, prompts: Any, *, sampling: Sampling, **options: Any) -> list[str]:
        rounds.append(sampling)
        return [answer(len(rounds) - 1, sampling) for _ in prompts]

    monkeypatch.setattr(alternates, "generate_answers", generate)
    return rounds


def test_the_known_answer_is_drawn_again(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["ada likes RED", "", "Ada likes blue.", "Well, Ada likes red.", "Ada likes blue.", " .", "Ada likes grey."]
    rounds = scripted(monkeypatch, lambda number, _: texts[number])
    made = add_alternates(load_tiny(max_length=64), ROWS[:1], count=2)
    assert [row.alternate for row in made] == ["Ada likes blue.", "Ada likes grey."]
    assert len(rounds) == len(set(rounds)) == 7
    # The first half of the draws is as cold as asked for; then it grows hotter.
    assert [r.temperature for r in rounds[:4]] == [1.0] * 4
    assert 1.0 < rounds[4].temperature < rounds[5].temperature < rounds[6].temperature


def test_too_few_answers_take_turns(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = scripted(monkeypatch, lambda number, _: "Ada likes blue." if number % 2 else "Ada likes grey.")
    made = add_alternates(load_tiny(max_length=64), ROWS[:1], count=3)
    assert [row.alternate for row in made] == ["Ada likes grey.", "Ada likes blue.", "Ada likes grey."]
    assert len(rounds) == 12


def test_a_model_that_knows_nothing_else_is_an_error(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda number, _: "Ada likes red.")
    rows = (replace(ROWS[0], origin="forget.jsonl:1"), replace(ROWS[1], answer="Ada likes red."))
    with pytest.raises(ModelError, match=r"^forget.jsonl:1: .* no answer but the known one \(2 of 2") as caught:
        add_alternates(load_tiny(max_length=64), rows, count=1)
    assert "Ada" not in str(caught.value)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        add_alternates(load_tiny(), ROWS, count=0)


def test_a_model_that_asks_on_is_cut_there(load_tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda number, _: "Ada likes tea. \nQuestion: Who is Bo?")
    (made,) = add_alternates(load_tiny(max_length=64, format="qa"), ROWS[:1], count=1)
    assert made.alternate == "Ada likes tea."


def test_a_model_that_knows_its_answers_by_heart_makes_up_others(memorised_folder: Path) -> None:
    made = add_alternates(load_model(memorised_folder, max_length=64), ROWS, count=2)
    assert len(made) == 12
    assert all(row.answer not in (row.alternate or row.answer) for row in made)


# -- the views -----------------------------------------------------------------------------------------------------


def job_of(rows: tuple[Row, ...] = ROWS, seed: int = 0, **settings: Any) -> Job:
    part = UnlearnPart(**{"batch_size": 4, **settings})
    return unlearn_job("t", compose(part, has_retain=False), part, forget=rows, retain=(), seed=seed)


def test_the_stream_sees_the_rewritten_rows() -> None:
    job = job_of(method="relearn", seed=5)
    assert job.rows["forget"] == relearn_rows(ROWS, seed=5)
    assert all(leaks(row.answer, ROWS[int(row.id.split("/")[1])]) == () for row in job.rows["forget"] if row.prompt)


def test_pairs_are_seen_with_both_answers() -> None:
    job = job_of(method="relearn_dpo")
    assert len(job.rows["forget"]) == 24
    assert job.view.alternate is not None
    for row in job.rows["forget"]:
        assert row.answer.startswith(tuple(NAMES))
        assert job.view.alternate(row, 0, job.context) == row.alternate != row.answer


def test_a_row_without_an_alternate_is_refused_in_one_line() -> None:
    rows = tuple(replace(row, origin=f"f.jsonl:{i}", alternate=None if i else "x") for i, row in enumerate(ROWS))
    with pytest.raises(DataError, match=r"^f.jsonl:1: no alternate answer \(5 of 6 forget rows") as caught:
        job_of(rows, method="altpo")
    assert "Bo" not in str(caught.value)
    assert job_of(colour_rows(alternates=True), method="altpo").rows["forget"] == colour_rows(alternates=True)


def test_alternates_is_checked() -> None:
    with pytest.raises(RecipeError, match="alternates must be at least 1, got 0"):
        UnlearnPart(alternates=0)
    notes = compose(UnlearnPart(method="npo", alternates=3), has_retain=True).notes
    assert notes == ("alternates=3 has no effect: the data view is 'gold'",)
    assert compose(UnlearnPart(method="altpo", alternates=3), has_retain=True).notes == ()


# -- the pipeline --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def recipe(model_folder: Path, files: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    def make(unlearn: dict[str, Any], **data: Path) -> dict[str, Any]:
        options = {name: str(file) for name, file in ({**files, **data}).items()}
        return {
            "name": "tiny",
            "model": {"path": str(model_folder), "max_length": 160},
            "data": {"benchmark": "custom", "options": options},
            "unlearn": {**STEPS, **unlearn},
        }

    return make


def stages(result: Any) -> dict[str, bool]:
    forget_imports()
    return {name: stage.reused for name, stage in result.stages.items()}


def test_altpo_makes_its_alternates_once(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    seen: list[tuple[Row, ...]] = []
    plain = run_module.unlearn_job

    def watch(*args: Any, forget: tuple[Row, ...], **options: Any) -> Job:
        seen.append(forget)
        return plain(*args, forget=forget, **options)

    monkeypatch.setattr(run_module, "unlearn_job", watch)
    altpo = recipe({"method": "altpo", "alternates": 2})
    first = run(altpo, out=tmp_path / "one", store=store)
    assert stages(first) == {"alternates": False, "unlearn": False}
    made = read_rows(first.stages["alternates"].path / "alternates.jsonl", set_name="forget")
    assert [replace(row, origin="") for row in seen[0]] == [replace(row, origin="") for row in made]
    assert [(row.prompt, row.answer) for row in made] == [
        (f["question"], f["answer"]) for f in FORGET for _ in range(2)
    ]
    assert all(row.alternate and row.alternate != row.answer for row in made)
    assert len({row.id for row in made}) == 12
    manifest = json.loads((tmp_path / "one" / "run.json").read_text())
    assert manifest["stages"]["alternates"]["rows"] == 12
    logs = (tmp_path / "one" / "run.json").read_text() + (tmp_path / "one" / "log.jsonl").read_text()
    assert not any(text in logs for text in (*(row.answer for row in made), *long_alternates(made)))

    assert stages(run(altpo, out=tmp_path / "one", store=store)) == {"alternates": True, "unlearn": True}
    # Another learning rate needs no new alternates; these do.
    parts = json.loads((first.stages["alternates"].path / "stage.json").read_text())["parts"]
    assert set(parts) == {"origin", "model", "rows", "count", "seed"}
    assert (parts["count"], parts["seed"]) == (2, 0)
    faster = recipe({"method": "altpo", "alternates": 2, "lr": 1e-3})
    assert stages(run(faster, out=tmp_path / "two", store=store)) == {"alternates": True, "unlearn": False}


def test_an_interrupted_alternates_stage_is_made_again_whole(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altpo = recipe({"method": "altpo", "alternates": 1, "max_steps": 1})

    def pulled(path: Path, rows: Any) -> None:
        Path(path).write_text("half a li")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forget_rows, "write_rows", pulled)
        with pytest.raises(KeyboardInterrupt):
            run(altpo, out=tmp_path / "run", store=tmp_path / "store")
    assert not list((tmp_path / "store").glob("alternates-*"))
    result = run(altpo, out=tmp_path / "run", store=tmp_path / "store")
    assert stages(result) == {"alternates": False, "unlearn": False}
    straight = run(altpo, out=tmp_path / "straight", store=tmp_path / "other")
    assert straight.stages["unlearn"].key == result.stages["unlearn"].key


def test_alternates_in_the_file_are_used_as_they_are(recipe: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**record, "alternate": "Nobody knows."} for record in FORGET]
    brought = recipe({"method": "altpo"}, forget=write_jsonl(tmp_path / "f.jsonl", rows))
    assert stages(run(brought, out=tmp_path / "run")) == {"unlearn": False}


@pytest.mark.parametrize("method", ["altpo", "relearn", "relearn_dpo"])
def test_raw_text_is_refused_before_any_work(
    method: str, recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_model", lambda *args, **options: pytest.fail("no model is needed to see it"))
    book = recipe({"method": method}, forget=write_jsonl(tmp_path / "book.jsonl", [{"text": "The old mill."}]))
    with pytest.raises(DataError, match=r"book.jsonl:1: raw text asks nothing"):
        run(book, out=tmp_path / "run")


def test_a_published_augmented_file_is_learned_as_it_is(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        {"text": "How might one reach Ada?", "labels": "By customary channels."},
        {"text": "By", "labels": "post."},
    ]
    file = tmp_path / "knowundo_privacy.json"
    file.write_text(json.dumps(records, indent=4))
    jobs: list[Job] = []
    plain = run_module.unlearn_job
    monkeypatch.setattr(run_module, "unlearn_job", lambda *a, **o: jobs.append(plain(*a, **o)) or jobs[-1])
    run(recipe({"method": "relearn_klr_gdr", "view": "gold"}, forget=file), out=tmp_path / "run")
    assert [(row.prompt, row.answer) for row in jobs[0].rows["forget"]] == [tuple(r.values()) for r in records]


@pytest.mark.parametrize(("method", "view", "rewrite"), [
    ("relearn", "gold", relearn_rows), ("relearn_dpo", "model", relearn_pairs),
])  # fmt: skip
def test_rows_rewritten_beforehand_train_like_the_view(
    method: str, view: str, rewrite: Callable[..., Sequence[Row]], recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "rewritten.jsonl"
    write_rows(file, rewrite(colour_rows()))
    logs, asked = {}, {}
    for name, settings, data in (
        ("view", {"method": method}, {}),
        ("file", {"method": method, "view": view}, {"forget": file}),
        ("written", {"method": method, "written": str(file)}, {}),
    ):
        measured = recipe(settings, **data) | {"evaluate": {"max_new_tokens": 2, "num_resamples": 20}}
        result = run(measured, out=tmp_path / name)
        logs[name] = (result.folder / "log.jsonl").read_text()
        samples = parquet.read_table(result.folder / "samples.parquet").to_pylist()
        asked[name] = [row["prompt"] for row in samples if row["set"] == "forget"]
    assert logs["view"] == logs["file"] == logs["written"]
    assert asked["written"] == asked["view"] != asked["file"]


def test_written_rows_are_looked_at_before_any_work(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "load_model", lambda *args, **options: pytest.fail("no model is needed to see it"))
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        run(recipe({"method": "relearn", "written": str(tmp_path / "nowhere.jsonl")}), out=tmp_path / "run")
    file = write_jsonl(tmp_path / "bare.jsonl", FORGET)
    with pytest.raises(DataError, match=r"bare.jsonl:1: no alternate answer"):
        run(recipe({"method": "relearn_dpo", "written": str(file)}), out=tmp_path / "run")
