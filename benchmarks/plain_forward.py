"""The plain way's forward pass: a padded batch of one kind of answer, with logits of every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.tree import TokenSequence
from expunge.models.gated import gates_of
from expunge.models.layers import decoder_layers

IGNORED = -100


@dataclass(frozen=True)
class Padded:
    """B sequences, padded on the right to the longest."""

    ids: Tensor
    """``(B, T)``."""
    mask: Tensor
    """``(B, T)`` 1 for tokens, 0 for pads."""
    targets: Tensor
    """``(B, T)`` the label that each position predicts, ``IGNORED`` where there is none."""
    prompt_lengths: Tensor
    """``(B,)``."""

    @classmethod
    def of(cls, sequences: Sequence[TokenSequence], pad_id: int, device: torch.device) -> Padded:
        """Pad and move to the device."""
        longest = max(len(s.ids) for s in sequences)
        ids = torch.full((len(sequences), longest), pad_id)
        mask = torch.zeros_like(ids)
        targets = torch.full_like(ids, IGNORED)
        for row, s in enumerate(sequences):
            ids[row, : len(s.ids)] = torch.tensor(s.ids)
            mask[row, : len(s.ids)] = 1
            targets[row, torch.tensor(s.label_positions) - 1] = torch.tensor(s.labels)
        lengths = torch.tensor([s.first_label for s in sequences])
        return cls(ids.to(device), mask.to(device), targets.to(device), lengths.to(device))


@dataclass(frozen=True)
class Answer:
    """What one forward pass says of B answers."""

    logits: Tensor
    """``(B, T, V)``."""
    targets: Tensor
    """``(B, T)``."""
    hidden: Tensor | None = None
    """``(B, T, d)`` output of the asked block."""
    gates: Tensor | None = None
    """``(B, L)`` logits of a gated model's gates."""

    @cached_property
    def labelled(self) -> Tensor:
        """``(B, T)`` bool: the positions that predict a label."""
        return self.targets != IGNORED

    @cached_property
    def lengths(self) -> Tensor:
        """``(B,)`` labels of each answer."""
        return self.labelled.sum(-1)

    @cached_property
    def token_logps(self) -> Tensor:
        """``(B, T)`` float32 log-probs of the labels, 0 elsewhere: cross-entropy over all positions."""
        losses = F.cross_entropy(
            self.logits.float().flatten(0, 1), self.targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return -losses.view_as(self.targets)

    @cached_property
    def logps(self) -> Tensor:
        """``(B,)`` summed over each answer."""
        return self.token_logps.sum(-1)

    @cached_property
    def nll(self) -> Tensor:
        """The mean over all labels of the batch, as transformers' own loss."""
        return F.cross_entropy(self.logits.float().flatten(0, 1), self.targets.flatten(), ignore_index=IGNORED)


def forward(model: Any, sequences: Sequence[TokenSequence], *, pad_id: int, layer: int | None = None) -> Answer:
    """The whole model over a padded batch; a hook reads the block ``layer``, where one is asked for."""
    batch = Padded.of(sequences, pad_id, next(model.parameters()).device)
    edits = gates_of(model)
    told = {"prompt_lengths": batch.prompt_lengths} if edits else {}
    seen: list[Tensor] = []
    hooks = []
    if layer is not None:
        block = decoder_layers(model)[layer]
        hooks.append(block.register_forward_hook(lambda m, i, output: seen.append(_states(output))))
    output = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, **told)
    for hook in hooks:
        hook.remove()
    gates = edits.gate_logits() if edits else None
    return Answer(output.logits, batch.targets, seen[0] if seen else None, gates)


def _states(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
