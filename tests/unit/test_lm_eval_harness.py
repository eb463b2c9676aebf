"""Our scorer and lm-evaluation-harness agree, and the harness is told what the user said. Local tasks, no network."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lm_eval", reason="lm-eval is not installed")

from conftest import SENTENCES, make_llama, make_tokenizer, save_model
from expunge.data.rows import Row
from expunge.errors import RecipeError, UserError
from expunge.evaluation import harness
from expunge.evaluation.choice import ChoiceForm, score_choices
from expunge.evaluation.harness import HarnessSettings, run_harness
from expunge.evaluation.harness_results import flat_values, interval
from expunge.evaluation.metrics import MetricValue, compute
from expunge.evaluation.metrics.choice import choice_metrics
from expunge.evaluation.metrics.windows import window_metrics
from expunge.evaluation.windows import rolling_columns
from expunge.models.load import LoadedModel, load_model
from harness_tasks import choice_docs, write_choice_task, write_group, write_task

Load = Callable[..., LoadedModel]
ROWS = tuple(
    Row(
        id=f"local/{i}",
        prompt=doc["question"],
        answer=doc["choices"][doc["answer"]],
        choices=tuple(doc["choices"]),
        correct=doc["answer"],
        kind="colours",
    )
    for i, doc in enumerate(choice_docs())
)
FIRST_WORD = [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}]
DESCRIPTION = "The following are multiple choice questions (with answers) about colours.\n\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files that all tests here share."""
    place = tmp_path_factory.mktemp("tasks")
    write_choice_task(place, "colour_letters", description=DESCRIPTION)
    write_choice_task(place, "colour_text", form="text")
    write_group(place, "colour_group", ["colour_letters", "colour_text"])
    shots = [{"question": f"Shot {i}?", "choices": ["a", "b", "c", "d"], "answer": i % 4} for i in range(3)]
    write_choice_task(
        place,
        "colour_shots",
        fewshot_config={"sampler": "first_n", "samples": shots},
        num_fewshot=1,
        description=DESCRIPTION,
    )
    write_choice_task(place, "colour_zero", num_fewshot=0)
    documents = [{"page": text} for text in (SENTENCES[2], f" {SENTENCES[1]} \n", " ".join(SENTENCES[1:]))]
    metrics = [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")]
    write_task(
        place, "local_pages", documents, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{page}}",
        metric_list=metrics,
    )  # fmt: skip
    write_task(
        place, "local_answers", [{"q": "Who is Ada ?", "a": "Ada"}, {"q": "Where is Bo ?", "a": "Rome"}],
        output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
        generation_kwargs={"until": ["\n\n"], "max_gen_toks": 9, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
        filter_list=[{"name": "first-word", "filter": FIRST_WORD}],
    )  # fmt: skip
    return place


@pytest.fixture(autouse=True)
def _no_survey(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks pip for every package that is installed, once a run: most of the time of a small one."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


@pytest.fixture
def settings(folder: Path) -> HarnessSettings:
    return HarnessSettings(include_path=(str(folder),))


def harness_logps(samples: list[dict[str, Any]]) -> np.ndarray:
    ordered = sorted(samples, key=lambda row: row["doc_id"])
    return np.array([[answer[0] for answer in row["filtered_resps"]] for row in ordered])


def our_accuracy(columns: dict[str, np.ndarray]) -> dict[str, float | None]:
    metrics = {metric.key: metric for metric in choice_metrics(["local"])}
    found = compute({"local": columns}, None, metrics, num_resamples=0)
    return {"acc": found["local_accuracy"].value, "acc_norm": found["local_accuracy_norm"].value}


def load_with_beginning(tmp_path: Path) -> LoadedModel:
    return load_model(save_model(tmp_path / "bos", make_llama(seed=3), make_tokenizer(bos="<|bos|>")))


@pytest.mark.parametrize("beginning", [False, True])
@pytest.mark.parametrize(
    ("task", "form"),
    [("colour_letters", ChoiceForm()), ("colour_text", ChoiceForm(form="text"))],
)
def test_our_scorer_is_the_harness(
    load_tiny: Load, settings: HarnessSettings, tmp_path: Path, task: str, form: ChoiceForm, beginning: bool
) -> None:
    loaded = load_with_beginning(tmp_path) if beginning else load_tiny()
    ours = score_choices(loaded, ROWS, form)
    theirs = run_harness(loaded, [task], settings)
    assert ours["choice_logps"] == pytest.approx(harness_logps(theirs.samples[task]), abs=1e-5)
    for metric, value in our_accuracy(ours).items():
        assert theirs.values[f"{task}/{metric}"].value == pytest.approx(value)
    assert theirs.values[f"{task}/acc"].n == len(ROWS)
    # no two options alike, so that equality says something
    assert len(set(ours["choice_logps"].round(4).ravel().tolist())) > 20


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("task", "form"),
    [("colour_letters", ChoiceForm()), ("colour_text", ChoiceForm(form="text"))],
)
def test_the_harnesses_own_model_class_says_the_same(
    load_tiny: Load,
    settings: HarnessSettings,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    form: ChoiceForm,
    packed: bool,
) -> None:
    from lm_eval.models.huggingface import HFLM

    loaded = replace(load_tiny(), packed=packed)
    plain = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=3)
    monkeypatch.setattr(harness, "lm_eval_model", lambda *_, **__: plain)
    theirs = run_harness(loaded, [task], settings)
    ours = score_choices(loaded, ROWS, form)
    assert ours["choice_logps"] == pytest.approx(harness_logps(theirs.samples[task]), abs=1e-5)
    assert theirs.values[f"{task}/acc"].value == pytest.approx(our_accuracy(ours)["acc"])


