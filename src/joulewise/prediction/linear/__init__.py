"""Linear: a network to first order in the noise of its memories.

linearising    a network around the mean read: forward, probes, backward
pieces         the data cut into parts that run at a time, and what is found of each
bending        what strong noise does beyond the tangent, from pairs of noisy passes
interception   the operations of a forward pass that consume placed weights
coverage       which of them the interception gets right, by trying it out
gradients      per-sample gradients of each kind of operation
channels       the response to noise, apart for each output channel
collectors     what is made of the gradients as they come by
"""

from joulewise.prediction.linear.bending import Bend as Bend
from joulewise.prediction.linear.bending import bend as bend
from joulewise.prediction.linear.linearising import Linearisation as Linearisation
from joulewise.prediction.linear.pieces import LinearLogits as LinearLogits
from joulewise.prediction.linear.pieces import Piece as Piece

__all__ = ["Bend", "LinearLogits", "Linearisation", "Piece", "bend"]
