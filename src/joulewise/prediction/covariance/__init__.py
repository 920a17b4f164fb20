"""Covariance: means and full covariances, carried through a network by a table of rules.

joint         the representation: means, and the covariance of every pair of live values
rules         what each operation does to it: the table, which users extend with ``|``
weighted      rules of operations with noisy weights: linear, convolution
windows       what each position of a convolution or a pool covers
maxima        rules of maxima: max-pooling, the larger of two
stored        the rule of an activation that passes through its memory
converted     converters at the ends of arrays
operation     what a rule is given, and how covariances are transformed
gaussian      functions of Gaussian variables: moments, and the series of their covariance
network       the model as a graph, every placed tensor used exactly once
propagation   the traversal
budget        how many numbers a network's covariances take, before they are made
"""

from joulewise.prediction.covariance.rules import RULES as RULES

__all__ = ["RULES"]
