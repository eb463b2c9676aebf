"""The frozen reference model as data: computed once on the starting weights, kept, and never held in memory as a model.

Per-sequence log-probs serve NPO and DPO (one number each). KL needs whole distributions: instead of ``(M, V)`` logits
the final hidden states ``(M, d)`` are kept, and the frozen output head is applied again when they are needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.tree import TokenSequence, pack_units
from expunge.errors import ModelError
from expunge.models.forward import head_inputs, labelled_rows
from expunge.models.gated import without_gates
from expunge.models.load import LoadedModel

REFERENCE_VERSION = 2
PACK_TOKENS = 512


class FrozenHead:
    """The starting model's output head, able to turn kept hidden states into logits again.

    Some architectures bend the logits after the linear map (a soft cap, a scale). The right form is found by comparing
    with the model's own logits, so that an unknown one is refused instead of being silently wrong.
    """

    def __init__(self, model: Any, hidden: Tensor, logits: Tensor) -> None:
        head = model.get_output_embeddings()
        self.weight: Tensor = head.weight.detach()
        self.bias: Tensor | None = None if getattr(head, "bias", None) is None else head.bias.detach()
        self._bend = self._find_form(model.config.get_text_config(), hidden, logits)

    def _find_form(self, config: Any, hidden: Tensor, logits: Tensor) -> Callable[[Tensor], Tensor]:
        cap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", None)
        divisor = getattr(config, "logits_scaling", None)
        forms: list[Callable[[Tensor], Tensor]] = [lambda z: z]
        if cap:
            forms.append(lambda z: cap * torch.tanh(z / cap))
        if scale:
            forms.append(lambda z: z * scale)
        if divisor:
            forms.append(lambda z: z / divisor)
        straight = F.linear(hidden, self.weight, self.bias)
        for form in forms:
            if torch.allclose(form(straight).float(), logits.float(), rtol=1e-2, atol=1e-2):
                return form
        raise ModelError(
            "retain term 'kl' rebuilds the reference's logits from hidden states, and this model bends its logits in "
            "an unknown way; use retain term 'nll'"
        )

    def detach_from(self, model: Any) -> None:
        """Copy the weights if training moves them (tied embeddings under full scope), else keep sharing them."""
        if any(p.requires_grad and p.data_ptr() == self.weight.data_ptr() for p in model.parameters()):
            self.weight = self.weight.clone()
            self.bias = None if self.bias is None else self.bias.clone()

    def logits(self, hidden: Tensor) -> Tensor:
        """``(M, V)`` logits from ``(M, d)`` final hidden states."""
        return self._bend(F.linear(hidden.to(self.weight.device, self.weight.dtype), self.weight, self.bias))


@dataclass
class Reference:
    """What the starting model says of the sequences that training will show."""

    logps: dict[TokenSequence, float]
    """Log-prob summed over the labels."""
    hidden: dict[TokenSequence, Tensor]
    """``(T, d)`` final hidden states that predict the labels; empty unless asked for."""
    head: FrozenHead | None = None
    layers: dict[TokenSequence, Tensor] = field(default_factory=dict)
    """``(T, d)`` outputs of the run's layer at the same positions; empty unless asked for."""

    def sequence_logps(self, sequences: SequenceOf[TokenSequence], device: torch.device) -> Tensor:
        """``(B,)`` reference log-probs."""
        return torch.tensor([self.logps[s] for s in sequences], device=device)

    def logits(self, sequences: SequenceOf[TokenSequence]) -> Tensor:
        """``(M, V)`` reference logits on the labelled rows, ordered like a forward pass over ``sequences``."""
        assert self.head is not None
        return self.head.logits(torch.cat([self.hidden[s] for s in sequences]))

    def layer_states(self, sequences: SequenceOf[TokenSequence], device: torch.device) -> Tensor:
        """``(M, d)`` outputs of the layer on the labelled rows, ordered like a forward pass over ``sequences``."""
        return torch.cat([self.layers[s] for s in sequences]).to(device)


