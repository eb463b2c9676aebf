"""What is left inside a model: logit lens, unlearning depth, gradient-norm and reference membership."""

from __future__ import annotations

from expunge.evaluation.metrics.probing import FORGET_SETS, KEPT_SETS, probing_metrics
from expunge.evaluation.probing.grad_norm import measure_grad_norm, read_grad_norm
from expunge.evaluation.probing.logit_lens import measure_logit_lens
from expunge.evaluation.probing.uds import measure_uds, read_uds
from expunge.evaluation.suites.base import Measure, Suite

SUITE = Suite(
    key="probing",
    title="Probing",
    source="UDS (arXiv 2605.24614); OpenUnlearning (arXiv 2506.12618); nostalgebraist 2020",
    metrics=probing_metrics,
    measures=(
        Measure(
            key="logit_lens",
            columns=("logit_lens_max", "logit_lens_mean"),
            function=measure_logit_lens,
            sets=(*FORGET_SETS, *KEPT_SETS),
            needs_generation=False,
            cost="one forward pass, and the output head once per block",
        ),
        Measure(
            key="grad_norm",
            columns=("mia_gradnorm",),
            function=measure_grad_norm,
            sets=("forget", "holdout"),
            needs_generation=False,
            cost="one backward pass per row",
            settings=("legacy",),
            read=read_grad_norm,
        ),
        Measure(
            key="uds",
            columns=("uds", "uds_layers"),
            function=measure_uds,
            sets=FORGET_SETS,
            needs_generation=False,
            cost="twice as many passes of the original model as it has blocks, and one more model in memory",
            asks={"entities": ("span", "entities")},
            read=read_uds,
            settings=("original", "reference", "threshold", "span", "rows", "states_mb"),
        ),
    ),
)
