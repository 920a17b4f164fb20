"""Simulation: metric and output error over many chips, with intervals.

montecarlo   runs a placement on chips at one operating point, or at many with the same chips
result       figures per chip, and their mean, interval, quantile and yield
statistics   intervals for means and proportions
"""

from joulewise.simulation.montecarlo import simulate, sweep
from joulewise.simulation.result import Simulation
from joulewise.simulation.statistics import (
    Interval,
    mean_interval,
    mean_value,
    proportion_interval,
)

__all__ = [
    "Interval",
    "Simulation",
    "mean_interval",
    "mean_value",
    "proportion_interval",
    "simulate",
    "sweep",
]
