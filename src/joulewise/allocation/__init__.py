"""Allocation: who deserves the energy.

allocating   one call: a goal in, a plan and the evidence for it out
alternating  allocation and training in turns
front        the least energy for every error, in one call
sampling     how many there are of what, and some of the data to predict with
variables    which operating points may be chosen, one by one or together
spending     the energy of a plan, at the speed of a search
surveying    one pass of the network, and a planner that knows its gradients
planning     the cheapest plan within a predicted error, without running the network
waterfilling in closed form, where errors fall exponentially: where refining begins
refining     the method of multipliers, for points that may have any value
levels       which of a list of points each variable gets, means that shift together included
rails        a few shares for many variables, cut in the order of what each would have alone
guessing     about how large an error a loss of accuracy stands for
searching    the largest predicted error that a goal allows, by few simulated chips
goals        what must hold on fresh chips, and how sure that is
meeting      the energy at which a goal would just be met
result       what was found, as plain data
"""

from joulewise.allocation.allocating import allocate as allocate
from joulewise.allocation.alternating import CoDesign as CoDesign
from joulewise.allocation.alternating import Round as Round
from joulewise.allocation.alternating import co_design as co_design
from joulewise.allocation.front import Front as Front
from joulewise.allocation.front import FrontPoint as FrontPoint
from joulewise.allocation.front import pareto as pareto
from joulewise.allocation.result import Allocation as Allocation
from joulewise.allocation.result import Attempt as Attempt
from joulewise.allocation.result import EnergyAtGoal as EnergyAtGoal
from joulewise.allocation.result import Trial as Trial
from joulewise.allocation.variables import Granularity as Granularity

__all__ = [
    "Allocation",
    "Attempt",
    "CoDesign",
    "EnergyAtGoal",
    "Front",
    "FrontPoint",
    "Granularity",
    "Round",
    "Trial",
    "allocate",
    "co_design",
    "pareto",
]
