"""Locating by itself: which units of a model a run would train, found once and kept in a file that any run can use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.errors import RecipeError, UserError, unknown
from expunge.methods.table import compose
from expunge.models.load import load_model
from expunge.pipeline.checks import check_recipe
from expunge.pipeline.loading import load_data
from expunge.recipe import parse_recipe
from expunge.scopes.region import LocatedScope
from expunge.scopes.region_file import Region, read_region
from expunge.training.job import unlearn_job
from expunge.training.run import prepare

METHOD_OF = {"sure": "sure", "memflex": "memflex", "random": "random_region"}
"""Whose forget term the gradient is taken of, unless another is named."""


def locate_region(
    model: str | Path,
    *,
    forget: str | Path,
    out: str | Path,
    retain: str | Path | None = None,
    how: str = "sure",
    method: str | None = None,
    settings: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Region:
    """Find a region on ``model`` and write it; the same call writes the same bytes.

    Args:
        model: folder, run, adapter, GGUF file or Hub id.
        forget: file of rows to forget.
        out: the region file; an earlier region there is replaced, anything else is not.
        retain: file of rows to keep; memflex needs it.
        how: ``sure``, ``memflex`` or ``random``.
        method: the method whose forget term the gradient is taken of (sure).
        settings: anything of the region scope (``unit``, ``keep``, ``threshold`` ...).
        model_settings: anything of a recipe's ``model`` part.
        seed: of random labels and of the random control.

    Raises:
        UserError: anything in the input that is wrong.
    """
    if how not in METHOD_OF:
        raise RecipeError(unknown("way (--how)", how, METHOD_OF))
    if (settings or {}).get("refresh", "none") != "none":
        raise RecipeError("a region that is found anew in each step cannot be kept in a file: leave refresh out")
    out = Path(out)
    _check_out(out)
    files = {"forget": forget, "retain": retain}
    scope = {**(settings or {}), "kind": "region", "how": how}
    recipe = parse_recipe(
        {
            "name": "locate",
            "seed": seed,
            "model": {"path": str(model), **(model_settings or {})},
            "data": {"benchmark": "custom", "options": {k: str(v) for k, v in files.items() if v is not None}},
            "unlearn": {"method": method or METHOD_OF[how], "retain_term": "none", "max_steps": 1, "scope": scope},
        },
        "locate",
    )
    check_recipe(recipe)
    part = recipe.unlearn
    assert part is not None
    benchmark = load_data(recipe)
    composition = compose(part, has_retain=bool(benchmark.retain))
    job = unlearn_job(
        "locate", composition, part, forget=benchmark.forget, retain=benchmark.retain, seed=seed,
        refusals=benchmark.refusals,
    )  # fmt: skip
    place = recipe.model
    loaded = load_model(
        place.path,
        format=place.format,
        max_length=place.max_length,
        dtype=place.dtype,
        device=place.device,
        trust_remote_code=place.trust_remote_code,
    )
    located = prepare(loaded, job).scope
    assert isinstance(located, LocatedScope)
    located.region.write(out)
    return located.region


def _check_out(out: Path) -> None:
    """Before any work: a place that can be written to, and that holds nothing but an earlier region."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; give a file, for instance {out / 'region.json'}")
    if out.exists():
        try:
            read_region(out)
        except RecipeError:
            raise UserError(f"--out {out}: is there already and is no region file; give another name") from None
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"--out {out}: {out.parent} is not writable")
