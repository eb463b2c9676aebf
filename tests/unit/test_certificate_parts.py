"""What certificates are made of: hashes that travel, settings that tell nothing, files that others hand over."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import expunge
from command_line import cli, write_jsonl
from conftest import make_llama, save_model
from expunge.attacks.table import ATTACKS
from expunge.attacks.weights import NONE
from expunge.data.rows import rows_hash
from expunge.data.sources import read_rows
from expunge.errors import UserError
from expunge.models.load import source_fingerprint
from expunge.pipeline.attack_folder import read_attacks
from expunge.pipeline.certificate_file import SCHEMA, digest, read_certificate, write_files
from expunge.pipeline.certified_evidence import verdict_on_both
from expunge.pipeline.hashes import differences, json_hash, model_record
from expunge.pipeline.shareable import LEFT_OUT, shareable, shareable_origin
from expunge.reporting.content import Verdict
from expunge.reporting.verdict import NOT_ATTACKED

NONSENSE = ("Vrondax", "wubbeline", "Quorfetz", "zimplorq")
CELL = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 6, "higher_is_better": None, "version": 1, "note": ""}

Runs = Callable[..., Path]


@pytest.fixture
def finished(tmp_path: Path, model_folder: Path) -> Runs:
    """Writes a run folder by hand: what a run leaves, without the run."""

    def write(name: str = "run", *, unlearn: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(model_folder, folder / "model")
        options = {"forget": "private/zimplorq.jsonl", "passage_words": 50, "make": "cloze, reverse"}
        recipe = {
            "model": {"path": "people/zimplorq"},
            "data": {"benchmark": "custom", "options": options},
            "unlearn": {"method": "npo", "max_steps": 2, **(unlearn or {})},
            "evaluate": {},
        }
        manifest = {
            "kind": "run",
            "status": "done",
            "recipe": recipe,
            "model": {"source": "people/zimplorq", "on_hub": False, "sha256": "b" * 64},
            "data": {"origin": "forget=private/zimplorq.jsonl", "forget": "f" * 64, "probe:forget": "e" * 64},
            "rows": {"forget": 6, "retain": 0, "holdout": 0},
            "stages": {"unlearn": {"steps": 2, "stopped": "all steps done", "scope": {"path": "zimplorq"}}},
            "environment": {"code": "0"},
        }
        (folder / "run.json").write_text(json.dumps(manifest | changes))
        for file in ("metrics.json", "metrics_before.json"):
            (folder / file).write_text(json.dumps({"extraction_strength": CELL, "some_task/acc": CELL}))
        return folder

    return write


@pytest.fixture
def certificate(finished: Runs) -> Path:
    return expunge.certify(finished()).file


def audit_folder(folder: Path, model: Path, *, skipped: str = "") -> Path:
    """What `expunge attack` leaves, without the attacks."""
    share = {"value": 0.2, "interval": [0.1, 0.3], "note": ""}
    tried = {"about": "x", "means": {"unlearned": 0.1}, "recovered": False}
    tried |= {"rise": share, "recovery": share, "residual": share}
    attacks = [{"attack": NONE.key, **tried}, {"attack": "precision:bf16", **tried}]
    attacks += [{"attack": "relearn:holdout", "about": "x", "skipped": skipped}] if skipped else []
    kept = {"value": 1.0, "interval": None, "note": ""}
    found = {
        "durability": {**share, "worst": "none", "counted": ["none"]},
        "kept": kept,
        "attacks": attacks,
        "notes": [],
    }
    models = {"unlearned": source_fingerprint(model), "original": "o" * 64}
    facts = {"models": models, "forget": "e" * 64, "settings": {"steps": [5], "scope": {"kind": "full"}}, "seed": 0}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"kind": "set of attacks", "status": "done", **facts}))
    (folder / "attacks.json").write_text(json.dumps(found))
    return folder


# -- hashes ------------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_same_model_and_a_changed_byte_is_not(tmp_path: Path, model_folder: Path) -> None:
    copy = shutil.copytree(model_folder, tmp_path / "elsewhere" / "copy")
    (copy / "README.md").write_text("a card")
    known = model_record(model_folder)
    assert model_record(copy) == known
    weights = copy / "model.safetensors"
    told = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    # The size and the time are as they were: only the bytes tell.
    os.utime(weights, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert differences(known, model_record(copy)) == ["model.safetensors is another"]
    (copy / "chat_template.jinja").unlink()
    (copy / "zimplorq.safetensors").write_bytes(b"more")
    found = model_record(copy)
    assert "zimplorq" not in json.dumps(found)
    assert differences(known, found) == [
        "model.safetensors is another",
        "chat_template.jinja is missing",
        "other-1.safetensors was added",
    ]


@pytest.fixture
def adapter(tmp_path: Path, tokenizer: Any) -> tuple[Path, Path]:
    """A base model and an adapter on it."""
    from peft import LoraConfig, get_peft_model

    base = save_model(tmp_path / "base", make_llama(), tokenizer)
    model = get_peft_model(make_llama(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def test_an_adapter_is_the_same_wherever_it_and_its_base_lie(tmp_path: Path, adapter: tuple[Path, Path]) -> None:
    base, folder = adapter
    known = model_record(folder)
    assert known["kind"] == "adapter"
    assert known["base"] == model_record(base)
    moved = shutil.move(base, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"base model .* cannot be had"):
        model_record(folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(moved)}))
    assert model_record(folder) == known
    make_llama(seed=1).save_pretrained(moved)
    assert differences(known, model_record(folder)) == ["in the base model model.safetensors is another"]
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(moved), "r": 3}))
    assert differences(known, model_record(folder))[0] == "adapter_config.json is another"


def test_an_adapter_on_itself_is_refused(adapter: tuple[Path, Path]) -> None:
    _, folder = adapter
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(folder)}))
    with pytest.raises(UserError, match="does one name itself"):
        model_record(folder)


def test_json_has_one_spelling() -> None:
    assert json_hash({"a": 1, "b": ["ö", 0.1]}) == json_hash(json.loads('{"b": ["\\u00f6", 1e-1], "a": 1}'))
    assert json_hash({"a": 1}) != json_hash({"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_hash({"a": float("nan")})


# -- what may be shown -------------------------------------------------------------------------------------------------


def test_settings_keep_numbers_and_known_words_alone() -> None:
    given = {
        "view": "gold",
        "template": "Vrondax",
        "scope": {"kind": "region", "path": "zimplorq.json", "keep": 0.1},
        "guard": {"kind": "keyword_filter", "keywords": ["Vrondax", "Quorfetz"], "min_rows": 2},
        "rules": ({"kind": "sam", "rho": 0.05},),
        "budget": None,
    }
    assert shareable(given) == {
        "view": "gold",
        "template": LEFT_OUT,
        "scope": {"kind": "region", "path": LEFT_OUT, "keep": 0.1},
        "guard": {"kind": "keyword_filter", "keywords": [LEFT_OUT, LEFT_OUT], "min_rows": 2},
        "rules": [{"kind": "sam", "rho": 0.05}],
        "budget": None,
    }


def test_origins_are_named_where_they_are_public() -> None:
    pinned = f"locuslab/TOFU@{'0a' * 20}"
    assert shareable_origin(f"{pinned}; built in") == f"{pinned}; built in"
    for private in ("forget=private/zimplorq.jsonl", "../zimplorq/tofu", "zimplorq"):
        assert "zimplorq" not in shareable_origin(private)


def test_nothing_a_user_wrote_stands_in_a_certificate(finished: Runs) -> None:
    guard = {"kind": "keyword_filter", "keywords": ["Vrondax wubbeline"], "text": "Ask at Quorfetz."}
    made = expunge.certify(finished("zimplorq", unlearn={"view": "template", "template": "Vrondax", "guard": guard}))
    for path in (made.file, made.page):
        text = path.read_text().casefold()
        assert not [word for word in NONSENSE if word.casefold() in text], path.name
        assert str(made.file.parent.parent) not in text
    asked = made.content["asked"]
    assert asked["options"] == {"passage_words": 50, "make": ["cloze", "reverse"]}
    assert asked["options_left_out"] == ["forget"]
    assert made.content["base_model"]["name"] is None


def test_a_public_base_model_is_named(finished: Runs) -> None:
    known = {"source": "people/zimplorq", "on_hub": True, "sha256": "b" * 64}
    assert expunge.certify(finished(model=known)).content["base_model"]["name"] == "people/zimplorq"


# -- what is said ------------------------------------------------------------------------------------------------------


def test_suppression_is_called_suppression(finished: Runs) -> None:
    made = expunge.certify(finished(unlearn={"method": "keyword_filter"}))
    assert made.content["method"]["suppression"] is True
    assert made.content["verdict"]["headline"].startswith("Suppressed, not erased.")
    assert any("suppression, not erasure" in warning for warning in made.content["warnings"])
    page = made.page.read_text()
    assert "suppression: the weights are not changed" in page
    # A guard beside the weights counts, whatever the recipe says of it.
    run = finished("other")
    (run / "model" / "guard.json").write_text('{"kind": "keyword_filter"}')
    assert expunge.certify(run).content["method"]["suppression"] is True


def test_a_control_is_called_a_control(finished: Runs) -> None:
    made = expunge.certify(finished(unlearn={"method": "nothing"}))
    assert any("is a control" in warning for warning in made.content["warnings"])


def test_what_was_not_measured_is_said(finished: Runs) -> None:
    run = finished()
    for path in run.glob("metrics*.json"):
        path.unlink()
    content = expunge.certify(run).content
    assert content["verdict"] is None
    assert "Nothing was measured in this run." in content["warnings"]
    assert any("No attack was tried" in warning for warning in content["warnings"])
    assert len(content["attacks"]["not_tried"]) == len(ATTACKS.names())


def test_metrics_without_a_definition_keep_their_key(finished: Runs) -> None:
    rows = expunge.certify(finished()).content["evidence"]["metrics"]
    assert {row["key"] for row in rows} == {"extraction_strength", "some_task/acc"}
    assert rows[0]["cells"]["after"] == {name: CELL[name] for name in ("value", "ci_low", "ci_high", "n", "note")}


def test_the_worst_is_said_first() -> None:
    good = Verdict("good", "It answers like one that never saw them.", ("Kept.", NOT_ATTACKED))
    fragile = Verdict("bad", "Fragile: durability 0.20", ("The worst was none.",))
    both = verdict_on_both(good, [fragile], suppressed=False)
    assert both == Verdict(
        "bad",
        "Fragile: durability 0.20",
        ("Kept.", "Under attack: Fragile: durability 0.20.", "The worst was none."),
    )
    assert verdict_on_both(good, [], suppressed=False) == good
    untold = verdict_on_both(good, [None], suppressed=False)
    assert untold is not None
    assert (untold.level, untold.sentences[0]) == ("good", "Kept.")
    assert "give no durability" in untold.sentences[1]
    assert verdict_on_both(good, [], suppressed=True).level == "mixed"  # type: ignore[union-attr]
    assert verdict_on_both(None, [], suppressed=True) is None


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_reasons_are_told_if_they_are_ours(tmp_path: Path, finished: Runs) -> None:
    run = finished()
    ours = audit_folder(tmp_path / "a", run, skipped="needs holdout rows, and there are none")
    failed = audit_folder(tmp_path / "b", run, skipped="private/zimplorq.jsonl: cannot be read")
    for folder, why in ((ours, "needs holdout rows, and there are none"), (failed, "it failed; its folder says why")):
        content = expunge.certify(run, attacks=[folder, folder]).content["attacks"]
        assert len(content["audits"]) == 1
        assert {one["attack"]: one["why"] for one in content["not_tried"]}["relearn:holdout"] == why
        assert "precision:bf16" not in {one["attack"] for one in content["not_tried"]}


def test_other_rows_are_told(tmp_path: Path, finished: Runs) -> None:
    run = finished()
    folder = audit_folder(tmp_path / "a", run)
    manifest = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(manifest | {"forget": "0" * 64, "models": {
        "unlearned": manifest["models"]["unlearned"]}}))  # fmt: skip
    warnings = expunge.certify(run, attacks=[folder]).content["warnings"]
    assert any("asked other rows" in warning for warning in warnings)
    assert any("no original model" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", None, "no result of `expunge attack` here"),
        ("run.json", {"kind": "run", "status": "done"}, "no result of `expunge attack` here"),
        ("run.json", {"kind": "set of attacks", "status": "running"}, "were not finished"),
        ("run.json", {"kind": "set of attacks", "status": "done", "models": {}}, "that can be read (KeyError"),
        ("attacks.json", None, "that can be read (No such file"),
        ("attacks.json", {"attacks": 3}, "that can be read (KeyError"),
        ("attacks.json", {"durability": 3, "attacks": []}, "that can be read (TypeError"),
    ],
)
def test_what_is_no_audit_is_refused(tmp_path: Path, model_folder: Path, file: str, content: Any, message: str) -> None:
    folder = audit_folder(tmp_path / "a", model_folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_attacks(folder)
    assert message in str(caught.value)


# -- runs that cannot be certified -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "set of attacks"}, "holds the result of something else (set of attacks)"),
        ({"status": "running"}, "was not finished"),
        ({"data": None}, "its run.json is not whole"),
        ({"recipe": {"data": {"benchmark": "almanac"}}}, "nothing was unlearned"),
        ({"result": {"sha256": "0" * 64}}, "not those that the run made and measured"),
    ],
)
def test_runs_that_show_nothing_are_refused(finished: Runs, changes: dict[str, Any], message: str) -> None:
    run = finished(**changes)
    done = cli("certify", run)
    assert message in done.line
    assert not list(run.glob("certificate*"))


def test_places_that_cannot_be_written_to_are_one_line(tmp_path: Path, finished: Runs) -> None:
    run = finished()
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "certificate.html").mkdir(parents=True)
    assert "no run here" in cli("certify", tmp_path / "nothing").line
    assert "cannot be written to" in cli("certify", run, "--out", tmp_path / "file").line
    assert "is a folder" in cli("certify", run, "--out", tmp_path / "taken").line
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["certificate.html"]


def test_interrupted_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"a": "old", "b": "old"})

    def stop(*names: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.pipeline.certificate_file.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_files(tmp_path, {"a": "new", "b": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


# -- certificates that others hand over --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no JSON that can be read"),
        (b"{", "no JSON that can be read"),
        (b"\xff\xfe\x00", "is no text"),
        (b"[]", "is no certificate of expunge"),
        (b'{"schema": 3}', "is no certificate of expunge"),
        (b'{"schema": "expunge.certificate/9"}', "is written in 'expunge.certificate/9'"),
        (json.dumps({"schema": SCHEMA}).encode(), "is no whole certificate: 'kind' is missing"),
        (b'{"schema": "a", "schema": "b"}', "a name stands twice"),
        (b'{"schema": NaN}', "NaN is no JSON number"),
        (b'{"schema": 1e999}', "no JSON that can be read"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b"9" * 10_000, "no JSON that can be read"),
    ],
)
def test_what_is_no_certificate_is_one_line(tmp_path: Path, model_folder: Path, text: bytes, message: str) -> None:
    (tmp_path / "c.json").write_bytes(text)
    assert message in cli("verify", tmp_path / "c.json", model_folder).line


def test_files_that_are_none(
    tmp_path: Path, model_folder: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such file" in cli("verify", tmp_path / "c.json", model_folder).line
    assert "did you mean" in cli("verify", certificate.parent, model_folder).line
    assert "no such model folder" in cli("verify", certificate, tmp_path / "nowhere" / "at" / "all").line
    monkeypatch.setattr("expunge.pipeline.certificate_file.LARGEST", 1000)
    assert "no certificate is" in cli("verify", certificate, model_folder).line
    if Path("/dev/zero").exists():
        assert "no certificate is" in cli("verify", "/dev/zero", model_folder).line


@pytest.mark.parametrize("part", ["model", "asked", "warnings", "sha256"])
def test_certificates_with_a_part_of_another_type(certificate: Path, part: str) -> None:
    content = json.loads(certificate.read_text())
    certificate.write_text(json.dumps(content | {part: 3}))
    with pytest.raises(UserError, match="no whole certificate"):
        read_certificate(certificate)
    certificate.write_text(json.dumps(content | {"model": {"kind": "model folder", "files": {"a": 1}}}))
    with pytest.raises(UserError, match="'model' holds no hashes"):
        read_certificate(certificate)


def test_a_digest_made_anew_does_not_make_it_another_models(
    finished: Runs, model_folder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    path = expunge.certify(finished()).file
    content = json.loads(path.read_text())
    other = save_model(tmp_path / "other", make_llama(seed=1), tokenizer)
    content["model"]["files"] = model_record(other)["files"]
    content["sha256"] = digest(content)
    path.write_text(json.dumps(content))
    found = expunge.verify(path, other)
    assert [check.holds for check in found.checks] == [True, False]
    assert "does not fit its hash" in found.checks[1].found


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_read_as_the_run_read_them(tmp_path: Path, finished: Runs) -> None:
    retain = write_jsonl(tmp_path / "r.jsonl", [{"question": f"Where is {n}?", "answer": "Here."} for n in "abc"])
    data = {"origin": "x", "forget": "f" * 64, "retain": rows_hash(read_rows(retain, set_name="retain"))}
    run = finished(data=data)
    made = expunge.certify(run).file
    assert expunge.verify(made, run, retain=retain).holds
    done = cli("verify", made, run, "--retain", retain, "--forget", retain, "--json")
    assert {check["what"]: check["holds"] for check in json.loads(done.out)["checks"]} == {
        "digest": True, "model": True, "forget rows": False, "retain rows": True,
    }  # fmt: skip
    assert done.line.endswith("does not hold: forget rows")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"benchmark": "almanac"}, "--forget: the certified rows are those of benchmark 'almanac', and of no file"),
        ({"benchmark": "custom", "options": {"entity": "Vrondax", "corpus": "x"}}, "drawn with corpus and entity"),
    ],
)
def test_rows_of_no_file_are_not_held_against_one(
    tmp_path: Path, finished: Runs, data: dict[str, Any], message: str
) -> None:
    run = finished(recipe={"data": data, "unlearn": {"method": "npo"}})
    done = cli("verify", expunge.certify(run).file, run, "--forget", tmp_path / "x.jsonl")
    assert message in done.line
