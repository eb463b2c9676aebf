"""`expunge requests` from end to end: three ways to carry requests out, looked at again, taken back, cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import cli
from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.errors import DataError, UserError
from expunge.models.load import load_model
from expunge.pipeline.loading import load_data
from expunge.pipeline.request_audit import audit_requests
from expunge.pipeline.request_models import add_task_vectors
from expunge.pipeline.request_report import request_report
from expunge.pipeline.requesting import Requests, _folder_name
from expunge.pipeline.run_models import run_models
from expunge.requests.ledger import Ledger

QUICK = {"max_steps": 2, "lr": 1e-3, "batch_size": 3}
NPO = {"method": "npo", **QUICK}


def write(path: Path, rows: tuple[Row, ...]) -> Path:
    path.write_text("".join(json.dumps({"question": r.prompt, "answer": r.answer}) + "\n" for r in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    colours = colour_rows()
    sets = {"first": colours[:3], "second": colours[3:], "retain": city_rows()}
    return {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in sets.items()}


@pytest.fixture
def requests(tmp_path: Path, files: dict[str, Path], memorised_folder: Path) -> Requests:
    """Two pending requests to a model that knows all their rows."""
    made = Requests(tmp_path / "ledger")
    made.add(files["first"], retain=files["retain"], model=memorised_folder, model_settings={"max_length": 64})
    made.add(files["second"], note="the others")
    return made


def states(requests: Requests) -> list[str]:
    return [request.state for request in requests.list()]


def weights(path: str) -> dict[str, torch.Tensor]:
    return dict(load_model(path, max_length=64).model.named_parameters())


@pytest.mark.slow
def test_from_the_first_word_to_the_page(tmp_path: Path, files: dict[str, Path], memorised_folder: Path) -> None:
    ledger = tmp_path / "ledger"

    def said(*words: object) -> str:
        done = cli("requests", *words)
        assert done.code == 0, done.err
        return done.out

    model = ("--model", memorised_folder, "--max-length", 64)
    assert "request 1: 3 rows" in said("add", ledger, "--forget", files["first"], "--retain", files["retain"], *model)
    assert "request 2: 3 rows" in said("add", ledger, "--forget", files["second"], "--note", "the others")
    steps = ("--steps", 8, "--lr", 0.01, "--batch-size", 3)
    done = json.loads(said("run", ledger, "--method", "grad_diff", *steps, "--json"))
    assert [made["requests"] for made in done] == [[1], [2]]
    listed = json.loads(said("list", ledger, "--json"))
    assert [(one["state"], one["application"]["strategy"]) for one in listed] == [("applied", "chain")] * 2
    assert "the others" in said("list", ledger)
    found = json.loads(said("audit", ledger, "--json"))
    assert found["times"] == ["base", "after 1", "after 2"]
    first, second = (found["sets"][f"request {n}"]["extraction_strength"] for n in (1, 2))
    assert min(first[0], second[0]) > 0.9
    assert first[1] < first[0] / 2
    assert second[2] < second[0] / 2
    page = (ledger / "report.html").read_text()
    assert "after 2" in page
    assert "request 1: extraction strength" in page
    assert "Ada" not in (ledger / "ledger.sqlite").read_text(errors="ignore")


@pytest.mark.slow
def test_a_chain_goes_on_from_where_the_last_request_ended(requests: Requests) -> None:
    first, second = requests.run(settings=NPO)
    base = requests.ledger.facts()["model_hash"]
    assert first.base_hash == base
    assert second.base_hash == first.result_hash
    assert requests.model().endswith(second.result)
    assert requests.run(settings=NPO) == ()


@pytest.mark.slow
def test_a_chain_of_adapters_is_taken_up_into_the_weights(requests: Requests) -> None:
    part = {**NPO, "scope": {"kind": "lora", "rank": 2}}
    first, second = requests.run(settings=part)
    assert Path(first.result).name == Path(second.result).name == "model"
    assert first.result_hash != second.result_hash


def test_batched_requests_are_one_application(requests: Requests) -> None:
    (made,) = requests.run(settings=NPO, batched=True)
    assert made.requests == (1, 2)
    assert states(requests) == ["applied", "applied"]


@pytest.mark.slow
def test_merged_changes_add_up(requests: Requests) -> None:
    first, second = requests.run(settings=NPO, strategy="merge")
    base = requests.models().base
    assert first.base_hash == second.base_hash == requests.ledger.facts()["model_hash"]
    start, one, two = (
        weights(path) for path in (base, *(str(requests.ledger.folder / a.result) for a in (first, second)))
    )
    # Else the sum would be that of one change taken twice.
    assert any(not torch.equal(one[name], two[name]) for name in start)
    whole = weights(requests.model())
    for name, weight in whole.items():
        torch.testing.assert_close(weight, one[name] + two[name] - start[name])
    requests.revoke(1)
    left = weights(requests.model())
    torch.testing.assert_close(left, two)
    assert states(requests) == ["revoked", "applied"]


def test_task_vectors_of_other_shapes_are_refused(memorised_folder: Path) -> None:
    from conftest import make_llama

    base, other = (load_model(memorised_folder, max_length=64) for _ in range(2))
    other.model = make_llama(num_hidden_layers=1)
    with pytest.raises(UserError, match="differ in their weights' names or shapes"):
        add_task_vectors(base, [lambda: other])


@pytest.mark.slow
def test_gated_adapters_answer_side_by_side(requests: Requests) -> None:
    part = {"method": "grun_gd", **QUICK}
    made = requests.run(settings=part, strategy="compose")
    assert [Path(one.result).name for one in made] == ["adapter", "adapter"]
    audit = audit_requests(requests)
    assert audit.times == ("base", "after 1", "after 2")
    requests.revoke(1)
    assert requests.model().endswith(made[1].result)


def test_cut_off_between_training_and_the_ledger_it_is_recorded_once(
    requests: Requests, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*args: object, **kwargs: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            requests.run(settings=NPO)
    assert states(requests) == ["pending", "pending"]
    capsys.readouterr()
    assert len(requests.run(settings=NPO)) == 2
    assert capsys.readouterr().err.count("kept from before") == 1
    assert states(requests) == ["applied", "applied"]
    assert [a.requests for a in requests.ledger.applications()] == [(1,), (2,)]


@pytest.mark.slow
def test_revoking_undoes_what_was_trained_on_top(requests: Requests) -> None:
    first, _ = requests.run(settings=NPO)
    requests.revoke(1)
    assert states(requests) == ["revoked", "pending"]
    assert requests.model() == requests.models().base
    (again,) = requests.run()
    assert again.requests == (2,)
    assert again.settings == NPO  # as the last application
    assert again.base_hash == first.base_hash


def test_a_file_of_rows_to_keep_does_not_teach_what_a_later_request_forgets(
    tmp_path: Path, memorised_folder: Path
) -> None:
    from expunge.pipeline.request_rows import kept_rows, read_request

    forget = write(tmp_path / "f.jsonl", colour_rows()[:2])
    retain = write(tmp_path / "r.jsonl", (*city_rows(), *colour_rows()[2:]))
    later = write(tmp_path / "g.jsonl", colour_rows()[2:])
    requests = Requests(tmp_path / "ledger")
    requests.add(forget, retain=retain, model=memorised_folder, model_settings={"max_length": 64})
    everything = [read_request(request) for request in requests.list()]
    assert len(kept_rows(everything)) == len(city_rows()) + 4
    requests.add(later)
    everything = [read_request(request) for request in requests.list()]
    assert {row.answer for row in kept_rows(everything)} == {row.answer for row in city_rows()}


@pytest.mark.slow
def test_rows_that_changed_are_refused_and_rows_that_are_gone_left_out(
    requests: Requests, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write(files["second"], colour_rows()[4:])
    with pytest.raises(DataError, match="request 2: the forget rows are no longer those that were written down"):
        requests.run(settings=NPO)
    assert states(requests) == ["pending", "pending"]
    write(files["second"], colour_rows()[3:])
    requests.run(settings=NPO)
    files["first"].unlink()
    audit = audit_requests(requests)
    assert "request 1 is left out" in capsys.readouterr().err
    assert [one.name for one in audit.asked] == ["request 2", "general"]
    assert audit.notes == ("request 1 was carried out and cannot be asked: its rows are gone",)
    assert "its rows are gone" in str(request_report(audit).warnings)
    files["second"].unlink()
    with pytest.raises(UserError, match="the rows of no request are there any more"):
        audit_requests(requests)


@pytest.mark.slow
def test_where_nothing_that_was_carried_out_can_be_asked_nothing_is_condemned(
    requests: Requests, files: dict[str, Path], tmp_path: Path
) -> None:
    requests.run(settings=NPO)
    files["first"].unlink()
    files["second"].unlink()
    requests.add(write(tmp_path / "third.jsonl", city_rows()))
    verdict = request_report(audit_requests(requests)).verdict
    assert verdict is not None
    assert (verdict.level, verdict.headline) == ("mixed", "Nothing that was carried out can be asked any more")


@pytest.mark.slow
def test_what_was_applied_is_a_run_whose_rows_can_be_read_again(requests: Requests) -> None:
    requests.run(settings=NPO, batched=True)
    found = run_models(requests.ledger.folder / "applied" / "1-2")
    assert found is not None
    benchmark = load_data(found.recipe)
    assert [row.answer for row in benchmark.forget] == [row.answer for row in colour_rows()]
    assert [row.answer for row in benchmark.retain] == [row.answer for row in city_rows()]
    assert found.original == requests.models().base


def test_folders_of_many_requests_do_not_collide() -> None:
    many = list(range(1, 12))
    assert _folder_name([3]) == "3"
    assert _folder_name([3, 5]) == "3-5"
    assert _folder_name(many).startswith("1-to-11-")
    assert _folder_name(many) != _folder_name([*many[:5], *many[6:]])


@pytest.mark.slow
def test_a_new_request_costs_only_its_own_cells(requests: Requests, capsys: pytest.CaptureFixture[str]) -> None:
    requests.run(settings=NPO)
    audit_requests(requests)
    capsys.readouterr()
    audit_requests(requests)
    assert capsys.readouterr().err.count("kept from before") == 3 * 4


@pytest.mark.slow
def test_weights_that_are_not_those_recorded_are_found(requests: Requests) -> None:
    first, _ = requests.run(settings=NPO)
    path = requests.ledger.folder / first.result / "config.json"
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**content, "rope_theta": 7.0}))
    with pytest.raises(UserError, match="weights of application 1 are not those that were recorded"):
        audit_requests(requests)


@pytest.mark.parametrize(
    ("settings", "strategy", "message"),
    [
        ({"method": "refusal_prompt"}, None, "only suppresses answers"),
        ({"method": "grun_gd", **QUICK}, None, "strategy chain takes any but a gated scope"),
        (NPO, "compose", "strategy compose takes a gated scope"),
        ({"method": "npoo"}, None, "did you mean 'npo'"),
        (NPO, "chian", "did you mean 'chain'"),
        ({**NPO, "lrr": 1}, None, "unknown key 'unlearn.lrr'"),
        ({**NPO, "rules": [{"kind": "gruu"}]}, None, "did you mean 'gru'"),
    ],
)
def test_mistakes_are_found_before_any_request_is_carried_out(
    requests: Requests, settings: dict[str, Any], strategy: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        requests.run(settings=settings, strategy=strategy)
    assert states(requests) == ["pending", "pending"]
    assert not (requests.ledger.folder / "applied").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "nothing"), "no ledger here"),
        (("run", "nothing"), "no ledger here"),
        (("audit", "nothing"), "no ledger here"),
        (("revoke", "nothing", "1"), "no ledger here"),
        (("add", "nothing", "--forget", "missing.jsonl"), "missing.jsonl"),
        (("run", "nothing", "--lr", "0.1"), "lr is given without --method"),
    ],
)
def test_users_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("requests", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_carried_out_is_nothing_to_audit(requests: Requests) -> None:
    with pytest.raises(UserError, match="no request was carried out yet"):
        audit_requests(requests)
