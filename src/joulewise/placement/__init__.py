"""Placement: which tensors of a model live on which memory, and what they cost there.

The only room that walks modules.

placement            placed tensors, their owners and their accesses
_place               choice of what is stored, by patterns
plan                 plans as small files, refused where they do not fit
energy               joules per inference at given operating points
memory               stored tensors, read back into a model by one chip after another
private_copy         the copy that computes, so that the user's model is never written to
model_copy           deep copies whose parameters share the original's storage
module_state         attributes and buffers of a copy, put back for each chip
process_state        switches of PyTorch, random numbers and modes, left as they were
activation_hooks     layer inputs pass through their memory
straight_through     gradients through words, and of the ranges that weights are clipped to
converters           products as arrays and their converters compute them
tracing              reads, writes and multiply-accumulates of one forward pass
matrix_inputs        inputs of each matrix-vector product, for memories that compute
storage              shared parameters, and the tensor that a view belongs to
function_mode        tracing into composite functions of torch.nn.functional
batches              data as batches on the model's device
execution            calls of a model, and the first layer whose output is not finite
evaluation           passes over data: outputs, metric and output error
batchnorm_folding    batch normalisation folded into the layer before it
"""

from joulewise.placement._place import place as place
from joulewise.placement.activation_hooks import Observer as Observer
from joulewise.placement.batches import Batch as Batch
from joulewise.placement.batches import prepare as prepare
from joulewise.placement.batches import take as take
from joulewise.placement.batchnorm_folding import fold_batchnorm as fold_batchnorm
from joulewise.placement.energy import Energy as Energy
from joulewise.placement.energy import energy as energy
from joulewise.placement.energy import with_accesses as with_accesses
from joulewise.placement.evaluation import Reference as Reference
from joulewise.placement.evaluation import Score as Score
from joulewise.placement.evaluation import reference_pass as reference_pass
from joulewise.placement.evaluation import score_pass as score_pass
from joulewise.placement.execution import call as call
from joulewise.placement.execution import check_finite as check_finite
from joulewise.placement.execution import differentiating as differentiating
from joulewise.placement.execution import running as running
from joulewise.placement.memory import Memory as Memory
from joulewise.placement.memory import loaded as loaded
from joulewise.placement.memory import private_memory as private_memory
from joulewise.placement.placement import Placed as Placed
from joulewise.placement.placement import Placement as Placement
from joulewise.placement.plan import At as At
from joulewise.placement.plan import Plan as Plan
from joulewise.placement.process_state import TwiceDifferentiable as TwiceDifferentiable
from joulewise.placement.process_state import guarded as guarded
from joulewise.placement.process_state import restored_modes as restored_modes
from joulewise.placement.straight_through import clipped as clipped

__all__ = [
    "At",
    "Batch",
    "Energy",
    "Memory",
    "Observer",
    "Placed",
    "Placement",
    "Plan",
    "Reference",
    "Score",
    "TwiceDifferentiable",
    "call",
    "check_finite",
    "clipped",
    "differentiating",
    "energy",
    "fold_batchnorm",
    "guarded",
    "loaded",
    "place",
    "prepare",
    "private_memory",
    "reference_pass",
    "restored_modes",
    "running",
    "score_pass",
    "take",
    "with_accesses",
]
