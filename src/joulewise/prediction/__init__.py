"""Output error and accuracy of a network on noisy memory, predicted without simulating chips.

_predict         one call for every method, and the methods by name
problem          the problem that a method solves, and the interface of methods
forecast         results
accumulation     shift, variance and accuracy over pieces of the data
first_order      first order in the noise: any network, for about one training step
second_order     correction for curvature, from pairs of opposite noise
single_faults    correction for large single faults, tried one by one
corrected        first order as a control variate for a few simulated chips
accuracy         accuracy from Gaussian logits
fisher           loss and divergence of any cross-entropy, by noise and the Fisher information
counted_rows     rows of logits that count, and their targets
fisher_scores    gradients of random combinations of the logits
fisher_sums      sums over rows and draws for it
noise_draws      draws of noise for each batch, and the error of their mean
large_faults     large single faults of the body, drawn and tried
loss_forecast    results of these
head_curvature   curvature of the layer that gives the logits
head_faults      its large single faults
error_parts      sums over the words of each placed tensor, for these and for error models
_error_model     first order as a function of the plan, for thousands of plans
_verification_scores   scores of weights for selective write-verify
tensor_groups    placed tensors whose words have the same moments, evaluated together
moment_curves    sums over classes of words, tabulated over the knob

A room within:

linearisation    a network to first order: probes, and per-sample gradients of any operation
"""

from joulewise.prediction._error_model import ErrorModel, error_model, weight_error_model
from joulewise.prediction._predict import METHODS, predict, register_method
from joulewise.prediction._verification_scores import verification_scores
from joulewise.prediction.accumulation import ForecastAccumulator
from joulewise.prediction.corrected import Corrected
from joulewise.prediction.first_order import FirstOrder
from joulewise.prediction.fisher import Fisher
from joulewise.prediction.forecast import AccuracyForecast, Forecast
from joulewise.prediction.loss_forecast import LossForecast
from joulewise.prediction.problem import Method, Problem, loaded_problem

__all__ = [
    "METHODS",
    "AccuracyForecast",
    "Corrected",
    "ErrorModel",
    "FirstOrder",
    "Fisher",
    "Forecast",
    "ForecastAccumulator",
    "LossForecast",
    "Method",
    "Problem",
    "error_model",
    "loaded_problem",
    "predict",
    "register_method",
    "verification_scores",
    "weight_error_model",
]
