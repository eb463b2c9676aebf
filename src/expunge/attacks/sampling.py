"""Attacks by patience: the question is asked again and again at temperature 1."""

from __future__ import annotations

import numpy as np

from expunge.attacks.base import Attack, Found, Opener, Site
from expunge.evaluation.metrics.leak import ALONE_THRESHOLD, leak_at_k, rouge_recalls
from expunge.evaluation.probing.leak import sampled_answers


def leak(opener: Opener, site: Site) -> Found:
    """leak@n for n samples: whether any of a row's samples gives its answer away.

    A sample does if its ROUGE-L recall of the answer is at least 0.8. That is blind to which fact is named: a wrong
    name in the right words can pass, and so it does in the reference model, from which the residual is counted.
    """
    count, most = site.part.samples, site.part.max_new_tokens
    rounds = sampled_answers(
        opener(),
        site.forget,
        count,
        seed=site.seed,
        max_new_tokens=min(most, site.limit.max_new_tokens or most),
        stop=site.limit.stop,
        title=f"{site.title}: sample",
    )
    answers = [row.answer for row in site.forget]
    recalls = np.stack([rouge_recalls(samples, answers) for samples in rounds], axis=1)
    unread = np.isnan(recalls).any(axis=1)
    leaking = (recalls >= ALONE_THRESHOLD).sum(axis=1)
    return Found(np.where(unread, np.nan, leak_at_k(leaking, np.full(len(answers), count), count)))


SAMPLING = (
    Attack(
        "sampling:leak",
        "the question is asked again and again, at temperature 1",
        leak,
        settings=("samples", "max_new_tokens"),
        comparable=False,
        scored="leak@n: whether one of n samples has a ROUGE-L recall of at least 0.8",
    ),
)
