"""Attention over a packed tree, registered with transformers so that its own model code runs unchanged.

Every architecture that takes its attention function from transformers' ``AttentionInterface`` hands ours the keyword
arguments of the forward call. With a tree among them, attention follows the tree; without one (generation, padded
batches) it is ordinary attention with the mask that transformers built.

Some architectures accept the setting and ignore it, or part of it, and return wrong numbers. So nothing is trusted:
:func:`tree_works` counts the calls of one forward pass and compares its log-probs with separate sequences.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from expunge.data.blocks import Blocks
from expunge.data.tree import PackedTree, TokenSequence
from expunge.losses.logps import at_least_fp32
from expunge.models.cpu_attention import cpu_attention
from expunge.models.tied import one_gradient

TREE_ATTENTION = "expunge_tree"

# How many attention layers saw a tree since the last reset; a counter is safe under checkpoint recomputation,
# where a context variable would already be gone.
_calls = {"with_tree": 0, "without_tree": 0}


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Masked attention: ``(S, H, Q, D)`` query and ``(S, G, K, D)`` keys and values in, ``(S, Q, H, D)`` out.

    ``allowed`` is bool and broadcasts to ``(S, 1, Q, K)``. Where it can be helped, no weights are kept for the backward
    pass: for a whole row they would be most of a step's memory.
    """
    if softcap is not None or sinks is not None:
        mixed = _by_products(query, key, value, allowed, scaling, softcap, sinks)
    elif query.device.type == "cpu":
        mixed = cpu_attention(query, key, value, allowed, scaling)
    else:
        groups = query.shape[1] // key.shape[1]
        keys, values = (heads.repeat_interleave(groups, dim=1) for heads in (key, value))
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=allowed, scale=scaling)
    return mixed.transpose(1, 2).contiguous()


def _by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """``(S, H, Q, D)``, for what no fused function knows. Heads that share a key are the rows of one product."""
    stretches, num_heads, num_rows, width = query.shape
    kv_heads, num_keys = key.shape[1:3]
    folded = (query * scaling).reshape(stretches * kv_heads, -1, width)
    scores = torch.bmm(folded, key.reshape(-1, num_keys, width).transpose(1, 2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(stretches, num_heads, num_rows, num_keys).masked_fill_(~allowed, torch.finfo(scores.dtype).min)
    if sinks is not None:
        sink = sinks.view(1, num_heads, 1, 1).expand(stretches, -1, num_rows, 1).to(scores.dtype)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)[..., :num_keys]
    mixed = torch.bmm(weights.reshape(*folded.shape[:2], num_keys), value.reshape(-1, num_keys, value.shape[-1]))
    return mixed.view(stretches, num_heads, num_rows, -1)


def _attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: PackedTree,
    blocks: Blocks,
    window: int | None,
    *how: Any,
) -> Tensor:
    """As :func:`_attend`, but each stretch of the row sees the keys of its own path alone."""
    dtype = value.dtype
    if value.device.type == "cpu":
        # Once for all blocks; and a processor would add up in half precision what they say of a key.
        query, key, value = (at_least_fp32(heads) for heads in (query, key, value))
    mixed = []
    for block in blocks.blocks:
        allowed = block.allowed
        if window is not None:
            lowest = tree.position_ids[block.rows] - window
            allowed = allowed & (tree.key_positions[block.keys][:, None] > lowest[:, :, None])[:, None]
        if block.run is not None:
            rows, keys = block.run
            parts = query[:, :, rows], key[:, :, keys], value[:, :, keys]
        else:
            parts = _picked(query, block.rows), _picked(key, block.keys), _picked(value, block.keys)
        mixed.append(_attend(*parts, allowed, *how).flatten(2).flatten(0, 1))
    return F.embedding(blocks.place, torch.cat(mixed).to(dtype)).unflatten(-1, (query.shape[1], -1))[None]


def _picked(heads: Tensor, places: Tensor) -> Tensor:
    """``(1, H, T, D)`` at ``(S, P)`` places: ``(S, H, P, D)``."""
    # Embedding, for its backward pass adds rows up fast and in a fixed order, which indexing does not.
    return F.embedding(places, heads[0].transpose(0, 1).flatten(1)).unflatten(-1, heads.shape[1::2]).transpose(1, 2)


def _is_ordinary(module: nn.Module, query: Tensor, mask: Tensor | None, how: dict[str, Any]) -> bool:
    """Whether what :func:`_attend` does on a CPU is all that is asked for."""
    causal = getattr(module, "is_causal", True) and how.get("is_causal") in (None, True)
    plain = causal and not how.get("dropout") and how.get("position_bias") is None
    return plain and query.device.type == "cpu" and (mask is None or mask.dtype == torch.bool)


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """``(1, 1, Q, K)`` bool: the last Q of K tokens ask, and see what comes before them."""
    rows, columns = query.shape[2], key.shape[2]
    return torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(columns - rows)[None, None]


def _scaling(query: Tensor, how: dict[str, Any]) -> float:
    """What the model says, or the usual ``1 / sqrt(D)``."""
    given = how.get("scaling")
    return float(query.shape[-1] ** -0.5 if given is None else given)