@torch.no_grad()
def compute_reference(
    loaded: LoadedModel,
    logps_of: Iterable[TokenSequence],
    hidden_of: Iterable[TokenSequence],
    layer_of: Iterable[TokenSequence] = (),
    *,
    layer: int | None = None,
    cache: Path | None = None,
    on_pack: Callable[[int, int], None] | None = None,
) -> Reference:
    """Run the starting model once over every sequence it will be asked about.

    Args:
        loaded: the model at its starting weights, before any scope is attached.
        logps_of: sequences whose summed log-prob is needed.
        hidden_of: sequences whose final hidden states are needed (KL).
        layer_of: sequences whose hidden states at ``layer`` are needed (RMU).
        layer: which block; needed with ``layer_of``.
        cache: folder for the result, keyed by model, numerics and token ids; None keeps it in memory.
        on_pack: called with (done, total) packs, for a progress bar.
    """
    wants = {"hidden": dict.fromkeys(hidden_of), "layers": dict.fromkeys(layer_of)}
    sequences = list(dict.fromkeys([*logps_of, *wants["hidden"], *wants["layers"]]))
    if not sequences:
        return Reference({}, {})
    model = loaded.model
    was_training = model.training
    model.eval()
    with without_gates(model):
        head = _frozen_head(loaded, sequences[0]) if wants["hidden"] else None
    path = cache / f"reference-{_key(loaded, sequences, wants, layer)}.safetensors" if cache else None
    kept = _read(path) if path else None
    if kept is None:
        with without_gates(model):
            kept = _run(loaded, sequences, wants, layer, on_pack)
        if path:
            _write(path, kept)
    model.train(was_training)
    logps = dict(zip(sequences, kept["logps"].tolist(), strict=True))
    states = {name: _owned(kept[name], [s for s in sequences if s in wanted]) for name, wanted in wants.items()}
    return Reference(logps, states["hidden"], head, states["layers"])


Wanted = dict[TokenSequence, None]


def _owned(states: Tensor, owners: list[TokenSequence]) -> dict[TokenSequence, Tensor]:
    pieces = states.split([s.num_labels for s in owners]) if owners else ()
    return dict(zip(owners, pieces, strict=True))


def _run(
    loaded: LoadedModel,
    sequences: list[TokenSequence],
    wants: dict[str, Wanted],
    layer: int | None,
    on_pack: Callable | None,
) -> dict[str, Tensor]:
    packs = pack_units([[s] for s in sequences], PACK_TOKENS)
    logps: list[Tensor] = []
    found: dict[str, list[Tensor]] = {name: [] for name in wants}
    for done, pack in enumerate(packs):
        members = [sequences[i] for i in pack]
        with head_inputs(loaded.model) as seen:
            rows = labelled_rows(loaded.model, members, packed=loaded.packed, layer=layer if wants["layers"] else None)
        logps.append(rows.logps.cpu())
        states = {"layers": rows.hidden}
        if wants["hidden"]:
            states["hidden"] = _label_states(seen[0], members, rows.labels.shape[0])
        for name, wanted in wants.items():
            if wanted:
                found[name] += _pieces(states[name], members, wanted)
        if on_pack:
            on_pack(done + 1, len(packs))
    return {"logps": torch.cat(logps)} | {
        name: torch.cat(pieces) if pieces else torch.empty(0) for name, pieces in found.items()
    }


def _pieces(states: Tensor | None, members: list[TokenSequence], wanted: Wanted) -> list[Tensor]:
    """The states of those members that are wanted, copied out of the batch."""
    assert states is not None
    pieces = states.cpu().split([s.num_labels for s in members])
    return [piece.clone() for s, piece in zip(members, pieces, strict=True) if s in wanted]


def _label_states(seen: Tensor, members: list[TokenSequence], num_labels: int) -> Tensor:
    """``(M, d)`` head inputs on labelled rows: given directly by a packed pass, picked out of a padded batch."""
    if seen.shape[0] == 1 and seen.shape[1] == num_labels:
        return seen[0]
    return torch.cat([seen[i, [place - 1 for place in s.label_positions]] for i, s in enumerate(members)])


def _frozen_head(loaded: LoadedModel, sample: TokenSequence) -> FrozenHead:
    with head_inputs(loaded.model) as seen:
        rows = labelled_rows(loaded.model, [sample], packed=loaded.packed)
    return FrozenHead(loaded.model, _label_states(seen[0], [sample], rows.labels.shape[0]), rows.logits)


def _key(loaded: LoadedModel, sequences: list[TokenSequence], wants: dict[str, Wanted], layer: int | None) -> str:
    digest = hashlib.sha256()
    lowered = torch.is_autocast_enabled(next(loaded.model.parameters()).device.type)
    precision = [str(loaded.model.dtype), loaded.matmul_route, lowered]
    numerics = [REFERENCE_VERSION, loaded.fingerprint, loaded.packed, layer, *precision]
    digest.update(json.dumps(numerics).encode())
    for s in sequences:
        asked = [s.first_label, *(s in wanted for wanted in wants.values()), *s.ids]
        # Nothing more where nothing is spared: what was kept before there was such a thing stays found.
        digest.update(json.dumps([*asked, sorted(s.spared)] if s.spared else asked).encode())
    return digest.hexdigest()[:20]


def _read(path: Path) -> dict[str, Tensor] | None:
    from safetensors.torch import load_file

    return load_file(path) if path.is_file() else None


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(tensors, partial)
    os.replace(partial, path)
