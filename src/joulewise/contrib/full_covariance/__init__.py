"""Prediction by means and full covariances, carried through a network by a table of rules.

method             the method of prediction: samples, memory, forecast
rules              rule of each operation: the table, which users extend with ``|``
weighted           rules of linear layers and convolutions with noisy weights
rectified_maxima   rules of max-pooling and `torch.maximum`
converters         rules of stored activations and of converters at the ends of arrays
operation          interface of rules, and linear transformations of covariances
gaussian           moments of functions of Gaussian variables, and Mehler's series
joint              representation: means, and the covariance of each pair of live values
network            traced graph, each placed tensor used exactly once
propagation        traversal of the graph, and contributions of the placed tensors
budget             size of the covariances, before they are made
"""

from joulewise.contrib.full_covariance.gaussian import PiecewiseLinear as PiecewiseLinear
from joulewise.contrib.full_covariance.joint import Outcome as Outcome
from joulewise.contrib.full_covariance.method import FullCovariance as FullCovariance
from joulewise.contrib.full_covariance.operation import Operation as Operation
from joulewise.contrib.full_covariance.operation import Rule as Rule
from joulewise.contrib.full_covariance.rules import RULES as RULES
from joulewise.contrib.full_covariance.rules import affine as affine
from joulewise.contrib.full_covariance.rules import piecewise_linear as piecewise_linear
from joulewise.contrib.full_covariance.rules import pointwise as pointwise
from joulewise.contrib.full_covariance.rules import reshape as reshape
from joulewise.contrib.full_covariance.rules import scaling as scaling

__all__ = [
    "RULES",
    "FullCovariance",
    "Operation",
    "Outcome",
    "PiecewiseLinear",
    "Rule",
    "affine",
    "piecewise_linear",
    "pointwise",
    "reshape",
    "scaling",
]
