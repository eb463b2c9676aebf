"""Loading a causal language model from wherever the user has one: a folder, a run, an adapter, a GGUF file, the Hub."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from expunge.data.formats import Format
from expunge.errors import ModelError, ResourceError
from expunge.models.fetch import fetch_smollm2
from expunge.models.gated_files import GATED_FILE, load_gated
from expunge.models.gguf import gguf_options, require_all, unpacked
from expunge.models.guards import GUARD_FILE, Guard, recall_guard
from expunge.models.numerics import use_fast_float32
from expunge.models.tree_attention import TREE_ATTENTION, tree_works

BUILTIN_MODEL = "smollm2"
HUB_SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMAT_FILE = "expunge.json"
"""Beside saved weights: which chat format they were trained with."""


@dataclass
class LoadedModel:
    """A model ready to be trained or scored, with all that has to stay together with it."""

    model: Any
    tokenizer: Any
    format: Format
    packed: bool
    """Whether it takes packed trees; otherwise padded batches."""
    source: str
    fingerprint: str
    """SHA-256 over the weights and configuration that it was loaded from."""
    notes: list[str] = field(default_factory=list)
    """What a user should know: fallbacks taken, tokens substituted."""
    matmul_route: str = "default"
    guard: Guard | None = None
    """What its answers pass through; ``format`` already holds the guard's part of the prompt."""


def load_model(
    source: str | Path,
    *,
    format: str = "auto",
    max_length: int = 512,
    dtype: str = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
    guarded: bool = True,
    quantise: Callable[[Any, torch.device], None] | None = None,
) -> LoadedModel:
    """Load weights (safetensors or GGUF only), tokenizer and format, and check that packed trees work.

    Args:
        source: ``smollm2`` (the built-in demo model), a model folder, a run folder, a PEFT or gated adapter folder, a
            ``.gguf`` file or a Hub id.
        format: ``auto``, ``chat`` or a named format; a model trained here remembers its own.
        max_length: longest sequence in tokens.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        trust_remote_code: run Python code that comes with the model; never on by default.
        guarded: obey a guard that lies beside the weights; training looks past it.
        quantise: ``(model, device)``: puts weights into fewer bits on their way to the device, which then never holds
            the whole model in full.

    Raises:
        ModelError: one line that says what is missing and what would do.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    route = use_fast_float32()
    target = pick_device(device)
    place = resolve(source)
    options = {"dtype": DTYPES[dtype], "trust_remote_code": trust_remote_code}
    model, tokenizer = _load_weights(place, options)
    notes: list[str] = []
    if format == "auto" and place.format:
        format = place.format
    _check_fit(str(source), model, tokenizer)
    guard = recall_guard(place.folder) if place.folder else None
    if guard and not guarded:
        notes.append(f"the guard {guard.key} beside the weights is not obeyed here, and not carried over")
        guard = None
    try:
        bound = Format.bind(tokenizer, format, _fitting_length(max_length, model, notes))
        if guard:
            bound = guard.wrap(bound, _positions(model))
            notes.append(f"guarded by {guard.key}: suppression, not erasure; the weights themselves answer as before")
    except TemplateError as error:
        raise ModelError(
            f"{source}: its chat template cannot be used: {first_line(error)}; or give --format"
        ) from error
    if bound.name != "chat":
        notes.append(f"the model has no chat template in use; format '{bound.name}'")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append("the tokenizer has no pad token; padding uses the end token, masks come from lengths")
    _disable_dropout(model)
    if quantise:
        quantise(model, target)
    model.to(target)
    packed = _switch_to_trees(model, notes)
    model = _with_gates(model, place)
    identity = source_fingerprint(source)
    return LoadedModel(model, tokenizer, bound, packed, str(source), identity, notes, route, guard)


@dataclass(frozen=True)
class Place:
    """Where the parts of a model lie, found out before anything heavy is read."""

    folder: Path | None = None
    hub_id: str | None = None
    gguf_file: str | None = None
    adapter: bool = False
    gated: bool = False
    """Whether the adapter is a gated one, and not PEFT's."""
    format: str | None = None

    def fingerprint(self) -> str:
        """SHA-256 over the files that make the model what it is."""
        assert self.folder is not None
        files = [self.folder / self.gguf_file] if self.gguf_file else sorted(self.folder.iterdir())
        wanted = [f for f in files if f.suffix in {".safetensors", ".gguf"} or f.name in _IDENTITY_FILES]
        own = _hash_files(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in wanted))
        if not self.adapter:
            return own
        return hashlib.sha256(f"{own}+{_fingerprint(resolve_base(self.folder))}".encode()).hexdigest()


_IDENTITY_FILES = {
    "config.json",
    "adapter_config.json",
    GATED_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    GUARD_FILE,
}


