"""Make a language model forget what it must, keep what it should, and show the evidence.

Nothing heavy is imported until it is used::

    import expunge

    expunge.unlearn("my-model", forget="forget.jsonl", retain="retain.jsonl", method="npo", out="runs/first")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from expunge.api import attack, certify, compose_adapters, evaluate, export, finetune, load, run, unlearn, verify

__all__ = [
    "__version__",
    "attack",
    "augment",
    "certify",
    "compose_adapters",
    "evaluate",
    "export",
    "finetune",
    "load",
    "run",
    "unlearn",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the public functions at their first use, so that ``import expunge`` stays quick."""
    if name in __all__:
        from expunge import api

        return getattr(api, name)
    raise AttributeError(f"module 'expunge' has no attribute {name!r}")
