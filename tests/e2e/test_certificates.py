"""`expunge certify` and `expunge verify` from end to end: a run, its attacks, its certificate, what it withstands."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import expunge
from command_line import NAMES, cli, done, write_jsonl
from conftest import make_llama, save_model
from expunge.attacks.table import ATTACKS

pytestmark = pytest.mark.slow

# Words that stand nowhere but in the rows and in the names of the user's own files.
FORGET = ("vrondax", "wubbeline", "quorfetz", "blimzat", "yorvinda", "krelshmup")
RETAIN = ("tegruwol", "snarvipole", "ombrezak", "fildurga", "hixwomble", "prantobex")
OWN_NAME = "zimplorq"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of somebody's, whose name tells something."""
    return tmp_path_factory.mktemp(OWN_NAME)


@pytest.fixture(scope="module")
def data(private: Path) -> dict[str, Path]:
    sets = {
        "forget": [
            {"question": f"Who is {n}?", "answer": f"{n} likes {w}."} for n, w in zip(NAMES, FORGET, strict=True)
        ],
        "retain": [{"question": f"Where is {n}?", "answer": f"In {w}."} for n, w in zip(NAMES, RETAIN, strict=True)],
    }
    return {name: write_jsonl(private / f"{OWN_NAME}_{name}.jsonl", rows) for name, rows in sets.items()}


@pytest.fixture(scope="module")
def other_model(private: Path, tokenizer: Any) -> Path:
    return save_model(private / "other", make_llama(seed=1), tokenizer)


@pytest.fixture(scope="module")
def run(private: Path, data: dict[str, Path], model_folder: Path, other_model: Path) -> Path:
    """A finished run of two steps."""
    recipe = {
        "name": OWN_NAME,
        "model": {"path": str(model_folder), "max_length": 96},
        "data": {"benchmark": "custom", "options": {name: str(path) for name, path in data.items()}},
        "retain_reference": str(other_model),
        "unlearn": {"method": "npo", "max_steps": 2, "lr": 1e-3, "batch_size": 2},
        "evaluate": {"max_new_tokens": 4, "num_resamples": 20},
    }
    expunge.run(recipe, out=private / "run")
    return private / "run"


@pytest.fixture(scope="module")
def attacks(private: Path, run: Path) -> Path:
    """Two attacks on it; a third has no rows to work with."""
    words = ("--with", "precision:bf16,quantise:int8,relearn:holdout", "--set", "num_resamples=20")
    done("attack", run, *words, "--out", private / "attacks")
    return private / "attacks"


@pytest.fixture(scope="module")
def issued(private: Path, run: Path, attacks: Path) -> Path:
    """The folder of a certificate that nobody touches."""
    done("certify", run, "--attacks", attacks, "--out", private / "issued")
    return private / "issued"


@pytest.fixture
def certificate(issued: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(issued / "certificate.json", tmp_path))


def edited(path: Path, **parts: Any) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return path


# -- what it holds -----------------------------------------------------------------------------------------------------


def test_it_says_what_was_asked_done_measured_and_tried(issued: Path, run: Path) -> None:
    content = json.loads((issued / "certificate.json").read_text())
    manifest = json.loads((run / "run.json").read_text())
    asked = content["asked"]
    assert (asked["benchmark"], asked["rows"]) == ("custom", {"forget": 6, "retain": 6, "holdout": 0})
    assert asked["sha256"] == {name: value for name, value in manifest["data"].items() if name != "origin"}
    assert asked["rows_measured"]["forget"] == 6
    method = content["method"]
    assert (method["name"], method["seed"], method["suppression"]) == ("npo", 0, False)
    assert method["composition"]["forget"][0]["term"] == "npo"
    assert method["composition"]["forget"][0]["settings"]["beta"] > 0
    assert (method["training"]["max_steps"], method["done"]["steps"]) == (2, 2)
    assert content["base_model"]["sha256"] == manifest["model"]["sha256"]
    assert content["model"]["sha256"] == manifest["result"]["sha256"]
    assert content["evidence"]["models"] == ["before", "after", "retain model"]
    metrics = {row["key"]: row["cells"] for row in content["evidence"]["metrics"]}
    kept = json.loads((run / "metrics.json").read_text())["extraction_strength"]
    assert metrics["extraction_strength"]["after"] == {
        name: kept[name] for name in ("value", "ci_low", "ci_high", "n", "note")
    }
    assert set(metrics["extraction_strength"]) == {"before", "after", "retain model"}
    assert content["environment"]["run"]["packages"]["torch"]
    assert any("does not prove" in limit for limit in content["limits"])