@lru_cache(maxsize=64)
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(Path(name).name.encode())
        with open(name, "rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def let_go(loaded: LoadedModel) -> None:
    """Free a model's memory before the next one is loaded; what else is known of it stays."""
    loaded.model = None
    gc.collect()


def source_fingerprint(source: str | Path) -> str:
    """SHA-256 that identifies a model without loading its weights: of its files, or of a Hub id with its revision.

    Raises:
        ModelError: if the source names no model that can be had.
    """
    return _fingerprint(resolve(source))


def _fingerprint(place: Place) -> str:
    if place.folder:
        return place.fingerprint()
    try:
        config = AutoConfig.from_pretrained(str(place.hub_id))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(_explain(str(place.hub_id), place, error)) from error
    commit = getattr(config, "_commit_hash", None) or "unknown revision"
    return hashlib.sha256(f"{place.hub_id}@{commit}".encode()).hexdigest()


def resolve(source: str | Path) -> Place:
    """Find out what kind of thing ``source`` names.

    Raises:
        ModelError: if it is a path and holds no model.
    """
    if str(source) == BUILTIN_MODEL:
        return _in_folder(fetch_smollm2())
    path = Path(source).expanduser()
    if not str(source).strip() or any(len(part) > 255 for part in path.parts):
        raise ModelError("the model's name is empty or too long; give a folder, a .gguf file or a Hub id")
    if path.is_file():
        if path.suffix == ".gguf":
            return Place(folder=path.parent, gguf_file=path.name)
        raise ModelError(f"{source}: a model is a folder, a .gguf file or a Hub id, and this is another kind of file")
    if path.is_dir():
        return _in_folder(path)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) and not str(source).startswith("."):
        return Place(hub_id=str(source))
    raise ModelError(f"{source}: no such model folder or .gguf file")


def _in_folder(path: Path) -> Place:
    for name in ("model", "adapter"):
        if (path / "run.json").is_file() and (path / name).is_dir():
            return _in_folder(path / name)
    remembered = _read_json(path / FORMAT_FILE).get("format") if (path / FORMAT_FILE).is_file() else None
    if (path / GATED_FILE).is_file():
        return Place(folder=path, adapter=True, gated=True, format=remembered)
    if (path / "adapter_config.json").is_file():
        if not (path / "adapter_model.safetensors").is_file():
            raise ModelError(f"{path}: an adapter without adapter_model.safetensors (pickled weights are not read)")
        return Place(folder=path, adapter=True, format=remembered)
    if not (path / "config.json").is_file():
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) == 1:
            return Place(folder=path, gguf_file=ggufs[0].name)
        if (path / "run.json").is_file():
            raise ModelError(
                f"{path}: a run without a model: it was not finished, only measured, or did not keep its weights "
                "(unlearn.keep_weights)"
            )
        raise ModelError(
            f"{path}: no model here (expected config.json with *.safetensors, an adapter, or one .gguf file)"
        )
    if not list(path.glob("*.safetensors")):
        pickled = ", ".join(p.name for p in sorted(path.glob("*.bin")))
        why = (
            f"only pickled weights ({pickled}), which are not read; save them as safetensors"
            if pickled
            else "no weights"
        )
        raise ModelError(f"{path}: {why}")
    return Place(folder=path, format=remembered)


def _load_weights(place: Place, options: dict[str, Any]) -> tuple[Any, Any]:
    if place.adapter:
        return _load_adapter(place, options)
    # Absolute, because an adapter remembers it as its base and may be loaded from elsewhere.
    name = str(place.folder.resolve()) if place.folder else str(place.hub_id)
    extra: dict[str, Any] = {"use_safetensors": True}
    remote = {"trust_remote_code": options["trust_remote_code"]}
    try:
        read = name
        if place.folder and place.gguf_file:
            if kept := unpacked(place.folder / place.gguf_file, place.fingerprint()):
                read = str(kept)
            else:
                extra = gguf_options(place.gguf_file)
                remote["gguf_file"] = place.gguf_file
        loaded: Any = AutoModelForCausalLM.from_pretrained(read, **options, **extra, output_loading_info=True)
        model, found = loaded
        tokenizer = AutoTokenizer.from_pretrained(read, **remote)
    except ImportError as error:
        raise ModelError(f"{name}: {first_line(error)}") from error
    except torch.OutOfMemoryError as error:
        raise ResourceError(f"{name}: out of memory while loading; use --dtype bfloat16 or a smaller model") from error
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, SafetensorError, struct.error) as error:
        raise ModelError(_explain(name, place, error)) from error
    require_all(name, found)
    model.name_or_path = model.config.name_or_path = name
    return model, tokenizer


