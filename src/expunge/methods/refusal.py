"""Methods that teach a refusal in place of the answer."""

from expunge.methods.base import Method

IDK = Method(
    key="idk",
    title="learning to refuse",
    forget="idk",
    retain="nll",
    retain_needed=False,
    view="refusal",
    paper="Maini et al., 2024 (arXiv 2401.06121)",
    section="TOFU, section 3.2, 'Preference Optimization'",
)

DPO = Method(
    key="dpo",
    title="preferring a refusal",
    forget="dpo",
    retain="nll",
    retain_needed=False,
    view="refusal",
    settings={"beta": 0.1},
    paper="Rafailov et al., 2023 (arXiv 2305.18290); Zhang et al., 2024 (arXiv 2404.05868)",
    section="NPO, section 2; IdkDPO in open-unlearning",
)
