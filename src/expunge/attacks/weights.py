"""Attacks on the stored weights: fewer bits."""

from __future__ import annotations

from functools import partial

import torch

from expunge.attacks.base import Attack, Found, Opener, Site, knowledge
from expunge.attacks.quantise import quantise, replace_weights, through_bitsandbytes
from expunge.errors import ModelError
from expunge.models.load import LoadedModel

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def unattacked(opener: Opener, site: Site) -> Found:
    """The model as it is: what is still known needs no attack, and what should be known is looked at too."""
    scores = knowledge(opener(), [*site.forget, *site.kept], site)
    return Found(scores[: len(site.forget)], kept=scores[len(site.forget) :])


def rounded(opener: Opener, site: Site, *, bits: int) -> Found:
    """The blocks' linear weights in ``bits`` bits, round-to-nearest."""
    loaded = merged(opener())
    quantise(loaded.model, bits, site.part.group)
    return Found(knowledge(loaded, site.forget, site))


def in_four_bits(opener: Opener, site: Site, *, kind: str) -> Found:
    """The blocks' linear weights as bitsandbytes stores them."""
    loaded = merged(opener())
    replace_weights(loaded.model, partial(through_bitsandbytes, kind=kind))
    return Found(knowledge(loaded, site.forget, site))


def in_precision(opener: Opener, site: Site, *, name: str) -> Found:
    """All weights stored in half precision; computed in the type that the model was loaded in."""
    loaded = merged(opener())
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.copy_(weight.to(PRECISIONS[name]))
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"weights of this model do not fit into {name}")
    return Found(knowledge(loaded, site.forget, site))


def merged(loaded: LoadedModel) -> LoadedModel:
    """The model with its adapter taken up into its weights: what would be exported."""
    if hasattr(loaded.model, "merge_and_unload"):
        loaded.model = loaded.model.merge_and_unload()
    return loaded


NONE = Attack("none", "no attack", unattacked)
WEIGHTS = (
    *(
        Attack(f"quantise:int{bits}", f"weights in {bits} bits", partial(rounded, bits=bits), settings=("group",))
        for bits in (8, 4)
    ),
    *(
        Attack(f"quantise:{kind}", f"weights stored as {kind} by bitsandbytes", partial(in_four_bits, kind=kind))
        for kind in ("nf4", "fp4")
    ),
    *(
        Attack(f"precision:{name}", f"weights stored in {name}", partial(in_precision, name=name))
        for name in PRECISIONS
    ),
)
