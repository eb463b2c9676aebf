"""Where a model may come from, what is said when it cannot be had, and what loading settles."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_llama, make_tokenizer, save_model
from expunge.data.tree import TokenSequence
from expunge.errors import ModelError, RecipeError
from expunge.models import numerics
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel, load_model, remember_format, resolve, source_fingerprint
from expunge.models.reference import FrozenHead
from expunge.models.tree_attention import TREE_ATTENTION
from expunge.scopes.full import FullScope
from expunge.scopes.lora import LoraScope

Load = Callable[..., LoadedModel]


@pytest.fixture
def copied(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def save_adapter(base: Path, folder: Path) -> Path:
    model = LoraScope(rank=2).attach(load_model(base).model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    LoraScope().save(model, folder)
    return folder


def logps_of(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        return labelled_rows(loaded.model.eval(), [TokenSequence((5, 6, 7, 8), 1)], packed=loaded.packed).logps


# -- what loads ----------------------------------------------------------------------------------------------------


def test_a_folder(load_tiny: Load, model_folder: Path) -> None:
    loaded = load_tiny()
    assert loaded.packed
    assert loaded.notes == ["max_length lowered from 512 to the model's 256 positions"]
    assert loaded.format.name == "chat"
    assert loaded.format.max_length == 256
    assert loaded.source == str(model_folder)
    assert loaded.model.config._attn_implementation == TREE_ATTENTION
    assert loaded.matmul_route in ("onednn", "default")
    assert load_tiny(max_length=64).format.max_length == 64


def test_a_run_folder(copied: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.move(copied, run / "model")
    with pytest.raises(ModelError, match="no model here"):
        load_model(run)
    (run / "run.json").write_text("{}")
    assert load_model(run, max_length=64).packed


def test_an_adapter_with_its_base(model_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(model_folder, tmp_path / "adapter")
    loaded = load_model(folder, max_length=64)
    assert loaded.packed
    assert not torch.allclose(logps_of(loaded), logps_of(load_model(model_folder)), atol=1e-3)
    loaded.model = loaded.model.merge_and_unload()
    torch.testing.assert_close(logps_of(loaded), logps_of(load_model(folder)), rtol=0, atol=1e-5)


def test_an_adapter_on_a_relative_path_loads_from_elsewhere(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save_adapter(Path("copy"), tmp_path / "adapter")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_model(folder).packed


def test_nothing_of_ours_is_left_in_a_saved_config(load_tiny: Load, tmp_path: Path) -> None:
    load_tiny().model.save_pretrained(tmp_path)
    assert TREE_ATTENTION not in (tmp_path / "config.json").read_text()
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation != TREE_ATTENTION


def test_precision(load_tiny: Load) -> None:
    for dtype in ("bfloat16", "float16"):
        loaded = load_tiny(dtype=dtype)
        assert loaded.model.dtype == getattr(torch, dtype)
        assert loaded.packed
        assert labelled_rows(loaded.model, [TokenSequence((5, 6, 7), 1)], packed=True).logps.dtype == torch.float32


def test_a_remembered_format_wins_over_auto_and_loses_to_a_named_one(copied: Path, load_tiny: Load) -> None:
    remember_format(copied, load_tiny(format="blank").format)
    loaded = load_model(copied)
    assert loaded.format.name == "blank"
    assert "the model has no chat template in use; format 'blank'" in loaded.notes
    assert load_model(copied, format="qa").format.name == "qa"


def test_a_tokenizer_without_a_pad_token(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", make_llama(pad_token_id=None), make_tokenizer(pad=None, template=None))
    loaded = load_model(folder, max_length=64)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    assert loaded.format.name == "qa"
    assert [note.split(";")[0] for note in loaded.notes] == [
        "the model has no chat template in use",
        "the tokenizer has no pad token",
    ]


def test_dropout_is_off(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    assert config.resid_pdrop == config.attn_pdrop == 0.1
    folder = save_model(tmp_path / "gpt2", transformers.GPT2LMHeadModel(config), make_tokenizer())
    model = load_model(folder, max_length=64).model.train()
    sequences = [TokenSequence(tuple(range(10, 30)), 1)]
    first, second = (labelled_rows(model, sequences, packed=True).logps for _ in range(2))
    assert torch.equal(first, second)


# -- what does not -------------------------------------------------------------------------------------------------


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_that_are_no_model(tmp_path: Path) -> None:
    assert "no such model folder or .gguf file" in refusal(tmp_path / "nothing" / "here" / "at" / "all")
    text = tmp_path / "x.txt"
    text.write_text("x")
    assert "this is another kind of file" in refusal(text)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no model here (expected config.json with *.safetensors, an adapter, or one .gguf file)" in refusal(empty)


def test_the_hub_out_of_reach() -> None:
    assert "no such folder, and the Hub cannot be reached" in refusal("someone/some-model")


def test_pickled_weights_are_not_read(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert refusal(copied).endswith("no weights")
    (copied / "pytorch_model.bin").write_bytes(b"x")
    assert "only pickled weights (pytorch_model.bin), which are not read" in refusal(copied)


def test_a_pickled_adapter_is_not_read(model_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(model_folder, tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickled weights are not read" in refusal(folder)


def test_an_adapter_without_its_base(model_folder: Path, tmp_path: Path) -> None:
    folder = save_adapter(model_folder, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone" / "away" / "model")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert str(tmp_path / "gone" / "away" / "model") in message
    assert "set base_model_name_or_path in" in message
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert "adapter_config.json names no base model" in refusal(folder)


def test_weights_cut_short(copied: Path, model_folder: Path, tmp_path: Path) -> None:
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    for file in (copied / "model.safetensors", adapter / "adapter_model.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
        assert "cannot be loaded: " in refusal(file.parent)
        file.write_bytes(b"")
        assert "cannot be loaded: " in refusal(file.parent)


def test_wrong_options(model_folder: Path) -> None:
    assert "unknown dtype 'float8'" in (message := refusal(model_folder, dtype="float8"))
    assert all(name in message for name in ("float32", "bfloat16", "float16"))
    assert "device 'cuda' is not available here" in refusal(model_folder, device="cuda")
    assert "device 'gpu' is not available here" in refusal(model_folder, device="gpu")
    assert "unknown format 'chatt'" in refusal(model_folder, format="chatt")


# -- fingerprints --------------------------------------------------------------------------------------------------


def test_a_fingerprint_follows_the_content_not_the_place(model_folder: Path, copied: Path, tmp_path: Path) -> None:
    print_ = source_fingerprint(model_folder)
    assert load_model(model_folder).fingerprint == print_
    assert source_fingerprint(copied) == print_
    save_model(copied, make_llama(seed=1), make_tokenizer())
    assert source_fingerprint(copied) != print_
    (copied / "README.md").write_text("x")
    changed = source_fingerprint(copied)
    (copied / "README.md").write_text("y")
    assert source_fingerprint(copied) == changed


def test_an_adapters_fingerprint_covers_its_base(copied: Path, tmp_path: Path) -> None:
    folder = save_adapter(copied, tmp_path / "adapter")
    before = source_fingerprint(folder)
    save_model(copied, make_llama(seed=1), make_tokenizer())
    assert source_fingerprint(folder) != before


def test_places() -> None:
    assert resolve("someone/some-model").hub_id == "someone/some-model"
    assert resolve("gpt2").hub_id == "gpt2"


# -- scopes on a loaded model --------------------------------------------------------------------------------------


def test_full_scope_trains_everything_and_lora_only_its_adapter(load_tiny: Load) -> None:
    assert all(p.requires_grad for p in FullScope().attach(load_tiny().model).parameters())
    model = LoraScope(rank=2).attach(load_tiny().model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_full_scope_on_an_adapter_saves_a_whole_model(model_folder: Path, tmp_path: Path) -> None:
    loaded = load_model(save_adapter(model_folder, tmp_path / "adapter"))
    expected = logps_of(loaded)
    loaded.model = FullScope().attach(loaded.model)
    FullScope().save(loaded.model, tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(logps_of(load_model(tmp_path / "model")), expected, rtol=0, atol=1e-5)


def test_lora_on_layers_that_do_not_exist(load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match="scope lora: "):
        LoraScope(target_modules=("nothing",)).attach(load_tiny().model)


# -- the frozen head -----------------------------------------------------------------------------------------------


def test_a_head_that_bends_its_logits_in_an_unknown_way_is_refused(load_tiny: Load) -> None:
    model = load_tiny().model
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    straight = hidden @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(FrozenHead(model, hidden, straight).logits(hidden), straight)
    with pytest.raises(ModelError, match="use retain term 'nll'"):
        FrozenHead(model, hidden, 7 * straight)


def test_a_soft_cap_is_found(load_tiny: Load) -> None:
    model = load_tiny().model
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    model.config.final_logit_softcapping = 0.5
    capped = 0.5 * torch.tanh(hidden @ model.get_output_embeddings().weight.T / 0.5)
    torch.testing.assert_close(FrozenHead(model, hidden, capped).logits(hidden), capped)


# -- the matrix route ----------------------------------------------------------------------------------------------


def test_the_fast_route_is_taken_only_where_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        assert numerics.use_fast_float32() == "default"
        return
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "ieee"
        errors = iter((1e-6, 1e-2))
        monkeypatch.setattr(numerics, "_matmul_error", lambda: next(errors))
        assert numerics.use_fast_float32() == "default"
        assert matmul.fp32_precision == "ieee"
        errors = iter((1e-6, 2e-6))
        assert numerics.use_fast_float32() in ("onednn", "default")
    finally:
        matmul.fp32_precision = before


def test_few_compiled_products_are_kept_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    numerics.use_fast_float32()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
    assert int(os.environ["LRU_CACHE_CAPACITY"]) < 1024


def test_products_are_exact_on_the_chosen_route() -> None:
    numerics.use_fast_float32()
    assert numerics._matmul_error() < 1e-4
