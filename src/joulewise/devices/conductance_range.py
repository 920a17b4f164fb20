"""Weights as conductances between a lowest one and ``g_max``, in pairs or beside an offset column.

Conductances are in the unit of a weight, which is ``unit`` per siemens.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from joulewise.devices.conductance_pairs import Pairs
from joulewise.devices.conductance_table import ConductanceTable
from joulewise.devices.operating_point import Point, as_point, checked_ends
from joulewise.errors import WeightsError, check_in_range, check_kind, refuse

__all__ = ["G_RANGE", "ConductanceRange"]

G_RANGE = (1e-7, 1e-3)
"""The default range of ``g_max``, siemens; narrowed to what the devices allow."""


class ConductanceRange:
    """Base of arrays whose devices have a lowest conductance, ``g_min`` or ``g_max / on_off``.

    The fields are those of `Crossbar`.
    """

    __slots__ = ()
    sigma: float
    variability: float
    programming: ConductanceTable | None
    on_off: float
    g_min: float
    mapping: Literal["pair", "offset"]
    wire_ohm: float
    g_range: tuple[float, float]

    def _check_range(self) -> None:
        """Refuse two lowest conductances, and a ``g_range`` that the devices do not allow."""
        if self.on_off != math.inf:
            check_in_range("on_off", self.on_off, 1.0, 1e12, open_low=True)
        check_in_range("g_min", self.g_min, 0.0, 0.5)
        if self.g_min and self.on_off != math.inf:
            refuse("g_min", f"{self.g_min:g} beside on_off", "one of the two")
        ends = checked_ends("g_range", self.g_range, 0.0, 1.0, "siemens")
        object.__setattr__(self, "g_range", ends)
        allowed = "one of joulewise.devices.RERAM, or ConductanceTable.from_csv('a table')"
        check_kind("programming", self.programming, ConductanceTable | None, allowed)
        start, end = (0.0, 1.0) if self.programming is None else self.programming.ends
        if self.programming is not None and (self.sigma or self.variability):
            refuse("programming", "given beside sigma or variability", "one of the two")
        if self.g_min and not start <= self.g_min < end:
            allowed = f"{start:g} to below {end:g} S, the targets of programming"
            refuse("g_min", self.g_min, allowed)
        low, high = self._least_g_max, end
        if low >= high and self.on_off != math.inf:
            allowed = f"above 1, below {high / start:g}, for g_max / on_off of {start:g} S or more"
            refuse("on_off", self.on_off, allowed)
        if low >= high:
            allowed = f"below {high / 2:g} S, half of the highest g_max; or on_off, a ratio"
            refuse("g_min", f"{self.lowest:g} S", allowed)
        if self.g_range == G_RANGE and self._g_ends[0] >= self._g_ends[1]:
            allowed = f"a range of g_max within {low:g} to {high:g} S"
            refuse("g_range", f"{self.g_range}", allowed)
        if self.g_range != G_RANGE and not low <= self.g_range[0] < self.g_range[1] <= high:
            allowed = f"within {low:g} to {high:g} S, by the lowest conductance and programming"
            refuse("g_range", self.g_range, allowed)

    @property
    def lowest(self) -> float:
        """``g_min``, or the lowest target of ``programming``, siemens; 0 with ``on_off``."""
        if self.on_off != math.inf or self.g_min or self.programming is None:
            return self.g_min
        return self.programming.ends[0]

    @property
    def _least_g_max(self) -> float:
        """The lowest ``g_max``: twice the lowest conductance, or with it a target of the table."""
        if self.on_off != math.inf and self.programming is not None:
            return self.programming.ends[0] * self.on_off
        return 2 * self.lowest

    @property
    def _g_ends(self) -> tuple[float, float]:
        """Range of ``g_max`` in which all targets are within the table of programming."""
        high = 1.0 if self.programming is None else self.programming.ends[1]
        return max(self.g_range[0], self._least_g_max), min(self.g_range[1], high)

    def _targets(self, stored: Pairs, unit: Tensor) -> tuple[Tensor, ...]:
        """Targets of the active and the idle device of pairs, or of the one of an offset.

        The idle one is one number, or one for each scale; it broadcasts against the weights.
        """
        weights, base = stored.weights, self._base(stored, unit)
        if self.mapping == "offset":
            return (weights + (stored.limit + base).to(weights),)
        return weights.abs() + base.to(weights), base.to(weights)

    def _width(self, stored: Pairs) -> Tensor:
        """Range of conductances: of weights of one sign, or of both."""
        return stored.limit.double() * (2 if self.mapping == "offset" else 1)

    def _base(self, stored: Pairs, unit: Tensor) -> Tensor:
        """The lowest conductance."""
        return unit * self.lowest if self.lowest else self._width(stored) / (self.on_off - 1)

    def _ends(self, stored: Pairs, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Conductances of devices that are stuck off and on."""
        base = self._base(stored, unit)
        return base, base + self._width(stored)

    def _unit(self, stored: Pairs, point: Point) -> Tensor:
        """Weight per siemens, ``1 / c``, float64, broadcastable against the weights.

        Raises:
            WeightsError: if the number of points is neither 1 nor that of the columns.
        """
        g_max, weights = as_point(point).to(stored.weights.device), stored.weights
        if g_max.ndim:
            axis = len(weights) if weights.ndim > 1 else 1
            if weights.ndim < 2 or len(g_max) != axis:
                allowed = f"one, or {axis}, one for each index of the first axis"
                refuse("g_max", f"{len(g_max)} numbers", allowed, WeightsError)
            g_max = g_max.reshape(-1, *(1,) * (weights.ndim - 1))
        width = self._width(stored)
        # The range of conductances: g_max less g_min, or less g_max / on_off.
        if self.lowest:
            return width / (g_max - self.lowest)
        return (width + width / (self.on_off - 1)) / g_max