def test_in_the_chat_template_too(load_tiny: Load, settings: HarnessSettings) -> None:
    loaded = load_tiny()
    told = replace(settings, apply_chat_template=True)
    theirs = run_harness(loaded, ["colour_letters"], told)
    context = theirs.samples["colour_letters"][0]["arguments"][0][0]
    assert context.startswith(f"<|system|>{DESCRIPTION}<|end|>\n<|user|>Who likes")
    ours = score_choices(loaded, ROWS, ChoiceForm(chat=True))
    assert ours["choice_logps"] == pytest.approx(harness_logps(theirs.samples["colour_letters"]), abs=1e-5)


@pytest.mark.parametrize("max_length", [None, 12])
def test_perplexity_of_documents_is_the_harnesses(
    load_tiny: Load, folder: Path, settings: HarnessSettings, max_length: int | None
) -> None:
    loaded = load_tiny()
    pages = [json.loads(line)["page"] for line in (folder / "local_pages.jsonl").read_text().splitlines()]
    ours = rolling_columns(loaded, pages, max_length=max_length)
    theirs = run_harness(loaded, ["local_pages"], replace(settings, max_length=max_length))
    rows = sorted(theirs.samples["local_pages"], key=lambda row: row["doc_id"])
    assert -ours["loss_sum"] == pytest.approx(np.array([row["filtered_resps"][0] for row in rows]), abs=1e-4)
    metrics = {metric.key: metric for metric in window_metrics(["wikitext"])}
    found = compute({"wikitext": ours}, None, metrics, num_resamples=0)
    for name in ("word_perplexity", "byte_perplexity", "bits_per_byte"):
        assert theirs.values[f"local_pages/{name}"].value == pytest.approx(found[f"wikitext_{name}"].value, rel=1e-6)
    assert theirs.values["local_pages/word_perplexity"].note == "lm-eval gives no standard error for it"


def test_legacy_windows_score_the_beginning_token_as_the_harness_does(tmp_path: Path, folder: Path) -> None:
    loaded = load_with_beginning(tmp_path)
    pages = [json.loads(line)["page"] for line in (folder / "local_pages.jsonl").read_text().splitlines()]
    theirs = run_harness(loaded, ["local_pages"], HarnessSettings(include_path=(str(folder),)))
    rows = sorted(theirs.samples["local_pages"], key=lambda row: row["doc_id"])
    expected = np.array([row["filtered_resps"][0] for row in rows])
    assert -rolling_columns(loaded, pages, legacy=True)["loss_sum"] == pytest.approx(expected, abs=1e-4)
    assert np.abs(rolling_columns(loaded, pages)["loss_sum"] + expected).min() > 0.1


