"""Wire resistance: the first-order correction against the nodal equations."""

import numpy as np
import pytest
import torch

from joulewise.devices import solved_conductances, wire_factors

# README of badcrossbar 1.1.0 (MIT): a crossbar of 3 by 5 devices, wires of 0.5 ohm.
VOLTS = np.array([1.5, 2.3, 1.7])
OHMS = np.array(
    [[345, 903, 755, 257, 646], [652, 401, 508, 166, 454], [442, 874, 190, 244, 635]], dtype=float
)
CURRENTS = [0.01158503, 0.00919064, 0.01511568, 0.02583321, 0.00981179]


def first_order(conductances, ohm):
    return conductances * wire_factors(torch.from_numpy(conductances), ohm).numpy()


def direct(conductances, ohm):
    """Effective conductances by dense nodal equations, one driven row at a time."""
    rows, columns = conductances.shape
    found = np.zeros((rows, columns))
    for driven in range(rows):
        a, b = np.zeros((2 * rows * columns,) * 2), np.zeros(2 * rows * columns)
        for i in range(rows):
            for j in range(columns):
                row, column = i * columns + j, rows * columns + i * columns + j
                pairs = [(row, column, conductances[i, j])]
                if j + 1 < columns:
                    pairs.append((row, row + 1, 1 / ohm))
                if i + 1 < rows:
                    pairs.append((column, column + columns, 1 / ohm))
                for one, other, siemens in pairs:
                    a[one, one] += siemens
                    a[other, other] += siemens
                    a[one, other] -= siemens
                    a[other, one] -= siemens
                if j == 0:
                    a[row, row] += 1 / ohm
                    b[row] += (i == driven) / ohm
                if i + 1 == rows:
                    a[column, column] += 1 / ohm
        volts = np.linalg.solve(a, b)
        found[driven] = volts[rows * columns + (rows - 1) * columns :] / ohm
    return found


def test_the_solver_is_that_of_dense_nodal_equations():
    generator = np.random.default_rng(0)
    for shape in ((1, 1), (1, 4), (5, 1), (4, 6)):
        conductances = generator.uniform(1e-4, 1e-2, shape)
        np.testing.assert_allclose(
            solved_conductances(conductances, 2.0), direct(conductances, 2.0), rtol=1e-10
        )


def test_currents_of_a_published_example():
    """Those that badcrossbar 1.1.0 gives."""
    currents = VOLTS @ solved_conductances(1 / OHMS, 0.5)
    np.testing.assert_allclose(currents, CURRENTS, rtol=1e-6)
    np.testing.assert_allclose(VOLTS @ first_order(1 / OHMS, 0.5), CURRENTS, rtol=2e-4)


def test_one_device_is_in_series_with_its_wires():
    for function in (solved_conductances, first_order):
        found = function(np.array([[1e-3]]), 10.0)
        assert found[0, 0] == pytest.approx(1 / (1e3 + 2 * 10.0), rel=1e-12)


@pytest.mark.parametrize(("size", "error"), [(16, 2e-3), (64, 6e-3), (128, 1.5e-2)])
def test_first_order_is_within_a_few_per_cent_of_the_drop(size, error):
    """Random conductances up to 40 uS and segments of 1 ohm: the currents of all columns."""
    generator = np.random.default_rng(size)
    conductances = generator.uniform(0, 40e-6, (size, size))
    volts = generator.uniform(0, 0.2, size)
    exact, ideal = volts @ solved_conductances(conductances, 1.0), volts @ conductances
    found = volts @ first_order(conductances, 1.0)
    assert np.abs(found - exact).mean() < error * np.abs(ideal - exact).mean()


def test_first_order_is_exact_to_first_order():
    generator = np.random.default_rng(1)
    conductances = generator.uniform(1e-5, 1e-3, (7, 9))
    drops = [
        [function(conductances, ohm) - conductances for ohm in (1e-2, 1e-3)]
        for function in (solved_conductances, first_order)
    ]
    # The sums over an array of rows and columns agree, with an error of second order.
    for exact, found, small in zip(*drops, (1e-3, 1e-4), strict=True):
        np.testing.assert_allclose(found.sum(), exact.sum(), rtol=small)


def test_gradient():
    conductances = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: wire_factors(g, 0.1), conductances)
