"""Profiles: named, cited reliability laws.

Their ``source`` states their limits and is part of every record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from joulewise.devices.reliability_laws import (
    HOROWITZ_SRAM_BIT_J,
    ExponentialLaw,
    Leakage,
    ReliabilityLaw,
)
from joulewise.devices.voltage_table import VoltageRow, VoltageTable
from joulewise.errors import refuse

__all__ = ["PROFILES", "law"]

_STUTZ_2021 = VoltageTable(
    rows=tuple(
        VoltageRow(v_dd, energy * HOROWITZ_SRAM_BIT_J, rate)
        # V / Vmin in steps of 1 / 24, energy / energy(Vmin) = (V / Vmin)^2, bit error rate.
        for v_dd, energy, rate in (
            (0.750, 0.5625, 2.056e-1),
            (0.792, 0.626736111, 5.573e-2),
            (0.833, 0.694444444, 1.115e-2),
            (0.875, 0.765625, 1.29e-3),
            (0.917, 0.840277778, 6.86646e-5),
            (0.958, 0.918402778, 1.90735e-6),
        )
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
    v_min=1.0,
)

_BLOCK_RAM_LEAKAGE = Leakage(
    watts_per_bit=4.04e-12,
    v_dd=0.4,
    exponent_per_v=4.66,
    source=(
        "Exponent: derived from the power of block RAMs of a VC707, which falls by 36.1 % from "
        "0.61 V to 0.54 V (B. Salami et al., Fault characterization through FPGA undervolting, FPL "
        "2018); from 1.0 V to 0.61 V it then falls tenfold, as they measured. Watts: illustrative, "
        "10.1 pA a bit at 0.4 V in another 28 nm process (A. Neale, M. Sachdev, CICC 2014)."
    ),
)


def _block_rams(board: str, rams: int, v_min: float, faults: Mapping[float, int]) -> VoltageTable:
    """Law of undervolted FPGA block RAMs of 16 kbit, from published counts of faults."""
    return VoltageTable(
        rows=tuple(
            VoltageRow(v_dd, HOROWITZ_SRAM_BIT_J * v_dd**2, count / (rams * 16_384))
            for v_dd, count in sorted(faults.items())
        ),
        source=(
            "B. Salami, O. Unsal, A. Cristal, Comprehensive evaluation of supply voltage "
            "underscaling in FPGA on-chip memories, MICRO 2018: faults in the "
            f"{rams} block RAMs of 16 kbit of a {board}, 28 nm, from the authors' public counts; "
            "ambient temperature. The published files hold each fault, and each bit, twice. "
            "Energies: C V^2, not measured; 20 pJ / 64 bits at the nominal 1 V is illustrative "
            "(45 nm, Horowitz, ISSCC 2014, figure 1.1.9)."
        ),
        v_nominal=1.0,
        v_min=v_min,
        leakage=_BLOCK_RAM_LEAKAGE,
    )


# Faulty lines of 64 bytes, and one bit in each.
_DDR3L_LINES = ((1.15, 0.497), (1.20, 0.200), (1.25, 2.1e-4))
_CHANG_2017_C = VoltageTable(
    rows=tuple(
        VoltageRow(v_dd, 8.8e-12 * (v_dd / 1.35) ** 2, lines / 512) for v_dd, lines in _DDR3L_LINES
    ),
    source=(
        "K. K. Chang et al., Understanding reduced-voltage operation in modern DRAM devices, "
        "SIGMETRICS 2017, and the public data DRAM-Voltage-Study: median fraction of 64-byte lines "
        "with errors in the DDR3L modules of vendor C, at nominal timing and 20 degC. At least one "
        "bit of such a line fails, so that bit error rates are lower bounds. Energies: C V^2, not "
        "measured; 8.8 pJ a bit at the nominal 1.35 V, see joulewise.DRAM."
    ),
    v_nominal=1.35,
    v_min=1.30,
)

PROFILES: Mapping[str, ReliabilityLaw] = MappingProxyType(
    {
        "exponential": ExponentialLaw(),
        "stutz2021-14nm": _STUTZ_2021,
        "salami2018-kc705b-28nm": _block_rams(
            "KC705",
            890,
            0.60,
            {0.59: 2, 0.58: 8, 0.57: 26, 0.56: 62, 0.55: 252, 0.54: 690, 0.53: 2274},
        ),
        "salami2018-vc707-28nm": _block_rams(
            "VC707",
            2060,
            0.61,
            {0.60: 4, 0.59: 24, 0.58: 146, 0.57: 772, 0.56: 2732, 0.55: 7520, 0.54: 23706},
        ),
        "chang2017-ddr3l-c": _CHANG_2017_C,
    }
)
"""Reliability laws by name; read-only."""


def law(name: str) -> ReliabilityLaw:
    """The reliability law of one of `PROFILES`, for ``SRAM(law=...)`` or ``DRAM(law=...)``.

    Raises:
        InputError: if there is no such profile.

    Example:
        >>> low, high = law("stutz2021-14nm").eta_range  # 0.750 and 0.958 Vmin
        >>> round(low, 4), high
        (0.6125, 1.0)
    """
    if not isinstance(name, str) or name not in PROFILES:
        refuse("the profile", repr(name), ", ".join(PROFILES))
    return PROFILES[name]
