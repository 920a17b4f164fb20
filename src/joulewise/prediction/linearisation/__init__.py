"""A network to first order in the noise of its memories.

linearisation          passes around the mean read: forward, probes, backward
op_interception        recording of the operations that consume placed tensors
op_readers             for each torch function, the weights that a call may consume
gradients              base class of per-sample gradients, evaluated in blocks
linear_gradients       per-sample gradients of linear, embedding and element-wise operations
convolution_gradients  per-sample gradients of convolutions
weight_gradients       per-sample gradients of a placed weight, from all of its uses
self_check             comparison of intercepted gradients with autograd's
"""

from joulewise.prediction.linearisation.linearisation import Linearisation, LinearLogits, Piece
from joulewise.prediction.linearisation.op_interception import ActivationUse
from joulewise.prediction.linearisation.weight_gradients import WeightGradients

__all__ = ["ActivationUse", "LinearLogits", "Linearisation", "Piece", "WeightGradients"]
