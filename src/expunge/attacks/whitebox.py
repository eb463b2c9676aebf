"""Attacks with the weights in hand: what the blocks still hold that the answer does not show."""

from __future__ import annotations

import numpy as np

from expunge.attacks.base import ORIGINAL, REFERENCE, Attack, Found, Opener, Site
from expunge.data.spans import answer_tokens
from expunge.evaluation.metrics.probing import lens_columns, uds_columns
from expunge.evaluation.probing.logit_lens import layer_probs
from expunge.evaluation.probing.uds import Target, layer_drops
from expunge.progress import bar


def logit_lens(opener: Opener, site: Site) -> Found:
    """The answer's probability where it is highest among the blocks below the last."""
    loaded = opener()
    sequences = [loaded.format.encode(row) for row in site.forget]
    with bar(f"{site.title}: read") as update:
        probs = layer_probs(loaded, sequences, pack_tokens=site.part.pack_tokens, update=update)
    return Found(lens_columns(probs)["logit_lens_max"])


def patched_states(opener: Opener, site: Site) -> Found:
    """``1 - UDS``: how far the model's states, put into the original, still carry the answer.

    1 for the original and 0 for the reference, by definition; NaN for a row of which the original's states hold no more
    than the reference's.
    """
    known = {ORIGINAL: 1.0, REFERENCE: 0.0}
    if site.role in known:
        return Found(np.full(len(site.forget), known[site.role]))
    loaded = opener()
    sequences = [loaded.format.encode(row) for row in site.forget]
    targets = [Target(sequence, answer_tokens(sequence, loaded.format.end_id)) for sequence in sequences]
    with bar(f"{site.title}: patch") as update:
        drops = layer_drops(
            loaded, targets, original=site.others[ORIGINAL], reference=site.others[REFERENCE], update=update
        )
    return Found(1.0 - uds_columns(*drops)["uds"])


WHITEBOX = (
    Attack(
        "whitebox:logit_lens",
        "the answer is read out below the last block",
        logit_lens,
        comparable=False,
        scored="the answer's geometric mean token probability, at the block where it is highest",
    ),
    Attack(
        "whitebox:uds",
        "the model's states are put into the original",
        patched_states,
        models=(ORIGINAL, REFERENCE),
        comparable=False,
        scored="1 - unlearning depth score: the share of what only the original's states carry that is still in them",
    ),
)
