"""What every scope can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Protocol


class Scope(Protocol):
    """Which parameters a run may change, and how the result is kept."""

    key: ClassVar[str]
    folder: ClassVar[str]
    """``model`` for whole weights, ``adapter`` for a PEFT adapter: the folder name inside a run."""
    provides: ClassVar[frozenset[str]]
    """What terms may rely on; see ``methods.terms``."""

    def attach(self, model: Any) -> Any:
        """Freeze what may not move and return the model to train (wrapped, for adapters)."""
        ...

    def save(self, model: Any, folder: Path) -> None:
        """Write safetensors that ``from_pretrained`` (or ``PeftModel``) loads."""
        ...

    def merge(self, model: Any) -> Any:
        """A plain model with the change folded in."""
        ...
