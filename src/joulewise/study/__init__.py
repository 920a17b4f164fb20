"""Study: a question in, stored evidence out.

curve        accuracy against energy for one network, points placed where they matter
iso_accuracy the lowest energy within a given accuracy drop, with an interval
forecasting  predictions along a curve, and how well they agree with simulation
crossing     where a loss crosses a limit on the way from reliable points down
comparison   several networks on their memories, accuracy against energy
allocations  plans of one network for one goal, beside the best common point
fronts       accuracy against energy over the whole range, several networks and memories
recipes      ways to train in short words, and networks trained by them
arms         ways to train, each with several seeds, by the energy that their networks need
placed       placed tensors as plain data
records      simulations and predictions as plain data
allocation_records allocations, fronts and co-designs as plain data
spec         choices as plain data, and the networks and memories that they build
environment  versions and machine, for the record
"""

from joulewise.study.allocation_records import AllocationEvidence as AllocationEvidence
from joulewise.study.allocation_records import AttemptRecord as AttemptRecord
from joulewise.study.allocation_records import DesignRecord as DesignRecord
from joulewise.study.allocation_records import FrontEvidence as FrontEvidence
from joulewise.study.allocation_records import FrontPointRecord as FrontPointRecord
from joulewise.study.allocation_records import RoundRecord as RoundRecord
from joulewise.study.allocations import AllocationRecord as AllocationRecord
from joulewise.study.allocations import CoDesignRecord as CoDesignRecord
from joulewise.study.allocations import Saving as Saving
from joulewise.study.allocations import allocate_each as allocate_each
from joulewise.study.allocations import co_design_record as co_design_record
from joulewise.study.allocations import saving_at_goal as saving_at_goal
from joulewise.study.arms import Arm as Arm
from joulewise.study.arms import ArmComparison as ArmComparison
from joulewise.study.arms import ArmRecord as ArmRecord
from joulewise.study.arms import ArmSaving as ArmSaving
from joulewise.study.arms import NetworkRecord as NetworkRecord
from joulewise.study.arms import compare_arms as compare_arms
from joulewise.study.comparison import Comparison as Comparison
from joulewise.study.comparison import Contender as Contender
from joulewise.study.comparison import ContenderRecord as ContenderRecord
from joulewise.study.comparison import compare as compare
from joulewise.study.curve import Curve as Curve
from joulewise.study.curve import energy_curve as energy_curve
from joulewise.study.environment import Environment as Environment
from joulewise.study.forecasting import Agreement as Agreement
from joulewise.study.forecasting import agreement as agreement
from joulewise.study.fronts import FrontComparison as FrontComparison
from joulewise.study.fronts import FrontRecord as FrontRecord
from joulewise.study.fronts import Runner as Runner
from joulewise.study.fronts import compare_fronts as compare_fronts
from joulewise.study.iso_accuracy import IsoAccuracy as IsoAccuracy
from joulewise.study.iso_accuracy import iso_accuracy as iso_accuracy
from joulewise.study.placed import PlacedRecord as PlacedRecord
from joulewise.study.placed import placed_records as placed_records
from joulewise.study.recipes import Recipe as Recipe
from joulewise.study.recipes import train_networks as train_networks
from joulewise.study.records import EnergyRecord as EnergyRecord
from joulewise.study.records import ForecastRecord as ForecastRecord
from joulewise.study.records import SimulationRecord as SimulationRecord
from joulewise.study.records import plan_of as plan_of
from joulewise.study.spec import MemorySpec as MemorySpec
from joulewise.study.spec import NetworkSpec as NetworkSpec
from joulewise.study.spec import PlacementSpec as PlacementSpec
from joulewise.study.spec import memory_specs as memory_specs

__all__ = [
    "Agreement",
    "AllocationEvidence",
    "AllocationRecord",
    "Arm",
    "ArmComparison",
    "ArmRecord",
    "ArmSaving",
    "AttemptRecord",
    "CoDesignRecord",
    "Comparison",
    "Contender",
    "ContenderRecord",
    "Curve",
    "DesignRecord",
    "EnergyRecord",
    "Environment",
    "ForecastRecord",
    "FrontComparison",
    "FrontEvidence",
    "FrontPointRecord",
    "FrontRecord",
    "IsoAccuracy",
    "MemorySpec",
    "NetworkRecord",
    "NetworkSpec",
    "PlacedRecord",
    "PlacementSpec",
    "Recipe",
    "RoundRecord",
    "Runner",
    "Saving",
    "SimulationRecord",
    "agreement",
    "allocate_each",
    "co_design_record",
    "compare",
    "compare_arms",
    "compare_fronts",
    "energy_curve",
    "iso_accuracy",
    "memory_specs",
    "placed_records",
    "plan_of",
    "saving_at_goal",
    "train_networks",
]
