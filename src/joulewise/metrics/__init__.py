"""Metrics: one number for the outputs of a pass over data, with its direction and its bounds.

metric     the interface; means of scores; margins
adapters   objects with the protocol of torchmetrics, and functions, as metrics
standard   accuracy, token accuracy, negative log-likelihood, squared error; the default by targets
"""

from joulewise.metrics.adapters import FunctionMetric, as_metric
from joulewise.metrics.metric import Accumulator, MeanMetric, Metric, NextToken, margin
from joulewise.metrics.standard import (
    Accuracy,
    MeanSquaredError,
    NegativeLogLikelihood,
    TokenAccuracy,
    default_metric,
    resolve_metric,
)

__all__ = [
    "Accumulator",
    "Accuracy",
    "FunctionMetric",
    "MeanMetric",
    "MeanSquaredError",
    "Metric",
    "NegativeLogLikelihood",
    "NextToken",
    "TokenAccuracy",
    "as_metric",
    "default_metric",
    "margin",
    "resolve_metric",
]
