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
from typing import Any

import lazy_loader

__version__ = "0.2.0"

_imported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "predict":  # contrib registers methods of prediction by name
        importlib.import_module("joulewise.contrib")
    return _imported(name)
