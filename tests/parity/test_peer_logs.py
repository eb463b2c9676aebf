"""From open-unlearning's logged per-row values to its logged aggregates, and what its log reader refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from expunge.errors import DataError
from expunge.evaluation.logs import read_peer_log
from expunge.evaluation.metrics import compute, metrics_for, rouge_columns
from expunge.evaluation.metrics.membership_scores import zlib_score

DATA = Path(os.environ.get("EXPUNGE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
LOGS = DATA / "peer_logs"
UTILITY_SETS = ("real_authors", "world_facts")
FULL, RETAIN = "tofu_Llama-3.2-1B-Instruct_full", "tofu_Llama-3.2-1B-Instruct_retain90"


def need(folder):
    path = LOGS / folder
    if not path.is_dir():
        pytest.skip(f"no open-unlearning log {folder}; set EXPUNGE_DATA to a folder with peer_logs/")
    return read_peer_log(path)


@pytest.fixture(scope="module")
def full():
    return need(f"{FULL}/evals_forget10")


@pytest.fixture(scope="module")
def retain():
    return need(RETAIN)


def recomputed(log, reference):
    metrics = metrics_for(log.scores, UTILITY_SETS, legacy=True, imported=True)
    scores = reference.scores if reference else None
    return compute(log.scores, scores, metrics, num_resamples=0)


def check_every_aggregate(log, reference):
    results = recomputed(log, reference)
    logged = {key: value for key, value in log.aggregates.items() if value is not None}
    assert set(logged) <= set(results)
    for key, value in logged.items():
        assert results[key].value == pytest.approx(value, rel=1e-6, abs=0.0), key
    return logged


def test_every_aggregate_of_the_full_model(full, retain):
    logged = check_every_aggregate(full, retain)
    assert len(logged) == 31
    summary = json.loads((full.path.parent / "TOFU_SUMMARY.json").read_text())
    assert {key: logged[key] for key in summary} == summary


def test_every_aggregate_of_the_retain_model(retain):
    # its privacy leakage was logged without a reference, against an AUC of 0.5
    logged = check_every_aggregate(retain, None)
    assert len(logged) == 29
    assert retain.aggregates["forget_quality"] is None


def test_published_numbers(full, retain):
    results = recomputed(full, retain)
    assert results["forget_quality"].value == pytest.approx(3.9054713571e-22, rel=1e-9, abs=0.0)
    assert results["forget_quality_log10"].value == pytest.approx(np.log10(3.9054713571e-22), rel=1e-9)
    assert results["model_utility"].value == pytest.approx(0.59915347, rel=1e-7)
    assert results["privleak"].value == pytest.approx(-99.46, abs=0.005)
    # the two below are not in the logs; they were computed from them once, by other hands
    assert results["forget_truth_ratio_prob_mean"].value == pytest.approx(0.6850, abs=5e-5)
    assert recomputed(retain, None)["mem_score"].value == pytest.approx(0.585, abs=5e-4)


def test_row_counts_and_names(full, retain):
    assert {name: len(ids) for name, ids in full.ids.items()} == {
        "forget": 400,
        "retain": 400,
        "holdout": 400,
        "real_authors": 100,
        "world_facts": 117,
    }
    assert full.ids["forget"][:3] == ("0", "1", "2")
    assert full.scores["forget"]["perturbed_avg_loss"].shape == (400, 5)
    assert full.scores["world_facts"]["perturbed_avg_loss"].shape == (117, 3)
    assert (full.model, full.split) == (FULL, "forget10")
    assert (retain.model, retain.split) == (RETAIN, "forget10")
    assert full.unread == ()


def test_row_values_follow_from_the_logged_texts(full):
    rows = full.generations["forget"]
    columns = full.scores["forget"]
    for name, values in rouge_columns([row.text for row in rows], [row.reference for row in rows]).items():
        assert values == pytest.approx(columns[name], abs=1e-12), name
    zlib = [zlib_score(loss, row.reference) for loss, row in zip(columns["avg_loss"], rows, strict=True)]
    assert zlib == pytest.approx(columns["mia_zlib"], rel=1e-6)


def test_intervals_hold_the_logged_values(full, retain):
    metrics = metrics_for(full.scores, UTILITY_SETS)
    results = compute(full.scores, retain.scores, metrics, num_resamples=100)
    for key in ("forget_quality", "model_utility", "privleak", "extraction_strength", "forget_truth_ratio"):
        assert results[key].ci_low < full.aggregates[key] < results[key].ci_high, key


# Made-up logs from here on.


def rows(**by_index):
    return {"agg_value": 0.5, "value_by_index": {index.strip("_"): row for index, row in by_index.items()}}


def write(folder, document, name="TOFU_EVAL.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return folder


def test_rows_are_aligned_by_index_in_numeric_order(tmp_path):
    document = {
        "forget_Q_A_Prob": rows(
            _10={"prob": 0.1, "avg_loss": 1.0}, _2={"prob": 0.2, "avg_loss": 2.0}, _3={"prob": None}
        ),
        "extraction_strength": rows(_2={"score": 0.7}, _3=None),
        "forget_Q_A_PERT_Prob": rows(_10={"avg_loss": [1.0, 2.0]}, _2={"avg_loss": 3.0}),
    }
    log = read_peer_log(write(tmp_path / "my_model" / "evals", document))
    assert log.ids["forget"] == ("2", "3", "10")
    columns = log.scores["forget"]
    assert columns["prob"] == pytest.approx([0.2, np.nan, 0.1], nan_ok=True)
    assert columns["extraction_strength"] == pytest.approx([0.7, np.nan, np.nan], nan_ok=True)
    expected = np.array([[3.0, np.nan], [np.nan, np.nan], [1.0, 2.0]])
    assert columns["perturbed_avg_loss"] == pytest.approx(expected, nan_ok=True)
    assert (log.model, log.aggregates["extraction_strength"]) == ("my_model", 0.5)


def test_what_a_log_lacks_is_missing_in_the_results(tmp_path):
    log = read_peer_log(write(tmp_path, {"extraction_strength": rows(_0={"score": 0.25})}))
    results = compute(log.scores, None, metrics_for(log.scores), num_resamples=0)
    assert results["extraction_strength"].value == 0.25
    assert results["forget_Q_A_Prob"].note == "no row of the forget set has prob"


def test_generations_give_fluency_and_unknown_metrics_are_listed(tmp_path):
    answer = {"rougeL_recall": 0.0, "input": "q", "ground_truth": "a", "generation": "no no no"}
    document = {
        "general_Q_A_ROUGE": rows(_0=answer, _1={"rougeL_recall": 0.5}),
        "forget_Q_A_gibberish": rows(_0={"score": 0.9}),
        "forget_quality": {"agg_value": None},
    }
    log = read_peer_log(write(tmp_path, document))
    assert log.generations["general"][0].text == "no no no"
    assert log.generations["general"][1] is None
    assert log.scores["general"]["distinct_2"] == pytest.approx([1 / 2, np.nan], nan_ok=True)
    assert log.scores["general"]["empty"] == pytest.approx([0.0, np.nan], nan_ok=True)
    assert log.unread == ("forget_Q_A_gibberish",)


@pytest.mark.parametrize(
    ("folder", "model", "split"),
    [
        ("tofu_X_retain99/evals_forget01", "tofu_X_retain99", "forget01"),
        ("tofu_X_retain95", "tofu_X_retain95", "forget05"),
        ("tofu_X_forget10_NPO/checkpoint-60/evals", "tofu_X_forget10_NPO", "forget10"),
    ],
)
def test_names_come_from_the_folders(tmp_path, folder, model, split):
    log = read_peer_log(write(tmp_path / folder, {"extraction_strength": rows(_0={"score": 0.25})}))
    assert (log.model, log.split) == (model, split)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"forget_Q_A_Prob": {"agg_v', "not valid JSON"),
        ("", "not valid JSON"),
        ([1, 2], "holds a list"),
        ({}, "holds an object"),
        ({"model_utility": 0.6}, "holds aggregates only"),
        ({"extraction_strength": {"agg_value": 0.5}}, "no per-row metric"),
        ({"results": {"mmlu": {"acc": 0.5}}}, "no per-row metric"),
        ({"extraction_strength": "high"}, "is a text"),
        ({"extraction_strength": {"agg_value": "high", "value_by_index": {}}}, "agg_value"),
        ({"extraction_strength": rows(_0={"score": "x"})}, "row 0 of 'extraction_strength' holds a text"),
        ({"extraction_strength": rows(_0=[1])}, "row 0 of 'extraction_strength' is a list"),
        ({"mia_loss": {"forget": {"agg_value": 1.0}}}, "'mia_loss.forget' has no value_by_index"),
    ],
)
def test_what_is_no_log_is_refused_in_one_line(tmp_path, document, message):
    with pytest.raises(DataError) as caught:
        read_peer_log(write(tmp_path, document))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match="no evaluation log at"):
        read_peer_log(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no \*_EVAL.json"):
        read_peer_log(tmp_path)
    (tmp_path / "TOFU_EVAL.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match="not UTF-8"):
        read_peer_log(tmp_path)


def test_one_other_log_in_a_folder_is_taken_and_two_are_not(tmp_path):
    write(tmp_path, {"extraction_strength": rows(_0={"score": 0.25})}, "MUSE_EVAL.json")
    assert read_peer_log(tmp_path).path.name == "MUSE_EVAL.json"
    write(tmp_path, {}, "OTHER_EVAL.json")
    with pytest.raises(DataError, match="2 logs"):
        read_peer_log(tmp_path)
