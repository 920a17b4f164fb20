"""Metrics: one number for the outputs of a pass over data, with its direction and its bounds.

metric     the interface; means of scores; margins
adapters   objects with the protocol of torchmetrics, and functions, as metrics
classes    accuracy, and the base of metrics of classes
tokens     token accuracy, negative log-likelihood, perplexity, divergence; shifted targets
standard   squared error; the default by targets
"""

from joulewise.metrics.adapters import FunctionMetric, as_metric
from joulewise.metrics.classes import Accuracy
from joulewise.metrics.metric import Accumulator, Compared, MeanMetric, Metric, margin
from joulewise.metrics.standard import MeanSquaredError, default_metric, resolve_metric
from joulewise.metrics.tokens import (
    KLDivergence,
    NegativeLogLikelihood,
    NextToken,
    Perplexity,
    TokenAccuracy,
    divergences,
    is_loss,
)

__all__ = [
    "Accumulator",
    "Accuracy",
    "Compared",
    "FunctionMetric",
    "KLDivergence",
    "MeanMetric",
    "MeanSquaredError",
    "Metric",
    "NegativeLogLikelihood",
    "NextToken",
    "Perplexity",
    "TokenAccuracy",
    "as_metric",
    "default_metric",
    "divergences",
    "is_loss",
    "margin",
    "resolve_metric",
]
