"""joulewise: how much energy can a neural network save on unreliable memory?

    import joulewise as jw

    placement = jw.place(model, weights=jw.SRAM(bits=8))
    result = jw.simulate(placement, data, eta=0.5, chips=200)
    result.mean_accuracy, result.accuracy_interval(), result.energy.normalised

    forecast = jw.predict(placement, data, eta=0.5)  # the same without simulating chips
    forecast.mse, forecast.shares, forecast.accuracy.mean

    plan = jw.allocate(placement, data, max_accuracy_drop=0.005).plan  # one point for each tensor
    optimizer = jw.optim.SAMSON(model.parameters(), torch.optim.SGD, lr=0.1, rho=0.2)

Names are imported when they are first used: the command line's ``--help`` must not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from joulewise import contrib as contrib
    from joulewise import metrics as metrics
    from joulewise import optim as optim
    from joulewise.allocation import Allocation as Allocation
    from joulewise.allocation import Granularity as Granularity
    from joulewise.allocation import allocate as allocate
    from joulewise.allocation import pareto as pareto
    from joulewise.data import Dataset as Dataset
    from joulewise.data import Split as Split
    from joulewise.data import load_data as load_data
    from joulewise.devices import PCM as PCM
    from joulewise.devices import SRAM as SRAM
    from joulewise.devices import Array as Array
    from joulewise.devices import Chip as Chip
    from joulewise.devices import CorrelatedMap as CorrelatedMap
    from joulewise.devices import Crossbar as Crossbar
    from joulewise.devices import Device as Device
    from joulewise.devices import ExponentialLaw as ExponentialLaw
    from joulewise.devices import Flip as Flip
    from joulewise.devices import IndependentMap as IndependentMap
    from joulewise.devices import Mask as Mask
    from joulewise.devices import MeasuredMap as MeasuredMap
    from joulewise.devices import ReadOut as ReadOut
    from joulewise.devices import Stuck as Stuck
    from joulewise.devices import VoltageTable as VoltageTable
    from joulewise.devices import check_device as check_device
    from joulewise.models import load_model as load_model
    from joulewise.models import load_weights as load_weights
    from joulewise.models import save_weights as save_weights
    from joulewise.placement import Placement as Placement
    from joulewise.placement import PlanFile as PlanFile
    from joulewise.placement import energy as energy
    from joulewise.placement import fold_batchnorm as fold_batchnorm
    from joulewise.placement import loaded as loaded
    from joulewise.placement import place as place
    from joulewise.placement import with_accesses as with_accesses
    from joulewise.prediction import Corrected as Corrected
    from joulewise.prediction import ErrorModel as ErrorModel
    from joulewise.prediction import FirstOrder as FirstOrder
    from joulewise.prediction import Forecast as Forecast
    from joulewise.prediction import error_model as error_model
    from joulewise.prediction import predict as predict
    from joulewise.report import write_report as write_report
    from joulewise.simulation import Simulation as Simulation
    from joulewise.simulation import simulate as simulate
    from joulewise.simulation import sweep as sweep
    from joulewise.study import Contender as Contender
    from joulewise.study import compare as compare
    from joulewise.training import Ramp as Ramp
    from joulewise.training import TrainingMemory as TrainingMemory
    from joulewise.training import TrainingSpec as TrainingSpec
    from joulewise.training import clip_weights as clip_weights
    from joulewise.training import reestimate_batchnorm as reestimate_batchnorm
    from joulewise.training import train as train

# Rooms that are names themselves: joulewise.optim.SAM, as one writes torch.optim.SGD.
_OPEN_ROOMS = ("contrib", "metrics", "optim")

# Public name -> room. The imports above are the same table for type checkers; a test compares them.
_ROOMS = {
    "Array": "devices",
    "Chip": "devices",
    "Contender": "study",
    "Allocation": "allocation",
    "Corrected": "prediction",
    "ErrorModel": "prediction",
    "Granularity": "allocation",
    "PlanFile": "placement",
    "allocate": "allocation",
    "pareto": "allocation",
    "error_model": "prediction",
    "CorrelatedMap": "devices",
    "Crossbar": "devices",
    "Dataset": "data",
    "Device": "devices",
    "ExponentialLaw": "devices",
    "FirstOrder": "prediction",
    "Flip": "devices",
    "Forecast": "prediction",
    "IndependentMap": "devices",
    "Mask": "devices",
    "MeasuredMap": "devices",
    "PCM": "devices",
    "Placement": "placement",
    "Ramp": "training",
    "ReadOut": "devices",
    "SRAM": "devices",
    "Simulation": "simulation",
    "Split": "data",
    "Stuck": "devices",
    "TrainingMemory": "training",
    "TrainingSpec": "training",
    "VoltageTable": "devices",
    "check_device": "devices",
    "clip_weights": "training",
    "compare": "study",
    "energy": "placement",
    "fold_batchnorm": "placement",
    "load_data": "data",
    "load_model": "models",
    "load_weights": "models",
    "loaded": "placement",
    "place": "placement",
    "predict": "prediction",
    "reestimate_batchnorm": "training",
    "save_weights": "models",
    "simulate": "simulation",
    "sweep": "simulation",
    "train": "training",
    "with_accesses": "placement",
    "write_report": "report",
}

__all__ = [
    "pareto",
    "error_model",
    "allocate",
    "PlanFile",
    "Granularity",
    "ErrorModel",
    "Allocation",
    "PCM",
    "SRAM",
    "Array",
    "Chip",
    "Contender",
    "Corrected",
    "CorrelatedMap",
    "Crossbar",
    "Dataset",
    "Device",
    "ExponentialLaw",
    "FirstOrder",
    "Flip",
    "Forecast",
    "IndependentMap",
    "Mask",
    "MeasuredMap",
    "Placement",
    "Ramp",
    "ReadOut",
    "Simulation",
    "Split",
    "Stuck",
    "TrainingMemory",
    "TrainingSpec",
    "VoltageTable",
    "__version__",
    "check_device",
    "clip_weights",
    "compare",
    "contrib",
    "energy",
    "fold_batchnorm",
    "load_data",
    "load_model",
    "load_weights",
    "loaded",
    "metrics",
    "optim",
    "place",
    "predict",
    "reestimate_batchnorm",
    "save_weights",
    "simulate",
    "sweep",
    "train",
    "with_accesses",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _OPEN_ROOMS:
        return importlib.import_module(f"joulewise.{name}")
    if name == "predict":  # contrib registers methods of prediction by name
        importlib.import_module("joulewise.contrib")
    if name not in _ROOMS:
        raise AttributeError(f"module 'joulewise' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"joulewise.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
