"""The sizes of a model that its costs follow from: read off its modules and configuration, never off its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import ModuleDict

from expunge.models.frozen_prefix import first_moving_block
from expunge.models.layers import decoder_layers


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a causal language model."""

    num_layers: int
    hidden: int
    """Width of a hidden state."""
    intermediate: int
    """Width inside the MLP."""
    num_heads: int
    query_width: int
    """Of all heads together."""
    key_width: int
    """Of all key heads together; values are as wide."""
    vocab: int
    block_params: int
    """Numbers of all blocks that one token meets: of experts, those that it is sent to."""
    num_params: int
    """Numbers in all; tied ones count once."""
    weight_bytes: int
    """Of the weights as they are kept in memory."""
    element: int
    """Bytes of one weight outside the blocks: 4 in float32."""
    keeps_scores: bool = False
    """Whether attention must write its ``(heads, N, N)`` weights down: where they are capped, or have sinks."""

    @classmethod
    def of(cls, model: Any) -> ModelShape:
        """The sizes of a model, wrapped or not, on any device; on ``meta`` it needs no memory.

        Raises:
            ModelError: if the architecture keeps its blocks in no list.
        """
        config = model.config.get_text_config()
        blocks = decoder_layers(model)
        # A state-space model has no heads: one as wide as a state costs about the same.
        heads = getattr(config, "num_attention_heads", None) or 1
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        embedding = model.get_input_embeddings().weight
        return cls(
            num_layers=len(blocks),
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or _widest(blocks[0]),
            num_heads=heads,
            query_width=heads * width,
            key_width=(getattr(config, "num_key_value_heads", None) or heads) * width,
            vocab=embedding.shape[0],
            block_params=sum(_met(config, name, p) for name, p in blocks.named_parameters()),
            num_params=sum(num_numbers(p) for p in model.parameters()),
            weight_bytes=sum(p.numel() * p.element_size() for p in model.parameters()),
            element=embedding.element_size(),
            keeps_scores=bool(getattr(config, "attn_logit_softcapping", None)) or _has_sinks(blocks[0]),
        )

    @property
    def head_params(self) -> int:
        """Numbers of the output head, tied or not."""
        return self.vocab * self.hidden


def num_numbers(parameter: Tensor) -> int:
    """How many numbers stand in a weight; one in 4 bits holds two a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def _met(config: Any, name: str, parameter: Tensor) -> int:
    """The numbers of a block's weight that one token meets: all, or its share of the experts."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None)
    size = num_numbers(parameter)
    return round(size * chosen / experts) if experts and chosen and ".experts." in f".{name}." else size


def _has_sinks(block: Any) -> bool:
    return any(name.endswith("sinks") for name, _ in block.named_parameters())


def _widest(block: Any) -> int:
    return max(max(p.shape) for p in block.parameters() if p.dim() == 2)


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What training moves of a model that a scope was attached to."""

    num_params: int
    """Trainable numbers."""
    gradient_bytes: int
    block_params: int
    """Trainable numbers inside the blocks, adapters among them."""
    first_block: int
    """The lowest block that the backward pass reaches; the depth, if there is none."""
    edits_alone: bool = False
    """Whether gated edits alone move: then passes run over the last tokens of prompts and the answers."""
    head: bool
    """Whether the output head moves, by itself or as the embedding that it is tied to."""
    adapted_width: int = 0
    """Width of all outputs of layers that adapters stand beside, of one token."""

    @classmethod
    def of(cls, model: Any) -> Moved:
        """What of a model has a gradient."""
        blocks = decoder_layers(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        first, edits_alone = first_moving_block(model)
        head = model.get_output_embeddings()
        return cls(
            num_params=sum(p.numel() for p in trained),
            gradient_bytes=sum(p.numel() * p.element_size() for p in trained),
            block_params=sum(p.numel() for p in blocks.parameters() if p.requires_grad),
            first_block=first,
            edits_alone=edits_alone,
            head=head is not None and any(p.requires_grad for p in head.parameters()),
            adapted_width=sum(_adapted_width(module) for module in blocks.modules()),
        )


def _adapted_width(module: Any) -> int:
    """Width of the output of a layer that PEFT put an adapter beside; 0 of any other module."""
    adapters = getattr(module, "lora_B", None)
    linears: list[Any] = list(adapters.values()) if isinstance(adapters, ModuleDict) else []
    return sum(linear.out_features for linear in linears)
