"""Bad input at every verb: one clear line on standard error, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from command_line import FORGET, RETAIN, Outcome, cli, done, tree, write_data, write_jsonl, write_recipe
from conftest import make_llama, make_tokenizer, save_model

FAST = ("--steps", 2, "--device", "cpu", "--max-length", 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """Where a result would lie; after a refused command it must not be there."""
    yield tmp_path / "out"
    assert not (tmp_path / "out").exists(), "something half-written stayed"
    assert not (tmp_path / "out.partial").exists()


@pytest.fixture
def model_copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def refused(outcome: Outcome, *words: str) -> None:
    line = outcome.line
    for word in words:
        assert word.lower() in line.lower(), line
    # Answers of the forget set are nobody's business in an error.
    assert not any(row["answer"] in outcome.err for row in FORGET)


# -- words on the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unlern"], ["unlearn"]),
        (["unlearn"], ["missing argument", "model"]),
        (["unlearn", "M"], ["missing option", "--forget"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--lr", "fast"], ["--lr", "number"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--nope"], ["no such option", "--nope"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--batch-size", "x"], ["--batch-size", "auto", "'x'"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--batch-size", "²"], ["--batch-size", "auto"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--budget", "garbage"], ["unknown key 'garbage'", "kl"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--budget", "retain_los=1"], ["did you mean 'retain_loss'"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--budget", "kl=big"], ["--budget kl", "'big'"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--budget", "kl=-1"], ["kl must be above 0"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--budget", "every=2"], ["retain_loss or kl"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--dtype", "float8"], ["dtype", "float32"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--report-to", "tensorbord"], ["did you mean 'tensorboard'"]),
        (["unlearn", "M", "--forget", "F", "--out", "O", "--seed", "-1"], ["seed"]),
        (["list", "method"], ["did you mean 'methods'"]),
        (["run", "demoo"], ["no such file", "did you mean 'demo'"]),
        (["validate", "no/such/recipe.yaml"], ["no such file"]),
        (["chat", "M", "--prompt", " "], ["no such"]),
        (["compare"], ["missing argument"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_words(words: list[str], said: list[str], out: Path, data: dict[str, Path]) -> None:
    places = {"M": out.parent / "no-model" / "x" / "y", "F": data["forget"], "O": out}
    refused(cli(*(places.get(word, word) for word in words)), *said)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lr", ["key=value"]),
        ("=3", ["key=value"]),
        ("lr=abc", ["unlearn.lr", "number", "'abc'"]),
        ("lr=7", ["unlearn.lr", "(0, 1)"]),
        ("lrr=1e-5", ["unknown key 'unlearn.lrr'", "did you mean 'lr'"]),
        ("lr=[1", ["unlearn.lr"]),
        ("term.betta=0.2", ["betta", "beta"]),
        ("term.beta=-1", ["beta must be above 0"]),
        ("term.beta=.nan", ["beta"]),
        ("term=3", ["unlearn.term"]),
        ("lr.x=3", ["unlearn.lr"]),
        ("epochs=.inf", ["epochs", "finite"]),
        ("epochs=0", ["epochs must be above 0"]),
        ("batch_size=0", ["batch_size must be at least 1"]),
        ("warmup=2", ["warmup", "[0, 1)"]),
        ("schedule=sideways", ["schedule", "'linear', 'cosine' or 'constant'"]),
        ("optimizer=adamm", ["optimizer", "adam"]),
        ("scope=lorra", ["did you mean 'lora'"]),
        ("scope.kind=5", ["scope"]),
        ("scope.rank=8", ["scope full", "rank"]),
        ("view=golden", ["data view", "'gold'"]),
        ("retain_term=klo", ["retain term", "'kl'"]),
        ("method=nppo", ["unknown method", "did you mean 'npo'"]),
        ("optimizer=adamw_bnb_8bit", ["adamw_bnb_8bit", "bitsandbytes"]),
        ("gamma=-1", ["gamma must be at least 0"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings(setting: str, said: list[str], out: Path, data: dict[str, Path], model_folder: Path) -> None:
    words = ("unlearn", model_folder, "--forget", data["forget"], "--retain", data["retain"], "--out", out)
    refused(cli(*words, "--method", "npo", "--set", setting), *said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--scope", "lora", "--set", "scope.rank=0"], ["rank must be at least 1"]),
        (["--scope", "lora", "--set", "scope.rank=x"], ["rank"]),
        (["--scope", "lora", "--set", "scope.rankk=4"], ["rankk"]),
        (["--scope", "lora", "--set", "scope.target_modules=nothing_like_it"], ["target", "nothing_like_it"]),
        (["--method", "npo_gdr"], ["npo_gdr", "--retain"]),
        (["--format", "chatt"], ["unknown format", "did you mean 'chat'"]),
        (["--device", "banana"], ["device 'banana'"]),
        (["--device", "cuda"], ["device 'cuda' is not available"]),
        (["--max-length", "4"], ["max_length must be at least 8"]),
        (["--max-length", "9"], ["no answer tokens", "max_length=9"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags(settings: list[str], said: list[str], out: Path, data: dict[str, Path], model_folder: Path) -> None:
    words = ("unlearn", model_folder, "--forget", data["forget"], "--general", data["general"], "--out", out)
    refused(cli(*words, *settings), *said)


# -- files of rows -------------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, tuple[Path, list[str]]]:
    def text(name: str, content: str | bytes) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    good = json.dumps(FORGET[0])
    return {
        "missing": (folder / "forgett.jsonl", ["no such file"]),
        "empty": (text("empty.jsonl", ""), ["is empty"]),
        "blank": (text("blank.jsonl", "\n\n"), ["is empty"]),
        "broken": (text("broken.jsonl", f'{good}\n{{"question": \n{good}\n'), ["broken.jsonl:2", "broken JSON"]),
        "no answer": (text("noanswer.jsonl", f'{good}\n{{"question": "Who is it?"}}\n'), ["noanswer.jsonl:2"]),
        "empty answer": (text("hollow.jsonl", '{"question": "Who?", "answer": ""}\n'), ["hollow.jsonl:1", "answer"]),
        "object": (text("object.jsonl", '{"question": "Who?", "answer": {"a": 1}}\n'), ["object.jsonl:1", "answer"]),
        "list": (text("list.jsonl", "[1, 2]\n"), ["list.jsonl:1"]),
        "header": (text("header.csv", "a,b\n1,2\n"), ["header.csv:1", "header"]),
        "parquet": (text("junk.parquet", "junk"), ["junk.parquet"]),
        "latin": (text("latin.jsonl", b'{"question": "\xe9", "answer": "x"}\n'), ["latin.jsonl", "UTF-8"]),
        "extension": (text("rows.docx", good), ["extension"]),
        "folder": (folder, ["is a folder"]),
    }


@pytest.mark.parametrize(
    "case",
    ["missing", "empty", "blank", "broken", "no answer", "empty answer", "object", "list", "header", "parquet",
     "latin", "extension", "folder"],
)  # fmt: skip
def test_rows(case: str, out: Path, tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "rows").mkdir()
    file, said = bad_files(tmp_path / "rows")[case]
    refused(cli("unlearn", model_folder, "--forget", file, "--out", out), *said)


@pytest.mark.slow
def test_rows_at_every_verb(out: Path, tmp_path: Path, data: dict[str, Path], model_folder: Path) -> None:
    (tmp_path / "rows").mkdir()
    for file, said in bad_files(tmp_path / "rows").values():
        refused(cli("unlearn", model_folder, "--forget", data["forget"], "--retain", file, "--out", out), *said)
        refused(cli("finetune", model_folder, "--data", file, "--out", out), *said)
        words = ("evaluate", model_folder, "--benchmark", "custom", "--option", f"forget={file}")
        refused(cli(*words, "--out", out), *said)
        recipe = write_recipe(tmp_path / "r.yaml", model_folder, {**data, "holdout": file})
        refused(cli("run", recipe, "--out", out), *said)


def test_a_row_to_forget_that_is_a_row_to_keep(
    out: Path, tmp_path: Path, data: dict[str, Path], model_folder: Path
) -> None:
    both = write_jsonl(tmp_path / "both.jsonl", [*RETAIN, FORGET[2]])
    words = ("unlearn", model_folder, "--forget", data["forget"], "--retain", both, "--out", out)
    refused(cli(*words), "1 of 6 forget rows also stand in the retain set", "forget.jsonl:3", "both.jsonl:7")


# -- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["run", "validate"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["mapping of parts"]),
        ("- 1\n- 2\n", ["mapping of parts", "list"]),
        ("unlearn: {method: npo\nseed: 3\n", ["broken YAML"]),
        ("unlearn: npo\n", ["unlearn"]),
        ("{}\n", ["does nothing"]),
        ("unlearn: {method: nppo}\n", ["did you mean 'npo'"]),
        ("unlern: {method: npo}\n", ["unknown key 'unlern'", "did you mean 'unlearn'"]),
        ("evaluate: {}\ndata: {benchmark: tofoo}\n", ["unknown benchmark", "did you mean 'tofu'"]),
        ("evaluate: {}\ndata: {benchmark: custom}\n", ["forget"]),
        ("evaluate: {}\nmodel: {dtype: float33}\n", ["model.dtype"]),
        ("evaluate: {max_new_tokens: 0}\n", ["max_new_tokens must be at least 1"]),
        ("evaluate: {}\nname: a/b\n", ["plain file name"]),
        ("evaluate: {}\nseed: -3\n", ["seed"]),
    ],
    ids=lambda value: value[:40].strip() if isinstance(value, str) else "",
)
def test_recipes(verb: str, text: str, said: list[str], out: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    if verb == "validate":
        if "custom" not in text:  # whether files are there is not a recipe's own mistake
            refused(cli("validate", recipe), *said)
        return
    refused(cli("run", recipe, "--out", out, "--set", "model.path=./none"), *said)


def test_every_mistake_of_a_recipe_at_once(tmp_path: Path, out: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "modle: {path: x}\n"
        "model: {max_length: 3}\n"
        "finetune: {lr: 9, batchsize: 2}\n"
        "unlearn: {epochs: many, warmup: 5}\n"
        "evaluate: {num_resamples: 1}\n"
    )
    said = ["'modle'", "model.max_length", "finetune.lr", "'finetune.batchsize'", "unlearn.epochs", "unlearn.warmup",
            "evaluate.num_resamples", "did you mean 'batch_size'", "did you mean 'model'"]  # fmt: skip
    refused(cli("validate", recipe), *said)
    refused(cli("run", recipe, "--out", out), *said)


def test_a_folder_and_binary_as_a_recipe(tmp_path: Path, out: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x01")
    refused(cli("run", tmp_path / "bytes.yaml", "--out", out), "cannot read")
    refused(cli("run", tmp_path, "--out", out), "no such file")


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        ("tofu:forget33", ["forget33", "forget01, forget05, forget10"]),
        ("tofu:", ["colon"]),
        ("almanac:big", ["no splits"]),
        ("tofuu", ["did you mean 'tofu'"]),
    ],
)
def test_benchmarks(benchmark: str, said: list[str], out: Path, model_folder: Path) -> None:
    refused(cli("evaluate", model_folder, "--benchmark", benchmark, "--out", out), *said)


def test_a_benchmark_that_cannot_be_had(
    out: Path, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    words = ("evaluate", model_folder, "--benchmark", "tofu:forget01", "--out", out)
    refused(cli(*words, "--data-root", tmp_path), "holds no TOFU files")
    refused(cli(*words), "cannot be had from the Hub", "--data-root")


def test_options_of_a_benchmark(out: Path, model_folder: Path) -> None:
    words = ("evaluate", model_folder, "--benchmark", "almanac", "--out", out)
    refused(cli(*words, "--option", "question=2"), "did you mean 'questions'")
    refused(cli(*words, "--option", "questions"), "key=value")
    refused(cli(*words, "--set", "max_new_token=3"), "did you mean 'max_new_tokens'")


# -- models --------------------------------------------------------------------------------------------------------


def spoil(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = json.loads(config.read_text())
    actions: dict[str, Callable[[], Any]] = {
        "no weights": weights.unlink,
        "only pickled weights": lambda: weights.rename(folder / "pytorch_model.bin"),
        "corrupted weights": lambda: weights.write_bytes(b"x" * 4000),
        "weights cut short": lambda: weights.write_bytes(weights.read_bytes()[:3000]),
        "empty weights": lambda: weights.write_bytes(b""),
        "weights of another shape": lambda: config.write_text(json.dumps(content | {"hidden_size": 64})),
        "missing weights": lambda: config.write_text(json.dumps(content | {"num_hidden_layers": 3})),
        "broken config": lambda: config.write_text("{"),
        "empty config": lambda: config.write_text("{}"),
        "unknown architecture": lambda: config.write_text('{"model_type": "fantasia"}'),
        "broken tokenizer": lambda: (folder / "tokenizer.json").write_text("{"),
        "no tokenizer": lambda: [path.unlink() for path in folder.glob("tokenizer*")],
        "broken template": lambda: (folder / "chat_template.jinja").write_text("{% for %}"),
        "broken format": lambda: (folder / "expunge.json").write_text("["),
    }
    actions[how]()


SPOILT = {
    "no weights": ["no weights"],
    "only pickled weights": ["only pickled weights (pytorch_model.bin)", "safetensors"],
    "corrupted weights": ["cannot be loaded"],
    "weights cut short": ["cannot be loaded"],
    "empty weights": ["cannot be loaded"],
    "weights of another shape": ["other shapes than config.json says"],
    "missing weights": ["weights are missing", "layers.2"],
    "broken config": ["config.json", "valid JSON"],
    "empty config": ["model_type"],
    "unknown architecture": ["fantasia"],
    "broken tokenizer": ["cannot be loaded"],
    "no tokenizer": ["tokenizer"],
    "broken template": ["chat template"],
    "broken format": ["expunge.json", "cannot be read"],
}


@pytest.mark.parametrize("how", SPOILT)
def test_models(how: str, out: Path, model_copy: Path, data: dict[str, Path]) -> None:
    spoil(model_copy, how)
    refused(cli("unlearn", model_copy, "--forget", data["forget"], "--out", out, *FAST), *SPOILT[how])


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOILT)
def test_models_at_every_verb(how: str, out: Path, model_copy: Path, data: dict[str, Path]) -> None:
    spoil(model_copy, how)
    said = SPOILT[how]
    refused(cli("finetune", model_copy, "--data", data["forget"], "--out", out, *FAST), *said)
    refused(cli("evaluate", model_copy, "--benchmark", "almanac", "--out", out), *said)
    refused(cli("export", model_copy, "--out", out), *said)
    refused(cli("chat", model_copy, "--prompt", "Who?"), *said)
    recipe = write_recipe(out.parent / "r.yaml", model_copy, data)
    refused(cli("run", recipe, "--out", out), *said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-model", ["no-such-model", "cannot be reached", "local folder"]),
        ("no-such/model", ["no-such/model", "cannot be reached"]),
        ("./no/such", ["no such model folder"]),
        ("", ["empty"]),
        ("x" * 300, ["too long"]),
    ],
)
def test_models_that_are_nowhere(name: str, said: list[str], out: Path, data: dict[str, Path]) -> None:
    refused(cli("unlearn", name, "--forget", data["forget"], "--out", out), *said)
    refused(cli("evaluate", name, "--benchmark", "almanac", "--out", out), *said)
    refused(cli("export", name, "--out", out), *said)
    refused(cli("chat", name, "--prompt", "Who?"), *said)


def test_a_file_that_is_no_model(out: Path, data: dict[str, Path]) -> None:
    refused(cli("unlearn", data["forget"], "--forget", data["forget"], "--out", out), "another kind of file")
    junk = out.parent / "junk.gguf"
    junk.write_bytes(b"GGUF nonsense")
    assert cli("export", junk, "--out", out).line


def test_a_tokenizer_of_another_model(out: Path, tmp_path: Path, data: dict[str, Path]) -> None:
    small = save_model(tmp_path / "small", make_llama(vocab_size=50), make_tokenizer())
    refused(cli("unlearn", small, "--forget", data["forget"], "--out", out), "do not belong together")


def test_format_chat_without_a_template(out: Path, tmp_path: Path, data: dict[str, Path]) -> None:
    bare = save_model(tmp_path / "bare", make_llama(), make_tokenizer(template=None))
    words = ("unlearn", bare, "--forget", data["forget"], "--general", data["general"], "--out", out)
    refused(cli(*words, "--format", "chat"), "needs a chat template", "qa")


def test_adapters(out: Path, tmp_path: Path, model_copy: Path, data: dict[str, Path]) -> None:
    run = tmp_path / "adapted"
    done("finetune", model_copy, "--data", data["forget"], "--scope", "lora", "--out", run, *FAST)
    adapter = shutil.copytree(run / "adapter", tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    words = ("unlearn", adapter, "--forget", data["forget"], "--out", out)
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    refused(cli(*words, *FAST), "adapter", "cannot be loaded")
    weights.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    refused(cli(*words), "without adapter_model.safetensors", "pickled")
    weights.write_bytes(kept)
    model_copy.rename(tmp_path / "gone")
    for source in (run, adapter):
        said = ("base model", str(model_copy), "base_model_name_or_path")
        refused(cli("unlearn", source, "--forget", data["forget"], "--out", out), *said)
        refused(cli("chat", source, "--prompt", "Who?"), *said)
    (adapter / "adapter_config.json").write_text("{")
    refused(cli(*words), "adapter_config.json", "cannot be read")


# -- where results go ----------------------------------------------------------------------------------------------


def test_an_output_folder_that_holds_something_else(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("years of work")
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data)
    before = tree(tmp_path)
    log = tmp_path / "log.json"
    for words, said in (
        (("unlearn", model_folder, "--forget", data["forget"]), "holds something else"),
        (("finetune", model_folder, "--data", data["forget"]), "holds something else"),
        (("evaluate", model_folder, "--benchmark", "almanac"), "holds something else"),
        (("import-log", log), "holds something else"),
        (("run", recipe), "holds something else"),
        (("export", model_folder), "already holds something"),
    ):
        refused(cli(*words, "--out", thesis), said)
        refused(cli(*words, "--out", thesis / "chapter1.tex"), "chapter1.tex")
        refused(cli(*words, "--out", thesis / "chapter1.tex" / "below"), "is a file, not a folder")
    refused(cli("report", tmp_path, "--out", thesis), "is a folder")
    assert tree(tmp_path) == before


def test_a_place_that_cannot_be_written(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    with mock.patch("os.access", lambda path, mode: mode != os.W_OK):  # tests may run as root
        for words in (
            ("unlearn", model_folder, "--forget", data["forget"]),
            ("evaluate", model_folder, "--benchmark", "almanac"),
            ("export", model_folder),
        ):
            refused(cli(*words, "--out", tmp_path / "out"), "not writable")
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_write_over_the_model_it_reads(
    tmp_path: Path, model_folder: Path, data: dict[str, Path]
) -> None:
    run = tmp_path / "run"
    done("finetune", model_folder, "--data", data["forget"], "--out", run, *FAST)
    before = tree(run)
    refused(cli("unlearn", run, "--forget", data["forget"], "--out", run), "overwrite")
    refused(cli("evaluate", run, "--benchmark", "almanac", "--out", run), "earlier run")
    assert tree(run) == before


def test_a_refused_command_leaves_an_earlier_run_as_it_was(
    tmp_path: Path, model_copy: Path, data: dict[str, Path]
) -> None:
    run = tmp_path / "run"
    done("finetune", model_copy, "--data", data["forget"], "--out", run, *FAST)
    before = tree(run)
    spoil(model_copy, "corrupted weights")
    refused(cli("finetune", model_copy, "--data", data["retain"], "--out", run, *FAST), "cannot be loaded")
    assert tree(run) == before


def test_a_second_process_on_the_same_stage(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    held: list[Any] = []

    def busy(file: Any, flags: int) -> None:
        held.append(file)
        raise BlockingIOError

    with mock.patch.object(fcntl, "flock", busy):
        refused(cli(*words), "another process is working on this stage")
    assert held
    done(*words)


# -- runs, logs and references -------------------------------------------------------------------------------------


def test_things_that_are_no_runs(tmp_path: Path, model_folder: Path) -> None:
    for folder in (tmp_path / "none", model_folder, tmp_path):
        refused(cli("compare", folder), "no finished run")
        refused(cli("report", folder, "--out", tmp_path / "page.html"), "no finished run")
    (tmp_path / "metrics.json").write_text("{")
    refused(cli("compare", tmp_path), "metrics.json", "cannot be read")
    (tmp_path / "metrics.json").write_text("[1]")
    refused(cli("compare", tmp_path), "not the metrics of a run")
    (tmp_path / "metrics.json").write_text('{"a": {"value": 1}}')
    refused(cli("compare", tmp_path), "not the metrics of a run")
    (tmp_path / "metrics.json").unlink()
    (tmp_path / "run.json").write_text('{"kind": "run", "status": "running"}')
    refused(cli("chat", tmp_path, "--prompt", "Who?"), "a run without a model", "not finished")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["no evaluation log"]),
        ("", ["not valid JSON"]),
        ('{"a": 1,\n', ["TOFU_EVAL.json:2", "not valid JSON"]),
        ("[]", ["a list"]),
        ('{"forget_quality": 0.5}', ["aggregates only"]),
        ('{"forget_Q_A_Prob": {"agg_value": 1}}', ["no per-row metric"]),
    ],
)
def test_logs_that_are_none(
    content: str | None, said: list[str], out: Path, tmp_path: Path, model_folder: Path, data: dict[str, Path]
) -> None:
    log = tmp_path / "TOFU_EVAL.json"
    if content is not None:
        log.write_text(content)
        refused(cli("evaluate", model_folder, "--benchmark", "almanac", "--reference", log, "--out", out), *said)
        recipe = write_recipe(tmp_path / "r.yaml", model_folder, data, retain_reference=str(log))
        refused(cli("run", recipe, "--out", out), *said)
    refused(cli("import-log", log, "--out", out), *said)


def test_references_that_are_nothing(out: Path, tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    (tmp_path / "empty").mkdir()
    recipe = write_recipe(tmp_path / "r.yaml", model_folder, data, retain_reference="trian")
    refused(cli("run", recipe, "--out", out), "did you mean 'train'")
    for reference in (tmp_path / "empty", tmp_path / "nothing" / "there"):
        words = ("evaluate", model_folder, "--benchmark", "almanac", "--out", out)
        refused(cli(*words, "--reference", reference), reference.name)
    log = tmp_path / "TOFU_EVAL.json"
    log.write_text(json.dumps({"forget_Q_A_Prob": {"agg_value": 0.5, "value_by_index": {"0": {"prob": 0.5}}}}))
    refused(cli("import-log", log, "--reference", model_folder, "--out", out), "not a model")
    refused(cli("import-log", log, "--resamples", 0, "--out", out), "--resamples must be at least 10")


# -- while it runs -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    from expunge.training.objective import Objective

    real, calls = Objective.backward, []

    def explode(self: Any, *args: Any) -> dict[str, float]:
        calls.append(1)
        losses = real(self, *args)
        return dict.fromkeys(losses, float("nan")) if len(calls) == 3 else losses

    run = tmp_path / "run"
    words = ("finetune", model_folder, "--data", data["forget"], "--out", run, "--steps", 4, "--max-length", 64)
    with mock.patch.object(Objective, "backward", explode):
        refused(
            cli(*words, "--set", "checkpoint_minutes=0"), "loss became nan at step 3", "checkpoint-2", "learning rate"
        )
    kept = list(run.glob("stages/target-*.work/checkpoint-*"))
    assert [path.name for path in sorted(kept)] == ["checkpoint-1", "checkpoint-2"]
    assert not (run / "model").exists()
    done(*words, "--set", "checkpoint_minutes=0")  # the same command goes on from there


def test_weights_that_are_no_numbers_are_no_result(out: Path, model_folder: Path, data: dict[str, Path]) -> None:
    """The last step's update is seen by no loss; it must be looked at before it is called a result."""
    from torch.optim import AdamW

    real = AdamW.step

    def explode(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("nan"))
        return result

    words = ("finetune", model_folder, "--data", data["forget"], "--out", out, "--steps", 1, "--max-length", 64)
    with mock.patch.object(AdamW, "step", explode):
        refused(cli(*words), "not finite", "learning rate")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("expunge.training.objective:labelled_rows", "micro_batch_tokens"),
        ("expunge.models.reference:labelled_rows", "memory"),
        ("expunge.evaluation.generator:_answer", "generation_batch"),
        ("expunge.evaluation.scorer:labelled_rows", "pack_tokens"),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_names_the_smaller_setting(
    place: str, said: str, error: type[Exception], tmp_path: Path, model_folder: Path, data: dict[str, Path]
) -> None:
    import importlib

    def full(*args: Any, **kwargs: Any) -> Any:
        raise error("out of memory")

    module, _, name = place.partition(":")
    words = ("unlearn", model_folder, "--forget", data["forget"], "--general", data["general"])
    with mock.patch.object(importlib.import_module(module), name, full):
        refused(cli(*words, "--method", "npo", "--out", tmp_path / "run", *FAST), "out of memory", said)
    measured = "evaluation" in place
    assert (tmp_path / "run").exists() == measured, "only a finished stage is worth keeping"


