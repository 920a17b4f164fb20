"""A memory of your own, in one file: ReRAM cells with log-normal variability.

    python examples/reram.py

A cell is programmed by pulses until it is close enough: more pulses cost more energy and leave less
spread. What is read is ``w exp(s n - s^2 / 2)`` with ``n`` standard normal, drawn once for a chip,
and ``s = spread / sqrt(pulses)``; so the mean is ``w`` and the variance ``w^2 (exp(s^2) - 1)``. All
figures are made up: put your own measurements in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import joulewise as jw
from joulewise.devices import Knob, Point, ReadMoments, Traffic
from joulewise.words import check_storable


@dataclass(frozen=True, slots=True)
class Cells:
    """What is stored: the weights themselves."""

    weights: Tensor
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ReRAM(jw.Device[Cells]):
    """Cells with log-normal variability, programmed by a number of pulses.

    Args:
        spread: Standard deviation of the logarithm after one pulse.
        pulse_j: Joules of a pulse.
        read_j: Joules to read a cell.
        lifetime: Inferences until the weights are programmed again.
    """

    spread: float = 0.5
    pulse_j: float = 1e-12
    read_j: float = 1e-14
    lifetime: float = 1e4

    knob = Knob(name="pulses", least_reliable=1.0, most_reliable=1e5)
    reliable_bit_j = 0.3e-12  # of what is left in other memory

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Cells:
        check_storable(tensor, name)
        return Cells(tensor.detach().double(), tensor.dtype)

    def ideal(self, stored: Cells) -> Tensor:
        return stored.weights.to(stored.dtype)

    def read(self, stored: Cells, point: Point, chip: jw.Chip) -> Tensor:
        normal = chip.generator("variability").standard_normal(tuple(stored.weights.shape))
        s = float(self._s(point).detach())
        return (stored.weights * torch.from_numpy(np.exp(s * normal - s**2 / 2))).to(stored.dtype)

    def moments(self, stored: Cells, point: Point) -> ReadMoments:
        var = stored.weights.square() * torch.expm1(self._s(point).square())
        return ReadMoments(mean=stored.weights, var=var)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        pulses = torch.as_tensor(point, dtype=torch.float64)
        return traffic.reads * (self.read_j + pulses * self.pulse_j / self.lifetime)

    def describe(self) -> dict[str, Any]:
        return {"device": "reram", "spread": self.spread, "lifetime": self.lifetime}

    def _s(self, point: Point) -> Tensor:
        return self.spread / torch.as_tensor(point, dtype=torch.float64).sqrt()


def main() -> None:
    digits = jw.load_data("digits")
    model = jw.load_model("mlp", digits.input_shape, digits.classes, seed=0)
    jw.train(model, digits, jw.TrainingSpec(epochs=10, lr=0.1))
    placement = jw.place(model, weights=ReRAM(), inputs=digits.test.inputs[:1])
    for pulses in (1, 4, 16):
        result = jw.simulate(placement, digits.test, pulses=pulses, chips=50)
        forecast = jw.predict(placement, digits.test, pulses=pulses)
        low, high = result.accuracy_interval()
        print(
            f"{pulses:>3} pulses: accuracy {result.mean_accuracy:.4f} [{low:.4f}, {high:.4f}], "
            f"predicted {forecast.accuracy.mean:.4f}; "
            f"{result.energy.memory_total_j * 1e9:.3g} nJ an inference"
        )


if __name__ == "__main__":
    main()
