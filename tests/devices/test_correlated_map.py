import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from joulewise.devices import Chip, CorrelatedMap
from joulewise.errors import InputError

Z = 5.0


def both(rate, bits=8):
    return np.full((2, bits), rate)


def joint(rate, shared):
    """P(two cells fail) whose margins share a latent part: a fine sum, not Gauss-Hermite."""
    x = np.linspace(-10, 10, 40001)
    given = ndtr((ndtri(rate) - math.sqrt(shared) * x) / math.sqrt(1 - shared))
    return float((given**2 * np.exp(-(x**2) / 2)).sum() * (x[1] - x[0]) / math.sqrt(2 * math.pi))


def chip_arrays(law, rate, rows, chips):
    for seed in range(chips):
        fails = np.zeros(rows * law.columns)
        fails[law.failing(rows * law.columns // 8, both(rate), Chip(seed=seed))[0]] = 1
        yield fails.reshape(rows, law.columns)


def pairs(fails, axis):
    """Fraction of pairs of cells along an axis that fail together."""
    count, size = fails.sum(axis), fails.shape[axis]
    return float((count * (count - 1)).mean() / (size * (size - 1)))


def block_pairs(fails):
    blocks = fails.reshape(fails.shape[0] // 8, 8, fails.shape[1] // 16, 16)
    return pairs(blocks.transpose(0, 2, 1, 3).reshape(-1, 128), 1)


def z_of(samples, expected):
    samples = np.asarray(samples)
    return (samples.mean() - expected) / (samples.std(ddof=1) / math.sqrt(len(samples)))


@pytest.mark.parametrize("rate", [0.01, 0.2])
@pytest.mark.parametrize(
    "law",
    [
        CorrelatedMap(row=0.3, columns=64),
        CorrelatedMap(column=0.3, columns=64),
        CorrelatedMap(cluster=0.3, columns=64, cluster_rows=8, cluster_columns=16),
        CorrelatedMap(row=0.1, column=0.1, cluster=0.2, columns=64, cluster_rows=8),
    ],
    ids=["row", "column", "cluster", "all"],
)
def test_correlated_marginals_are_exact_and_pairs_are_gaussian(law, rate):
    rows, chips = 64, 800
    arrays = list(chip_arrays(law, rate, rows, chips))
    assert abs(z_of([fails.mean() for fails in arrays], rate)) < Z

    # Pairs along a row share the row effect, and the block's if they are in one block.
    row, column, cluster = law.row, law.column, law.cluster
    in_block_row = (law.cluster_columns - 1) / (law.columns - 1)
    along_row = in_block_row * joint(rate, row + cluster) + (1 - in_block_row) * joint(rate, row)
    assert abs(z_of([pairs(fails, 1) for fails in arrays], along_row)) < Z
    in_block_column = (law.cluster_rows - 1) / (rows - 1)
    along_column = in_block_column * joint(rate, column + cluster) + (1 - in_block_column) * joint(
        rate, column
    )
    assert abs(z_of([pairs(fails, 0) for fails in arrays], along_column)) < Z

    # The structure is there: chance alone is refuted.
    seen = {
        "row": [pairs(fails, 1) for fails in arrays],
        "column": [pairs(fails, 0) for fails in arrays],
        "cluster": [block_pairs(fails) for fails in arrays],
    }
    for name, samples in seen.items():
        if getattr(law, name) > 0:
            assert z_of(samples, rate**2) > Z


@pytest.mark.parametrize(
    ("shared", "bound"), [(0.1, 1e-10), (0.6, 1e-10), (0.7, 1e-7), (0.8, 1e-4), (0.9, 5e-3)]
)
def test_the_quadrature_error_is_as_the_docstring_says(shared, bound):
    """Moments of a word are polynomials in its conditional rate: compare its first powers."""
    x = np.linspace(-12, 12, 200001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    for rate in (2.8e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.5):
        law = CorrelatedMap(row=shared / 2, cluster=shared / 2)
        weights, given = law.mixture(torch.full((1, 1), rate, dtype=torch.float64))
        nodes = given[:, 0, 0].numpy()
        exact = ndtr((ndtri(rate) - math.sqrt(shared) * x) / math.sqrt(1 - shared))
        for function in (lambda t: t, lambda t: t**2, lambda t: t**3, lambda t: t * (1 - t)):
            integral = (function(exact) * density).sum()
            assert (weights.numpy() * function(nodes)).sum() == pytest.approx(integral, rel=bound)


def test_margins_have_unit_variance():
    law = CorrelatedMap(row=0.2, column=0.3, cluster=0.1, columns=64)
    latent = np.stack([law._latent(64 * 64, Chip(seed=seed)) for seed in range(300)])
    squares = (latent**2).mean(1)
    assert abs(z_of(squares, 1.0)) < Z
    assert abs(z_of(latent.mean(1), 0.0)) < Z


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"row": -0.1}, "^row is -0.1; allowed: 0 to 0.9$"),
        ({"column": math.nan}, "^column is nan; allowed: 0 to 0.9$"),
        ({"row": 0.5, "cluster": 0.5}, r"^row \+ column \+ cluster is 1; allowed: 0 to 0.9$"),
        ({"cluster_rows": 0}, "^cluster_rows is 0; allowed: a whole number, 1 to "),
    ],
)
def test_correlated_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        CorrelatedMap(**fields)


def test_columns_of_separate_arrays_are_separate():
    """Cells of one column fail together within an array of ``rows`` rows, and not beyond it."""
    law = CorrelatedMap(column=0.6, rows=32, columns=16, layout="interleaved", cluster_columns=2)
    rate, chips = 0.1, 1500
    within, across = [], []
    for seed in range(chips):
        fails = np.zeros(64 * 16)
        fails[law.failing(128, both(rate), Chip(seed=seed))[0]] = 1
        # Word 2 r + s holds bit k in column 2 k + s of row r.
        columns = fails.reshape(2, 32, 2, 8).transpose(0, 2, 3, 1).reshape(2, 16, 32)
        within.append(pairs(columns.reshape(32, 32), 1))
        across.append((columns[0].mean(1) * columns[1].mean(1)).mean())
    assert abs(z_of(within, joint(rate, 0.6))) < Z
    assert abs(z_of(across, rate**2)) < Z


def test_interleaved_bits_of_a_word_share_no_block():
    law = CorrelatedMap(cluster=0.5, columns=16, cluster_columns=2, layout="interleaved")
    weights, given = law.mixture(torch.full((2, 8), 0.1, dtype=torch.float64))
    assert torch.allclose(given, torch.full_like(given, 0.1))
    counts = []
    for seed in range(1500):
        cells = law.failing(64, both(0.1), Chip(seed=seed))[0]
        counts.append(np.square(np.bincount(cells // 8, minlength=64)).mean())
    # Faults in a word are binomial: E n^2 = n p (1 - p) + (n p)^2.
    assert abs(z_of(counts, 8 * 0.1 * 0.9 + 0.64)) < Z


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 0}, "^rows is 0; allowed"),
        ({"layout": "woven"}, "^layout is 'woven'; allowed: adjacent or interleaved$"),
    ],
)
def test_array_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        CorrelatedMap(**fields)


def test_blocks_of_interleaved_words_have_at_most_a_row_of_words():
    law = CorrelatedMap(cluster=0.1, columns=16, layout="interleaved")
    with pytest.raises(InputError, match="^cluster_columns of the fault map is 16; allowed: at mo"):
        law.check(8)