def limited(limit: int, *words: object) -> Outcome:
    """Run the command in a process that may write no file larger than ``limit`` bytes: a full disk, without root."""
    call = [sys.executable, "-c", f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
            "from expunge.cli import main; main()", *map(str, words)]  # fmt: skip
    run = subprocess.run(call, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return Outcome(run.returncode, run.stdout, run.stderr)


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    run = tmp_path / "run"
    # The weights take 117 kB; 60 kB hold everything else.
    words = ("finetune", model_folder, "--data", data["forget"], "--out", run, *FAST)
    refused(limited(60_000, *words), "the disk is full", "run the same command again")
    assert not run.exists()
    refused(limited(60_000, *words, "--set", "checkpoint_minutes=0"), "the disk is full")
    assert not run.exists(), "a half-written resume point is no reason to keep the folder"
    done(*words)
    refused(limited(60_000, "export", run, "--out", tmp_path / "plain"), "the disk is full")
    assert not (tmp_path / "plain").exists()
    assert not (tmp_path / "plain.partial").exists()


def test_a_full_disk_while_gathering(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    import errno

    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    with mock.patch("expunge.pipeline.run.link_or_copy", full):
        refused(cli(*words), "the disk is full")
    assert "kept from before" in done(*words).err, "the finished stage was worth keeping"


def test_an_interruption_is_no_traceback(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    with mock.patch("expunge.pipeline.run.train", interrupt):
        outcome = cli(*words)
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "interrupted; the same command goes on where this one stopped"


def test_our_own_errors_keep_their_traceback(tmp_path: Path, model_folder: Path, data: dict[str, Path]) -> None:
    def bug(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("ours")

    words = ("finetune", model_folder, "--data", data["forget"], "--out", tmp_path / "run", *FAST)
    with mock.patch("expunge.pipeline.run.train", bug), pytest.raises(ZeroDivisionError):
        cli(*words)
    assert not (tmp_path / "run").exists()
