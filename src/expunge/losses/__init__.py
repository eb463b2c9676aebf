"""Pure tensor functions: what a term of the objective is worth, and nothing about models or data.

Reductions are explicit everywhere: ``"sum"`` over the loss's own unit (tokens or sequences), ``"mean"``, or ``"none"``.
Half precision is lifted to float32; float64 is left alone, so that gradients can be checked numerically.
"""

from expunge.losses.distillation import ceu_loss, undial_loss
from expunge.losses.divergence import kl_divergence_loss
from expunge.losses.fdivergence import DIVERGENCES, answer_probabilities, f_divergence_loss
from expunge.losses.gate import gate_loss
from expunge.losses.labels import adversarial_label_loss, adversarial_labels, random_label_loss
from expunge.losses.likelihood import ga_loss, nll_loss
from expunge.losses.logps import at_least_fp32, reduce, sequence_logps, shared_logps, token_logps
from expunge.losses.margin import logit_margin_loss
from expunge.losses.preference import dpo_loss, kto_loss, npo_loss, simnpo_loss
from expunge.losses.representation import adaptive_rmu_loss, hidden_mse_loss, rmu_loss
from expunge.losses.weighted import satimp_loss, wga_loss

__all__ = [
    "DIVERGENCES",
    "adaptive_rmu_loss",
    "adversarial_label_loss",
    "adversarial_labels",
    "answer_probabilities",
    "at_least_fp32",
    "ceu_loss",
    "dpo_loss",
    "f_divergence_loss",
    "ga_loss",
    "gate_loss",
    "hidden_mse_loss",
    "kl_divergence_loss",
    "kto_loss",
    "logit_margin_loss",
    "nll_loss",
    "npo_loss",
    "random_label_loss",
    "reduce",
    "rmu_loss",
    "satimp_loss",
    "sequence_logps",
    "shared_logps",
    "simnpo_loss",
    "token_logps",
    "undial_loss",
    "wga_loss",
]
