"""Linear: a network to first order in the noise of its memories.

linearisation       a network around the mean read: forward, probes, backward
pieces              the data cut into parts that run at a time, and what is found of each
op_interception     the operations of a forward pass that consume placed weights
self_check          which of them the interception gets right, by trying it out
linear_gradients    per-sample gradients of each kind of operation
channel_reductions  the response to noise, apart for each output channel
reductions          what is made of the gradients as they come by
"""

from joulewise.prediction.linearisation.linearisation import Linearisation as Linearisation
from joulewise.prediction.linearisation.pieces import LinearLogits as LinearLogits
from joulewise.prediction.linearisation.pieces import Piece as Piece

__all__ = ["LinearLogits", "Linearisation", "Piece"]
