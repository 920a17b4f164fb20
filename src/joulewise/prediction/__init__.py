"""Prediction: output error and accuracy of a network on noisy memory, without simulating chips.

_predict       one call for every method
problem        what every method is given
accumulation   what pieces of the data add up to
forecast       what a prediction says
first_order    linear in the noise: any network, for the price of about a training step
_error_model   the first order as a function of the plan, for thousands of plans
moment_curves  sums over classes of words at many points at once, from tables
second_order   curvature beyond the tangent, from pairs of noisy passes
corrected      first order, and what it gets wrong on a few simulated chips
single_faults  what single large faults do beyond the first order
moments        mean and full covariance, by a table of rules: small networks, strong noise
accuracy       from Gaussian logits to how often the target wins

Two rooms within:

linearisation  under the first order: probes, and per-sample gradients of any operation
covariance     under the moments: the representation, the rules, the traversal
"""

from joulewise.prediction._error_model import ErrorModel as ErrorModel
from joulewise.prediction._error_model import error_model as error_model
from joulewise.prediction._predict import METHODS as METHODS
from joulewise.prediction._predict import predict as predict
from joulewise.prediction.corrected import Corrected as Corrected
from joulewise.prediction.covariance import RULES as RULES
from joulewise.prediction.first_order import FirstOrder as FirstOrder
from joulewise.prediction.forecast import AccuracyForecast as AccuracyForecast
from joulewise.prediction.forecast import Forecast as Forecast
from joulewise.prediction.forecast import ForecastRecord as ForecastRecord
from joulewise.prediction.moments import Moments as Moments
from joulewise.prediction.problem import Method as Method
from joulewise.prediction.problem import Problem as Problem

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
