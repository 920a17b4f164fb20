"""Prediction: output error and accuracy of a network on noisy memory, without simulating chips.

predicting     one call for every method
problem        what every method is given
total          what pieces of the data add up to
forecast       what a prediction says
first_order    linear in the noise: any network, for the price of about a training step
surrogate      the first order as a function of the plan, for thousands of plans
curves         sums over classes of words at many points at once, from tables
corrected      first order, and what it gets wrong on a few simulated chips
secants        what single large faults do beyond the first order
moments        mean and full covariance, by a table of rules: small networks, strong noise
accuracy       from Gaussian logits to how often the target wins

Two rooms within:

linear         under the first order: probes, and per-sample gradients of any operation
covariance     under the moments: the representation, the rules, the traversal
"""

from joulewise.prediction.corrected import Corrected as Corrected
from joulewise.prediction.covariance import RULES as RULES
from joulewise.prediction.first_order import FirstOrder as FirstOrder
from joulewise.prediction.forecast import AccuracyForecast as AccuracyForecast
from joulewise.prediction.forecast import Forecast as Forecast
from joulewise.prediction.forecast import ForecastRecord as ForecastRecord
from joulewise.prediction.moments import Moments as Moments
from joulewise.prediction.predicting import METHODS as METHODS
from joulewise.prediction.predicting import predict as predict
from joulewise.prediction.problem import Method as Method
from joulewise.prediction.problem import Problem as Problem
from joulewise.prediction.surrogate import ErrorModel as ErrorModel
from joulewise.prediction.surrogate import error_model as error_model

__all__ = [
    "METHODS",
    "RULES",
    "AccuracyForecast",
    "Corrected",
    "ErrorModel",
    "FirstOrder",
    "Forecast",
    "ForecastRecord",
    "Method",
    "Moments",
    "Problem",
    "error_model",
    "predict",
]
