"""Stopping when utility has paid enough, and keeping the best step seen until then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from expunge.data.rows import Row
from expunge.data.tree import TokenSequence, pack_units
from expunge.losses import kl_divergence_loss
from expunge.models.forward import labelled_rows
from expunge.models.frozen_prefix import FrozenPrefix
from expunge.models.load import LoadedModel
from expunge.models.reference import PACK_TOKENS, compute_reference
from expunge.parallel import by_first, from_first, process_number, wait_for_all
from expunge.recipe import BudgetPart
from expunge.training.distributed import put_whole, take_apart, whole


class BudgetKeeper(TrainerCallback):
    """Looks at probe rows every few steps; the best step is the last one within budget.

    The cost is the rise of the mean token loss over the starting model's, or the mean token KL from it. Unlearning
    moves away from the starting model step by step, so the last step within budget has forgotten most.
    Its weights are kept on disk, so that an interrupted run keeps them too.
    """

    def __init__(self, part: BudgetPart, loaded: LoadedModel, model: Any, rows: Sequence[Row], work: Path) -> None:
        self.part = part
        self.model = model
        self.packed = loaded.packed
        self.sequences = [loaded.format.encode(row) for row in loaded.format.split_text(rows[: part.rows])[: part.rows]]
        self.prefix: FrozenPrefix | None = None
        self.best = work / "best.safetensors"
        self.record = work / "budget.json"
        hidden: list[TokenSequence] = self.sequences if part.kl is not None else []
        self.reference = compute_reference(loaded, self.sequences, hidden)
        if self.reference.head:
            self.reference.head.detach_from(model)
        self.state: dict[str, Any] = {"best_step": 0, "cost": {}, "stopped": ""}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the start; or, in a resumed run, what the interrupted one had kept.

        A best step beyond the resume point is met, measured and kept again before any later step can be refused.
        """
        if state.global_step and (kept := by_first(self._kept)):
            self.state = kept | {"stopped": ""}
            return
        self._keep()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, and keep the step or stop."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.part.every and not last:
            return
        # All measure, for weights may lie in pieces; one decides, for they must stop together.
        cost = from_first(self._measure())
        over = [
            f"{key} rose to {value:.3f}, over {limit:g}" for key, value, limit in self._limits(cost) if value > limit
        ]
        if over:
            self.state["stopped"] = f"budget reached at step {state.global_step}: {' and '.join(over)}"
            control.should_training_stop = True
            # A resume point here would be gone on from, past the stop.
            control.should_save = False
        else:
            self.state |= {"best_step": state.global_step, "cost": cost}
            self._keep()

    def restore_best(self, ended: str = "all steps done") -> str:
        """Put the best step's weights back and say why the run ended as it did; ``ended`` if not by the budget."""
        from safetensors.torch import load_file

        step = self.state["best_step"]
        if not self.state["stopped"]:
            return f"{ended} within budget ({self._cost_text()})"
        wait_for_all()
        take_apart(self.model)
        named = dict(self.model.named_parameters())
        for name, kept in load_file(self.best).items():
            put_whole(named[name], kept)
        if not step:
            return f"{self.state['stopped']}; no step stayed within it, so nothing was changed: lower the learning rate"
        return f"{self.state['stopped']}; kept step {step} ({self._cost_text()})"

    def _cost_text(self) -> str:
        return ", ".join(f"{key} {value:.3f}" for key, value in self.state["cost"].items())

    def _limits(self, cost: dict[str, float]) -> list[tuple[str, float, float]]:
        limits = {"retain_loss": self.part.retain_loss, "kl": self.part.kl}
        return [(key, cost[key], limit) for key, limit in limits.items() if limit is not None]

    @torch.no_grad()
    def _measure(self) -> dict[str, float]:
        self.model.eval()
        rise = divergence = 0.0
        for pack in pack_units([[s] for s in self.sequences], PACK_TOKENS):
            members = [self.sequences[i] for i in pack]
            rows = labelled_rows(self.model, members, packed=self.packed, prefix=self.prefix)
            before = self.reference.sequence_logps(members, rows.labels.device)
            rise += float((before - rows.logps).sum())
            if self.part.kl is not None:
                divergence += float(kl_divergence_loss(rows.logits, self.reference.logits(members), reduction="sum"))
        self.model.train()
        tokens = sum(s.num_labels for s in self.sequences)
        return {"retain_loss": rise / tokens} | ({"kl": divergence / tokens} if self.part.kl is not None else {})

    def _kept(self) -> dict[str, Any] | None:
        return json.loads(self.record.read_text(encoding="utf-8")) if self.record.is_file() else None

    def _keep(self) -> None:
        from safetensors.torch import save_file

        # Tied weights appear once among named parameters, so nothing is written twice.
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                value = whole(parameter)
                tensors |= {name: value.cpu().contiguous()} if process_number() == 0 else {}
        if process_number() > 0:
            return
        partial = self.best.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(self.best)
        written = self.record.with_suffix(".partial")
        written.write_text(json.dumps(self.state), encoding="utf-8")
        written.replace(self.record)
