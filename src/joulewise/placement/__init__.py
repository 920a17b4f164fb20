"""Placement: which tensors of a model live on which memory, and what they cost there.

The only room that walks modules.

placing      names what is stored: weights, and activations at each layer's input
tracing      counts reads, writes and multiply-accumulates in one forward pass
loads        the vectors that a weight meets, for memories that compute
conversion   products as arrays and their converters make them
addresses    which tensor a piece of memory belongs to
opening      functions of PyTorch that would hide what they call
gradients    straight through words, and of the ranges that weights are clipped to
memory       reads the stored tensors back into the model, and restores it bit for bit
energy       joules per inference at given operating points
plans        plans as small files, refused where they do not fit
folding      batch normalisation folded into the layer before it
private_copy the model that computes, so that the user's is never written to
execution    process-wide switches, random numbers, and the state of a thread
calling      how a model is called, and which of its outputs counts
batching     data as batches on the model's device
finiteness   the first layer whose output is NaN or infinite
"""

from joulewise.placement.batching import Batch as Batch
from joulewise.placement.batching import outputs_of as outputs_of
from joulewise.placement.batching import prepare as prepare
from joulewise.placement.batching import take as take
from joulewise.placement.calling import call as call
from joulewise.placement.energy import Energy as Energy
from joulewise.placement.energy import energy as energy
from joulewise.placement.energy import with_accesses as with_accesses
from joulewise.placement.execution import guarded as guarded
from joulewise.placement.execution import same_modes as same_modes
from joulewise.placement.finiteness import check_finite as check_finite
from joulewise.placement.folding import fold_batchnorm as fold_batchnorm
from joulewise.placement.gradients import clipped as clipped
from joulewise.placement.memory import Memory as Memory
from joulewise.placement.memory import Observer as Observer
from joulewise.placement.memory import loaded as loaded
from joulewise.placement.placing import Placed as Placed
from joulewise.placement.placing import Placement as Placement
from joulewise.placement.placing import place as place
from joulewise.placement.plans import PlanFile as PlanFile

__all__ = [
    "Batch",
    "Energy",
    "Memory",
    "Observer",
    "Placed",
    "Placement",
    "PlanFile",
    "call",
    "check_finite",
    "clipped",
    "energy",
    "fold_batchnorm",
    "guarded",
    "loaded",
    "outputs_of",
    "place",
    "prepare",
    "same_modes",
    "take",
    "with_accesses",
]
