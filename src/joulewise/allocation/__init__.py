"""Allocation: an operating point for each placed tensor, from a goal, verified on held-out chips.

_allocate        the plan of least energy for a goal, or of least error for an energy
pareto_front     plans of least energy over the whole range of output errors
goals            goals as values, and conditions with their confidence bounds
held_out         verification on held-out chips, and constraint margins
problem          variables, energies, error models and simulations of one placement
granularity      decision variables, and the operating points that they set
energy_model     the energy of a plan, differentiable
plan_optimiser   least energy within a predicted error, or least error within an energy
constrained      constrained optimisation of continuous levels
discrete_points  choice from listed operating points: a multiple-choice knapsack
supply_rails     assignment of variables to a few shared operating points
waterfilling     closed form where errors fall exponentially, the start of the optimisation
initial_guess    about the output error at which a goal is just met
bracketing       the largest predicted error at which a goal holds, from few simulated chips
result           allocations and their evidence
"""

from joulewise.allocation._allocate import allocate
from joulewise.allocation.goals import (
    EnergyBudget,
    Goal,
    MetricDrop,
    MetricTarget,
    OutputError,
    Yield,
)
from joulewise.allocation.granularity import Granularity
from joulewise.allocation.pareto_front import FrontPoint, ParetoFront, pareto
from joulewise.allocation.result import Allocation, Attempt, EnergyAtGoal, TuningTrial

__all__ = [
    "Allocation",
    "Attempt",
    "EnergyAtGoal",
    "EnergyBudget",
    "FrontPoint",
    "Goal",
    "Granularity",
    "MetricDrop",
    "MetricTarget",
    "OutputError",
    "ParetoFront",
    "TuningTrial",
    "Yield",
    "allocate",
    "pareto",
]
