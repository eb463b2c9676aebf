"""Finding the region that a run may change, where its scope asks for one.

One pass over the rows of each side at the starting weights, micro-batch by micro-batch, with gradients added up in
float32 outside ``.grad``. What follows is arithmetic on units: ``scopes.units``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.rows import Row
from expunge.data.tree import TokenSequence, pack_units
from expunge.errors import RecipeError
from expunge.models.forward import labelled_rows
from expunge.models.load import LoadedModel
from expunge.parallel import from_first, my_share, process_number
from expunge.scopes.region import LocatedScope, RegionScope
from expunge.scopes.region_file import Region, read_region
from expunge.scopes.units import (
    Cut,
    cosines,
    cut_model,
    keep_absolute,
    keep_percentile,
    keep_quantile,
    keep_random,
    mean_magnitudes,
    norms,
)
from expunge.training.distributed import sum_tensors
from expunge.training.objective import Objective
from expunge.training.streams import Streams, Unit

SIDES = ("forget", "retain")
LEGACY_COPIES = 3
"""Noisy copies of each row in MemFlex's released code; the paper has five."""

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a region is looked for, and with what."""

    loaded: LoadedModel
    model: Any
    """At its starting weights, with the scope's base attached."""
    streams: Streams
    objective: Objective
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """Every forget and retain row of the run, whichever its terms read."""
    seed: int = 0
    kept: Path | None = None
    """A file that remembers the region for a resumed run."""


@dataclass(frozen=True)
class StepMasks:
    """Finds the region anew: masks from the gradients of one step's own rows (``refresh: step``)."""

    scope: RegionScope
    site: Site
    cuts: Sequence[Cut]

    def __call__(self, model: Any, units: list[Unit]) -> dict[str, Tensor]:
        """Masks by parameter name; the gradients of the model are left as they were."""
        kept, _ = _keep(self.scope, self.site, self.cuts, units)
        return {cut.name: cut.mask(part) for cut, part in zip(self.cuts, kept, strict=True)}


def units_to_locate(scope: Any, streams: Streams) -> list[Unit]:
    """Units that the locating pass will show to the run's own forget terms: their reference values are needed too."""
    if isinstance(scope, RegionScope) and scope.how == "sure" and scope.refresh == "none":
        return streams.every("forget")
    return []


def locate(scope: Any, site: Site) -> tuple[Any, StepMasks | None]:
    """Find a region scope's region, or set up finding it anew in each step; other scopes come back unchanged.

    Returns:
        The scope to train with, everything wholly outside frozen; and what gives each step's masks, if anything does.

    Raises:
        RecipeError: if what the search needs is not there, or it finds nothing.
    """
    if not isinstance(scope, RegionScope):
        return scope, None
    if scope.how in ("sure", "memflex"):
        _check_sides(scope, site)
    if scope.refresh == "step":
        cuts = cut_model(site.model, scope.found_unit, everything=scope.everything)
        _freeze_others(site.model, cuts)
        return scope, StepMasks(scope, site, cuts)
    found = LocatedScope(scope, _kept_or_found(scope, site))
    found.restrict(site.model)
    return found, None


def _check_sides(scope: RegionScope, site: Site) -> None:
    if scope.how == "sure" and "forget" not in site.streams.rows:
        raise RecipeError("scope region: how=sure takes the forget term's gradient, and this run has no forget term")
    if scope.how == "memflex":
        for side in SIDES:
            if not site.rows.get(side):
                raise RecipeError(f"scope region: how=memflex compares two sides and needs {side} rows (--{side} FILE)")
            if scope.refresh == "step" and "answer" not in site.streams.needs.get(side, ()):
                raise RecipeError(
                    f"scope region: refresh=step needs a {side} term that reads the rows' own answers in each step"
                )


