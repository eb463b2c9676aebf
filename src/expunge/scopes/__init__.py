"""Scopes: what may move. Each attaches to a model, names its trainable parameters, saves, loads and merges."""

from expunge.registry import Registry
from expunge.scopes.base import Scope

SCOPES: Registry[type[Scope]] = Registry(
    "scope",
    {"full": "expunge.scopes.full:FullScope", "lora": "expunge.scopes.lora:LoraScope"},
)

__all__ = ["SCOPES", "Scope"]
