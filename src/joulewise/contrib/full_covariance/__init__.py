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

from joulewise.contrib.full_covariance.method import FullCovariance
from joulewise.contrib.full_covariance.rules import RULES

__all__ = ["RULES", "FullCovariance"]
