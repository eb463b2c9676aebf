"""Attacks by asking otherwise: see :mod:`expunge.attacks.prompts` for the questions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from expunge.attacks.base import Attack, Found, Opener, Site, knowledge
from expunge.attacks.prompts import PROMPTS, PromptContext
from expunge.evaluation.choice import score_choices

_OTHER_ANSWER = ("mcq", "reverse")
"""Attacks that ask for something else than the row's answer."""
_WITH_EXAMPLES = "few_shot"
_CHOICE = "share of the questions whose right option is the likeliest"


def ask(opener: Opener, site: Site, *, key: str) -> Found:
    """Score every attacked row; a row that is asked several times counts with the mean."""
    attack = PROMPTS.get(key)
    # Picked once, not for every row: the retain set may be a corpus, and texts are no examples.
    examples = tuple(row for row in site.retain if row.prompt) if key == _WITH_EXAMPLES else ()
    asked = attack.asked(site.forget, PromptContext(site.forget, examples, site.seed))
    scores = np.full(len(site.forget), np.nan)
    if not asked:
        return Found(scores)
    rows = [row for _, row in asked]
    if attack.score == "choice":
        values = score_choices(opener(), rows, pack_tokens=site.part.pack_tokens)["choice_correct"]
    else:
        values = knowledge(opener(), rows, site)
    places = np.array([at for at, _ in asked])
    for at in np.unique(places):
        of_row = values[places == at]
        scores[at] = np.nan if np.isnan(of_row).all() else np.nanmean(of_row)
    return Found(scores)


def _attack(key: str) -> Attack:
    attack = Attack(
        f"prompts:{key}",
        PROMPTS.get(key).about,
        partial(ask, key=key),
        needs=("retain",) if key == _WITH_EXAMPLES else (),
        comparable=key not in _OTHER_ANSWER,
    )
    return replace(attack, scored=_CHOICE) if PROMPTS.get(key).score == "choice" else attack


ASKING = tuple(_attack(key) for key in PROMPTS.names())
