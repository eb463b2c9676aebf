"""SimNPO: NPO without a reference, on length-normalised likelihoods."""

from expunge.methods.base import Method

SIMNPO = Method(
    key="simnpo",
    title="SimNPO",
    forget="simnpo",
    retain="nll",
    retain_needed=False,
    settings={"beta": 4.5, "delta": 0.0},
    gamma=0.125,
    paper="Fan et al., 2024 (arXiv 2410.07163)",
    section="eq. 4; beta and gamma as used on TOFU forget10",
)
