"""How much memory a training needs, from shapes alone, and what is chosen where there is less of it.

Two things give memory back without changing a result: smaller passes, and computing activations again in the backward
pass. Passes are made smaller first, as long as the machine is busy with them, and again where both are needed. The
choice is said in one line, and either can be set by hand. Everything else that would help
(an optimiser with 8-bit states, adapters, half-precision weights) makes another result, and is only suggested.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from expunge.models.shape import ModelShape, Moved
from expunge.recipe import TrainPart

PASS_TOKENS = {"cpu": 1536, "cuda": 2048}
"""Most unique tokens in one pass where nothing is set: a step of some rows in one, gradients written once."""
BUSY_TOKENS = {"cpu": 384, "cuda": 2048}
"""Fewer than these, and products get slow: before that activations are computed again."""
FEWEST_TOKENS = 64
"""No pass is made smaller than this of itself."""
USABLE = 0.9
"""Share of the free memory that a training plans with; allocators waste some of it."""
CHOSEN = "memory.json"
"""What was chosen, in a run's work folder: a resumed run cuts its steps as it did before."""

# Arrays as large as the logits in float32 that live at once: the logits, which their gradient takes the place of, with
# what is on its way; and where a term reads whole distributions, the reference's and a gradient as well.
LOGIT_COPIES, DISTRIBUTION_COPIES = 2, 4
_STATES = {"sgd": 0, "adafactor": 0, "lion": 1, "adagrad": 1, "rmsprop": 1}
"""Numbers that optimisers keep for each weight; the others are Adam's kind and keep 2."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes by what needs them."""

    weights: int
    kept: int = 0
    """The cached reference, copies that rules and edits hold."""
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kept + self.growth

    @property
    def growth(self) -> int:
        """What training adds to a model in memory."""
        return self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """What decides how much one pass keeps for its backward pass."""

    bf16: bool = False
    checkpoint: bool = False
    """Keep each block's input alone, and compute the rest again."""
    distributions: bool = False
    """Whether a term reads whole distributions."""
    optimizer: str = "adamw_torch_fused"
    top: int | None = None
    """The last block that runs, where no term reads the head; None: all of them, and the head."""


def block_bytes(shape: ModelShape, tokens: int, settings: PassSettings) -> int:
    """Bytes that one block keeps of ``tokens`` tokens for its backward pass.

    By token: the inputs of two norms and what they scale, ``4 d`` in float32; in the precision of the products the
    inputs of the linear layers, ``2 d``, queries, keys and values of every head with what attention puts out, ``4 q``,
    the MLP, ``4 m``. ``N`` more stand for attention's weights, which short rows keep, and for the holes that long ones
    leave between tensors: measured, not derived. Where attention writes its weights down, ``h N`` in float32 besides.
    Counted on llama's blocks; others differ by a little.
    """
    product = min(2 if settings.bf16 else 4, shape.element)
    linear = 2 * shape.hidden + 4 * shape.query_width + 4 * shape.intermediate
    scores = 4 * shape.num_heads * tokens if shape.keeps_scores else 0
    return tokens * (16 * shape.hidden + product * (linear + tokens) + scores)


