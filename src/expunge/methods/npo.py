"""Negative preference optimisation, with whichever retain term."""

from expunge.methods.base import Method

_PAPER = "Zhang et al., 2024 (arXiv 2404.05868)"

NPO = Method(
    key="npo",
    title="negative preference optimisation",
    forget="npo",
    retain="nll",
    retain_needed=False,
    settings={"beta": 0.1},
    alpha=5.0,
    paper=_PAPER,
    section="eq. 3, with the retain term of section 4.1 where there are retain rows",
)

NPO_GDR = Method(
    key="npo_gdr",
    title="NPO with gradient descent on retain rows",
    forget="npo",
    retain="nll",
    settings={"beta": 0.1},
    paper=_PAPER,
    section="section 4.1, 'NPO+RT'",
)

NPO_KLR = Method(
    key="npo_klr",
    title="NPO with KL on retain rows",
    forget="npo",
    retain="kl",
    settings={"beta": 0.1},
    paper=_PAPER,
    section="section 4.1, 'NPO+KL'",
)