def test_examples_and_rows_are_as_many_as_asked(load_tiny: Load, settings: HarnessSettings) -> None:
    def first_prompt(told: HarnessSettings, task: str = "colour_shots") -> tuple[str, Any]:
        found = run_harness(load_tiny(), [task], told)
        return found.samples[task][0]["arguments"][0][0], found

    assert first_prompt(settings)[0].count("Shot ") == 1
    prompt, found = first_prompt(replace(settings, num_fewshot=2, limit=3))
    assert prompt.count("Shot ") == 2
    assert found.values["colour_shots/acc"].n == 3
    assert found.provenance["num_fewshot"] == {"colour_shots": 2}
    assert found.notes == ("limit 3: only the first rows of each task",)
    prompt, found = first_prompt(replace(settings, num_fewshot=2), "colour_zero")
    assert "Shot" not in prompt
    assert found.notes == ("num_fewshot 2 does not apply to colour_zero (0): fixed by the task",)


def test_chat_settings_reach_the_prompt(load_tiny: Load, settings: HarnessSettings) -> None:
    told = replace(settings, limit=1, apply_chat_template=True, system_instruction="Be brief.")
    prompts = {
        multiturn: run_harness(load_tiny(), ["colour_shots"], replace(told, fewshot_as_multiturn=multiturn))
        .samples["colour_shots"][0]["arguments"][0][0]
        for multiturn in (None, True, False)
    }  # fmt: skip
    assert prompts[None] == prompts[True]
    assert prompts[True].startswith("<|system|>Be brief.\n\nThe following")
    # an example is a turn of its own, or stands in the one question
    assert prompts[True].count("<|user|>") == 2
    assert prompts[False].count("<|user|>") == 1