def training_need(
    shape: ModelShape, moved: Moved, largest: tuple[int, int], settings: PassSettings, *, kept: int = 0
) -> MemoryNeed:
    """Bytes that training needs at its peak.

    Args:
        shape: of the model.
        moved: what of it is trained.
        largest: tokens and labels of the largest pass.
        settings: of its passes.
        kept: bytes that are held besides; see :class:`MemoryNeed`.
    """
    tokens, labels = largest if settings.top is None else (largest[0], 0)
    depth = shape.num_layers if settings.top is None else settings.top + 1
    blocks = max(depth - moved.first_block, 0)
    whole = block_bytes(shape, tokens, settings)
    held = tokens * shape.hidden * max(shape.element, 2) * blocks if settings.checkpoint else whole * blocks
    casts = 0
    if settings.bf16 and shape.element == 4:
        # Autocast keeps a bfloat16 copy of every weight that it multiplies by.
        casts = 2 * (shape.block_params * blocks // max(shape.num_layers, 1) + shape.head_params)
    copies = DISTRIBUTION_COPIES if settings.distributions else LOGIT_COPIES
    return MemoryNeed(
        weights=shape.weight_bytes,
        kept=kept,
        gradients=moved.gradient_bytes,
        optimizer=optimizer_bytes(settings.optimizer, moved),
        # One block more: what the backward pass is working on.
        activations=held + (whole if blocks else 0) + casts,
        logits=4 * copies * labels * shape.vocab,
    )


def optimizer_bytes(name: str, moved: Moved) -> int:
    """Bytes of an optimiser's states: two numbers a weight for Adam's kind, in the weight's precision or in 8 bits."""
    states = next((count for key, count in _STATES.items() if key in name), 2)
    return states * (moved.num_params if "8bit" in name else moved.gradient_bytes)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a training's passes are cut, and what that needs."""

    micro_batch_tokens: int
    checkpoint_activations: bool
    need: MemoryNeed | None = None
    """None where the architecture does not show its sizes."""
    note: str = ""
    """What a user should know of the choice; empty where there was nothing to choose."""

    @property
    def choices(self) -> dict[str, Any]:
        """What was chosen, by the names of the settings."""
        return {"micro_batch_tokens": self.micro_batch_tokens, "checkpoint_activations": self.checkpoint_activations}

    def facts(self) -> dict[str, Any]:
        """For the manifest: what was chosen, and what it was thought to need."""
        return {**self.choices, "estimated_memory_gb": round(self.need.total / 1e9, 2) if self.need else None}

    def keep(self, work: Path) -> None:
        """Write the choice into a run's work folder."""
        (work / CHOSEN).write_text(json.dumps(self.choices), encoding="utf-8")


def as_before(part: TrainPart, work: Path | None) -> TrainPart:
    """``part`` with what an interrupted run had chosen where nothing is set."""
    if work is None or not (work / CHOSEN).is_file():
        return part
    chosen = json.loads((work / CHOSEN).read_text(encoding="utf-8"))
    return replace(part, **{name: value for name, value in chosen.items() if getattr(part, name) is None})


def fit(
    part: TrainPart,
    device: torch.device,
    room: int | None,
    need: Callable[[int, bool], MemoryNeed],
    *,
    loaded: bool = True,
    can_checkpoint: bool = True,
) -> Fit:
    """The first way to cut a training's passes that fits, fastest first; the smallest, with a warning, if none does.

    Args:
        part: what is set stays as it is.
        device: where training takes place.
        room: bytes that are free there; None if unknown, and then nothing is made smaller.
        need: ``(micro_batch_tokens, checkpoint_activations) -> bytes``.
        loaded: whether the weights are in memory already.
        can_checkpoint: whether the model can compute activations again.
    """
    for number, (tokens, checkpoint) in enumerate(_ways(part, device, can_checkpoint)):
        needed = need(tokens, checkpoint)
        if number == 0:
            first = needed
        asked = needed.growth if loaded else needed.total
        if room is None or asked <= USABLE * room:
            if part.micro_batch_tokens is None and need(pass_tokens(device), checkpoint) == needed:
                tokens = pass_tokens(device)  # steps are so small that cutting them had saved nothing
            break
    else:
        return Fit(
            micro_batch_tokens=tokens, checkpoint_activations=checkpoint, need=needed, note=_short(asked, room, device)
        )
    note = ""
    if number and room is not None:
        changes = ["activations are computed again in the backward pass"] if checkpoint else []
        changes += [f"passes hold at most {tokens} tokens"] if tokens < pass_tokens(device) else []
        before = first.growth if loaded else first.total
        note = f"memory: {gb(before)} wanted, {gb(room)} free: {', '.join(changes)}; same result, slower"
    return Fit(micro_batch_tokens=tokens, checkpoint_activations=checkpoint, need=needed, note=note)


def _ways(part: TrainPart, device: torch.device, can_checkpoint: bool) -> Iterator[tuple[int, bool]]:
    """Tokens in a pass and whether activations are computed again, from the fastest to the smallest."""
    tokens = part.micro_batch_tokens or pass_tokens(device)
    again = part.checkpoint_activations
    yield tokens, bool(again)
    while part.micro_batch_tokens is None and tokens // 2 >= BUSY_TOKENS.get(device.type, BUSY_TOKENS["cpu"]):
        tokens //= 2
        yield tokens, bool(again)
    if again is None and can_checkpoint:
        again = True
        yield tokens, again
    while part.micro_batch_tokens is None and tokens // 2 >= FEWEST_TOKENS:
        tokens //= 2
        yield tokens, bool(again)


def pass_tokens(device: torch.device) -> int:
    """Most unique tokens in one pass where neither a user nor the memory says otherwise."""
    return PASS_TOKENS.get(device.type, PASS_TOKENS["cpu"])


def _short(asked: int, room: int | None, device: torch.device) -> str:
    """What to say where even the smallest way may not fit."""
    helps = ["scope lora", "--dtype bfloat16"]
    if device.type == "cuda":
        there = find_spec("bitsandbytes") is not None
        helps.insert(0, f"optimizer: paged_adamw_8bit{'' if there else ' (needs bitsandbytes)'}")
        helps.append("scope qlora")
    return (
        f"warning: about {gb(asked)} are needed and {gb(room or 0)} are free; this may run out of memory. "
        f"What would help makes another result, so it is yours to choose: {', '.join(helps)}"
    )


def gb(num_bytes: float) -> str:
    """Bytes as ``1.23 GB`` (1e9 bytes)."""
    return f"{num_bytes / 1e9:.2f} GB"
