"""Measured programming of analog devices: mean and std of a conductance over its target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from joulewise.devices.tables import has_column, interpolate, read_csv
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
        """Read a CSV file of ``target_siemens,mean_siemens,std_siemens``, a row for each target.

        Or of ``target_siemens,measured_siemens``, a row for each device: two or more of each
        target. Columns that end in ``_us`` are in microsiemens; others are ignored. Lines that
        start with ``#`` are comments, and kept as the source.

        Raises:
            TableError: if the file cannot be read or a line is malformed; the message names it.
        """
        raw = any(has_column(path, f"measured_{unit}") for unit in ("siemens", "us"))
        columns = ("target", "measured") if raw else ("target", "mean", "std")
        names = [f"{name}_siemens" for name in columns]
        units = {f"{name}_us": (f"{name}_siemens", 1e6) for name in columns}
        source, rows = read_csv(path, names, "conductance table", units=units)
        for place, values in rows:
            for name, value in zip(names, values, strict=True):
                check_in_range(f"{place}: {name}", value, 0.0, 1.0, error=TableError)
        found = np.array([values for _, values in rows]).reshape(-1, len(names))
        if raw:
            return cls.of_devices(found[:, 0], found[:, 1], source=source or Path(path).name)
        if len(found) < 2:
            refuse(str(path), f"{len(found)} rows", "two or more", TableError)
        targets, means, stds = (tuple(column) for column in found.T.tolist())
        return cls(targets=targets, means=means, stds=stds, source=source or Path(path).name)

    @classmethod
    def of_devices(cls, targets: ArrayLike, measured: ArrayLike, *, source: str) -> Self:
        """Mean and standard deviation, at each target, of measured devices.

        Args:
            targets: Target of each device, siemens ``[devices]``; two or more of each.
            measured: Its conductance, siemens ``[devices]``.
            source: Origin of the figures.

        Raises:
            TableError: if a target has fewer than two devices, or the table is not as above.
        """
        programmed, read = np.asarray(targets, dtype=float), np.asarray(measured, dtype=float)
        if programmed.ndim != 1 or programmed.shape != read.shape:
            got = f"of shape {read.shape} beside targets of shape {programmed.shape}"
            refuse("measured", got, "one number for each device, as many as targets", TableError)
        each, counts = np.unique(programmed, return_counts=True)
        for target, count in zip(each, counts, strict=True):
            if count < 2:
                refuse(f"target {target:g}", f"that of {count} device", "two or more", TableError)
        groups = [read[programmed == target] for target in each]
        return cls(
            targets=tuple(each.tolist()),
            means=tuple(float(group.mean()) for group in groups),
            stds=tuple(float(group.std(ddof=1)) for group in groups),
            source=source,
        )

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
