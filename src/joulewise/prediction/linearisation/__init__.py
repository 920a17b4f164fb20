"""A network to first order in the noise of its memories.

linearisation          passes around the mean read: forward, probes, backward
pieces                 data cut by memory; linearised logits
op_interception        recording of the operations that consume placed weights
op_readers             for each torch function, the weights that a call may consume
gradients              interface of per-sample gradients, and their evaluation in blocks
linear_gradients       per-sample gradients of linear, embedding and element-wise operations
convolution_gradients  per-sample gradients of convolutions
reductions             reductions of the gradients as they are caught
channel_reductions     responses for each output channel
self_check             comparison of intercepted gradients with autograd's
"""

from joulewise.prediction.linearisation.linearisation import Linearisation as Linearisation
from joulewise.prediction.linearisation.pieces import LinearLogits as LinearLogits
from joulewise.prediction.linearisation.pieces import Piece as Piece

__all__ = ["LinearLogits", "Linearisation", "Piece"]
