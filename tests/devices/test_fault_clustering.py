import numpy as np
import pytest

from joulewise.devices import (
    Chip,
    CorrelatedMap,
    FaultMeasurement,
    IndependentMap,
    fit_correlated_map,
    neighbour_correlation,
)
from joulewise.errors import InputError, TableError

ROWS, COLUMNS, ARRAYS = 128, 16, 300


def measured(fault_map, rates=(0.02, 0.005), seed=1, **fields):
    """A measurement of arrays that fail as a fault map says, at 0.5, 0.6 V and so on."""
    bits, size = 8, ROWS * COLUMNS
    first_failure_v = np.zeros(ARRAYS * size)
    supplies_v = tuple(0.5 + 0.1 * n for n in range(len(rates)))
    for v_dd, rate in zip(supplies_v, rates, strict=True):
        cells = fault_map.failing(ARRAYS * size // bits, np.full((2, bits), rate), Chip(seed=seed))[
            0
        ]
        first_failure_v[cells] = v_dd
    # Words are side by side; the columns of an interleaved row are those of one bit.
    table = first_failure_v.reshape(-1, COLUMNS // bits, bits).transpose(0, 2, 1).reshape(-1)
    cells = np.flatnonzero(table)
    return FaultMeasurement(
        rows=ROWS,
        columns=COLUMNS,
        arrays=ARRAYS,
        supplies_v=supplies_v,
        cells=tuple(cells.tolist()),
        first_failure_v=tuple(table[cells].tolist()),
        layout="interleaved",
        **fields,
    )


def law_of(share):
    return CorrelatedMap(column=share, rows=ROWS, columns=COLUMNS, layout="interleaved")


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_share_of_a_simulated_measurement_is_recovered(share):
    found = measured(law_of(share))
    for v_dd in found.supplies_v:
        fit = fit_correlated_map(found, v_dd)
        assert abs(fit.column - share) < 5 * fit.standard_error
        assert fit.standard_error < 0.06
        assert fit.log_likelihood["correlated"] > fit.log_likelihood["independent"] + 100
        assert fit.p_value > 1e-4
        assert sum(fit.observed) == ARRAYS * COLUMNS
        assert sum(fit.expected) == pytest.approx(ARRAYS * COLUMNS, rel=1e-6)
    again = fit_correlated_map(found, found.supplies_v[1], column=fit_correlated_map(found).column)
    assert again.p_value > 1e-4
    assert again.log_likelihood["correlated"] <= fit.log_likelihood["correlated"] + 1e-6


def test_independent_cells_have_no_share():
    fit = fit_correlated_map(measured(IndependentMap()))
    assert fit.column < 0.01
    assert fit.shape > 10  # close to Poisson
    wrong = fit_correlated_map(measured(IndependentMap()), column=0.4)
    assert wrong.p_value < 1e-6


def test_the_fitted_map_has_the_measured_arrays():
    found = measured(law_of(0.5))
    fitted = fit_correlated_map(found).fault_map(found)
    assert (fitted.rows, fitted.columns, fitted.layout) == (ROWS, COLUMNS, "interleaved")
    fitted.check(8)


def test_too_few_faults_and_other_supplies():
    found = measured(IndependentMap(), rates=(0.01, 1e-9))
    with pytest.raises(TableError, match=r"the failing cells is 0 at 0.6 V; allowed: two or more"):
        fit_correlated_map(found, 0.6)
    with pytest.raises(TableError, match=r"^v_dd is 0.7; allowed: one of 0.5, 0.6"):
        fit_correlated_map(found, 0.7)


def test_a_test_needs_classes_to_spare():
    fit = fit_correlated_map(measured(IndependentMap(), rates=(1e-4,)))
    assert len(fit.classes) <= 3
    assert fit.p_value is None
    assert fit_correlated_map(measured(IndependentMap()), column=0.0).standard_error == 0.0
    with pytest.raises(InputError, match=r"^column is 2; allowed: 0 to 0.9"):
        fit_correlated_map(measured(IndependentMap()), column=2.0)


@pytest.mark.parametrize("rate", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_classes_of_high_rates_are_not_sparse(rate, share):
    """The law that was drawn from is not rejected, and one of another share is, if tested."""
    fault_map = law_of(share) if share else IndependentMap()
    found = measured(fault_map, rates=(rate,))
    for given, right in ((share, True), (0.7, False)):
        fit = fit_correlated_map(found, column=given)
        assert min(fit.expected) >= 5 or len(fit.expected) == 1
        assert fit.p_value is None or (fit.p_value > 1e-4) == right


@pytest.mark.parametrize("other", ["a", None, IndependentMap()])
def test_what_is_no_measurement(other):
    for function in (fit_correlated_map, neighbour_correlation):
        with pytest.raises(TableError, match="^measured is .*; allowed: a FaultMeasurement"):
            function(other, 0.5)


def test_arrays_without_neighbours():
    fields = {"rows": 2, "columns": 8, "supplies_v": (0.5,), "first_failure_v": (0.5, 0.5)}
    alone = FaultMeasurement(arrays=1, cells=(1, 2), positions=((0, 0),), **fields)
    alike = FaultMeasurement(arrays=2, cells=(1, 17), positions=((0, 0), (0, 1)), **fields)
    for found in (alone, alike):
        with pytest.raises(TableError, match="^the arrays is without neighbours in a column, or"):
            neighbour_correlation(found, 0.5)


def test_neighbour_correlation():
    places = tuple((n // 20, n % 20) for n in range(ARRAYS))
    alone = measured(IndependentMap(), positions=places)
    correlation, error = neighbour_correlation(alone, 0.5)
    assert abs(correlation) < 5 * error
    # The same arrays in the order of their faults: neighbours are alike.
    order = np.argsort(np.argsort(alone.failing_per("array", 0.5), kind="stable"))
    sorted_places = tuple(places[rank] for rank in order)
    alike = measured(IndependentMap(), positions=sorted_places)
    assert neighbour_correlation(alike, 0.5)[0] > 10 * error
    with pytest.raises(TableError, match=r"positions is not known"):
        neighbour_correlation(measured(IndependentMap()), 0.5)
