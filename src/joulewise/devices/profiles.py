"""Profiles: named, cited reliability laws.

What a profile does not know is in its source text, which travels into every record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from joulewise.devices.laws import (
    HOROWITZ_SRAM_BIT_J,
    ExponentialLaw,
    ReliabilityLaw,
    VoltageRow,
    VoltageTable,
)
from joulewise.errors import refuse

__all__ = ["PROFILES", "law"]

# Stutz et al., MLSys 2021, figure 1: V / Vmin, energy / energy(Vmin), bit error rate. Supply steps
# of Vmin / 24, and energies (V / Vmin)^2. The row of Vmin itself (1, 1, no error in 1,048,576 bits)
# has no logarithm.
_STUTZ_FIGURE_1 = (
    (0.750, 0.5625, 2.056e-1),
    (0.792, 0.626736111, 5.573e-2),
    (0.833, 0.694444444, 1.115e-2),
    (0.875, 0.765625, 1.29e-3),
    (0.917, 0.840277778, 6.86646e-5),
    (0.958, 0.918402778, 1.90735e-6),
)

_STUTZ_2021 = VoltageTable(
    rows=tuple(
        VoltageRow(volts, energy * HOROWITZ_SRAM_BIT_J, rate)
        for volts, energy, rate in _STUTZ_FIGURE_1
    ),
    source=(
        "D. Stutz, N. Chandramoorthy, M. Hein, B. Schiele, Bit Error Robustness for "
        "Energy-Efficient DNN Accelerators, MLSys 2021, figure 1. Bit error rates: measured on 32 "
        "14 nm SRAM arrays of 512 x 64 cells (1,048,576 bits); the rate at 0.958 Vmin rests on 2 "
        "failing bits, so it is weak. Voltages: relative to Vmin, the lowest without an error; no "
        "absolute volts are published. Vmin itself (0 errors) has no logarithm and is left out: "
        "eta = 1 is 0.958 Vmin, which spends 0.918 of the energy at Vmin. Energies: (V / Vmin)^2 "
        "as the authors plot them, not measured, leakage excluded. Joules: derived and "
        "illustrative, relative energy times 20 pJ / 64 bits (45 nm, Horowitz, ISSCC 2014, figure "
        "1.1.9)."
    ),
    voltage_unit="Vmin",
)

PROFILES: Mapping[str, ReliabilityLaw] = MappingProxyType(
    {"exponential": ExponentialLaw(), "stutz2021-14nm": _STUTZ_2021}
)
"""Reliability laws by name; read-only."""


def law(name: str) -> ReliabilityLaw:
    """The reliability law of a profile.

    Args:
        name: One of `PROFILES`.

    Returns:
        The law, for ``SRAM(law=...)``.

    Raises:
        InputError: if there is no such profile.

    Example:
        >>> low, high = law("stutz2021-14nm").eta_range  # 0.750 and 0.958 Vmin
        >>> round(low, 4), high
        (0.6125, 1.0)
    """
    if name not in PROFILES:
        refuse("the profile", repr(name), ", ".join(PROFILES))
    return PROFILES[name]
