"""Study: a question in, stored evidence out.

curve        accuracy against energy for one network, points placed where they matter
iso_accuracy the lowest energy within a given accuracy drop, with an interval
forecasting  predictions along a curve, and how well they agree with simulation
comparison   several networks on their memories, accuracy against energy
placed       placed tensors as plain data
spec         choices as plain data, and the networks and memories that they build
environment  versions and machine, for the record
"""

from joulewise.study.comparison import Comparison as Comparison
from joulewise.study.comparison import Contender as Contender
from joulewise.study.comparison import ContenderRecord as ContenderRecord
from joulewise.study.comparison import compare as compare
from joulewise.study.curve import Curve as Curve
from joulewise.study.curve import energy_curve as energy_curve
from joulewise.study.environment import Environment as Environment
from joulewise.study.forecasting import Agreement as Agreement
from joulewise.study.forecasting import agreement as agreement
from joulewise.study.iso_accuracy import IsoAccuracy as IsoAccuracy
from joulewise.study.iso_accuracy import iso_accuracy as iso_accuracy
from joulewise.study.placed import PlacedRecord as PlacedRecord
from joulewise.study.placed import placed_records as placed_records
from joulewise.study.spec import MemorySpec as MemorySpec
from joulewise.study.spec import NetworkSpec as NetworkSpec
from joulewise.study.spec import PlacementSpec as PlacementSpec
from joulewise.study.spec import memory_specs as memory_specs

__all__ = [
    "Agreement",
    "Comparison",
    "Contender",
    "ContenderRecord",
    "Curve",
    "Environment",
    "IsoAccuracy",
    "MemorySpec",
    "NetworkSpec",
    "PlacedRecord",
    "PlacementSpec",
    "agreement",
    "compare",
    "energy_curve",
    "iso_accuracy",
    "memory_specs",
    "placed_records",
]
