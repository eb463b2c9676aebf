"""Adapter scopes, by PEFT: LoRA (Hu et al., 2021), AdaLoRA's form of it, and QLoRA's 4-bit base."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from expunge.errors import RecipeError
from expunge.models.layers import decoder_layers


@dataclass(frozen=True, kw_only=True)
class LoraScope:
    """Rank-``r`` adapters on the linear layers."""

    key: ClassVar[str] = "lora"
    folder: ClassVar[str] = "adapter"
    provides: ClassVar[frozenset[str]] = frozenset()
    lr_kind: ClassVar[Literal["full", "adapter", "gate"]] = "adapter"

    rank: int = 16
    """Rank of the update."""
    lora_alpha: int = 32
    """Scale: the update is multiplied by ``lora_alpha / rank``."""
    dropout: float = 0.0
    """Dropout inside the adapter; 0 keeps every loss at its known value at the start."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Which layers carry an adapter, as PEFT names them."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise RecipeError(f"scope {self.key}: rank must be at least 1, got {self.rank}")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"scope {self.key}: dropout must be in [0, 1), got {self.dropout}")

    def attach(self, model: Any, *, layer: int | None = None) -> Any:
        """Wrap the model; only the adapter is trainable. An adapter loaded with the model is folded in first."""
        from peft import PeftModel, get_peft_model

        if isinstance(model, PeftModel):
            model = model.merge_and_unload()
        try:
            return get_peft_model(model, self._config())
        except ValueError as error:
            raise RecipeError(f"scope {self.key}: {str(error).splitlines()[0]}") from error

    @property
    def _targets(self) -> str | list[str]:
        return self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)

    def _config(self) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.dropout,
            target_modules=self._targets,
            task_type="CAUSAL_LM",
        )

    def masks(self, model: Any) -> dict[str, Tensor]:
        """Everything trainable moves as a whole."""
        return {}

    def save(self, model: Any, folder: Path) -> None:
        """Write the adapter as safetensors."""
        model.save_pretrained(folder)

    def merge(self, model: Any) -> Any:
        """Fold the adapter into the weights."""
        return model.merge_and_unload()


_NEVER_REACHED = 10**9
"""A step count beyond every run: PEFT wants AdaLoRA's pruning planned, and here none takes place."""


@dataclass(frozen=True, kw_only=True)
class AdaloraScope(LoraScope):
    """AdaLoRA's adapters ``B diag(E) A`` at a fixed rank (Zhang et al., 2023).

    The singular values E start at 0, so the start is the model itself, and all three factors are trained. Ranks are not
    taken away from one layer and given to another: that needs hundreds of steps of importance statistics, unlearning
    has a few dozen, and a run that was killed would go on with other ranks. The paper's orthogonality penalty, which
    makes importance comparable, is left out with it.
    """

    key: ClassVar[str] = "adalora"

    def _config(self) -> Any:
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            init_r=self.rank,
            target_r=self.rank,
            tinit=_NEVER_REACHED - 1,
            total_step=_NEVER_REACHED,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.dropout,
            target_modules=self._targets,
            task_type="CAUSAL_LM",
        )


@dataclass(frozen=True, kw_only=True)
class QloraScope(LoraScope):
    """LoRA beside a base held in 4 bits (Dettmers et al., 2023), on a GPU with bitsandbytes.

    The reference, too, is that of the 4-bit model. What is saved is the adapter alone: loaded again it sits on the base
    in full precision, as is usual.
    """

    key: ClassVar[str] = "qlora"

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 4-bit numbers."""
    double_quant: bool = True
    """Quantise the scales as well."""

    def __post_init__(self) -> None:
        LoraScope.__post_init__(self)
        if self.quant_type not in ("nf4", "fp4"):
            raise RecipeError(f"scope qlora: quant_type must be nf4 or fp4, got {self.quant_type!r}")
        if find_spec("bitsandbytes") is None:
            raise RecipeError('scope qlora needs the package bitsandbytes: pip install "expunge[quant]", or use lora')

    def quantise(self, model: Any, device: torch.device | None = None) -> None:
        """Put every linear layer of the blocks into 4 bits, in place; a model that is so already stays as it is.

        Args:
            model: on any device.
            device: where the 4 bits go, layer by layer; by default where the model is.

        Raises:
            RecipeError: without a GPU, or for a model that came as an adapter.
        """
        if getattr(model, "is_loaded_in_4bit", False):
            return
        device = device or next(model.parameters()).device
        if device.type != "cuda":
            raise RecipeError(f"scope qlora needs a GPU, and the model is on {device}; use scope lora")
        if hasattr(model, "merge_and_unload"):
            raise RecipeError("scope qlora cannot sit on an adapter; fold it in first with `expunge export`")
        for block in decoder_layers(model):
            for name, module in list(block.named_modules()):
                if type(module) is nn.Linear:
                    parent, _, child = name.rpartition(".")
                    setattr(block.get_submodule(parent), child, self._in_4_bits(module).to(device))
        model.is_loaded_in_4bit = True

    def _in_4_bits(self, linear: nn.Linear) -> Any:
        import bitsandbytes as bnb

        weight = linear.weight.data
        layer = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=torch.bfloat16 if weight.dtype == torch.float32 else weight.dtype,
            compress_statistics=self.double_quant,
            quant_type=self.quant_type,
        )
        # It is moving to the GPU that quantises.
        layer.weight = bnb.nn.Params4bit(
            weight.cpu(), requires_grad=False, compress_statistics=self.double_quant, quant_type=self.quant_type
        )
        layer.bias = linear.bias
        return layer

    def attach(self, model: Any, *, layer: int | None = None) -> Any:
        """Wrap the model in 4 bits; only the adapter is trainable."""
        self.quantise(model)
        return super().attach(model, layer=layer)
