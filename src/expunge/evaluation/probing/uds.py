"""The unlearning depth score: do this model's states, put into the original model, still carry the answer?

Block by block, the states at the answer in the *original* model (before unlearning) are replaced by those of another
model, and the answer's log-prob falls by what those states lack. The retain model's lack all that was learnt from the
forget set; how far the unlearned model's lack it too is the score.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.data.draw import draw
from expunge.data.spans import answer_tokens, entity_tokens
from expunge.data.tree import TokenSequence
from expunge.errors import ModelError, RecipeError
from expunge.evaluation.metrics import Columns
from expunge.evaluation.metrics.probing import KE_THRESHOLD, uds_columns
from expunge.evaluation.probing.settings import MeasureSettings
from expunge.evaluation.scorer import scoring_packs
from expunge.evaluation.suites.base import Probe
from expunge.losses.logps import sequence_logps
from expunge.models.forward import labelled_rows, visited_rows
from expunge.models.gated import gates_of
from expunge.models.layers import decoder_layers, recorded_blocks, replayed_blocks
from expunge.models.load import DTYPES, LoadedModel, load_model
from expunge.parallel import from_first, gathered, my_share, process_number
from expunge.progress import Bar, bar, say

PACK_TOKENS = 512
STATES_MB = 2048
REPLAY_TOLERANCE = 1e-4
"""Largest difference, in nats, between a pass and one with replayed blocks."""
Opener = Callable[[], LoadedModel]
"""Brings a model into memory; it is let go after use."""


@dataclass(frozen=True)
class Target:
    """A row, and at which of its tokens states are replaced and log-probs compared."""

    sequence: TokenSequence
    chosen: tuple[bool, ...]
    """One per label."""


@torch.no_grad()
def layer_drops(
    loaded: LoadedModel,
    targets: SequenceOf[Target],
    *,
    original: Opener,
    reference: Opener,
    states_mb: int = STATES_MB,
    update: Bar | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What patched-in states of the retain model and of ``loaded`` cost the original model, block by block.

    ``D_l = mean_t(logp_original(y_t) - logp_patched_l(y_t))`` over the chosen tokens t. In the patched pass the output
    of block l at the positions that predict them, all at once, is the other model's. A batch in which a position
    serves two rows, one of which wants it replaced and the other not, runs padded: there, none does.

    Cost: ``2 L + 3`` forward passes of the original model over the rows, of most only the blocks above the replaced one
    (all of them in architectures whose blocks share more than their output), and one pass of each other model. Memory:
    one model besides ``loaded`` at a time, and ``states_mb`` megabytes of states (one batch may exceed it); what does
    not fit is done in turns, each of which brings both models in anew.

    Returns:
        Two ``(n, L)`` float64 arrays in nats, the retain model's first; NaN for a row without a chosen token.

    Raises:
        ModelError: if the three models differ in tokenizer, number of blocks or width.
    """
    model = loaded.model
    was_training = model.training
    model.eval()
    depth = len(decoder_layers(model))
    packs = my_share(_packs(targets, packed=loaded.packed))
    found: dict[Target, list[list[float]]] = {}
    for turn in _turns(packs, loaded, states_mb):
        own = [_states(loaded, pack) for pack in turn]
        other = _states_of(reference, loaded, turn)
        full = _alike(original(), loaded)
        for pack, donors in zip(turn, zip(other, own, strict=True), strict=True):
            found.update(zip(pack, _pack_drops(full, pack, donors).tolist(), strict=True))
            if update:
                update(len(found), sum(map(len, packs)))
        del full
        gc.collect()
    model.train(was_training)
    everything = gathered(found)
    drops = np.array([everything[t] for t in targets], dtype=np.float64).reshape(len(targets), 2, depth)
    return drops[:, 0], drops[:, 1]


def _packs(targets: SequenceOf[Target], *, packed: bool) -> list[list[Target]]:
    """The rows of each batch; equal rows once."""
    by_sequence: dict[TokenSequence, list[Target]] = {}
    for target in dict.fromkeys(targets):
        by_sequence.setdefault(target.sequence, []).append(target)
    return [
        [target for sequence in pack for target in by_sequence[sequence]]
        for pack in scoring_packs(list(by_sequence), PACK_TOKENS, packed=packed)
    ]


