"""Allocation: an operating point for each placed tensor, from a goal, verified on held-out chips.

_allocate       choose the plan of least energy for a goal, or of least error for an energy
pareto_front    plans of least energy over the whole range of output errors
goals           goals of accuracy, yield and output error, and their confidence bounds
held_out        verification on held-out chips, and the energy at which a goal just holds
problem         the allocation problem of a placement, and its linearisation around a plan
granularity     decision variables: which operating points are chosen, one by one or together
energy_model    the energy of a plan, vectorised and differentiable
plan_optimiser  least energy within a predicted error, or least error within an energy
constrained     constrained optimisation of continuous levels
discrete_points choice from listed operating points: a multiple-choice knapsack
supply_rails    assignment of many variables to a few shared operating points
waterfilling    closed-form start where errors fall exponentially
initial_guess   the output error at which a given accuracy is lost, roughly
bracketing      the largest predicted error that a goal allows, from few simulated chips
sampling        how many there are of what, and some of the data to predict with
result          allocations and their evidence as plain data
"""

from joulewise.allocation._allocate import allocate as allocate
from joulewise.allocation.granularity import Granularity as Granularity
from joulewise.allocation.pareto_front import Front as Front
from joulewise.allocation.pareto_front import FrontPoint as FrontPoint
from joulewise.allocation.pareto_front import pareto as pareto
from joulewise.allocation.result import Allocation as Allocation
from joulewise.allocation.result import Attempt as Attempt
from joulewise.allocation.result import EnergyAtGoal as EnergyAtGoal
from joulewise.allocation.result import Trial as Trial

__all__ = [
    "Allocation",
    "Attempt",
    "EnergyAtGoal",
    "Front",
    "FrontPoint",
    "Granularity",
    "Trial",
    "allocate",
    "pareto",
]