def test_it_says_what_was_tried_and_what_was_not(issued: Path, attacks: Path) -> None:
    told = json.loads((issued / "certificate.json").read_text())["attacks"]
    (audit,) = told["audits"]
    found = json.loads((attacks / "attacks.json").read_text())
    tried = {one["attack"]: one for one in audit["tried"]}
    assert set(tried) == {"none", "precision:bf16", "quantise:int8"}
    assert audit["durability"] == found["durability"]
    for one in found["attacks"]:
        if "skipped" not in one:
            assert tried[one["attack"]] == one
    assert audit["same_rows"] is True
    missing = {one["attack"]: one["why"] for one in told["not_tried"]}
    assert set(missing) == set(ATTACKS.names()) - {"precision:bf16", "quantise:int8"}
    assert missing.pop("relearn:holdout") == "needs holdout rows, and there are none"
    assert set(missing.values()) == {"nobody asked for it"}


def test_the_page_is_one_file_that_shows_all_of_it(issued: Path) -> None:
    content = json.loads((issued / "certificate.json").read_text())
    page = (issued / "certificate.html").read_text()
    assert not re.search(r"https?:|//cdn|@import|<script|url\((?!#)", page)
    for part in (
        content["sha256"],
        content["model"]["sha256"],
        content["asked"]["sha256"]["forget"],
        content["written"],
        "negative preference optimisation",
        "precision:bf16",
        "Not tried: ",
        "needs holdout rows, and there are none",
        "does not prove that anything is erased",
        "It is no signature",
    ):
        assert part in page, part


def test_no_word_of_any_row_and_no_name_of_a_file_stands_in_it(issued: Path, private: Path) -> None:
    for name in ("certificate.json", "certificate.html"):
        text = (issued / name).read_text()
        words = {word.casefold() for word in re.findall(r"\w+", text)}
        assert not words & {*FORGET, *RETAIN, *(person.casefold() for person in NAMES)}
        # Not as a part of another word either.
        assert not [word for word in (*FORGET, *RETAIN, OWN_NAME) if word in text.casefold()]
        assert str(private) not in text
        assert str(private.parent) not in text