def _packable(loaded: LoadedModel, pack: SequenceOf[Target]) -> bool:
    """Whether no position that rows of the batch share is to be replaced for one of them and not for another."""
    wanted: dict[tuple[int, ...], bool] = {}
    return loaded.packed and all(
        wanted.setdefault(target.sequence.ids[:end], chosen) == chosen
        for target in pack
        # What is a prompt to one row may be the answer of another, in a conversation.
        for end, chosen in enumerate((*(False for _ in range(1, target.sequence.first_label)), *target.chosen), start=1)
    )


def _turns(packs: list[list[Target]], loaded: LoadedModel, states_mb: int) -> Iterator[list[list[Target]]]:
    """Batches whose states of two models fit together."""
    width = loaded.model.config.get_text_config().hidden_size
    per_label = 2 * len(decoder_layers(loaded.model)) * width * loaded.model.dtype.itemsize
    turn: list[list[Target]] = []
    held = 0
    for pack in packs:
        needed = per_label * sum(t.sequence.num_labels for t in pack)
        if turn and held + needed > states_mb * 2**20:
            yield turn
            turn, held = [], 0
        turn.append(pack)
        held += needed
    if turn:
        yield turn


def _states_of(opener: Opener, like: LoadedModel, turn: list[list[Target]]) -> list[Tensor]:
    """The states of a model that is in memory for no longer than that."""
    opened = _alike(opener(), like)
    states = [_states(opened, pack) for pack in turn]
    del opened
    gc.collect()
    return states


def _states(loaded: LoadedModel, pack: list[Target]) -> Tensor:
    """``(L, M, d)`` outputs of every block where labels are predicted, in main memory."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int, hidden: Tensor) -> None:
        seen[layer] = hidden.cpu()

    visited_rows(loaded.model, [t.sequence for t in pack], packed=_packable(loaded, pack), visit=keep)
    return torch.stack([seen[layer] for layer in sorted(seen)])


def _pack_drops(full: LoadedModel, pack: list[Target], donors: tuple[Tensor, ...]) -> Tensor:
    """``(B, len(donors), L)`` mean falls in log-prob over each row's chosen tokens."""
    sequences = [t.sequence for t in pack]
    packed = _packable(full, pack)
    with recorded_blocks(full.model) as outputs:
        clean = labelled_rows(full.model, sequences, packed=packed)
    replays = _replays(full, sequences, packed, outputs, clean.per_token_logps)
    chosen = torch.tensor([c for t in pack for c in t.chosen], device=clean.labels.device)
    count = sequence_logps(chosen.double(), clean.sequence, len(pack))
    drops = []
    for donor in donors:
        for layer, states in enumerate(donor):
            visit = _patch(layer, states.to(chosen.device), chosen)
            # Below the patched block nothing changes.
            with replayed_blocks(full.model, outputs, layer) if replays else nullcontext():
                patched = visited_rows(full.model, sequences, packed=packed, visit=visit)
            fall = torch.where(chosen, (clean.per_token_logps - patched.per_token_logps).double(), 0.0)
            drops.append(sequence_logps(fall, clean.sequence, len(pack)) / count)
    return torch.stack(drops, dim=1).view(len(pack), len(donors), -1).cpu()


