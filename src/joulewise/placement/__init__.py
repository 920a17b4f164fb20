"""Placement: which tensors of a model live on which memory, and what they cost there.

The only room that walks modules.

placing      names what is stored: weights, and activations at each layer's input
tracing      counts reads, writes and multiply-accumulates in one forward pass
memory       reads the stored tensors back into the model, and restores it bit for bit
energy       joules per inference at given operating points
folding      batch normalisation folded into the layer before it
restoring    the model as it was, whatever a forward pass did to it
calling      how a model is called, and which of its outputs counts
"""

from joulewise.placement.calling import call as call
from joulewise.placement.energy import Energy as Energy
from joulewise.placement.energy import energy as energy
from joulewise.placement.energy import with_accesses as with_accesses
from joulewise.placement.folding import fold_batchnorm as fold_batchnorm
from joulewise.placement.memory import Memory as Memory
from joulewise.placement.memory import loaded as loaded
from joulewise.placement.placing import Placed as Placed
from joulewise.placement.placing import Placement as Placement
from joulewise.placement.placing import place as place

__all__ = [
    "Energy",
    "Memory",
    "Placed",
    "Placement",
    "call",
    "energy",
    "fold_batchnorm",
    "loaded",
    "place",
    "with_accesses",
]