def _check_fit(name: str, model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens and the model embeds {rows}; "
            "they do not belong together"
        )


def _load_adapter(place: Place, options: dict[str, Any]) -> tuple[Any, Any]:
    folder = place.folder
    assert folder is not None
    model, tokenizer = _load_weights(resolve_base(folder), options)
    if place.gated:
        return _base_for_gates(model, tokenizer, folder)
    from peft import PeftModel

    try:
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
        return PeftModel.from_pretrained(model, str(folder)), tokenizer
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be loaded: {first_line(error)}") from error


def _base_for_gates(model: Any, tokenizer: Any, folder: Path) -> tuple[Any, Any]:
    """The base model as the gates saw it: an adapter that it came with is folded in."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return model, tokenizer


def _with_gates(model: Any, place: Place) -> Any:
    """Say where the weights came from, which gated adapters remember, and attach the gates that belong to them."""
    base = resolve_base(place.folder) if place.gated and place.folder else place
    file = base.folder / (base.gguf_file or "") if base.folder else None
    model.expunge_origin = (str(file.resolve()) if file else str(base.hub_id), _fingerprint(base))
    return load_gated(model, place.folder) if place.gated and place.folder else model


def resolve_base(folder: Path) -> Place:
    """Where an adapter's base model lies.

    Raises:
        ModelError: if the adapter names none, or one that is not there.
    """
    gated = (folder / GATED_FILE).is_file()
    file, key = (GATED_FILE, "base_model") if gated else ("adapter_config.json", "base_model_name_or_path")
    base = _read_json(folder / file).get(key)
    if not base:
        raise ModelError(f"{folder}: {file} names no base model; set {key} in it")
    try:
        if Path(base).is_absolute() and not Path(base).exists():
            raise ModelError("no such model folder")
        return resolve(base)
    except ModelError as error:
        raise ModelError(
            f"{folder}: the adapter's base model {base} cannot be had ({error}); put it back, or set {key} in {file}"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return content


def first_line(error: BaseException) -> str:
    """The first line of a message that says anything, or the error's kind."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _explain(name: str, place: Place, error: BaseException) -> str:
    """One line for the usual ways in which a model cannot be had."""
    if place.folder:
        if "ignore_mismatched_sizes" in str(error):
            return f"{name}: cannot be loaded: the weights have other shapes than config.json says"
        return f"{name}: cannot be loaded: {first_line(error)}"
    kinds = set()
    cause: BaseException | None = error
    while cause is not None:
        kinds.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "GatedRepoError" in kinds:
        return f"{name}: the Hub model is gated; accept its terms on its page and log in with `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return f"{name}: no such folder, and no such public model on the Hub (a private one needs `hf auth login`)"
    offline = kinds & {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "ConnectionError",
        "ProxyError",
    }
    if offline or "couldn't connect" in str(error).lower():
        return f"{name}: no such folder, and the Hub cannot be reached; give a local folder, or '{BUILTIN_MODEL}'"
    if "safetensors" in str(error):
        return f"{name}: the Hub model has no safetensors weights, and pickled ones are not read"
    return f"{name}: cannot be loaded: {first_line(error)}"


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ModelError: if the device is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        there = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = first_line(error).partition(". ")[0]
        raise ModelError(f"device {device!r} is not available here: {reason}") from error
    if there.type == "meta":
        raise ModelError("device 'meta' computes nothing; use auto, cpu or cuda")
    return torch.device(device)


def _fitting_length(max_length: int, model: Any, notes: list[str]) -> int:
    positions = _positions(model)
    if positions and positions < max_length:
        notes.append(f"max_length lowered from {max_length} to the model's {positions} positions")
        return positions
    return max_length


def _positions(model: Any) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _disable_dropout(model: Any) -> None:
    """Dropout is 0 unless asked: at the reference every loss must have its known value."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Many architectures keep a rate as a plain number (OPT, BLOOM) and call the function.
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _switch_to_trees(model: Any, notes: list[str]) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = inner.config._attn_implementation
    try:
        inner.set_attn_implementation(TREE_ATTENTION)
        # Products with 4-bit weights are computed in half precision, whatever the others' is.
        reason = tree_works(inner, tolerance=0.15 if getattr(inner, "is_loaded_in_4bit", False) else None)
    except (ValueError, KeyError, AttributeError) as error:
        reason = first_line(error)
    if not reason:
        return True
    inner.set_attn_implementation(before)
    notes.append(f"{type(inner).__name__} cannot take packed trees ({reason}); using padded batches")
    return False


def remember_format(folder: Path, format: Format) -> None:
    """Write beside saved weights which format they were trained with."""
    (folder / FORMAT_FILE).write_text(json.dumps({"format": format.name}) + "\n", encoding="utf-8")
