"""Measured programming of analog devices: mean and std of a conductance over its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from joulewise.devices.tables import interpolate, read_csv
from joulewise.errors import TableError, check_in_range, check_kind, refuse

__all__ = ["RERAM", "ConductanceTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConductanceTable:
    """Mean and standard deviation of programmed conductances, linear between targets.

    Args:
        targets: Target conductances, siemens, ascending, two or more.
        means: Mean conductance at each target, siemens, 0 or more.
        stds: Standard deviation at each target, siemens, 0 or more.
        source: Origin of the figures.

    Raises:
        TableError: if the rows are not as above.

    Example:
        >>> table = ConductanceTable(
        ...     targets=(0.0, 40e-6), means=(1e-6, 40e-6), stds=(1e-6, 2e-6), source="made up"
        ... )
        >>> [f"{float(v):.3g}" for v in table.at(torch.tensor(20e-6, dtype=torch.float64))]
        ['2.05e-05', '1.5e-06']
    """

    targets: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        for name in ("targets", "means", "stds"):
            values = getattr(self, name)
            check_kind(name, values, tuple, "a tuple of siemens", TableError)
            if len(values) != len(self.targets) or len(values) < 2:
                allowed = "two numbers or more, as many of each"
                refuse(name, f"{len(values)} numbers", allowed, TableError)
            for value in values:
                check_in_range(name, value, 0.0, 1.0, error=TableError)
        if list(self.targets) != sorted(set(self.targets)):
            refuse("targets", "not ascending", "each once, ascending", TableError)

    @classmethod
    def from_csv(cls, path: str | Path) -> ConductanceTable:
        """Read a CSV file of ``target_siemens,mean_siemens,std_siemens``, in siemens.

        Lines that start with ``#`` are comments, and kept as the source.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        columns = ("target_siemens", "mean_siemens", "std_siemens")
        source, rows = read_csv(path, columns, "conductance table")
        if len(rows) < 2:
            refuse(str(path), f"{len(rows)} rows", "two or more", TableError)
        for place, values in rows:
            for name, value in zip(columns, values, strict=True):
                check_in_range(f"{place}: {name}", value, 0.0, 1.0, error=TableError)
        targets, means, stds = zip(*(values for _, values in rows), strict=True)
        return cls(targets=targets, means=means, stds=stds, source=source or str(path))

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest target, siemens."""
        return self.targets[0], self.targets[-1]

    def at(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation at targets, siemens, the ends beyond them; differentiable."""
        table = torch.tensor([self.means, self.stds], dtype=torch.float64)
        xs = torch.tensor(self.targets, dtype=torch.float64, device=targets.device)
        within = targets.double().clamp(*self.ends)
        found = interpolate(within, xs, table.T.to(targets.device))
        return found[..., 0], found[..., 1]

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        rows = [list(row) for row in zip(self.targets, self.means, self.stds, strict=True)]
        return {"conductances": rows, "conductances_source": self.source}


def _unbiased(
    low_us: float, high_us: float, std_us: Callable[[float], float], source: str
) -> ConductanceTable:
    """Table of 81 targets whose mean conductance equals the target."""
    targets = np.linspace(low_us, high_us, 81)
    siemens = tuple(round(float(t) * 1e-6, 12) for t in targets)  # 40 uS, not a rounding below
    return ConductanceTable(
        targets=siemens,
        means=siemens,
        stds=tuple(max(float(std_us(t)), 0.0) * 1e-6 for t in targets),
        source=source,
    )


def _wan(coefficients: tuple[float, ...], after: str) -> ConductanceTable:
    return _unbiased(
        0.0,
        40.0,
        lambda us: float(np.polynomial.polynomial.polyval(us / 40.0, coefficients)),
        "W. Wan et al., A compute-in-memory chip based on resistive random-access memory, Nature "
        f"608, 2022, extended data figure 3, {after} after programming, up to 40 uS; polynomial as "
        "in aihwkit 1.1 (inference/noise/reram.py). Another reading of the figure, in CrossSim 3, "
        "differs by up to 17 % from 4 to 30 uS and by 0.7 uS at the ends.",
    )


RERAM: Mapping[str, ConductanceTable] = MappingProxyType(
    {
        "wan2022-1s": _wan((0.348, 16.030, -43.853, 45.393, -16.815), "1 s"),
        "wan2022-1day": _wan((0.701, 22.086, -50.773, 47.095, -16.458), "1 day"),
        "wan2022-2days": _wan((0.782, 20.274, -43.507, 37.062, -11.934), "2 days"),
        "milo2021": _unbiased(
            50.0,
            225.0,
            lambda us: -0.009107 * us + 4.782321,
            "V. Milo et al., Accurate program/verify schemes of resistive switching memory (RRAM) "
            "for in-memory neural network circuits, IEEE Trans. Electron Devices 68(8), 2021, "
            "figure 4, IGVVA-100, 50 to 225 uS; line as in CrossSim 3 (RRAM_Milo).",
        ),
    }
)
"""Published programming of ReRAM devices by name; read-only."""
