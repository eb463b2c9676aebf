"""bfloat16 autocast: whether a training uses it. Weights, optimiser and losses stay in float32 either way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from expunge.models.machine import has_fast_bf16
from expunge.training.rules import make_rules


def uses_bf16(
    asked: bool | None, device: torch.device, dtype: torch.dtype, rules: Sequence[Mapping[str, Any]] = ()
) -> bool:
    """Whether products are computed in bfloat16: as asked, else on a GPU that has it.

    On a CPU it is never chosen; neither beside float16 weights, which would meet bfloat16 in every layer, nor with a
    gradient rule whose steps would be rounded away.
    """
    if asked is not None:
        return asked
    exact = any(rule.exact for rule in make_rules(rules))
    return device.type == "cuda" and dtype != torch.float16 and not exact and has_fast_bf16(device)


def bf16_note(asked: bool | None, used: bool, device: torch.device) -> str:
    """What a user should know of it, in one line; empty where nothing was chosen and nothing is amiss."""
    if used and asked is None:
        return "bf16: products are computed in bfloat16, weights and losses in float32; bf16=false turns it off"
    if used and not has_fast_bf16(device):
        return f"warning: bf16 is slow on this {device.type.upper()}, which does not have it in hardware; leave it out"
    return ""
