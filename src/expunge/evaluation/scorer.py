"""The teacher-forced pass: every answer scored once, shared prompts encoded once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.tree import TokenSequence, pack_units
from expunge.evaluation.metrics import TokenScores
from expunge.models.allocator import kept_memory
from expunge.models.forward import LabelledRows, labelled_rows
from expunge.models.gated import gates_of
from expunge.models.load import LoadedModel
from expunge.parallel import gathered, my_share
from expunge.progress import Bar

CHUNK_ROWS = 16
"""Logit rows whose whole distribution is looked at together: few enough that a CPU's cache holds them all the while."""


@torch.no_grad()
@kept_memory()
def score_sequences(
    loaded: LoadedModel, sequences: SequenceOf[TokenSequence], *, pack_tokens: int = 1024, update: Bar | None = None
) -> list[TokenScores]:
    """Score every sequence's labels under teacher forcing.

    Args:
        loaded: the model.
        sequences: answers to one prompt share its encoding, and equal sequences are scored once, wherever they stand.
        pack_tokens: most unique tokens in one pass.
        update: progress, in sequences.

    Returns:
        One :class:`TokenScores` per sequence, in order. In a process group each process computes some of them, and
        all return all of them.
    """
    packs = scoring_packs(sequences, pack_tokens, packed=loaded.packed)
    found: dict[TokenSequence, TokenScores] = {}
    model = loaded.model
    was_training = model.training
    model.eval()
    mine = my_share(packs)
    total = sum(map(len, mine))
    for members in mine:
        found |= _score_pack(loaded, members)
        if update:
            update(len(found), total)
    model.train(was_training)
    found = gathered(found)
    return [found[s] for s in sequences]


def scoring_packs(
    sequences: SequenceOf[TokenSequence], pack_tokens: int, *, packed: bool = True
) -> list[list[TokenSequence]]:
    """The sequences of each forward pass: each once, answers to one prompt together, like lengths together.

    A prompt stands in one pack only, unless its answers alone exceed ``pack_tokens``.
    """
    units: dict[tuple[int, ...], list[TokenSequence]] = {}
    for s in dict.fromkeys(sequences):
        units.setdefault(s.ids[: s.first_label], []).append(s)
    if not packed:
        # Nothing is shared in a padded batch, and every row is as long as the longest.
        ordered = sorted(dict.fromkeys(sequences), key=lambda s: (len(s.ids), s.ids))
        return [[ordered[i] for i in pack] for pack in pack_units([[s] for s in ordered], pack_tokens)]
    # Sorted, so that questions that begin alike stand together.
    groups = [part for _, unit in sorted(units.items()) for part in _within(unit, pack_tokens)]
    return [[s for i in pack for s in groups[i]] for pack in pack_units(groups, pack_tokens)]


def _within(unit: list[TokenSequence], pack_tokens: int) -> list[list[TokenSequence]]:
    """The answers to one prompt, in as many parts as the budget asks for."""
    # The prompt itself is not counted: a long one would part its answers, and be encoded again for each.
    budget = pack_tokens + unit[0].first_label
    return [[unit[i] for i in pack] for pack in pack_units([[s] for s in unit], budget)]


def _score_pack(loaded: LoadedModel, members: list[TokenSequence]) -> dict[TokenSequence, TokenScores]:
    """One forward pass; its logits are gone when it returns."""
    asked, places = _each_token_once(members)
    rows = labelled_rows(loaded.model, asked, packed=loaded.packed)
    statistics = [
        _distribution(rows.logits[start : start + CHUNK_ROWS], rows.labels[start : start + CHUNK_ROWS])
        for start in range(0, len(rows.labels), CHUNK_ROWS)
    ]
    logps, predictions, mean, variance = (torch.cat(column).cpu().numpy() for column in zip(*statistics, strict=True))
    correct = predictions == rows.labels.cpu().numpy()
    predictions = predictions.astype(np.int32)
    # A gate depends on the prompt alone.
    gates = {s.ids[: s.first_label]: gate for s, gate in zip(asked, _gates(loaded.model, rows), strict=True)}
    return {
        s: TokenScores(
            logps[at],
            correct[at],
            mean[at],
            variance[at],
            s.ids[-1] == loaded.format.end_id,
            gates[s.ids[: s.first_label]],
            predictions[at],
        )
        for s, at in zip(members, places, strict=True)
    }


def _each_token_once(members: list[TokenSequence]) -> tuple[list[TokenSequence], list[list[int]]]:
    """Supervise every token after one history in one sequence alone: answers to a prompt begin alike.

    Returns:
        The sequences that still have a label, and for each member the places of its labels among theirs.
    """
    children: dict[tuple[int, int], int] = {}
    place: dict[int, int] = {}
    asked: list[TokenSequence] = []
    places: list[list[int]] = []
    for s in members:
        # Prompts of other lengths are other histories: what a gated model does depends on where a prompt ends.
        node = -s.first_label
        path = [node := children.setdefault((node, token), len(children)) for token in s.ids]
        new = [t for t in s.label_positions if path[t] not in place]
        place |= {path[t]: len(place) + number for number, t in enumerate(new)}
        places.append([place[path[t]] for t in s.label_positions])
        if new:
            asked.append(TokenSequence(s.ids, s.first_label, frozenset(range(s.first_label, len(s.ids))) - set(new)))
    return asked, places


def _gates(model: Any, rows: LabelledRows) -> list[float]:
    """How far a gated model's gates opened on each sequence's prompt; NaN for any other."""
    edits = gates_of(model)
    if edits is None or rows.gates is None:
        return [math.nan] * rows.num_sequences
    return edits.row_gates(rows.gates).tolist()


def _distribution(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob of the label, the likeliest token, and mean and variance of log-probs under the model.

    With ``z`` the logits less the largest and ``c = log sum e^z``, log-probs are ``z - c``: their mean is ``E z - c``,
    their variance that of ``z``. Temporaries are written over, since a CPU spends its time on fetching them.
    """
    logits = logits.float()
    below = logits - logits.amax(-1, keepdim=True)
    weights = below.exp()
    total = weights.sum(-1)
    shift = total.log()
    logps = below.gather(-1, labels[:, None])[:, 0] - shift
    mean = weights.mul_(below).sum(-1) / total
    second = weights.mul_(below).sum(-1) / total
    return logps, _likeliest(logits), mean - shift, (second - mean.square()).clamp_min(0)


def _likeliest(logits: Tensor) -> Tensor:
    """``(M,)`` the first of the largest logits; on a CPU NumPy finds it several times faster."""
    return torch.from_numpy(logits.numpy().argmax(-1)) if logits.device.type == "cpu" else logits.argmax(-1)


def greedy_beginnings(scored: Mapping[TokenSequence, TokenScores]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """How a model's own greedy answers begin, by prompt, as far as teacher forcing has shown it.

    As long as the tokens of an answer are the likeliest ones, greedy generation would have written them; the likeliest
    token at the first place where they part is the next that it would have. Of several answers to one prompt, the one
    that goes along with the model longest tells most.
    """
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for s, scores in scored.items():
        if s.spared or scores.predictions is None:
            continue
        parted = np.flatnonzero(~scores.correct)
        shown = int(parted[0]) + 1 if len(parted) else len(scores)
        prompt = s.ids[: s.first_label]
        if shown > len(found.get(prompt, ())):
            found[prompt] = tuple(scores.predictions[:shown].tolist())
    return found


def mean_losses(scores: SequenceOf[TokenScores]) -> np.ndarray:
    """``(n,)`` mean negative log-likelihood of each scored sequence."""
    return np.array([-s.logps.mean(dtype=np.float64) for s in scores])
