"""A plain model folder that transformers, vLLM and llama.cpp's converter take."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.errors import UserError
from expunge.models.gated import gates_of
from expunge.models.load import DTYPES, LoadedModel, load_model, remember_format
from expunge.pipeline.folder import disk_errors, read_manifest
from expunge.progress import say
from expunge.scopes.gated import REFUSED

_CARD = """---
library_name: transformers
tags: [machine-unlearning, expunge]
base_model: {base}
---

# {name}

Made by expunge {version} from `{base}`{how}.

The folder holds merged {dtype} weights, the tokenizer and its chat template.
Answers were trained in the `{format}` format.
Unlearning lowers what a model says about the forget set; it is no proof that nothing can be recovered.
{evidence}"""


def export_model(source: str | Path, out: Path, *, dtype: str = "float32") -> Path:
    """Merge adapters, convert, and write weights, tokenizer, template and a model card; atomic.

    Raises:
        UserError: if ``out`` holds something already.
        ModelError: if the source cannot be loaded.
    """
    _claim_new(out)
    loaded = load_model(source, device="cpu")
    if loaded.guard:
        raise UserError(
            f"{source}: guarded by {loaded.guard.key}, which is no part of the weights: what reads an exported folder "
            "would answer unguarded; delete guard.json beside the weights to export them as they are"
        )
    if _from_four_bits(read_manifest(Path(source)) or {}):
        say(f"note: {_FOUR_BITS}")
    model = loaded.model
    if gates_of(model):
        raise UserError(f"{source}: {REFUSED}")
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model = model.to(DTYPES[dtype])
    partial = out.absolute().with_name(f"{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_errors(out):
            partial.mkdir(parents=True)
            model.save_pretrained(partial)
            loaded.tokenizer.save_pretrained(partial)
            remember_format(partial, loaded.format)
            (partial / "README.md").write_text(_card(Path(source), out, loaded, dtype), encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


_FOUR_BITS = (
    "the adapter was trained beside a base in 4 bits and is merged into the base in full precision, whose answers "
    "differ a little"
)


def _from_four_bits(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's result was trained under the scope qlora."""
    stages = manifest.get("stages", {})
    return any(stages.get(name, {}).get("scope", {}).get("kind") == "qlora" for name in ("target", "unlearn"))


def _claim_new(out: Path) -> None:
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise UserError(f"--out {out}: already holds something; give a new or empty folder")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"--out {out}: {above} is a file, not a folder")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out {out}: {above} is not writable")


def _card(source: Path, out: Path, loaded: LoadedModel, dtype: str) -> str:
    import expunge

    base, how, evidence = _origin(source)
    return _CARD.format(
        name=out.absolute().name,
        base=base,
        version=expunge.__version__,
        how=how,
        dtype=dtype,
        format=loaded.format.name,
        evidence=evidence,
    )


def _origin(source: Path) -> tuple[str, str, str]:
    """Base model, method and headline numbers of a run; of anything else only its name."""
    manifest = read_manifest(source)
    if manifest is None:
        return source.name, "", ""
    recipe = manifest.get("recipe", {})
    unlearn = recipe.get("unlearn") or {}
    how = f" with method `{unlearn['method']}`" if unlearn else ""
    how += f"; {_FOUR_BITS}" if _from_four_bits(manifest) else ""
    lines = []
    if (source / "metrics.json").is_file():
        metrics = json.loads((source / "metrics.json").read_text(encoding="utf-8"))
        for key in ("extraction_strength", "forget_Q_A_ROUGE", "model_utility"):
            cell = metrics.get(key) or {}
            if cell.get("value") is not None:
                lines.append(f"- {key}: {cell['value']:.3f}")
    evidence = "\nMeasured when it was made:\n\n" + "\n".join(lines) + "\n" if lines else ""
    return Path(recipe.get("model", {}).get("path", "unknown")).name, how, evidence
