"""Metrics: one number for the outputs of a pass over data, with its direction and its bounds.

metric     the interface; means of scores; margins
adapters   objects with the protocol of torchmetrics, and functions, as metrics
standard   accuracy, token accuracy, negative log-likelihood, squared error; the default by targets
"""

from joulewise.metrics.adapters import FunctionMetric as FunctionMetric
from joulewise.metrics.adapters import as_metric as as_metric
from joulewise.metrics.metric import Accumulator as Accumulator
from joulewise.metrics.metric import MeanMetric as MeanMetric
from joulewise.metrics.metric import Metric as Metric
from joulewise.metrics.metric import NextToken as NextToken
from joulewise.metrics.metric import margin as margin
from joulewise.metrics.standard import Accuracy as Accuracy
from joulewise.metrics.standard import MeanSquaredError as MeanSquaredError
from joulewise.metrics.standard import NegativeLogLikelihood as NegativeLogLikelihood
from joulewise.metrics.standard import TokenAccuracy as TokenAccuracy
from joulewise.metrics.standard import default_metric as default_metric
from joulewise.metrics.standard import resolve_metric as resolve_metric

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
