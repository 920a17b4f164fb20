import math

import numpy as np
import pytest
import torch
from scipy import stats

from joulewise.devices import (
    SRAM,
    Chip,
    Flip,
    IndependentMap,
    SpareRows,
    check_device,
)
from joulewise.errors import InputError

Z = 5.0


def both(rate, bits=8):
    return np.full((2, bits), rate)


def test_the_first_failing_rows_of_each_array_are_replaced():
    """Cell by cell, on whole arrays: 96 words are three arrays of 16 rows of 2 words."""
    repaired = SpareRows(spares=2, rows=16, columns=16)
    starts = set()
    for seed in range(20):
        chip = Chip(seed=seed)
        start = int(chip.generator("first row").integers(16))
        starts.add(start)
        arrays = -(-(start + 48) // 16)
        before = IndependentMap().failing(arrays * 32, both(0.01), chip)[0] // 16
        after = repaired.failing(96, both(0.01), chip)[0] // 16 + start
        for array in range(arrays):
            struck = [row for row in np.unique(before) if row // 16 == array]
            inside = [row for row in struck[2:] if start <= row < start + 48]
            assert [row for row in np.unique(after) if row // 16 == array] == inside
    assert len(starts) > 5


def test_nested_over_rates():
    repaired = SpareRows(spares=1, rows=8, columns=16)
    for seed in range(50):
        chip, earlier = Chip(seed=seed), np.zeros(0, dtype=np.int64)
        for rate in (1e-3, 1e-2, 0.05, 0.3):
            cells = repaired.failing(48, both(rate), chip)[0]
            assert np.isin(earlier, cells).all()
            earlier = cells


@pytest.mark.parametrize(("rate", "words"), [(1e-2, 256), (1e-2, 50), (0.1, 256), (1.0, 100)])
def test_residual_rate_is_the_closed_form(rate, words):
    """Fraction of failing cells, and of words with two, in tensors of more and less than arrays."""
    repaired = SpareRows(spares=3, rows=32, columns=32)
    weights, given = repaired.mixture(torch.full((2, 8), rate, dtype=torch.float64))
    assert float(weights.sum()) == pytest.approx(1)
    one = weights @ given[:, 0, 0]
    two = weights @ (28 * given[:, 0, 0] ** 2 * (1 - given[:, 0, 0]) ** 6)
    cells, pairs = [], []
    for seed in range(1500):
        failing = repaired.failing(words, both(rate), Chip(seed=seed))[0]
        cells.append(len(failing) / (8 * words))
        pairs.append((np.bincount(failing // 8, minlength=words) == 2).mean())
    for samples, expected in ((cells, float(one)), (pairs, float(two))):
        error = np.std(samples, ddof=1) / math.sqrt(len(samples)) + 1e-9
        assert abs(np.mean(samples) - expected) < Z * error


def test_fraction_of_rows_that_stay_is_that_of_its_definition():
    """Averaged over rows: the chance that as many rows before it as there are spares fail."""
    for rows, spares, rate in ((16, 2, 0.01), (300, 7, 1e-3), (64, 63, 0.2)):
        repaired = SpareRows(spares=spares, rows=rows, columns=16)
        stays = repaired.mixture(torch.full((2, 8), rate, dtype=torch.float64))[0][0]
        struck = 1 - (1 - rate) ** 16
        expected = stats.binom.sf(spares - 1, np.arange(rows), struck).mean()
        assert float(stays) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_large_arrays_take_memory_by_row():
    large = SpareRows(rows=1 << 20, spares=1 << 19)
    weights, _ = large.mixture(torch.full((2, 8), 1e-2, dtype=torch.float64))
    struck = 1 - 0.99**256  # nearly all rows of an array, of which half are replaced
    assert float(weights[0]) == pytest.approx(1 - 0.5 / struck, rel=1e-6)


def test_self_check_and_gradient():
    check_device(SRAM(fault=Flip(), fault_map=SpareRows(spares=2, rows=32, columns=64)), seed=5)
    repaired = SpareRows(spares=2, rows=16, columns=16)
    rate = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)

    def residual(rate):
        weights, given = repaired.mixture(rate.expand(2, 8))
        return (weights @ given.flatten(1)).sum()

    assert torch.autograd.gradcheck(residual, rate)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spares": 0}, "^spares is 0; allowed: a whole number, 1 to"),
        ({"spares": 4, "rows": 4}, "^rows is 4; allowed: a whole number, 5 to"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        SpareRows(**fields)


def test_words_may_not_straddle_rows():
    with pytest.raises(InputError, match="^columns of the fault map is 100; allowed: a multiple"):
        SRAM(fault_map=SpareRows(columns=100))


@pytest.mark.parametrize("rate", [1e-18, 1e-9, 1e-3, 0.3, 0.9, 1.0])
def test_gradients_are_finite_at_any_rate(rate):
    at = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    weights, given = SpareRows().mixture(at.expand(2, 8))
    (gradient,) = torch.autograd.grad((weights @ given.flatten(1)).sum(), at)
    assert gradient.isfinite()
    left = float(weights[0].detach())
    assert 0 <= left <= 1
    if rate == 1e-9:  # three failing rows of 256 are too many for two spares
        cells = 256 * rate
        assert left < (256 * cells) ** 2
