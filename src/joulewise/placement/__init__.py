"""Placement: which tensors of a model live on which memory, and what they cost there.

The only room that walks modules.

placement            placed tensors, their owners and their accesses
_place               choice of what is stored, by patterns
plan                 plans as small files, refused where they do not fit
energy               joules per inference at given operating points
token_energy         joules for a prompt token and for a generated one
accesses             accesses that a mapper counted, in place of those that were traced
component_plan       a plan by the memories of a mapper's accelerator
memory               stored tensors, read back into a model by one chip after another
private_copy         the copy that computes, put back for each chip; the user's is never written to
model_copy           deep copies whose parameters share the original's storage
process_state        switches of PyTorch, random numbers and modes, left as they were
activation_hooks     layer inputs pass through their memory
kv_cache             keys and values pass through their memory as attention reads them
straight_through     gradients through words, and of the ranges that weights are clipped to
converters           products as arrays and their converters compute them
tracing              reads, writes and multiply-accumulates of one forward pass
matrix_inputs        inputs of each matrix-vector product, for memories that compute
storage              shared parameters, and the tensor that a view belongs to
function_mode        tracing into composite functions of torch.nn.functional
batches              data as batches on the model's device
execution            calls of a model, and the first layer whose output is not finite
evaluation           passes over data: outputs, metric and output error
given_outputs        outputs of the model as given, in little memory
batchnorm_folding    batch normalisation folded into the layer before it
"""

from joulewise.placement._place import place
from joulewise.placement.accesses import with_accesses
from joulewise.placement.activation_hooks import Observer
from joulewise.placement.batches import Batch, prepare, take
from joulewise.placement.batchnorm_folding import fold_batchnorm
from joulewise.placement.component_plan import ComponentPlan, ComponentPoint, plan_by_component
from joulewise.placement.energy import Energy, energy, reference_energies
from joulewise.placement.evaluation import Reference, reference_pass, score_pass
from joulewise.placement.execution import call, check_finite, differentiating, running
from joulewise.placement.memory import Memory, loaded, private_memory
from joulewise.placement.placement import Placed, Placement
from joulewise.placement.plan import At, Plan
from joulewise.placement.process_state import TwiceDifferentiable, guarded, restored_modes
from joulewise.placement.straight_through import clipped
from joulewise.placement.token_energy import TokenEnergy, token_energy

__all__ = [
    "At",
    "Batch",
    "ComponentPlan",
    "ComponentPoint",
    "Energy",
    "Memory",
    "Observer",
    "Placed",
    "Placement",
    "Plan",
    "Reference",
    "TokenEnergy",
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
    "plan_by_component",
    "prepare",
    "private_memory",
    "reference_energies",
    "reference_pass",
    "restored_modes",
    "running",
    "score_pass",
    "take",
    "token_energy",
    "with_accesses",
]
