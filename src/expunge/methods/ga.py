"""Gradient ascent alone, and with either retain term."""

from expunge.methods.base import Method

GA = Method(
    key="ga",
    title="gradient ascent",
    forget="ga",
    epochs=2.0,
    lr_factor=0.4,
    paper="Jang et al., 2023 (arXiv 2210.01504)",
    section="eq. 1; the GA baseline of TOFU (Maini et al., 2024), section 3.2",
)

GRAD_DIFF = Method(
    key="grad_diff",
    title="gradient difference",
    forget="ga",
    retain="nll",
    epochs=3.0,
    lr_factor=0.4,
    paper="Liu et al., 2022; Maini et al., 2024 (arXiv 2401.06121)",
    section="TOFU, section 3.2, 'Gradient Difference'",
)

GA_KL = Method(
    key="ga_kl",
    title="gradient ascent with KL on retain rows",
    forget="ga",
    retain="kl",
    epochs=3.0,
    lr_factor=0.4,
    paper="Maini et al., 2024 (arXiv 2401.06121)",
    section="TOFU, section 3.2, 'KL Minimization'",
)
