"""Metrics: from per-token scores to columns, from columns to numbers with intervals. Pure numpy; no model in sight.

``answer_columns``, ``rouge_columns`` and ``fluency_columns`` make the columns of a set, ``metrics_for`` names the
metrics that fit the sets at hand, and ``compute`` evaluates them.
"""

from expunge.evaluation.metrics.base import Metric, MetricValue
from expunge.evaluation.metrics.compute import compute
from expunge.evaluation.metrics.table import METRICS, metrics_for, set_prefix
from expunge.evaluation.metrics.text import fluency_columns, rouge_columns
from expunge.evaluation.metrics.tokens import Columns, Scores, TokenScores, answer_columns, avg_losses, padded

__all__ = [
    "METRICS",
    "Columns",
    "Metric",
    "MetricValue",
    "Scores",
    "TokenScores",
    "answer_columns",
    "avg_losses",
    "compute",
    "fluency_columns",
    "metrics_for",
    "padded",
    "rouge_columns",
    "set_prefix",
]
