"""Retention of dynamic memories: cells that lose their charge before they are refreshed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.errors import check_in_range

__all__ = ["DDR3L_70C", "GAIN_CELL_65NM", "Retention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Log-normal distribution of the retention times of cells.

    Args:
        median_s: Median retention time, seconds, above 0.
        log_std: Standard deviation of the natural logarithm of retention times, above 0.
        source: Origin of the figures, and the range that they were measured in.

    Example:
        >>> retention = Retention(median_s=1.0, log_std=1.0, source="made up")
        >>> round(float(retention.failed_fraction(torch.tensor(0.1, dtype=torch.float64))), 5)
        0.01065
    """

    median_s: float
    log_std: float
    source: str

    def __post_init__(self) -> None:
        check_in_range("median_s", self.median_s, 0.0, 1e15, open_low=True)
        check_in_range("log_std", self.log_std, 0.0, 100.0, open_low=True)

    def failed_fraction(self, seconds: Tensor) -> Tensor:
        """Fraction of cells whose retention time is below ``seconds``; differentiable."""
        quantile = (torch.log(seconds) - math.log(self.median_s)) / self.log_std
        failed: Tensor = torch.special.ndtr(quantile)
        return failed


DDR3L_70C = Retention(
    median_s=723.2,
    log_std=1.13,
    source=(
        "Derived from the public retention profiles of DRAM-Voltage-Study (K. K. Chang et al., "
        "SIGMETRICS 2017), one 2 GiB DDR3L module (A10) at 70 degC and 1.35 V: 53 failing bits of "
        "1.72e10 at 1.024 s, 481 at 1.536 s, 1,700 at 2.048 s. A line through their quantiles "
        "gives 55, 441 and 1,790. Longer intervals, at which networks notice, extrapolate. From "
        "1.35 V to 1.15 V the counts change by less than 7 %."
    ),
)
"""Retention of one DDR3L module at 70 degC, extrapolated from intervals of 1 to 2 s."""

GAIN_CELL_65NM = Retention(
    median_s=1e-3,
    log_std=0.685,
    source=(
        "Illustrative: 45 us at a failure rate of 3e-6, the refresh interval that RANA (F. Tu et "
        "al., ISCA 2018, 65 nm) starts from, with an assumed median of 1 ms. Retention of gain "
        "cells is log-normal (R. Giterman, N. Edri et al., IEEE TCAS-I 63(2), 2016)."
    ),
)
"""Illustrative retention of 65 nm gain-cell embedded DRAM."""
