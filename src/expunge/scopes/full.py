"""Full scope: every parameter may move."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class FullScope:
    """All weights are trained."""

    key: ClassVar[str] = "full"
    folder: ClassVar[str] = "model"
    provides: ClassVar[frozenset[str]] = frozenset()

    def attach(self, model: Any) -> Any:
        """Make every floating-point parameter trainable; an adapter loaded with the model is folded in first."""
        if hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model

    def save(self, model: Any, folder: Path) -> None:
        """Write the whole model as safetensors."""
        model.save_pretrained(folder)

    def merge(self, model: Any) -> Any:
        """There is nothing to merge."""
        return model
