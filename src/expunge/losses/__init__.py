"""Pure tensor functions: what a term of the objective is worth, and nothing about models or data.

Reductions are explicit everywhere: ``"sum"`` over the loss's own unit (tokens or sequences), ``"mean"``, or ``"none"``.
Half precision is lifted to float32; float64 is left alone, so that gradients can be checked numerically.
"""

from expunge.losses.divergence import kl_divergence_loss
from expunge.losses.likelihood import ga_loss, nll_loss
from expunge.losses.logps import at_least_fp32, reduce, sequence_logps, token_logps
from expunge.losses.preference import dpo_loss, npo_loss, simnpo_loss

__all__ = [
    "at_least_fp32",
    "dpo_loss",
    "ga_loss",
    "kl_divergence_loss",
    "nll_loss",
    "npo_loss",
    "reduce",
    "sequence_logps",
    "simnpo_loss",
    "token_logps",
]
