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
accuracy       from Gaussian logits to how often the target wins

A room within:

linear         under the first order: probes, and per-sample gradients of any operation
"""

from joulewise.prediction.corrected import Corrected as Corrected
from joulewise.prediction.first_order import FirstOrder as FirstOrder
from joulewise.prediction.forecast import AccuracyForecast as AccuracyForecast
from joulewise.prediction.forecast import Forecast as Forecast
from joulewise.prediction.forecast import ForecastRecord as ForecastRecord
from joulewise.prediction.predicting import METHODS as METHODS
from joulewise.prediction.predicting import predict as predict
from joulewise.prediction.predicting import register_method as register_method
from joulewise.prediction.problem import Method as Method
from joulewise.prediction.problem import Problem as Problem
from joulewise.prediction.problem import posed as posed
from joulewise.prediction.surrogate import ErrorModel as ErrorModel
from joulewise.prediction.surrogate import error_model as error_model
from joulewise.prediction.total import Total as Total

__all__ = [
    "METHODS",
    "AccuracyForecast",
    "Corrected",
    "ErrorModel",
    "FirstOrder",
    "Forecast",
    "ForecastRecord",
    "Method",
    "Problem",
    "Total",
    "error_model",
    "posed",
    "predict",
    "register_method",
]
