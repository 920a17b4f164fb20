"""Differential pairs: weights as differences of two conductances, and their rectified noise."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from joulewise.devices.array import Array
from joulewise.devices.chip import Chip, Traffic
from joulewise.devices.crossbar_energy import ISAAC, ReadOut
from joulewise.devices.device import Device
from joulewise.errors import InputError, check_count, check_in_range, check_kind, refuse
from joulewise.words import check_storable, largest_magnitude

__all__ = ["PairDevice", "Pairs", "normals", "rectified_moments"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """A tensor as the target conductances of differential pairs, in the tensor's unit.

    One device of a pair has the target ``|weights|``, the other 0, or both that much more. In
    siemens a target is ``c`` times as large, ``c = g_max / limit``.

    Args:
        weights: Rounded to levels, within ``limit``; float32 or float64.
        limit: The weight whose conductance is ``g_max``, above 0; one number, or one for each index
            of the channel axis, broadcastable against ``weights``.
        dtype: Dtype of the tensor that was stored.
    """

    weights: Tensor
    limit: Tensor
    dtype: torch.dtype

    @property
    def targets(self) -> Tensor:
        """Target of the active device of each pair over ``g_max``, float64, 0 to 1."""
        return self.weights.double().abs() / self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PairDevice(Device[Pairs]):
    """Base of devices that store weights as differential pairs.

    Args:
        levels: Steps from 0 to the limit of a weight, or of a slice of it, 1 or more; None for
            continuous targets.
        rounding: ``"nearest"`` level, or ``"floor"`` of the signed weight, as in the public code of
            MemSE, which shifts all weights by half a step on average.
        limit: The weight whose conductance is ``g_max``; larger ones saturate. None takes the
            largest magnitude of each tensor; the largest of a network gives all tensors one range.
        channel_dim: The axis along which each index (each output column) has a separate limit;
            None for one limit per tensor. Tensors with fewer than two axes always have one.
        array: Size of the arrays and their converters.
        readout: Read-out circuits, for the energy.
    """

    levels: int | None = None
    rounding: Literal["nearest", "floor"] = "nearest"
    limit: float | None = None
    channel_dim: int | None = None
    array: Array = Array()
    readout: ReadOut = ISAAC

    def __post_init__(self) -> None:
        if self.levels is not None:
            check_count("levels", self.levels, 1, 2**31)
        if self.rounding not in ("nearest", "floor"):
            refuse("rounding", repr(self.rounding), "'nearest' or 'floor'")
        check_kind("array", self.array, Array, "an Array(...)")
        check_kind("readout", self.readout, ReadOut, "ISAAC, or a ReadOut(...)")
        check_kind("channel_dim", self.channel_dim, int | None, "an axis, such as 0, or None")
        if self.limit is not None:
            check_in_range("limit", self.limit, 0.0, 1e30, open_low=True)
            self._check_one_limit(self.limit)

    @property
    def steps(self) -> int | None:
        """Steps from 0 to the limit of a weight; None for continuous weights."""
        return self.levels

    def _check_one_limit(self, limit: float | None) -> None:
        if limit is not None and self.channel_dim is not None:
            refuse("limit", "given beside channel_dim", "one of the two")

    def store(self, tensor: Tensor, *, limit: float | None = None, name: str = "tensor") -> Pairs:
        """Saturate a tensor at its limit and round it to levels."""
        check_storable(tensor, name, self.channel_dim)
        wide = tensor.detach()
        wide = wide if wide.dtype == torch.float64 else wide.float()
        if given := self.limit or limit:
            self._check_one_limit(given)
            largest = wide.new_tensor(given)
        else:
            largest = largest_magnitude(wide, self.channel_dim)
            largest = torch.where(largest > 0, largest, 1.0)
        weights = torch.minimum(torch.maximum(wide, -largest), largest)
        if self.steps is not None:
            steps = weights.double() * (self.steps / largest.double())
            # Without the margin, rounding errors would move a stored level to the one below.
            steps = steps.round() if self.rounding == "nearest" else (steps + 1e-6).floor()
            weights = (steps * (largest.double() / self.steps)).to(wide.dtype)
        return Pairs(weights=weights, limit=largest, dtype=tensor.dtype)

    def traced_weight(self, traffic: Traffic) -> Pairs:
        """Target conductances of the weight in the traced matrix-vector products.

        Raises:
            InputError: if no product was traced.
        """
        if not traffic.matrix_inputs:
            raise InputError(
                "the energy of a compute-in-memory device depends on its inputs, and no product "
                "with this tensor was traced; give place(..., example_inputs=a batch) or exclude it"
            )
        return self.store(traffic.matrix_inputs[0].weight)

    def converter_energy(self, traffic: Traffic) -> float:
        """Joules per inference of converters; see `ReadOut`."""
        return self.readout.converters_j(traffic.matrix_inputs, self.array)

    def ideal(self, stored: Pairs) -> Tensor:
        """The weights, rounded to levels."""
        return stored.weights.to(stored.dtype)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        del plain["array"], plain["readout"]
        parts = self.array.describe() | self.readout.describe()
        return {"device": type(self).__name__.lower()} | plain | parts


def normals(chip: Chip, purpose: str, shape: tuple[int, ...], *, fresh: bool = False) -> Tensor:
    """Standard normal numbers of a chip, float32 on the CPU; ``fresh`` ones differ in every use."""
    generator = chip.fresh(purpose) if fresh else chip.generator(purpose)
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


# Beyond this many standard deviations from 0, clipping has no effect in float64.
_FAR = 40.0


def rectified_moments(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``max(0, X)`` for normal ``X``: a conductance cannot be negative.

    With ``a = mean / std``, ``phi`` and ``Phi`` the normal density and distribution, and
    ``h = phi(a) - a Phi(-a)``, the mean is ``mean + std h`` and the variance
    ``std^2 (Phi(a) - a phi(a) + a^2 Phi(-a) - h^2)``, which has no difference of large numbers.

    Both arguments are 0 or more, float64; moments are broadcast and differentiable.

    References:
        N. L. Johnson, S. Kotz, N. Balakrishnan, "Continuous Univariate Distributions" 1, 1994,
        section 10.1.

    Example:
        >>> idle = rectified_moments(torch.tensor(0.0), torch.tensor(1.0))
        >>> [round(float(x), 4) for x in idle]
        [0.3989, 0.3408]
    """
    std = std + torch.zeros_like(mean)
    noisy = std > 0
    # At std = 0 the quotient's gradient would be infinity times 0: a constant takes its place.
    away = (mean / torch.where(noisy, std, 1.0)).clamp(max=_FAR)
    away = torch.where(noisy, away, _FAR)
    below = torch.special.ndtr(-away)
    density = torch.exp(-away.square() / 2) / math.sqrt(2 * math.pi)
    shift = density - away * below
    relative = 1 - below - away * density + away.square() * below - shift.square()
    return mean + std * shift, std.square() * relative
