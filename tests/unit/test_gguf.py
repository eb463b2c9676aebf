"""A user's GGUF file is unpacked once, kept by name and content, and answers as it did."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import ModelError
from expunge.models import gguf as ours
from expunge.models.load import load_model
from tiny_gguf import write_tiny_gguf

pytest.importorskip("gguf")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was unpacked, as it happens."""
    seen: list[Path] = []
    plain = ours.convert_gguf

    def convert(gguf_file: Path, out: Path) -> None:
        seen.append(gguf_file)
        plain(gguf_file, out)

    monkeypatch.setattr(ours, "convert_gguf", convert)
    return seen


def weights(loaded: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def test_it_is_unpacked_once_for_its_name_and_content(tmp_path: Path, cache: Path, conversions: list[Path]) -> None:
    file, copy = tmp_path / "tiny.gguf", tmp_path / "elsewhere" / "tiny.gguf"
    write_tiny_gguf(file)
    copy.parent.mkdir()
    shutil.copy(file, copy)
    first, again, other = (load_model(source, max_length=16, device="cpu") for source in (file, file, copy))
    assert conversions == [file]
    assert [folder.is_dir() for folder in cache.iterdir()] == [True]
    expected = weights(first)
    for loaded in (again, other):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(loaded).items())
    write_tiny_gguf(file, seed=1)
    changed = load_model(file, max_length=16, device="cpu")
    assert conversions == [file, file]
    assert not torch.equal(weights(changed)["lm_head.weight"], expected["lm_head.weight"])


def test_what_an_adapter_remembers_is_the_users_file(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    loaded = load_model(file, max_length=16, device="cpu")
    assert loaded.model.name_or_path == loaded.model.config.name_or_path == str(tmp_path)
    assert loaded.model.expunge_origin[0] == str(file)


def test_without_room_it_is_unpacked_in_every_load(
    tmp_path: Path, cache: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    kept = weights(load_model(file, max_length=16, device="cpu"))
    shutil.rmtree(cache)
    monkeypatch.setattr(ours, "ROOM", 1 << 60)
    straight = weights(load_model(file, max_length=16, device="cpu"))
    assert list(cache.iterdir()) == []
    assert conversions == [file]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in straight.items())
    # A cache that is a file cannot be written to.
    shutil.rmtree(cache)
    cache.write_text("in the way")
    assert load_model(file, max_length=16, device="cpu").model is not None


def test_what_lacks_weights_is_refused_and_not_kept(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file, without="blk.0.ffn_up")
    with pytest.raises(ModelError, match=r"tiny\.gguf: 1 weights are missing"):
        load_model(file, max_length=16, device="cpu")
    assert list(cache.iterdir()) == []
