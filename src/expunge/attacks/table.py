"""All attacks by name, and what a few words stand for."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.attacks.asking import ASKING
from expunge.attacks.base import Attack
from expunge.attacks.calibrated import CALIBRATED
from expunge.attacks.membership import MEMBERSHIP
from expunge.attacks.relearn import RELEARNING
from expunge.attacks.sampling import SAMPLING
from expunge.attacks.translation import TRANSLATION
from expunge.attacks.weights import NONE, WEIGHTS
from expunge.attacks.whitebox import WHITEBOX
from expunge.errors import RecipeError, unknown
from expunge.registry import Registry

_ALL = (*WEIGHTS, *CALIBRATED, *ASKING, TRANSLATION, *SAMPLING, *WHITEBOX, *MEMBERSHIP, *RELEARNING)
ATTACKS: Registry[Attack] = Registry("attack", {attack.key: attack for attack in _ALL})
FAMILIES = tuple(dict.fromkeys(key.split(":")[0] for key in ATTACKS.names()))
QUICK = (
    "quantise:int8", "quantise:int4", "precision:bf16", "prompts:prefill", "prompts:few_shot", "prompts:paraphrase",
    "sampling:leak", "whitebox:logit_lens", "membership:min_k", "relearn:subset", "relearn:benign",
)  # fmt: skip
"""What ``--quick`` tries."""


def attacks_named(names: Sequence[str]) -> tuple[Attack, ...]:
    """The attacks that ``family``, ``family:name`` and ``all`` stand for, each once, after no attack at all.

    Raises:
        RecipeError: for an unknown name, with the nearest known one, or for no name at all.
    """
    wanted = [name.strip() for name in names if name.strip()]
    if not wanted:
        raise RecipeError(f"name at least one attack: {', '.join(FAMILIES)}, or all")
    keys: list[str] = []
    for name in wanted:
        family = [key for key in ATTACKS.names() if name == "all" or key.split(":")[0] == name]
        if not family and name not in ATTACKS:
            raise RecipeError(unknown("attack", name, ("all", *FAMILIES, *ATTACKS.names())))
        keys += family or [ATTACKS.canonical(name)]
    return (NONE, *(ATTACKS.get(key) for key in dict.fromkeys(keys)))
