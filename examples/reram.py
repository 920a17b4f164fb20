"""A memory of your own, in one file: ReRAM cells with log-normal variability.

    python examples/reram.py

More programming pulses cost more energy and leave less spread: ``w exp(s n - s^2 / 2)`` is read,
with ``n`` standard normal and ``s = spread / sqrt(pulses)``; all figures are made up. Moments are
estimated from reads; a method ``moments`` that states them lets allocation choose any point.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import joulewise as jw
from joulewise.devices import Knob, Point, Traffic


@dataclass(frozen=True, kw_only=True)
class ReRAM(jw.Device[Tensor]):
    """Cells with log-normal variability, programmed by a number of pulses."""

    spread: float = 0.5  # standard deviation of the logarithm after one pulse
    pulse_j: float = 1e-12
    read_j: float = 1e-14
    lifetime: float = 1e4  # inferences until the weights are programmed again
    knob = Knob(name="pulses", least_reliable=1.0, most_reliable=1e5)

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Tensor:
        return tensor

    def read(self, stored: Tensor, point: Point, chip: jw.Chip) -> Tensor:
        normal = torch.from_numpy(chip.generator("variability").standard_normal(stored.shape))
        s = self.spread / float(point) ** 0.5
        return (stored * torch.exp(s * normal - s**2 / 2)).to(stored.dtype)

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        pulses = torch.as_tensor(point, dtype=torch.float64)
        return traffic.reads * (self.read_j + pulses * self.pulse_j / self.lifetime)


def main() -> None:
    print(jw.check_device(ReRAM()))
    digits = jw.load_data("digits")
    model = jw.load_model("mlp", digits.input_shape, digits.classes, seed=0)
    jw.train(model, digits, jw.TrainingSpec(epochs=10, lr=0.1))
    placement = jw.place(model, weights=ReRAM(), example_inputs=digits.test.inputs[:1])
    for pulses in (1, 4, 16):
        result = jw.simulate(placement, digits.test, at={"pulses": pulses}, chips=50)
        forecast = jw.predict(placement, digits.test, at={"pulses": pulses})
        print(f"{pulses} pulses:", result, forecast, sep="\n")


if __name__ == "__main__":
    main()