def _kept_or_found(scope: RegionScope, site: Site) -> Region:
    """The region that an interrupted run had found, else a new one: on a GPU a sum may fall a bit differently."""
    if scope.how == "file":
        return scope.file().bind(site.model, site.loaded.fingerprint)
    if site.kept is not None and from_first(site.kept.is_file()):
        return read_region(site.kept).bind(site.model, site.loaded.fingerprint)
    region = find(scope, site)
    if site.kept is not None and process_number() == 0:
        region.write(site.kept)
    return region


def find(scope: RegionScope, site: Site) -> Region:
    """Look for a region at the starting weights, from all rows.

    Raises:
        RecipeError: if it would be empty.
    """
    cuts = cut_model(site.model, scope.found_unit, everything=scope.everything)
    seed = site.seed if scope.seed is None else scope.seed
    scores: dict[str, list[Tensor]] = {}
    if scope.how == "random":
        kept = keep_random(cuts, scope.share, seed)
    else:
        with _only(site.model, cuts):
            kept, scores = _keep(scope, site, cuts, units_to_locate(scope, site.streams))
    if not any(bool(part.any()) for part in kept):
        raise RecipeError(f"scope region: how={scope.how} keeps no unit: {_why_empty(scope, scores)}")
    return Region(
        how=scope.how,
        unit=scope.found_unit,
        base=scope.base,
        cuts=cuts,
        kept=[part.cpu() for part in kept],
        model=site.loaded.fingerprint,
        settings=scope.settings() | ({"seed": seed} if scope.how != "sure" else {}),
        scores={name: [value.cpu() for value in values] for name, values in scores.items()},
    )


def _why_empty(scope: RegionScope, scores: Mapping[str, Sequence[Tensor]]) -> str:
    largest = max(float(part.max()) for part in scores["magnitude"])
    if not largest:
        return "the forget gradient is zero at the starting weights"
    if scope.thresholds:
        return f"sim and mag are absolute, and here the largest magnitude is {largest:.3g}; use keep (a share) instead"
    return "raise keep or sim_quantile, or lower threshold"


def _keep(
    scope: RegionScope, site: Site, cuts: Sequence[Cut], units: list[Unit]
) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
    """Which units are kept, and their scores: at the start from all rows, in a step from its ``units``."""
    if scope.how == "sure":
        with collected(site.model, cuts) as forget:
            site.objective.backward(site.model, units, _backward, streams={"forget"})
        magnitude = norms(cuts, forget)
        return keep_percentile(cuts, magnitude, scope.threshold, scope.pool), {"magnitude": magnitude}
    sides = _side_gradients(scope, site, cuts, units)
    cosine, magnitude = cosines(cuts, *sides), mean_magnitudes(cuts, sides[0])
    scores = {"cosine": cosine, "magnitude": magnitude}
    if scope.thresholds:
        sim, mag = scope.thresholds
        return keep_absolute(cosine, magnitude, sim=sim, mag=mag), scores
    return keep_quantile(cosine, magnitude, sim_quantile=scope.sim_quantile, keep=scope.share), scores


# -- gradients -----------------------------------------------------------------------------------------------------


def _backward(loss: Tensor) -> None:
    loss.backward()


@contextmanager
def collected(model: Any, cuts: Sequence[Cut]) -> Iterator[dict[str, Tensor]]:
    """Catch the gradients of the cut parameters inside the block: added up in float32, by name, not in ``.grad``.

    After the block they are those of all processes together.
    """
    named = dict(model.named_parameters())
    sums = {cut.name: torch.zeros_like(named[cut.name], dtype=torch.float32) for cut in cuts}

    def catch(name: str) -> Any:
        def add(parameter: Tensor) -> None:
            assert parameter.grad is not None
            sums[name] += parameter.grad
            parameter.grad = None

        return add

    hooks = [named[cut.name].register_post_accumulate_grad_hook(catch(cut.name)) for cut in cuts]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
    sum_tensors(sums.values())


