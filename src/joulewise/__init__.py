"""joulewise: how much energy can a neural network save on unreliable memory?

    import joulewise as jw

    placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=x)
    result = jw.simulate(placement, data, at={"eta": 0.5}, chips=200)
    result.mean, result.interval(), result.energy.normalised

    forecast = jw.predict(placement, data, at={"eta": 0.5})  # the same without simulating chips
    forecast.mse, forecast.accuracy.mean

    found = jw.allocate(placement, data, goal=jw.MetricDrop(0.005))  # one point for each tensor
    jw.simulate(placement, data, at=found.plan)
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
    from joulewise.allocation import EnergyBudget as EnergyBudget
    from joulewise.allocation import Granularity as Granularity
    from joulewise.allocation import MetricDrop as MetricDrop
    from joulewise.allocation import MetricTarget as MetricTarget
    from joulewise.allocation import OutputError as OutputError
    from joulewise.allocation import Yield as Yield
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
    from joulewise.devices import Stuck as Stuck
    from joulewise.devices import VoltageTable as VoltageTable
    from joulewise.devices import check_device as check_device
    from joulewise.errors import DataError as DataError
    from joulewise.errors import DeviceError as DeviceError
    from joulewise.errors import InputError as InputError
    from joulewise.errors import JoulewiseError as JoulewiseError
    from joulewise.errors import ModelError as ModelError
    from joulewise.errors import OperatingPointError as OperatingPointError
    from joulewise.errors import TableError as TableError
    from joulewise.errors import WeightsError as WeightsError
    from joulewise.models import load_model as load_model
    from joulewise.models import load_weights as load_weights
    from joulewise.models import save_weights as save_weights
    from joulewise.placement import Placement as Placement
    from joulewise.placement import Plan as Plan
    from joulewise.placement import energy as energy
    from joulewise.placement import fold_batchnorm as fold_batchnorm
    from joulewise.placement import loaded as loaded
    from joulewise.placement import place as place
    from joulewise.placement import with_accesses as with_accesses
    from joulewise.prediction import Corrected as Corrected
    from joulewise.prediction import FirstOrder as FirstOrder
    from joulewise.prediction import error_model as error_model
    from joulewise.prediction import predict as predict
    from joulewise.simulation import simulate as simulate
    from joulewise.simulation import sweep as sweep
    from joulewise.training import LinearSchedule as LinearSchedule
    from joulewise.training import TrainingMemory as TrainingMemory
    from joulewise.training import TrainingSpec as TrainingSpec
    from joulewise.training import clip_weights as clip_weights
    from joulewise.training import reestimate_batchnorm as reestimate_batchnorm
    from joulewise.training import train as train

# Rooms that are names themselves: joulewise.optim.SAM, as one writes torch.optim.SGD.
_OPEN_ROOMS = ("contrib", "metrics", "optim")

# Public name -> room. The imports above are the same table for type checkers; a test compares them.
_ROOMS = {
    "PCM": "devices",
    "SRAM": "devices",
    "Array": "devices",
    "Chip": "devices",
    "Corrected": "prediction",
    "CorrelatedMap": "devices",
    "Crossbar": "devices",
    "DataError": "errors",
    "Dataset": "data",
    "Device": "devices",
    "DeviceError": "errors",
    "EnergyBudget": "allocation",
    "ExponentialLaw": "devices",
    "FirstOrder": "prediction",
    "Flip": "devices",
    "Granularity": "allocation",
    "IndependentMap": "devices",
    "InputError": "errors",
    "JoulewiseError": "errors",
    "LinearSchedule": "training",
    "Mask": "devices",
    "MeasuredMap": "devices",
    "MetricDrop": "allocation",
    "MetricTarget": "allocation",
    "ModelError": "errors",
    "OperatingPointError": "errors",
    "OutputError": "allocation",
    "Placement": "placement",
    "Plan": "placement",
    "Split": "data",
    "Stuck": "devices",
    "TableError": "errors",
    "TrainingMemory": "training",
    "TrainingSpec": "training",
    "VoltageTable": "devices",
    "WeightsError": "errors",
    "Yield": "allocation",
    "allocate": "allocation",
    "check_device": "devices",
    "clip_weights": "training",
    "energy": "placement",
    "error_model": "prediction",
    "fold_batchnorm": "placement",
    "load_data": "data",
    "load_model": "models",
    "load_weights": "models",
    "loaded": "placement",
    "pareto": "allocation",
    "place": "placement",
    "predict": "prediction",
    "reestimate_batchnorm": "training",
    "save_weights": "models",
    "simulate": "simulation",
    "sweep": "simulation",
    "train": "training",
    "with_accesses": "placement",
}

__all__ = [
    "PCM",
    "SRAM",
    "Array",
    "Chip",
    "Corrected",
    "CorrelatedMap",
    "Crossbar",
    "DataError",
    "Dataset",
    "Device",
    "DeviceError",
    "EnergyBudget",
    "ExponentialLaw",
    "FirstOrder",
    "Flip",
    "Granularity",
    "IndependentMap",
    "InputError",
    "JoulewiseError",
    "LinearSchedule",
    "Mask",
    "MeasuredMap",
    "MetricDrop",
    "MetricTarget",
    "ModelError",
    "OperatingPointError",
    "OutputError",
    "Placement",
    "Plan",
    "Split",
    "Stuck",
    "TableError",
    "TrainingMemory",
    "TrainingSpec",
    "VoltageTable",
    "WeightsError",
    "Yield",
    "__version__",
    "allocate",
    "check_device",
    "clip_weights",
    "contrib",
    "energy",
    "error_model",
    "fold_batchnorm",
    "load_data",
    "load_model",
    "load_weights",
    "loaded",
    "metrics",
    "optim",
    "pareto",
    "place",
    "predict",
    "reestimate_batchnorm",
    "save_weights",
    "simulate",
    "sweep",
    "train",
    "with_accesses",
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