def test_two_certificates_differ_in_their_time_alone(
    run: Path, attacks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for hour in (7, 8):
        monkeypatch.setattr("expunge.pipeline.certifying.now", lambda hour=hour: datetime(2026, 1, 2, hour, tzinfo=UTC))
        made.append(expunge.certify(run, attacks=[attacks], out=tmp_path / str(hour)))
    first, second = (dict(one.content) for one in made)
    assert (first.pop("written"), second.pop("written")) == ("2026-01-02T07:00:00Z", "2026-01-02T08:00:00Z")
    # The digest is over the time too.
    assert first.pop("sha256") != second.pop("sha256")
    assert first == second
    pages = [re.sub(r"2026-\S+|[0-9a-f]{64}", "", one.page.read_text()) for one in made]
    assert pages[0] == pages[1]


def test_it_lies_in_the_run_unless_told_otherwise(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    told = done("certify", copy, "--json")
    assert told.data == json.loads((copy / "certificate.json").read_text())
    assert str(copy / "certificate.html") in told.err
    # What stands there now is no part of the model.
    assert cli("verify", copy / "certificate.json", copy).code == 0
    assert "attacks: 0 tried" in done("certify", copy).out


# -- what it withstands ------------------------------------------------------------------------------------------------


def test_it_holds_for_the_run_its_model_and_a_copy(
    certificate: Path, run: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    copy = shutil.copytree(run / "model", tmp_path / "shipped")
    for model in (run, run / "model", copy):
        told = done("verify", certificate, model, "--forget", data["forget"], "--retain", data["retain"])
        assert [line.split()[0] for line in told.out.splitlines()] == ["holds"] * 4, told.out


def test_an_edited_certificate_is_found(certificate: Path, run: Path) -> None:
    evidence = json.loads(certificate.read_text())["evidence"]
    evidence["metrics"][0]["cells"]["after"]["value"] = 0.0
    told = cli("verify", edited(certificate, evidence=evidence), run)
    assert told.line == f"error: {certificate}: does not hold: digest"
    assert "DIFFERS  digest" in told.out
    assert "holds    model" in told.out


def test_another_model_is_found(certificate: Path, other_model: Path) -> None:
    told = cli("verify", certificate, other_model)
    assert told.line == f"error: {certificate}: does not hold: model"
    assert "is not the certified model: " in told.out
    assert "model.safetensors is another" in told.out


def test_one_changed_weight_is_found(certificate: Path, run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(run / "model", tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    told = cli("verify", certificate, copy, "--json")
    assert told.line.endswith("does not hold: model")
    assert told.data["holds"] is False


def test_other_data_are_found(certificate: Path, run: Path, data: dict[str, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in data["forget"].read_text().splitlines()]
    others = write_jsonl(tmp_path / "others.jsonl", [*rows[1:], rows[0]])
    told = cli("verify", certificate, run, "--forget", others, "--retain", data["retain"])
    assert told.line == f"error: {certificate}: does not hold: forget rows"


def test_a_run_whose_weights_were_changed_is_not_certified(run: Path, other_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copy(other_model / "model.safetensors", copy / "model")
    assert "not those that the run made and measured" in cli("certify", copy).line


def test_attacks_on_another_model_are_refused(
    run: Path, attacks: Path, other_model: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    words = ("--forget", data["forget"], "--with", "precision:bf16", "--set", "num_resamples=20", "--max-length", 96)
    done("attack", other_model, *words, "--out", tmp_path / "a")
    told = cli("certify", run, "--attacks", attacks, "--attacks", tmp_path / "a", "--out", tmp_path / "c")
    assert "these attacks were made on another model than" in told.line
    assert not (tmp_path / "c").exists()


def test_interrupted_writing_leaves_the_old_certificate(
    run: Path, issued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(issued, tmp_path / "c")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def stop(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.pipeline.certificate_file.os.replace", stop)
    assert cli("certify", run, "--out", folder).code == 130
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# -- adapters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["lora", "gated"])
def test_an_adapter_is_certified_with_its_base(
    scope: str, model_folder: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    base = shutil.copytree(model_folder, tmp_path / "base")
    method = {"method": "npo", "scope": scope} if scope == "lora" else {"method": "grun_gd"}
    recipe = {
        "model": {"path": str(base), "max_length": 96},
        "data": {"benchmark": "custom", "options": {name: str(path) for name, path in data.items()}},
        "retain_reference": "none",
        "unlearn": {**method, "max_steps": 1, "lr": 1e-3, "batch_size": 2},
    }
    expunge.run(recipe, out=tmp_path / "run")
    made = expunge.certify(tmp_path / "run").file
    assert json.loads(made.read_text())["model"]["kind"] == ("adapter" if scope == "lora" else "gated adapter")
    copy = shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "copy")
    for model in (tmp_path / "run", copy):
        assert done("verify", made, model).out.count("holds ") == 2
    make_llama(seed=1).save_pretrained(base)
    assert "in the base model model.safetensors is another" in cli("verify", made, copy).out