def test_generation_takes_our_settings(
    load_tiny: Load, settings: HarnessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_tiny()
    seen: list[tuple[int, int]] = []
    real = type(loaded.model).generate

    def generate(self: Any, input_ids: Any, **kwargs: Any) -> Any:
        seen.append((len(input_ids), kwargs["max_length"] - input_ids.shape[1]))
        return real(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(loaded.model), "generate", generate)
    found = run_harness(loaded, ["local_answers"], settings)
    assert seen == [(2, 9)]
    assert set(found.values) == {"local_answers/exact_match,first-word"}
    seen.clear()
    run_harness(loaded, ["local_answers"], replace(settings, batch_size=1, gen_kwargs={"max_gen_toks": 3}))
    assert seen == [(1, 3), (1, 3)]


def test_the_model_that_is_loaded_is_the_one_that_runs(
    load_tiny: Load, settings: HarnessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = harness.lm_eval_model
    monkeypatch.setattr(harness, "lm_eval_model", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    loaded = load_tiny()
    run_harness(loaded, ["colour_text"], replace(settings, limit=1, batch_size=5, max_length=100))
    (model,) = made
    assert model.model is loaded.model
    assert model.tokenizer is loaded.tokenizer
    assert model.device == loaded.model.device
    assert (model.batch_size, model.max_length) == (5, 100)


def test_a_group_is_one_row_and_its_tasks_are_on_demand(load_tiny: Load, settings: HarnessSettings) -> None:
    both = run_harness(load_tiny(), ["colour_group"], replace(settings, subtasks=True))
    alone = run_harness(load_tiny(), ["colour_group"], settings)
    assert set(alone.values) == {"colour_group/acc"}
    assert set(both.values) >= {"colour_group/acc", "colour_letters/acc", "colour_text/acc"}
    parts = [both.values[f"colour_{name}/acc"] for name in ("letters", "text")]
    group = alone.values["colour_group/acc"]
    assert group.value == pytest.approx(sum(float(part.value or 0) for part in parts) / 2)
    assert group.n == 2 * len(ROWS)
    assert (group.higher_is_better, group.version, parts[0].version) == (True, 2, 3)


def test_standard_errors_become_intervals(load_tiny: Load, settings: HarnessSettings) -> None:
    found = run_harness(load_tiny(), ["colour_letters"], settings)
    value, stderr = found.values["colour_letters/acc"], found.stderrs["colour_letters/acc"]
    p, n = float(value.value or 0), len(ROWS)
    # of n zeros and ones: sqrt(p (1 - p) / (n - 1))
    assert stderr == pytest.approx((p * (1 - p) / (n - 1)) ** 0.5)
    assert value.ci_low == pytest.approx(max(p - 1.96 * float(stderr or 0), 0.0), abs=1e-4)
    assert value.ci_high == pytest.approx(min(p + 1.96 * float(stderr or 0), 1.0), abs=1e-4)
    assert interval(0.5, 1.0, unit=False)[0] < 0
    assert interval(0.5, 1.0, unit=True) == (0.0, 1.0)


def test_results_of_any_shape_are_flattened() -> None:
    row = {"alias": "x", "acc,none": 0.5, "acc_stderr,none": "N/A", "em,strict": float("nan"), "name": "x"}
    found, stderrs = flat_values({"results": {"x": row}}, ["x"])
    assert found["x/acc"].value == 0.5
    assert found["x/acc"].ci_low is None
    assert (found["x/em,strict"].value, found["x/em,strict"].note) == (None, "undefined on these rows")
    assert stderrs == {"x/acc": None, "x/em,strict": None}


def test_rows_are_kept(load_tiny: Load, settings: HarnessSettings, tmp_path: Path) -> None:
    found = run_harness(load_tiny(), ["colour_group"], settings, samples_folder=tmp_path / "rows")
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["colour_letters.jsonl", "colour_text.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "rows" / "colour_text.jsonl").read_text().splitlines()]
    assert [line["acc"] for line in lines] == [row["acc"] for row in found.samples["colour_text"]]
    assert lines[2]["doc"]["choices"][2] == choice_docs()[2]["choices"][2]  # written as it is, accents and all
    assert found.samples_folder == tmp_path / "rows"


def test_the_global_generators_are_left_as_they_were(load_tiny: Load, settings: HarnessSettings) -> None:
    loaded = load_tiny()
    draws = []
    for run in (True, False):
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        if run:
            run_harness(loaded, ["colour_text"], replace(settings, limit=1))
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]


def test_unknown_tasks_and_missing_data_are_one_line(
    load_tiny: Load, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge.evaluation import lm_eval_bridge

    # the harness's own index takes many seconds to read; here its place is taken by the local one
    real = lm_eval_bridge._index
    monkeypatch.setattr(lm_eval_bridge, "_index", lambda **kw: real(**kw | {"include_defaults": False}))
    settings = HarnessSettings(include_path=(str(folder),))
    with pytest.raises(UserError, match=r"lm-eval knows no task 'colour_txt' \(did you mean 'colour_text'\?\)"):
        run_harness(load_tiny(), ["colour_txt"], settings)
    with pytest.raises(UserError, match="no lm-eval task was named"):
        run_harness(load_tiny(), [], settings)
    (tmp_path / "lost.yaml").write_text((folder / "colour_text.yaml").read_text().replace("colour_text", "lost"))
    with pytest.raises(UserError, match=r"'lost' cannot be made ready: .*lost\.jsonl.*; its data must be in the local"):
        run_harness(load_tiny(), ["lost"], HarnessSettings(include_path=(str(tmp_path),)))
    hub = (folder / "colour_text.yaml").read_text().replace("dataset_path: json", "dataset_path: nobody/nothing")
    (tmp_path / "hub.yaml").write_text(hub.replace("colour_text", "hub"))
    with pytest.raises(UserError, match=r"'hub' cannot be made ready: .*nobody/nothing.*reachable on the Hub"):
        run_harness(load_tiny(), ["hub"], HarnessSettings(include_path=(str(tmp_path),)))


def test_bad_settings_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        HarnessSettings(batch_size=0, num_fewshot=-1, limit=0, include_path=(str(tmp_path / "no"),))
    line = str(caught.value)
    for said in ("batch_size must be", "num_fewshot must be", "limit must be above 0, got 0", "no is no folder"):
        assert said in line
    with pytest.raises(RecipeError, match="fewshot_as_multiturn has no effect without apply_chat_template"):
        HarnessSettings(fewshot_as_multiturn=True)
    with pytest.raises(RecipeError, match=r"include_path must be a list of folders, got '/x'"):
        HarnessSettings(include_path="/x")  # type: ignore[arg-type]


def test_a_chat_template_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    plain = load_model(save_model(tmp_path, make_llama(), make_tokenizer(template=None)))
    with pytest.raises(RecipeError, match="apply_chat_template needs a chat template, and this model has none"):
        run_harness(plain, ["any"], HarnessSettings(apply_chat_template=True))


def test_a_stage_counts_task_files_by_content_and_keeps_where_each_number_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge.evaluation.harness_results import HarnessResult
    from expunge.pipeline import harnessing
    from expunge.pipeline.stages import StageStore

    def found(name: str, shots: int) -> HarnessResult:
        provenance = {"num_fewshot": {name: shots}}
        return HarnessResult(values={}, stderrs={}, provenance=provenance, samples={})

    monkeypatch.setattr(harnessing, "run_harness_suite", lambda *_, **__: found("boolq", 0))
    monkeypatch.setattr(harnessing, "run_harness", lambda *_, **__: found("gsm8k", 5))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    given = {"tasks": ["flat_zero_shot", "gsm8k"], "include_path": [str(tasks)]}
    keys = []
    for text in ("one", "two", "one"):
        (tasks / "own.yaml").write_text(text)
        stage = harnessing.harness_stage(
            StageStore(tmp_path / "stages"), given, "model", lambda: SimpleNamespace(model=None), label="m"
        )
        keys.append(stage.key)
    assert keys[0] == keys[2] != keys[1]
    assert stage.facts["provenance"] == {
        "flat_zero_shot": {"num_fewshot": {"boolq": 0}},
        "tasks": {"num_fewshot": {"gsm8k": 5}},
    }


def test_suites_that_ask_one_task_differently_keep_both_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.evaluation.harness_results import HarnessResult
    from expunge.pipeline import harnessing
    from expunge.pipeline.stages import StageStore

    accuracies = {"knowundo_general": 0.25, "flat_zero_shot": 0.5, "wmdp": 0.5}

    def found(loaded: object, suite: str, *_: object, samples_folder: Path) -> HarnessResult:
        assert samples_folder.name == suite
        cell = MetricValue(accuracies[suite], None, None, 4, True, 1)
        values = {"arc_challenge/acc": cell, f"{suite}/average": cell}
        return HarnessResult(values=values, stderrs={}, provenance={}, samples={})

    monkeypatch.setattr(harnessing, "run_harness_suite", found)
    stage = harnessing.harness_stage(
        StageStore(tmp_path), {"tasks": list(accuracies)}, "model", lambda: SimpleNamespace(model=None), label="m"
    )
    assert {key: value.value for key, value in harnessing.read_harness(stage).items()} == {
        "arc_challenge/acc": 0.25,
        "knowundo_general/average": 0.25,
        "flat_zero_shot:arc_challenge/acc": 0.5,
        "flat_zero_shot/average": 0.5,
        "wmdp:arc_challenge/acc": 0.5,
        "wmdp/average": 0.5,
    }


def test_a_guard_is_not_hidden(load_tiny: Load, settings: HarnessSettings) -> None:
    from expunge.models.guards import make_guard

    guarded = replace(load_tiny(), guard=make_guard({"kind": "refusal_prompt"}))
    found = run_harness(guarded, ["colour_text"], replace(settings, limit=1))
    assert any("the guard refusal_prompt does not stand before the harness" in note for note in found.notes)
