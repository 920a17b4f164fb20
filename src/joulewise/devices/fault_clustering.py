"""Clustering of measured faults: laws of the failing cells of a column, fitted and tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import chdtrc, gammaln, ndtr, ndtri, xlog1py, xlogy

from joulewise.devices.correlated_map import CorrelatedMap
from joulewise.devices.fault_measurement import FaultMeasurement
from joulewise.errors import TableError, check_in_range, check_kind, refuse

__all__ = ["CorrelatedFit", "fit_correlated_map", "neighbour_correlation"]

Floats = NDArray[np.float64]

# The effect that cells of a column share, and its weight: trapezoids, whose error is below 1e-10.
_EFFECT = np.linspace(-9.0, 9.0, 3001)
_WEIGHT = np.exp(-np.square(_EFFECT) / 2) / (2 * np.pi) ** 0.5 * (_EFFECT[1] - _EFFECT[0])
# First counts of the classes of the test: columns with 0, 1, 2, 3 to 4, 5 to 8 faults and so on.
_CLASSES = (0, 1, 2, 3, 5, 9, 17, 33)
# Columns that are expected in a class of the test, at least; sparser ones are joined.
_LEAST_EXPECTED = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelatedFit:
    """Laws of the number of failing cells in a column, fitted to a measurement.

    Args:
        v_dd: The supply, V.
        bit_error_rate: Fraction of the cells that failed.
        column: Fraction of the variance common to a column, of a `CorrelatedMap`.
        standard_error: Standard error of ``column``, from the curvature of the log-likelihood; 0 if
            it was given.
        shape: Shape of the gamma distribution of the rates of columns, whose counts are then
            negative binomial.
        log_likelihood: Log-likelihood of each law, ``"independent"``, ``"negative binomial"`` and
            ``"correlated"``.
        classes: Smallest number of failing cells in each class of columns.
        observed: Columns in each class.
        expected: Expected columns in each class, by the correlated law.
        p_value: p-value of a chi-square goodness-of-fit test of the correlated law; small values
            reject it. None with too few classes.
    """

    v_dd: float
    bit_error_rate: float
    column: float
    standard_error: float
    shape: float
    log_likelihood: dict[str, float]
    classes: tuple[int, ...]
    observed: tuple[int, ...]
    expected: tuple[float, ...]
    p_value: float | None

    def fault_map(self, measured: FaultMeasurement) -> CorrelatedMap:
        """The fitted law, in arrays of the measured size."""
        return CorrelatedMap(
            column=self.column, rows=measured.rows, columns=measured.columns, layout=measured.layout
        )


def fit_correlated_map(
    measured: FaultMeasurement, v_dd: float | None = None, *, column: float | None = None
) -> CorrelatedFit:
    """Fit laws of clustered faults to the failing cells of each column, by maximum likelihood.

    Args:
        measured: The measurement.
        v_dd: The supply, V; None for the lowest one, where most cells fail.
        column: Fraction of the variance common to a column, for instance as fitted at another
            supply; None to fit it.

    Raises:
        TableError: if it is no measurement, arrays were not read at that supply, or fewer than two
            cells failed.

    References:
        The Gaussian random effect models a threshold-voltage shift common to the cells of a column;
        gamma-distributed rates give negative binomial counts, the usual law of clustered defects
        (C. H. Stapper, IBM J. Res. Dev. 27, 1983).
    """
    check_kind("measured", measured, FaultMeasurement, "a FaultMeasurement", TableError)
    fitted = column is None
    if column is not None:
        check_in_range("column", column, 0.0, 0.9)
    v_dd = measured.supplies_v[0] if v_dd is None else v_dd
    counts = measured.failing_per("column", v_dd)
    total, cells = int(counts.sum()), measured.rows
    if total < 2:
        refuse("the failing cells", f"{total} at {v_dd:g} V", "two or more", TableError)
    mean, rate = float(counts.mean()), total / measured.num_cells
    values, columns = np.unique(counts, return_counts=True)

    def correlated(column: float) -> float:
        return float(-columns @ np.log(_correlated(values, cells, rate, column)))

    def negative_binomial(log_shape: float) -> float:
        shape = np.exp(log_shape)
        ways = gammaln(values + shape) - gammaln(shape) - gammaln(values + 1)
        success = shape / (shape + mean)
        return float(-columns @ (ways + xlogy(shape, success) + xlog1py(values, -success)))

    column, least = _minimum(correlated, 1e-3, 0.9) if column is None else (column, 0.0)
    error, step = 0.0, 1e-3
    if fitted:
        curve = correlated(column + step) - 2 * correlated(column) + correlated(column - step)
        error = step / curve**0.5 if curve > 0 else 0.0
    log_shape, least_of_gamma = _minimum(negative_binomial, -12.0, 6.0)
    chances = _correlated(np.arange(cells + 1), cells, rate, column)
    classes, observed, expected = _in_classes(counts, len(counts) * chances)
    squares = float((np.square(observed - expected) / expected).sum())
    # The mean is fitted, and ``column`` if it is not given.
    degrees_of_freedom = len(classes) - 2 - fitted
    return CorrelatedFit(
        v_dd=v_dd,
        bit_error_rate=rate,
        column=column,
        standard_error=error,
        shape=float(np.exp(log_shape)),
        log_likelihood={
            "independent": float(_binomial(values, cells, rate) @ columns),
            "negative binomial": -least_of_gamma,
            "correlated": -(least or correlated(column)),
        },
        classes=classes,
        observed=tuple(int(n) for n in observed),
        expected=tuple(float(n) for n in expected),
        p_value=(float(chdtrc(degrees_of_freedom, squares)) if degrees_of_freedom > 0 else None),
    )


def neighbour_correlation(measured: FaultMeasurement, v_dd: float) -> tuple[float, float]:
    """Correlation of ``log(1 + faults)`` between arrays that are neighbours in a column of the die.

    Returns:
        Moran's I, and its standard error where there is no correlation.

    Raises:
        TableError: if positions are not known, no two arrays are neighbours, or all have equal
            faults.

    References:
        A. D. Cliff, J. K. Ord, "Spatial Processes", 1981 (the moments under normality).
    """
    check_kind("measured", measured, FaultMeasurement, "a FaultMeasurement", TableError)
    if not measured.positions:
        refuse("positions", "not known", "a measurement read with its floorplan", TableError)
    values = np.log1p(measured.failing_per("array", v_dd))
    values = values - values.mean()
    place = np.asarray(measured.positions)
    away = np.abs(place[:, None] - place)
    near = ((away[..., 0] == 0) & (away[..., 1] == 1)).astype(np.float64)
    # Each pair of neighbours is there twice. For such weights S1 = 2 S0, and S2 is the sum of the
    # squared sums of rows and columns.
    n, links = len(values), near.sum()
    if not links or not values.any():
        got = "without neighbours in a column, or of equal faults"
        refuse("the arrays", got, "two or more arrays that differ", TableError)
    found = float(n / links * (values @ near @ values) / (values @ values))
    s1, s2 = 2 * links, float(np.square(2 * near.sum(0)).sum())
    variance = (n**2 * s1 - n * s2 + 3 * links**2) / ((n**2 - 1) * links**2) - 1 / (n - 1) ** 2
    return found, float(variance) ** 0.5


def _minimum(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    found = optimize.minimize_scalar(function, bounds=(low, high), method="bounded")
    return float(found.x), float(found.fun)


def _correlated(counts: NDArray[np.int64], cells: int, rate: float, column: float) -> Floats:
    """Probability of each number of failing cells in a column of ``cells`` cells."""
    given = ndtr((ndtri(rate) - column**0.5 * _EFFECT) / (1 - column) ** 0.5)
    some = np.array_split(counts, -(-len(counts) // 256))  # tables of 6 MB
    return np.concatenate([np.exp(_binomial(n[:, None], cells, given)) @ _WEIGHT for n in some])


def _binomial(counts: NDArray[np.int64], cells: int, rate: float | Floats) -> Floats:
    """Logarithm of the binomial probability of each count."""
    ways = gammaln(cells + 1) - gammaln(counts + 1) - gammaln(cells - counts + 1)
    found: Floats = ways + xlogy(counts, rate) + xlog1py(cells - counts, -rate)
    return found


def _in_classes(
    counts: NDArray[np.int64], expected: Floats
) -> tuple[tuple[int, ...], Floats, Floats]:
    """Classes of counts, and the columns observed and expected in each, sparse ones joined."""
    seen = np.bincount(counts, minlength=len(expected)).astype(np.float64)
    starts = [0]
    for first in _CLASSES[1:]:
        below, above = expected[starts[-1] : first].sum(), expected[first:].sum()
        if min(below, above) >= _LEAST_EXPECTED:
            starts.append(first)
    return tuple(starts), np.add.reduceat(seen, starts), np.add.reduceat(expected, starts)
