"""Single analog devices: programmed conductances, their noise, and stuck devices.

Conductances are in the unit of a weight, which is ``unit`` per siemens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from joulewise.devices.conductance_pairs import rectified_moments
from joulewise.devices.conductance_table import ConductanceTable

__all__ = ["AnalogCells"]

# Beyond this many standard deviations from 0, clipping changes moments by less than 1e-16.
_FAR = 9.0


class AnalogCells:
    """Base of arrays whose devices are programmed to a target, with noise.

    The fields are those of `Crossbar`.
    """

    __slots__ = ()
    sigma: float
    variability: float
    programming: ConductanceTable | None
    stuck_off: float
    stuck_on: float
    clip: bool

    @property
    def _noisy(self) -> bool:
        """True if programming is random."""
        return bool(self.sigma or self.variability or self.programming is not None)

    @property
    def _stuck(self) -> bool:
        """True if some devices are stuck."""
        return bool(self.stuck_off or self.stuck_on)

    def _std(self, target: Tensor, unit: Tensor, devices: int = 1) -> Tensor:
        """Standard deviation of one programmed device, or of a pair, without a table."""
        own = self.variability * target
        if not self.sigma:  # the gradient of hypot is undefined at (0, 0)
            return own
        added = (devices**0.5 * self.sigma * unit).to(target.dtype)
        return torch.hypot(added, own) if self.variability else added + torch.zeros_like(target)

    def _center_and_std(self, target: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation before clipping."""
        if self.programming is None:
            return target, self._std(target, unit)
        mean, std = self.programming.at(target / unit)
        return (mean * unit).to(target.dtype), (std * unit).to(target.dtype)

    def _programmed(self, target: Tensor, unit: Tensor, noise: Tensor) -> Tensor:
        """Conductances of one chip, for standard normal ``noise`` in the shape of ``target``."""
        center, std = self._center_and_std(target, unit)
        held = center + std * noise
        return held.clamp(min=0) if self.clip else held

    def _with_stuck(self, held: Tensor, uniform: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Conductances with stuck devices, for ``uniform`` numbers in the shape of ``held``."""
        held = torch.where(uniform < self.stuck_off, low.to(held), held)
        return torch.where(uniform >= 1 - self.stuck_on, high.to(held), held)

    def _pair_moments(self, weights: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``sign(w) (active - idle)``, in the dtype of the weights.

        For independent devices with Gaussian noise, targets ``|w|`` and 0. Only weights that
        clipping changes take the time of its moments.
        """
        target = weights.abs()
        if not self.clip:
            return weights.clone(), self._std(target, unit, devices=2).square()
        none = torch.zeros_like(unit)
        idle_mean, idle_var = rectified_moments(none, self._std(none, unit))
        std = self._std(target, unit)
        near = target < _FAR * std
        active = rectified_moments(target[near].double(), std[near].double())
        mean, var = (
            one.masked_scatter(near, clipped.to(one))
            for one, clipped in zip((target, std.square()), active, strict=True)
        )
        return weights.sign() * (mean - idle_mean.to(mean)), var + idle_var.to(var)

    def _device_moments(
        self, target: Tensor, unit: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance over chips, stuck devices included; exact, differentiable in ``unit``.

        Args:
            target: Targets, float64, 0 or more.
            unit: Weight per siemens; broadcasts against ``target``.
            low: Conductance of devices that are stuck off.
            high: Conductance of devices that are stuck on.
        """
        center, std = self._center_and_std(target, unit)
        mean, var = rectified_moments(center, std) if self.clip else (center, std.square())
        if not self._stuck:
            return mean, var
        works = 1 - self.stuck_off - self.stuck_on
        # Law of total variance over working and stuck devices, from deviations of the working mean:
        # differences of squares would cancel where few devices are stuck.
        off, on = low - mean, high - mean
        shift = self.stuck_off * off + self.stuck_on * on
        spread = self.stuck_off * off.square() + self.stuck_on * on.square()
        return mean + shift, works * var + spread - shift.square()
