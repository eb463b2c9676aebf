"""The logit lens: is the answer still there before the last block hides it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.tree import TokenSequence
from expunge.errors import ModelError
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.probing import lens_columns
from expunge.evaluation.scorer import scoring_packs
from expunge.evaluation.suites.base import Probe
from expunge.losses.logps import sequence_logps, token_logps
from expunge.models.forward import visited_rows
from expunge.models.gated import without_gates
from expunge.models.layers import decoder_layers
from expunge.models.load import LoadedModel
from expunge.parallel import gathered, my_share
from expunge.progress import Bar, bar

CHUNK_ROWS = 128
"""States read out together: bounds the memory of their logits, and is enough for the head's product to be fast."""


class ReadOut:
    """From a block's output to logits by the model's own way up: final norm, head, and whatever else it does there.

    The model runs on one token a row with its blocks passed over, and the last one puts out what it is told. So no name
    of a norm or a scale has to be known.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.blocks = decoder_layers(model)
        self._in_tuple = False
        hook = self.blocks[-1].register_forward_hook(self._note)
        try:
            self._run(1)
        finally:
            hook.remove()

    def __call__(self, states: Tensor) -> Tensor:
        """``(M, V)`` logits of ``(M, d)`` states."""
        with self._passed_over(states[:, None]):
            return self._run(len(states))

    def _note(self, module: Any, inputs: Any, output: Any) -> None:
        self._in_tuple = isinstance(output, tuple)

    def _run(self, num_rows: int) -> Tensor:
        device = next(self.model.parameters()).device
        with without_gates(self.model), torch.no_grad():
            tokens = torch.zeros(num_rows, 1, dtype=torch.long, device=device)
            return self.model(input_ids=tokens, use_cache=False).logits[:, 0]

    @contextmanager
    def _passed_over(self, states: Tensor) -> Iterator[None]:
        wrap: Callable[[Tensor], Any] = (lambda hidden: (hidden,)) if self._in_tuple else (lambda hidden: hidden)

        def pass_on(*inputs: Any, **named: Any) -> Any:
            return wrap(inputs[0] if inputs else named["hidden_states"])

        own = [vars(block).get("forward") for block in self.blocks]
        for block in self.blocks:
            block.forward = pass_on
        self.blocks[-1].forward = lambda *inputs, **named: wrap(states)
        try:
            yield
        finally:
            for block, forward in zip(self.blocks, own, strict=True):
                del block.forward
                if forward is not None:
                    block.forward = forward


@torch.no_grad()
def layer_probs(
    loaded: LoadedModel, sequences: SequenceOf[TokenSequence], *, pack_tokens: int = 512, update: Bar | None = None
) -> np.ndarray:
    """Geometric mean probability of each answer's tokens, read after every block.

    ``exp(sum_t log softmax(head(h_{l,t}))[y_t] / T)``, the end-of-sequence token counted as in ``prob``. One forward
    pass for all blocks; the head is applied block by block, on labelled rows only.

    Returns:
        ``(n, L)`` float64 in ``[0, 1]``; column ``L-1`` is the column ``prob`` of the scoring pass.

    Raises:
        ModelError: if reading out the last block does not give the model's own log-probs.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    model = loaded.model
    was_training = model.training
    model.eval()
    read_out, depth = ReadOut(model), len(decoder_layers(model))
    found: dict[TokenSequence, list[float]] = {}
    packs = my_share(scoring_packs(sequences, pack_tokens, packed=loaded.packed))
    for members in packs:
        found.update(zip(members, _pack_probs(loaded, members, read_out, depth).tolist(), strict=True))
        if update:
            update(len(found), sum(map(len, packs)))
    model.train(was_training)
    everything = gathered(found)
    return np.array([everything[s] for s in sequences], dtype=np.float64).reshape(len(sequences), depth)


def _pack_probs(loaded: LoadedModel, members: list[TokenSequence], read_out: ReadOut, depth: int) -> Tensor:
    """``(B, L)`` probabilities of one pass."""
    states: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> None:
        states[layer] = hidden

    rows = visited_rows(loaded.model, members, packed=loaded.packed, visit=keep)
    out = []
    for layer in range(depth):
        logps = _read(read_out, states.pop(layer), rows.labels)
        if layer == depth - 1:
            _check(loaded.model, logps, rows.per_token_logps)
        out.append(sequence_logps(logps.double(), rows.sequence, len(members)) / rows.num_tokens)
    return torch.stack(out, dim=1).exp()


def _read(read_out: ReadOut, states: Tensor, labels: Tensor) -> Tensor:
    """``(M,)`` log-probs of the labels, a bounded number of rows at a time."""
    chunks = zip(states.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True)
    return torch.cat([token_logps(read_out(part), wanted) for part, wanted in chunks])


def _check(model: Any, read: Tensor, own: Tensor) -> None:
    """Nothing is trusted: the last block, read out, must give what the model says."""
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.15
    difference = float((read - own).abs().max())
    if difference > tolerance:
        raise ModelError(
            f"the logit lens cannot read {type(model).__name__}: its last block, read out, differs from its own "
            f"log-probs by {difference:.1e}; leave logit_lens out"
        )


def measure_logit_lens(probe: Probe) -> Columns:
    """The columns ``logit_lens_max`` and ``logit_lens_mean`` of a set."""
    sequences = [probe.loaded.format.encode(row) for row in probe.rows]
    with bar(f"logit lens: {probe.name}") as update:
        return lens_columns(layer_probs(probe.loaded, sequences, update=update))
