"""Training with Gaussian weight noise in one pass, without a memory: rivals of the methods here.

Random weight perturbation (RWP) adds noise in proportion to the largest weight of each tensor in
every step; over-strength means more of it than at the test. Variance-aware noisy training draws the
strength anew in each step, so that the network tolerates noise that varies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.devices import Chip, Device, Knob, Point, ReadMoments, Traffic
from joulewise.errors import check_count, check_in_range
from joulewise.placement import place
from joulewise.training import TrainingMemory

__all__ = ["NoiseSchedule", "RelativeNoise", "weight_noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeNoise(Device[Tensor]):
    """Independent Gaussian noise, its standard deviation a fraction of the largest magnitude.

    A model of training noise, not of a technology: its knob ``strength`` is that fraction, and
    an access costs 1 pJ whatever it is.
    """

    knob = Knob(name="strength", least_reliable=10.0, most_reliable=0.0)

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "") -> Tensor:
        """The weights themselves."""
        return tensor

    def read(self, stored: Tensor, point: Point, chip: Chip) -> Tensor:
        """Weights with the noise of one chip."""
        normal = torch.from_numpy(chip.generator("weight noise").standard_normal(stored.shape))
        return stored + float(point) * stored.abs().max() * normal.to(stored)

    def moments(self, stored: Tensor, point: Point) -> ReadMoments:
        """The weights, and one variance."""
        std = torch.as_tensor(point).to(stored) * stored.abs().max()
        return ReadMoments(mean=stored, var=std.square().expand(stored.shape))

    def energy(self, traffic: Traffic, point: Point) -> Tensor:
        """1 pJ for each access."""
        accesses = torch.tensor(traffic.reads + traffic.writes, dtype=torch.float64)
        return 1e-12 * accesses + 0.0 * torch.as_tensor(point, dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSchedule:
    """Strength of the noise as a function of the step.

    Args:
        strength: Standard deviation over the largest magnitude of a tensor, above 0.
        ramp: Steps in which it rises from 0; 0 for none.
        spread: Standard deviation of the strength between steps, relative to it; 0 for none.
        seed: Seed of these draws.

    Raises:
        InputError: if a field is out of range.

    Example:
        >>> schedule = NoiseSchedule(strength=0.1, ramp=4)
        >>> [round(schedule(step), 3) for step in range(6)]
        [0.0, 0.025, 0.05, 0.075, 0.1, 0.1]
    """

    strength: float
    ramp: int = 0
    spread: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("strength", self.strength, 0.0, 10.0, open_low=True)
        check_count("ramp", self.ramp, 0)
        check_in_range("spread", self.spread, 0.0, 10.0)
        check_count("seed", self.seed, 0)

    def __call__(self, step: int) -> float:
        """Strength of a step, counted from 0."""
        strength = self.strength * min(step / self.ramp, 1.0) if self.ramp else self.strength
        if self.spread:
            draw = np.random.default_rng([self.seed, step]).standard_normal()
            strength *= abs(1.0 + self.spread * float(draw))
        return min(strength, 10.0)


def weight_noise(
    model: nn.Module, *, strength: float, ramp: int = 0, spread: float = 0.0, seed: int = 0
) -> TrainingMemory:
    """A training memory of Gaussian weight noise: one forward and one backward pass a step.

    ::

        memory = weight_noise(model, strength=0.1, ramp=1000)          # RWP, rising
        memory = weight_noise(model, strength=0.1, spread=0.5)         # variance-aware
        with memory:
            criterion(model(inputs), targets).backward()
        optimizer.step()

    Args:
        model: The model; weights with two axes or more get noise.
        strength: See `NoiseSchedule`.
        ramp: See `NoiseSchedule`.
        spread: See `NoiseSchedule`.
        seed: Seed of the noise and of its strength.

    Raises:
        InputError: if a field is out of range.

    References:
        RWP, over-strength and with a ramp: P. Jacobson et al., "Incorruptible Neural Networks",
        arXiv 2602.07320. Variance-aware: X. Wang et al., "Variance-Aware Noisy Training",
        arXiv 2503.16183, which adds noise to activations, with a strength that varies as that of
        the hardware does; here it is that of weights.
    """
    schedule = NoiseSchedule(strength=strength, ramp=ramp, spread=spread, seed=seed)
    placement = place(model, weights=RelativeNoise())
    return TrainingMemory(placement, at=lambda step: {"strength": schedule(step)}, seed=seed)