@contextmanager
def _only(model: Any, cuts: Sequence[Cut]) -> Iterator[None]:
    """Ask for the gradients of the cut parameters alone, without dropout."""
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    was_training = model.training
    _freeze_others(model, cuts)
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before[name])


def _freeze_others(model: Any, cuts: Sequence[Cut]) -> None:
    names = {cut.name for cut in cuts}
    for name, parameter in model.named_parameters():
        if name not in names:
            parameter.requires_grad_(False)


def _side_gradients(
    scope: RegionScope, site: Site, cuts: Sequence[Cut], units: list[Unit]
) -> tuple[Gradients, Gradients]:
    """Gradients of the plain token-mean loss, averaged over rows: of the forget side and of the retain side."""
    found = []
    for side in SIDES:
        sequences = [unit.answers["answer"] for unit in units if unit.stream == side] if units else _all(site, side)
        targets = Targets.make(scope, site, side, sequences)
        with collected(site.model, cuts) as gradients:
            targets.backward(site)
        found.append(gradients)
    return found[0], found[1]


def _all(site: Site, side: str) -> list[TokenSequence]:
    form = site.loaded.format
    return [form.encode(row) for row in form.split_text(site.rows[side])]


@dataclass(frozen=True)
class Targets:
    """What the sequences of one side are scored on."""

    sequences: Sequence[TokenSequence]
    draws: Sequence[np.ndarray] | None
    """By sequence, uniform numbers ``(T, copies)`` that become random labels; None scores the sequences' own."""

    @classmethod
    def make(cls, scope: RegionScope, site: Site, side: str, sequences: Sequence[TokenSequence]) -> Targets:
        """Random labels for each sequence, or a few noisy copies of it; a pure function of seed, side and row."""
        seed = site.seed if scope.seed is None else scope.seed
        sources = [np.random.default_rng([seed, *side.encode(), row]) for row in range(len(sequences))]
        if scope.labels == "gold":
            return cls(sequences, None)
        if not scope.legacy_noise:
            draws = [source.random((s.num_labels, scope.copies)) for s, source in zip(sequences, sources, strict=True)]
            return cls(sequences, draws)
        size, end = site.model.config.get_text_config().vocab_size, site.loaded.format.end_id
        copies = LEGACY_COPIES if scope.copies == RegionScope.copies else scope.copies
        noisy = [
            _noisy(s, source, size, end) for s, source in zip(sequences, sources, strict=True) for _ in range(copies)
        ]
        return cls(noisy, None)

    def backward(self, site: Site) -> None:
        """Run the loss back, micro-batch by micro-batch."""
        total = len(self.sequences)
        for pack in my_share(pack_units([[s] for s in self.sequences], site.objective.max_tokens)):
            rows = labelled_rows(site.model, [self.sequences[i] for i in pack], packed=site.loaded.packed)
            losses = -(rows.per_token_logps if self.draws is None else self._random_logps(rows.logits, pack))
            weights = 1 / (rows.num_tokens[rows.sequence] * total)
            (losses * weights).sum().backward()

    def _random_logps(self, logits: Tensor, pack: Sequence[int]) -> Tensor:
        """``(N,)`` log-prob of the random labels, averaged over the copies: one pass stands for all of them."""
        assert self.draws is not None
        uniform = torch.from_numpy(np.concatenate([self.draws[i] for i in pack]))
        labels = (uniform * logits.shape[1]).long().to(logits.device)
        return logits.float().log_softmax(dim=1).gather(1, labels).mean(dim=1)


def _noisy(sequence: TokenSequence, source: np.random.Generator, vocab_size: int, end: int) -> TokenSequence:
    """Overwrite about 39 % of the answer: half as many draws as tokens, with replacement; the end token stays."""
    ids, places = list(sequence.ids), sequence.label_positions
    length = len(places) - (ids[-1] == end)
    for place in source.integers(0, max(length, 1), size=length // 2):
        ids[places[int(place)]] = int(source.integers(0, vocab_size))
    return replace(sequence, ids=tuple(ids))