def _replays(
    full: LoadedModel, sequences: SequenceOf[TokenSequence], packed: bool, outputs: SequenceOf[Any], clean: Tensor
) -> bool:
    """Whether a pass whose lower blocks repeat what they put out before ends the same.

    It does not where blocks share more than their output, keys and values for instance.
    """
    depth = len(decoder_layers(full.model))
    shared = getattr(full.model.config.get_text_config(), "num_kv_shared_layers", 0)
    # A gate's edit would be made again on what it had edited.
    if len(outputs) != depth or shared or gates_of(full.model) is not None:
        return False
    return all(_ends_alike(full, sequences, packed, outputs, clean, last) for last in {depth // 2, max(depth - 2, 0)})


def _ends_alike(
    full: LoadedModel, sequences: SequenceOf[TokenSequence], packed: bool, outputs: SequenceOf[Any], clean: Tensor,
    last: int,
) -> bool:  # fmt: skip
    try:
        with replayed_blocks(full.model, outputs, last):
            again = labelled_rows(full.model, sequences, packed=packed).per_token_logps
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        # An upper block looks for something that a lower one leaves behind.
        return False
    return torch.allclose(again, clean, atol=REPLAY_TOLERANCE)


def _patch(layer: int, states: Tensor, chosen: Tensor) -> Callable[[int, Tensor], Tensor | None]:
    """Replaces the chosen rows of one block's output."""

    def visit(number: int, hidden: Tensor) -> Tensor | None:
        return torch.where(chosen[:, None], states.to(hidden), hidden) if number == layer else None

    return visit


def _alike(other: LoadedModel, like: LoadedModel) -> LoadedModel:
    """The other model, if its states mean something in a model like ``like``."""
    shapes = [
        (len(decoder_layers(m.model)), m.model.config.get_text_config().hidden_size, m.tokenizer.get_vocab())
        for m in (other, like)
    ]
    for what, theirs, ours in zip(("number of blocks", "width", "tokenizer"), *shapes, strict=True):
        if theirs != ours:
            told = "" if what == "tokenizer" else f" ({theirs} and {ours})"
            raise ModelError(f"uds: {other.source} and {like.source} differ in {what}{told}; give models of one family")
    other.model.eval()
    return other


# -- the measure ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UdsSettings:
    """What ``evaluate.measures.uds`` says."""

    original: str | None
    reference: str | None
    threshold: float
    span: str
    rows: int | None
    states_mb: int


def read_uds(given: Mapping[str, Any]) -> UdsSettings:
    """Read the settings; :class:`RecipeError` for a value that is not allowed, or one model named without the other."""
    settings = MeasureSettings("uds", given)
    paths = {name: settings.text(name) for name in ("original", "reference")}
    missing = [name for name, path in paths.items() if path is None]
    if len(missing) == 1:
        raise RecipeError(f"evaluate.measures.uds.{missing[0]} is missing: uds needs the original and the retain model")
    return UdsSettings(
        **paths,
        threshold=settings.share("threshold", KE_THRESHOLD),
        span=settings.choice("span", ("answer", "entities")),
        rows=settings.whole("rows", 1, low=1, high=2**31) if given.get("rows") is not None else None,
        states_mb=settings.whole("states_mb", STATES_MB, low=1, high=2**20),
    )


def measure_uds(probe: Probe) -> Columns:
    """The columns ``uds`` and ``uds_layers`` of a set; missing values, and a line that says so, without its models.

    Settings: ``original`` and ``reference``, models before unlearning and never trained on the forget set;
    ``threshold`` of knowledge-encoding blocks in nats; ``span``, ``answer`` or ``entities`` (which asks the judge
    ``entities`` for the names in the answer); ``rows``, so many rows of each set, drawn by seed (None: all; the others
    have no value); ``states_mb``.

    Raises:
        RecipeError: if only one of the two models is named.
    """
    settings = read_uds(probe.settings)
    original, reference = settings.original, settings.reference
    if original is None or reference is None:
        say("note: uds is left out; it needs evaluate.measures.uds.original and evaluate.measures.uds.reference")
        return {name: np.full(len(probe.rows), np.nan) for name in ("uds", "uds_layers")}
    drawn = draw(range(len(probe.rows)), settings.rows, seed=probe.seed, name=f"uds/{probe.name}")
    chosen = replace(probe, rows=tuple(probe.rows[i] for i in drawn))
    with bar(f"uds: {probe.name}") as update:
        retain_drops, model_drops = layer_drops(
            probe.loaded,
            _targets(chosen, settings.span),
            original=lambda: _open(original, probe.loaded),
            reference=lambda: _open(reference, probe.loaded),
            states_mb=settings.states_mb,
            update=update,
        )
    columns = {name: np.full(len(probe.rows), np.nan) for name in ("uds", "uds_layers")}
    for name, values in uds_columns(retain_drops, model_drops, threshold=settings.threshold).items():
        columns[name][list(drawn)] = values
    return columns


def _targets(probe: Probe, span: str) -> list[Target]:
    """Every row with the tokens that its score is about."""
    sequences = [probe.loaded.format.encode(row) for row in probe.rows]
    chosen = [answer_tokens(s, probe.loaded.format.end_id) for s in sequences]
    if span == "entities":
        # One process asks: an endpoint would be paid for each, and must not tell each something else.
        first = process_number() == 0
        names = from_first(probe.judges.get("entities").extract(probe.prompts, probe.answers) if first else [])
        found = [entity_tokens(s, probe.loaded.tokenizer, n or ()) for s, n in zip(sequences, names, strict=True)]
        chosen = [tuple(a and b for a, b in zip(*pair, strict=True)) for pair in zip(chosen, found, strict=True)]
    return [Target(s, c) for s, c in zip(sequences, chosen, strict=True)]


def _open(source: str, like: LoadedModel) -> LoadedModel:
    """A model on the device and in the precision of ``like``."""
    dtype = str(like.model.dtype).removeprefix("torch.")
    device = next(like.model.parameters()).device
    return load_model(source, dtype=dtype if dtype in DTYPES else "float32", device=str(device), guarded=False)