def _plain_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Attention without a tree: the fastest that is as exact, or the model's own where others lack what it needs."""
    if kwargs.get("softcap") is None and kwargs.get("s_aux") is None:
        if not _is_ordinary(module, query, attention_mask, kwargs):
            return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        allowed = _causal(query, key) if attention_mask is None else attention_mask
        return _attend(query, key, value, allowed, _scaling(query, kwargs)), None
    eager = vars(__import__(type(module).__module__, fromlist=["eager_attention_forward"]))["eager_attention_forward"]
    if attention_mask is None:
        attention_mask = _causal(query, key)
    if attention_mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(~attention_mask, lowest)
    return eager(module, query, key, value, attention_mask, **kwargs)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: PackedTree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The registered attention function: ``(1, H, N, D)`` query, key and value; see transformers' interface.

    A sliding window is applied by *position* (depth in the tree), since neighbours in the row need not be neighbours
    in a sequence. What the tree remembers of nodes that are not computed comes before the keys and values of the rest.
    """
    if tree is None:
        _calls["without_tree"] += 1
        return _plain_attention(module, query, key, value, attention_mask, **kwargs)
    _calls["with_tree"] += 1
    if tree.memory is not None:
        key, value = tree.memory(module.layer_idx, key, value)  # type: ignore[arg-type]
    scaling = _scaling(query, kwargs)
    dropout = kwargs.get("dropout") or 0.0
    if dropout:
        raise ValueError("attention dropout is not supported on a packed tree; set attention_dropout to 0")
    window, softcap, sinks = kwargs.get("sliding_window"), kwargs.get("softcap"), kwargs.get("s_aux")
    if tree.blocks is not None:
        return _attend_in_blocks(query, key, value, tree, tree.blocks, window, scaling, softcap, sinks), None
    allowed = tree.visible
    if window is not None:
        allowed = allowed & (tree.key_positions > tree.position_ids[:, None] - window)
    return _attend(query, key, value, allowed, scaling, softcap, sinks), None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
# Without a mask function of its own, a registered name would ignore the 2-D padding mask in generation.
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)


def tree_logits(model: nn.Module, tree: PackedTree) -> Tensor:
    """``(M, V)`` logits on the labelled rows of a tree, by the model's own head."""
    # A 4-D mask passes through transformers untouched: this dummy keeps it from building an N x N mask of its own.
    dummy = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=tree.input_ids.device)
    ids = tree.input_ids[None]
    with one_gradient(model, ids):
        output = model(
            input_ids=ids,
            position_ids=tree.position_ids[None],
            attention_mask=dummy,
            use_cache=False,
            logits_to_keep=tree.label_rows,
            tree=tree,
        )
    # Not [0], whose backward pass would copy the whole gradient.
    return output.logits.squeeze(0)


def _probe_sequences(model: PreTrainedModel) -> list[TokenSequence]:
    """Three short sequences with shared beginnings, made of arbitrary token ids."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = min(model.config.get_text_config().vocab_size, 1000)
    ids = torch.randint(3, max(vocabulary, 4), (24,), generator=generator).tolist()
    return [
        TokenSequence(tuple(ids[:12]), 6),
        TokenSequence(tuple(ids[:7] + ids[12:18]), 7),
        TokenSequence(tuple(ids[18:24] + ids[3:6]), 2),
    ]


@torch.no_grad()
def tree_works(model: PreTrainedModel, *, tolerance: float | None = None) -> str:
    """Check on this very model that a packed tree gives what separate sequences give.

    Args:
        model: switched to tree attention already.
        tolerance: largest difference of a log-prob; by default 1e-3 in float32 and 0.15 in half precision.

    Returns:
        An empty string if it does, else the reason in a few words.
    """
    device = next(model.parameters()).device
    sequences = _probe_sequences(model)
    was_training = model.training
    model.eval()
    try:
        separate = [
            torch.log_softmax(model(torch.tensor([s.ids], device=device), use_cache=False).logits[0].float(), -1)[
                torch.arange(s.first_label - 1, len(s.ids) - 1), list(s.ids[s.first_label :])
            ]
            for s in sequences
        ]
        _calls.update(with_tree=0, without_tree=0)
        tree = PackedTree.build(sequences).to(device)
        packed = torch.log_softmax(tree_logits(model, tree).float(), -1)[torch.arange(len(tree.labels)), tree.labels]
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        return f"its forward pass refuses one: {str(error).splitlines()[0][:100]}"
    finally:
        model.train(was_training)
    layers = model.config.get_text_config().num_hidden_layers
    if _calls != {"with_tree": layers, "without_tree": 0}:
        return f"{_calls['with_tree']} of its {layers} layers attended to the tree"
    if tolerance is None:
        tolerance = 1e-3 if packed.dtype == torch.float32 and model.dtype == torch.float32 else 0.15
    difference = float((packed - torch.cat(separate)).abs().max())
    return "" if difference <= tolerance else f"log-probs differ by {difference:.1e}"
