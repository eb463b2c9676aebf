"""A region: found as a naive loop would, kept bit-equal outside, the same after a kill, and the same from its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import city_rows, colour_rows
from expunge.data.rows import Row
from expunge.errors import RecipeError
from expunge.methods.table import compose
from expunge.models.load import LoadedModel, load_model
from expunge.recipe import UnlearnPart
from expunge.scopes.region import LocatedScope
from expunge.scopes.region_file import Region, read_region
from expunge.training.job import unlearn_job
from expunge.training.run import REGION, StepLog, prepare, train

pytestmark = pytest.mark.slow

Load = Callable[..., LoadedModel]
FORGET, RETAIN = colour_rows(), city_rows()
SURE = {"kind": "region", "how": "sure", "threshold": 80.0}
MEMFLEX = {"kind": "region", "how": "memflex", "keep": 0.3}
SCOPES: dict[str, dict[str, Any]] = {
    "sure": SURE,
    "sure, everything": SURE | {"everything": True, "pool": "type"},
    "sure, heads": SURE | {"unit": "head", "threshold": 50},
    "memflex": MEMFLEX,
    "memflex, rows": MEMFLEX | {"unit": "row", "labels": "gold"},
    "memflex, as released": MEMFLEX | {"legacy_noise": True},
    "random": {"kind": "region", "how": "random", "keep": 0.2},
    "random tensors": {"kind": "region", "how": "random", "keep": 0.2, "unit": "tensor"},
}


def job_of(scope: Mapping[str, Any], method: str = "npo_gdr", retain: tuple[Row, ...] = RETAIN, **settings: Any) -> Any:
    defaults: dict[str, Any] = {"lr": 1e-2, "batch_size": 4, "max_steps": 5, "weight_decay": 0.3, "warmup": 0.0}
    part = UnlearnPart(method=method, scope=dict(scope), **defaults | {"checkpoint_minutes": 60} | settings)
    return unlearn_job("t", compose(part, has_retain=bool(retain)), part, forget=FORGET, retain=retain, seed=0)


def region_of(load: Load, scope: Mapping[str, Any], **settings: Any) -> Region:
    located = prepare(load(max_length=64), job_of(scope, **settings)).scope
    assert isinstance(located, LocatedScope)
    return located.region


def masks_of(region: Region) -> dict[str, Tensor]:
    return {cut.name: cut.mask(kept) for cut, kept in zip(region.cuts, region.kept, strict=True)}


# -- outside its region a run leaves every weight bit-equal --------------------------------------------------------


@pytest.mark.parametrize("name", SCOPES)
def test_outside_nothing_moves_and_inside_everything_does(
    load_tiny: Load, model_folder: Path, name: str, tmp_path: Path
) -> None:
    loaded = load_tiny(max_length=64)
    facts = train(loaded, job_of(SCOPES[name]), work=tmp_path / "work", out=tmp_path)
    masks = masks_of(read_region(tmp_path / REGION).bind(loaded.model, loaded.fingerprint))
    start, end = load_file(model_folder / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert set(start) == set(end)
    moving = 0
    for key, before in start.items():
        mask = masks.get(key, torch.tensor(False)).expand_as(before)
        moving += int(mask.sum())
        assert torch.equal(end[key][~mask], before[~mask]), key
        # By row (for heads of o: by column) rather than by number: a token that never occurs has no gradient.
        for line in (mask & (end[key] != before)).any(dim=-1)[mask.all(dim=-1)]:
            assert bool(line), key
    assert 0 < moving < sum(t.numel() for t in start.values())
    assert facts["trainable_parameters"] == moving
    assert any(not mask.all() for mask in masks.values())


def test_without_masks_weight_decay_would_move_everything(
    load_tiny: Load, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control of the test above.
    monkeypatch.setattr("expunge.training.protection.Protection.on_optimizer_step", lambda *args, **kwargs: None)
    train(load_tiny(max_length=64), job_of(SURE), work=tmp_path / "work", out=tmp_path)
    start, end = load_file(model_folder / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    trained = [key for key, before in start.items() if not torch.equal(before, end[key])]
    assert trained
    assert all((start[key] != end[key]).any(dim=-1).all() for key in trained)


# -- found as a naive loop would -----------------------------------------------------------------------------------


def naive_gradients(loaded: LoadedModel, losses: list[Callable[[Any], Tensor]]) -> dict[str, Tensor]:
    """Of the mean of some losses, each with a forward and backward pass of its own."""
    loaded.model.zero_grad()
    for loss in losses:
        (loss(loaded.model) / len(losses)).backward()
    return {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}


def answer_logps(model: Any, loaded: LoadedModel, row: Row) -> Tensor:
    """``(T, V)`` log-probs at the positions that predict the answer."""
    sequence = loaded.format.encode(row)
    ids = torch.tensor([sequence.ids])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return logits[sequence.first_label - 1 : -1].log_softmax(dim=1)


def labels_of(loaded: LoadedModel, row: Row) -> Tensor:
    sequence = loaded.format.encode(row)
    return torch.tensor(sequence.ids[sequence.first_label :]).unsqueeze(1)


@pytest.mark.parametrize("tokens", [64, 4096])
def test_sure_scores_rows_by_the_forget_gradient(load_tiny: Load, tokens: int) -> None:
    # At the start NPO's gradient is ascent's on the summed log-prob, averaged over rows, whatever beta is.
    loaded = load_tiny(max_length=64)
    losses = [
        lambda model, row=row: answer_logps(model, loaded, row).gather(1, labels_of(loaded, row)).sum()
        for row in FORGET
    ]
    gradients = naive_gradients(loaded, losses)
    # One step of one row: the region is still that of the whole set.
    region = region_of(load_tiny, SURE, max_steps=1, batch_size=1, micro_batch_tokens=tokens)
    everything = []
    for cut, magnitude in zip(region.cuts, region.scores["magnitude"], strict=True):
        torch.testing.assert_close(magnitude, gradients[cut.name].norm(dim=1), rtol=1e-3, atol=1e-6)
        everything.append(magnitude)
    least = np.percentile(torch.cat(everything).numpy(), 80)
    assert [k.tolist() for k in region.kept] == [(m.numpy() >= least).tolist() for m in everything]
    assert region.num_kept == pytest.approx(0.2 * region.num_units, abs=1)


@pytest.mark.parametrize("labels", ["gold", "random"])
def test_memflex_compares_the_two_sides(load_tiny: Load, labels: str) -> None:
    loaded = load_tiny(max_length=64)

    def loss(side: str, number: int, row: Row) -> Callable[[Any], Tensor]:
        def of(model: Any) -> Tensor:
            logps = answer_logps(model, loaded, row)
            if labels == "gold":
                return -logps.gather(1, labels_of(loaded, row)).mean()
            draws = np.random.default_rng([0, *side.encode(), number]).random((len(logps), 5))
            copies = (torch.from_numpy(draws) * 320).long()
            return torch.stack([-logps.gather(1, copies[:, i : i + 1]).mean() for i in range(5)]).mean()

        return of

    sides = {
        side: naive_gradients(loaded, [loss(side, i, row) for i, row in enumerate(rows)])
        for side, rows in (("forget", FORGET), ("retain", RETAIN))
    }
    region = region_of(load_tiny, MEMFLEX | {"labels": labels})
    for cut, cosine, magnitude in zip(region.cuts, region.scores["cosine"], region.scores["magnitude"], strict=True):
        one, other = (sides[side][cut.name].flatten() for side in ("forget", "retain"))
        assert cosine.item() == pytest.approx(torch.nn.functional.cosine_similarity(one, other, dim=0).item(), abs=1e-4)
        assert magnitude.item() == pytest.approx(one.abs().mean().item(), rel=1e-3)
    # 14 tensors: 30 % of them.
    assert (region.num_units, region.num_kept) == (14, 4)


def test_absolute_thresholds(load_tiny: Load) -> None:
    open_wide = {"kind": "region", "how": "memflex", "sim": 1.1, "mag": 0.0}
    assert region_of(load_tiny, open_wide).kept_share == 1.0
    with pytest.raises(RecipeError, match=r"how=memflex keeps no unit: sim and mag are absolute, .* use keep"):
        region_of(load_tiny, open_wide | {"sim": -1.0})
    published = region_of(load_tiny, {"kind": "region", "how": "memflex", "published": "privacy_llama2"})
    for kept, cosine, magnitude in zip(
        published.kept, published.scores["cosine"], published.scores["magnitude"], strict=True
    ):
        assert bool(kept) == (cosine.item() < 0.96 and magnitude.item() > 4e-4)


# -- the same region whatever happens ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sure", "memflex", "memflex, as released"])
def test_the_micro_batch_does_not_matter(load_tiny: Load, name: str) -> None:
    one, other = (region_of(load_tiny, SCOPES[name], micro_batch_tokens=tokens) for tokens in (48, 4096))
    assert all(torch.equal(a, b) for a, b in zip(one.kept, other.kept, strict=True))


def test_locating_leaves_no_trace(load_tiny: Load) -> None:
    prepared = prepare(load_tiny(max_length=64), job_of(SURE))
    assert all(p.grad is None for p in prepared.model.parameters())
    frozen = {name for name, p in prepared.model.named_parameters() if not p.requires_grad}
    outside = {n for n, _ in prepared.model.named_parameters()} - prepared.scope.region.trainable()
    assert frozen == outside
    assert outside


@pytest.mark.parametrize("name", ["sure", "memflex"])
def test_a_file_stands_for_the_search(load_tiny: Load, name: str, tmp_path: Path) -> None:
    train(load_tiny(max_length=64), job_of(SCOPES[name]), work=tmp_path / "w1", out=tmp_path / "searched")
    scope = {"kind": "region", "how": "file", "path": str(tmp_path / "searched" / REGION)}
    train(load_tiny(max_length=64), job_of(scope), work=tmp_path / "w2", out=tmp_path / "read")
    assert same_weights(tmp_path / "searched", tmp_path / "read")


def test_a_control_can_be_as_large_as_a_region(load_tiny: Load, tmp_path: Path) -> None:
    found = region_of(load_tiny, SURE)
    found.write(tmp_path / REGION)
    control = region_of(load_tiny, {"kind": "region", "how": "random", "path": str(tmp_path / REGION)})
    assert control.kept_share == pytest.approx(found.kept_share, abs=0.002)


def same_weights(one: Path, other: Path) -> bool:
    a, b = ({p.name: p.read_bytes() for p in folder.rglob("*.safetensors")} for folder in (one, other))
    return a == b and bool(a)


class PulledPlugError(RuntimeError):
    pass


@pytest.mark.parametrize("name", ["sure", "memflex", "step"])
def test_a_killed_run_keeps_its_region(
    load_tiny: Load, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = SURE | {"refresh": "step"} if name == "step" else SCOPES[name]
    job = job_of(scope, checkpoint_minutes=0)
    train(load_tiny(max_length=64), job, work=tmp_path / "w", out=tmp_path / "straight")
    plain = StepLog.on_log

    def on_log(self: StepLog, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise PulledPlugError
        plain(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "on_log", on_log)
        with pytest.raises(PulledPlugError):
            train(load_tiny(max_length=64), job, work=tmp_path / "w2", out=tmp_path / "broken")
    if name != "step":
        # The search is not made again: were its answer another one, the run would still keep its region.
        monkeypatch.setattr("expunge.training.locate.find", lambda *args: pytest.fail("searched again"))
    train(load_tiny(max_length=64), job, work=tmp_path / "w2", out=tmp_path / "broken")
    assert same_weights(tmp_path / "straight", tmp_path / "broken")
    assert (tmp_path / "broken" / REGION).is_file() == (name != "step")


# -- found anew in each step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sure", "memflex"])
def test_each_step_has_its_own_region(
    load_tiny: Load, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge.training.protection import Protection

    scope = SCOPES[how] | {"refresh": "step"} | ({"labels": "gold"} if how == "memflex" else {})
    steps: list[dict[str, Tensor]] = []
    begin, end = Protection.begin_step, Protection.on_optimizer_step

    def remembered(self: Protection, model: Any, units: Any) -> None:
        begin(self, model, units)
        assert all(p.grad is None for p in model.parameters())
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}  # type: ignore[attr-defined]

    def compared(self: Protection, *args: Any, **kwargs: Any) -> None:
        end(self, *args, **kwargs)
        masks = {id(p): mask for p, mask, _ in self.held}
        for name, p in self.named.items():
            mask = masks.get(id(p), torch.tensor(False)).expand_as(p)
            before = self.before[name]  # type: ignore[attr-defined]
            assert torch.equal(p[~mask], before[~mask]), name
            assert torch.equal((p != before).any(dim=-1), mask.any(dim=-1)), name
        steps.append({name: masks[id(p)] for name, p in self.named.items() if id(p) in masks})

    monkeypatch.setattr(Protection, "begin_step", remembered)
    monkeypatch.setattr(Protection, "on_optimizer_step", compared)
    train(load_tiny(max_length=64), job_of(scope), work=tmp_path / "w", out=tmp_path)
    assert len(steps) == 5
    assert any(not torch.equal(steps[0][name], later[name]) for later in steps[1:] for name in later)
    assert not (tmp_path / REGION).exists()


# -- over adapters -------------------------------------------------------------------------------------------------


def test_a_region_of_adapters(load_tiny: Load, tmp_path: Path) -> None:
    scope = MEMFLEX | {"base": "lora", "lora": {"rank": 3}}
    facts = train(load_tiny(max_length=64), job_of(scope), work=tmp_path / "w", out=tmp_path)
    found = json.loads((tmp_path / REGION).read_text())
    kept = [entry["name"] for entry in found["units"] if entry["kept"]]
    # B starts at 0, so A has no gradient at the start.
    assert len(kept) == round(0.3 * 28)
    assert all("lora_B" in name for name in kept)
    assert all(entry["cosine"] is None for entry in found["units"] if "lora_A" in entry["name"])
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    moved = {name for name, tensor in tensors.items() if "lora_B" in name and bool(tensor.any())}
    assert moved == {name.replace(".default", "") for name in kept}
    assert facts["trainable_parameters"] == sum(tensors[name].numel() for name in moved)
    again = load_model(tmp_path / "adapter", max_length=64)
    assert again.packed


# -- refusals ------------------------------------------------------------------------------------------------------


def test_what_the_search_needs_is_named(load_tiny: Load) -> None:
    with pytest.raises(RecipeError, match=r"how=memflex compares two sides and needs retain rows \(--retain FILE\)"):
        region_of(load_tiny, MEMFLEX, method="npo", retain=())
    with pytest.raises(RecipeError, match="this run has no forget term"):
        region_of(load_tiny, SURE, method="npo_gdr", forget_term="none")
    with pytest.raises(RecipeError, match="refresh=step needs a retain term"):
        prepare(load_tiny(max_length=64), job_of(MEMFLEX | {"labels": "gold", "refresh": "step"}, method="ga"))


def test_no_retain_term_still_lets_memflex_look_at_the_retain_rows(load_tiny: Load) -> None:
    one, other = region_of(load_tiny, MEMFLEX), region_of(load_tiny, MEMFLEX, method="ga")
    assert all(torch.equal(a, b) for a, b in zip(one.kept, other.kept, strict=True))


def test_the_seed_of_the_random_control_is_the_runs(load_tiny: Load) -> None:
    scope = {"kind": "region", "how": "random", "keep": 0.2}
    loaded = load_tiny(max_length=64)
    regions = [prepare(loaded, replace(job_of(s), seed=seed)).scope.region for s, seed in (
        (scope, 0), (scope, 1), (scope | {"seed": 0}, 1))]  # fmt: skip
    flat = [torch.cat(list(region.kept)) for region in regions]
    assert not torch.equal(flat[0], flat[1])
    assert torch.equal(flat[0], flat[2])
