"""Several processes on one training: what each computes of a step, and how their gradients become one.

Every process knows the whole step, for the plan is a pure function of seed and step. Each computes a share of its rows,
and every term is divided by the count of the whole step: sums over the processes are the numbers of a single one.

The weights are kept in one of two ways. *Replicas* (what Accelerate calls DDP): every process holds the model, and
gradients are added up here, once a step. torch's wrapper of that name is not used: it averages in every backward pass,
and knows neither passes that end at a layer nor the several passes of a gradient rule. *Pieces* (FSDP2, DeepSpeed):
an engine owns the weights, puts them together in every pass, and averages the gradients itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from expunge.errors import ModelError
from expunge.parallel import num_processes, process_number, summed

T = TypeVar("T")
BUCKET = 1 << 24
"""Most numbers that travel at once."""


# -- shares of a step --------------------------------------------------------------------------------------------------


def share_out(work: Sequence[T], size: Callable[[T], int], shares: int) -> list[list[T]]:
    """Split work so that no share is much larger than another: the largest piece first, to whoever has least.

    Each share keeps the order. It is a pure function of its arguments, so that all processes agree.
    """
    sizes = [size(piece) for piece in work]
    loads, owner = [0] * shares, [0] * len(work)
    for place in sorted(range(len(work)), key=lambda place: (-sizes[place], place)):
        owner[place] = loads.index(min(loads))
        loads[owner[place]] += sizes[place]
    return [[piece for piece, own in zip(work, owner, strict=True) if own == share] for share in range(shares)]


def own_passes(model: Any, shares: Sequence[Sequence[T]]) -> list[tuple[T, float]]:
    """The micro-batches that this process runs, each with the factor that its loss carries.

    Args:
        model: the policy, possibly wrapped.
        shares: micro-batches by process.

    Returns:
        Its own share. Where the weights lie in pieces, all processes must pass equally often: those with less to do
        repeat what another one does, with factor 0; and the others' factor undoes the engine's averaging.
    """
    mine = shares[process_number()]
    if not in_pieces(model):
        return [(members, 1.0) for members in mine]
    longest = max(shares, key=len)
    idle = longest[len(mine) :]
    return [(members, float(num_processes())) for members in mine] + [(members, 0.0) for members in idle]


def announce_pass(model: Any, *, last: bool) -> None:
    """Tell an engine that steps by itself (DeepSpeed) whether another backward pass of the same step will follow."""
    if in_pieces(model):
        from accelerate.state import GradientState

        GradientState()._set_sync_gradients(last)


def summed_tensors(found: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Small tensors added up over the processes, by name, on the model's device; a process may lack a name."""
    if num_processes() == 1:
        return dict(found)
    device = next(model.parameters()).device
    return {name: total.to(device) for name, total in summed({n: t.cpu() for n, t in found.items()}).items()}


# -- gradients of replicas ---------------------------------------------------------------------------------------------


@torch.no_grad()
def sum_gradients(model: Any) -> None:
    """Make ``.grad``, which each process filled from its own rows, the gradient of the whole step.

    A parameter that no process has a gradient of keeps none. An engine has done this already.
    """
    if num_processes() == 1 or in_pieces(model):
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    there = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    torch.distributed.all_reduce(there)
    gradients = []
    for parameter, owners in zip(parameters, there.tolist(), strict=True):
        if owners:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    sum_tensors(gradients)


@torch.no_grad()
def sum_tensors(tensors: Iterable[Tensor]) -> None:
    """Add tensors up over the processes, in place and at least in float32; all must have them in the same order."""
    if num_processes() == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([t.flatten().to(torch.promote_types(t.dtype, torch.float32)) for t in bucket])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


# -- weights in pieces -------------------------------------------------------------------------------------------------


def in_pieces(model: Any) -> bool:
    """Whether an engine owns this model's weights and gradients: FSDP2 or DeepSpeed."""
    return hasattr(model, "set_requires_gradient_sync") or hasattr(model, "set_gradient_accumulation_boundary")


def whole(tensor: Tensor) -> Tensor:
    """A parameter's value, put together from its pieces. Each process must call it, in the same order."""
    held: Any = tensor.detach()
    if hasattr(held, "full_tensor"):
        return held.full_tensor()
    if hasattr(tensor, "ds_id"):
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([tensor]):
            return tensor.detach().clone()
    return held


def own_piece(tensor: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    held: Any = tensor.detach()
    return held.to_local() if hasattr(held, "to_local") else held


def take_apart(model: Any) -> None:
    """Let go of weights that a pass without gradients has left put together: what is set there would be lost."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


@torch.no_grad()
def put_whole(parameter: Tensor, value: Tensor) -> None:
    """Set a parameter to a whole value that every process has."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        given = value.to(parameter.device, parameter.dtype)
        value = distribute_tensor(given, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    parameter.copy_(value)


def whole_state(model: Any) -> dict[str, Tensor] | None:
    """On the CPU of the first process, the state of a model whose weights lie in pieces; None where they do not.

    Each process must call it; one tensor after the other, so that no device ever holds all of them.
    """
    if not any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in model.parameters()):
        return None
    state: dict[str, Tensor] = {}
    seen: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        # Tied weights are one tensor, and are written once.
        if id(tensor) not in seen:
            value = whole(tensor)
            seen[id(tensor)] = value.cpu() if process_number() == 0 else value.new_empty(0)
        state[name] = seen[id(tensor)]
    return state


def refuse_in_pieces(engine: str, there: Mapping[str, Any]) -> None:
    """Refuse what reads or moves single weights, where an engine holds them in pieces.

    Args:
        engine: its name.
        there: what a run has, by what it is called; empty or None is fine.

    Raises:
        ModelError: one line with everything that cannot be.
    """
    if wrong := [name for name, value in there.items() if value]:
        raise ModelError(
            f"{engine} keeps the weights in pieces, and this run needs them whole ({', '.join(wrong)}); "
            "launch it with replicas instead (ddp.yaml; see docs/clusters.md)"
        )
