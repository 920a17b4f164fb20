"""Reliability laws: bit error rate and access energy of a memory over its supply.

Both are functions of ``eta``, the energy of an access over that of a reliable access; a law with a
voltage axis converts supply voltages to ``eta``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import OperatingPointError, check_in_range

__all__ = ["ExponentialLaw", "Leakage", "ReliabilityLaw"]

# Horowitz, ISSCC 2014, figure 1.1.9 (45 nm): a 64-bit access to a 32 kB cache costs 20 pJ.
HOROWITZ_SRAM_BIT_J = 20e-12 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Leakage of a cell over the supply: ``watts_per_bit (V / v_dd) exp(k (V - v_dd))``.

    Subthreshold current rises exponentially with the supply, by drain-induced barrier lowering.

    Args:
        watts_per_bit: Watts of one bit at ``v_dd``, above 0.
        v_dd: The supply at which they are stated, V, above 0.
        exponent_per_v: ``k``, 1/V, 0 or more.
        source: Origin of the figures.
    """

    watts_per_bit: float
    v_dd: float
    exponent_per_v: float
    source: str

    def __post_init__(self) -> None:
        check_in_range("watts_per_bit", self.watts_per_bit, 0.0, 1.0, open_low=True)
        check_in_range("v_dd", self.v_dd, 0.0, 100.0, open_low=True)
        check_in_range("exponent_per_v", self.exponent_per_v, 0.0, 1e3)

    def power_w(self, v_dd: Tensor) -> Tensor:
        """Watts of one bit at a supply, V; float64, differentiable."""
        return (
            self.watts_per_bit
            * (v_dd / self.v_dd)
            * torch.exp(self.exponent_per_v * (v_dd - self.v_dd))
        )


class ReliabilityLaw(ABC):
    """Interface of a reliability law: a frozen, hashable value.

    Functions are differentiable, work within `torch.func.vmap`, and are called within their range.

    Attributes:
        voltage_unit: Unit of the supply.
        leakage: Leakage of a cell; None if it is not known.
    """

    voltage_unit: str = "V"
    leakage: Leakage | None = None

    @abstractmethod
    def ends(self, knob: str) -> tuple[float, float]:
        """Least and most reliable point, as ``"eta"``, ``"v_dd"`` or ``"bit_error_rate"``.

        Raises:
            OperatingPointError: for ``"v_dd"``, if the law has no voltage axis.
        """

    @property
    def eta_range(self) -> tuple[float, float]:
        """Lowest and highest ``eta`` for which the law holds."""
        return self.ends("eta")

    @abstractmethod
    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """Probability that a cell fails, in [0, 1]; decreases with ``eta``."""

    @abstractmethod
    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """Joules per access to one bit."""

    def eta(self, v_dd: Tensor) -> Tensor:
        """Normalised energy at a supply voltage, if the law has a voltage axis."""
        raise NotImplementedError

    def v_dd(self, eta: Tensor) -> Tensor:
        """Supply voltage at ``eta``, if the law has a voltage axis."""
        raise NotImplementedError

    @property
    def reference_supplies(self) -> dict[str, float]:
        """Supplies to compare with, by name: ``"nominal supply"`` and ``"V_min"``, if known."""
        return {}

    def access_j_at(self, v_dd: float) -> float:
        """Joules per access to one bit at a supply of `reference_supplies`.

        Above the range of the law, energy is taken to rise with the square of the supply.
        """
        last = self.ends("v_dd")[1]
        within = self.eta(torch.tensor(min(v_dd, last), dtype=torch.float64))
        return float(self.energy_per_bit_j(within)) * max(v_dd / last, 1.0) ** 2

    @abstractmethod
    def cheapest_eta(self, bit_error_rate: Tensor) -> Tensor:
        """The lowest ``eta`` whose bit error rate is at most the one given."""

    def eta_at(self, knob: str, points: Tensor) -> Tensor:
        """Convert points on a knob, named as for `ends`, to ``eta``."""
        if knob == "eta":
            return points
        return self.eta(points) if knob == "v_dd" else self.cheapest_eta(points)

    def converted(self, given: str, knob: str, values: Tensor) -> Tensor:
        """Convert values of one quantity to another, both named as for `ends`.

        Raises:
            OperatingPointError: if a value is outside the law's range.
        """
        low, high = sorted(self.ends(given))
        field = f"v_dd ({self.voltage_unit})" if given == "v_dd" else given
        for number in values.detach().reshape(-1).tolist():
            check_in_range(field, number, low, high, error=OperatingPointError)
        points = self.eta_at(given, values)
        if knob != "eta":
            points = self.v_dd(points) if knob == "v_dd" else self.bit_error_rate(points)
        # Clamped: rounding may lead out of the range at its ends.
        low, high = sorted(self.ends(knob))
        return points.clamp(low, high)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain data for records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialLaw(ReliabilityLaw):
    """Exponential law: ``bit_error_rate(eta) = exp(-a eta)``, energy proportional to ``eta``.

    Args:
        a: Decay constant, above 0. 12.8 is the value in the public code of the group that uses the
            law (FaultyMemory, ``energy_consumption(a=12.8)``); the bit error rate at ``eta = 1`` is
            then 2.8e-6.
        nominal_energy_per_bit_j: Joules per access to one bit at ``eta = 1``, above 0. The default
            is Horowitz's 20 pJ for 64 bits of a 32 kB cache in 45 nm.

    Example:
        >>> law = ExponentialLaw()
        >>> round(float(law.bit_error_rate(torch.tensor(0.5, dtype=torch.float64))), 6)
        0.001662

    References:
        G. B. Hacene et al., "Training modern deep neural networks for memory-fault robustness",
        ISCAS 2019, arXiv 1911.10287 (the law). M. Horowitz, "Computing's energy problem (and what
        we can do about it)", ISSCC 2014, figure 1.1.9 (the joules).
    """

    a: float = 12.8
    nominal_energy_per_bit_j: float = HOROWITZ_SRAM_BIT_J

    def __post_init__(self) -> None:
        check_in_range("a", self.a, 0.0, 1e6, open_low=True)
        nominal = self.nominal_energy_per_bit_j
        check_in_range("nominal_energy_per_bit_j", nominal, 0.0, 1.0, open_low=True)

    def ends(self, knob: str) -> tuple[float, float]:
        """``eta`` from 0, where every cell fails, to 1; there is no voltage axis.

        Raises:
            OperatingPointError: for ``"v_dd"``.
        """
        if knob == "v_dd":
            raise OperatingPointError(
                "v_dd has no meaning on the exponential law, which has no voltage axis; allowed: "
                "eta, bit_error_rate, or a measured voltage table"
            )
        return (0.0, 1.0) if knob == "eta" else (1.0, math.exp(-self.a))

    def bit_error_rate(self, eta: Tensor) -> Tensor:
        """``exp(-a eta)``."""
        return torch.exp(-self.a * eta)

    def energy_per_bit_j(self, eta: Tensor) -> Tensor:
        """``eta`` times the nominal energy."""
        return self.nominal_energy_per_bit_j * eta

    def cheapest_eta(self, bit_error_rate: Tensor) -> Tensor:
        """``-log(bit_error_rate) / a``; 1 where the rate at ``eta = 1`` is below any float."""
        return (-torch.log(bit_error_rate) / self.a).clamp(0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return {"law": "exponential", **asdict(self)}
