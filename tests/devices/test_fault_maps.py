import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr, ndtri

from joulewise.devices import SRAM, Chip, CorrelatedMap, IndependentMap, MeasuredMap
from joulewise.errors import InputError, TableError

LAW = settings(max_examples=30, derandomize=True, deadline=None)
UNLIKELY = 1e-6
Z = 5.0
FIRST_BLOCK = 1024  # arrivals that are drawn at once at first


def both(rate, bits=8):
    return np.full((2, bits), rate)


def check_map(law, words=160, bits=8):
    """Cells are ascending, unique and in range, and nested over rates and polarities of a chip."""
    for seed in range(3):
        chip = Chip(seed=seed, part="w")
        before = [np.zeros(0, dtype=np.int64)] * 2
        for rate in (0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 1.0):
            rates = np.stack([np.full(bits, rate), np.full(bits, rate / 2)])
            failing = law.failing(words, rates, chip)
            for cells, earlier in zip(failing, before, strict=True):
                assert (np.diff(cells) > 0).all()
                assert ((cells >= 0) & (cells < words * bits)).all()
                assert np.isin(earlier, cells).all()
            assert np.isin(failing[1], failing[0]).all()
            before = failing
        assert len(law.failing(words, both(0.0), chip)[0]) == 0


def weak_array(rows=40, columns=16, seed=1, weak=0.5):
    generator = np.random.default_rng(seed)
    thresholds = 10 ** generator.uniform(-3, 0, (rows, columns))
    thresholds[generator.random((rows, columns)) > weak] = np.inf
    return MeasuredMap(columns=columns, thresholds=tuple(thresholds.reshape(-1).tolist()))


MAPS = {
    "independent": IndependentMap(),
    "correlated": CorrelatedMap(row=0.1, column=0.1, cluster=0.2, columns=64),
    "correlated, blocks that do not fit": CorrelatedMap(
        cluster=0.3, columns=40, cluster_columns=16, cluster_rows=3
    ),
    "measured": weak_array(),
}


@pytest.mark.parametrize("law", MAPS.values(), ids=MAPS)
def test_cells_are_nested_over_rates(law):
    check_map(law)


@pytest.mark.parametrize("law", [MAPS["independent"], MAPS["correlated"]], ids=["ind", "cor"])
def test_at_rate_one_every_cell_fails(law):
    on_zero, on_one = law.failing(50, both(1.0), Chip(seed=0))
    assert on_zero.tolist() == on_one.tolist() == list(range(400))


@pytest.mark.parametrize("law", MAPS.values(), ids=MAPS)
def test_a_plane_with_rate_zero_never_fails_and_one_with_rate_one_always(law):
    rates = both(0.2)
    rates[:, 7], rates[:, 0] = 0.0, 1.0
    cells, _ = law.failing(100, rates, Chip(seed=0))
    assert not (cells % 8 == 7).any()
    if not isinstance(law, MeasuredMap):
        assert (cells % 8 == 0).sum() == 100


@LAW
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 9), st.sampled_from([*MAPS.values()]))
def test_nested_between_any_two_rates(a, b, seed, law):
    low, high = sorted((a, b))
    chip = Chip(seed=seed)
    fewer, more = (law.failing(30, both(rate), chip)[0] for rate in (low, high))
    assert np.isin(fewer, more).all()


# Independent


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.5, 0.95])
def test_failing_cells_are_independent_bernoulli_exactly(rate):
    words, chips = 50, 4000
    cells = words * 8
    fails = np.zeros((chips, cells), dtype=bool)
    for seed in range(chips):
        fails[seed, IndependentMap().failing(words, both(rate), Chip(seed=seed))[0]] = True

    counts = fails.sum(1)
    law = stats.binom(cells, rate)
    edges = np.unique(law.ppf(np.linspace(0, 1, 13)[1:-1]))
    share = np.diff([0, *law.cdf(edges), 1])
    seen = np.bincount(np.searchsorted(edges, counts), minlength=len(share))
    assert stats.chisquare(seen, share * chips).pvalue > UNLIKELY

    # Each cell as often as any other.
    per_cell = (fails.sum(0) - chips * rate) ** 2 / (chips * rate * (1 - rate))
    # A binomial's squared z has variance 2 + (1 - 6 p (1 - p)) / (n p (1 - p)).
    spread = 2 + (1 - 6 * rate * (1 - rate)) / (chips * rate * (1 - rate))
    assert abs(per_cell.sum() - cells) < Z * math.sqrt(cells * spread)

    # Neighbouring cells are uncorrelated.
    centred = (fails - rate) / math.sqrt(rate * (1 - rate))
    products = (centred[:, 1:] * centred[:, :-1]).mean()
    assert abs(products) < Z / math.sqrt(chips * (cells - 1))


def test_each_plane_and_polarity_has_its_own_rate():
    rates = np.array([[0.3, 0.01, 0.1, 0.5], [0.05, 0.02, 0.6, 0.0]])
    words, chips = 500, 400
    counts = np.zeros((2, 4))
    for seed in range(chips):
        for polarity, cells in enumerate(IndependentMap().failing(words, rates, Chip(seed=seed))):
            counts[polarity] += np.bincount(cells % 4, minlength=4)
    n = words * chips
    error = np.sqrt(np.maximum(n * rates * (1 - rates), 1e-9))
    assert (np.abs(counts - n * rates) <= Z * error).all()


class Spy:
    """A generator that counts the numbers that are drawn from it."""

    def __init__(self, generator):
        self.generator, self.drawn = generator, 0

    def __getattr__(self, name):
        method = getattr(self.generator, name)

        def counted(*args, **kwargs):
            out = method(*args, **kwargs)
            self.drawn += np.size(out)
            return out

        return counted


@pytest.fixture
def spies(monkeypatch):
    made, generator = [], Chip.generator

    def spied(chip, purpose):
        made.append(Spy(generator(chip, purpose)))
        return made[-1]

    monkeypatch.setattr(Chip, "generator", spied)
    return made


@pytest.mark.parametrize(
    ("words", "rate"), [(10**6, 1e-4), (10**6, 1e-6), (10**9, 1e-6), (10**9, 1e-9)]
)
def test_a_draw_costs_by_faults(spies, words, rate):
    expected = -math.log1p(-rate) * words * 8
    cells, _ = IndependentMap().failing(words, both(rate), Chip(seed=1))
    assert abs(len(cells) - expected) < max(Z * math.sqrt(expected), 2)
    (spy,) = spies
    # Two numbers for each arrival; a block is the first one, or at most doubles what came before.
    assert spy.drawn <= 2 * (2 * (expected + Z * math.sqrt(expected)) + 2 * FIRST_BLOCK)
    assert spy.drawn < words / 100


def test_a_read_of_a_tensor_costs_by_faults(spies):
    memory = SRAM(bits=8)
    eta = -math.log(1e-4) / 12.8
    memory.read(memory.store(torch.zeros(200_000)), eta, Chip(seed=1))
    assert sum(spy.drawn for spy in spies) <= 2 * (2 * (160 + Z * math.sqrt(160)) + FIRST_BLOCK)


# Correlated


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


# Measured


def test_measured_chips_are_windows_of_the_map():
    law = weak_array(rows=6, columns=16)
    array = np.asarray(law.thresholds).reshape(-1, 8)
    rate = 0.1
    allowed = {
        tuple((array[(start + np.arange(30)) % len(array)] <= rate).reshape(-1).tolist())
        for start in range(len(array))
    }
    seen = set()
    for seed in range(200):
        fails = np.zeros(240, dtype=bool)
        fails[law.failing(30, both(rate), Chip(seed=seed))[0]] = True
        seen.add(tuple(fails.tolist()))
    # 200 uniform draws of 12 starts miss one with probability 12 (11/12)^200 = 3e-7.
    assert seen == allowed


def test_measured_cells_fail_from_their_rate_on():
    law = MeasuredMap(columns=8, thresholds=(0.01, *[math.inf] * 7))
    counts = [len(law.failing(1, both(rate), Chip(seed=0))[0]) for rate in (0.00999, 0.01, 0.5)]
    assert counts == [0, 1, 1]


def test_measured_mixture_is_the_frequency_of_patterns():
    law = MeasuredMap(columns=4, thresholds=(0.1, 1e9, 1e9, 1e9, 1e9, 0.5, 1e9, 1e9))
    weights, given = law.mixture(torch.full((2, 2), 0.2, dtype=torch.float64))
    patterns = {tuple(g[0].tolist()): float(w) for w, g in zip(weights, given, strict=True)}
    assert patterns == {(1.0, 0.0): 0.25, (0.0, 0.0): 0.75}


def test_two_measured_maps_are_described_differently():
    described = [weak_array(seed=seed).describe() for seed in (1, 2)]
    assert described[0] != described[1]
    assert weak_array(seed=1).describe() == described[0]
    json.dumps(described)


def write(path, *lines):
    path.write_text("\n".join(["row,column,bit_error_rate", *lines]))
    return path


def test_measured_from_csv(tmp_path):
    path = write(tmp_path / "map.csv", "# array 7", "", "0,3,0.001", "1,0,0.5")
    law = MeasuredMap.from_csv(path, rows=2, columns=8)
    expected = np.full(16, np.inf)
    expected[3], expected[8] = 0.001, 0.5
    assert law.thresholds == tuple(expected)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,0,0.1", "line 3: row is 2; allowed: 0 to 1$"),
        ("-1,0,0.1", "line 3: row is -1; allowed: 0 to 1$"),
        ("0,8,0.1", "line 3: column is 8; allowed: 0 to 7$"),
        ("0,0,0", "line 3: bit_error_rate is 0; allowed: above 0 to 1$"),
        ("0,0,1.5", "line 3: bit_error_rate is 1.5; allowed: above 0 to 1$"),
        ("0,0,nan", "line 3: bit_error_rate is nan; allowed: above 0 to 1$"),
        ("0,0", "line 3 is '0,0'; allowed: 3 numbers, row,column,bit_error_rate$"),
        ("0.5,0,0.1", "line 3 is cell 0.5,0; allowed: whole row and column$"),
        ("1,1,0.2", "line 3: cell 1,1 is named twice; allowed: one line for each cell$"),
        ("a,0,0.1", "line 3 is 'a,0,0.1'; allowed: 3 numbers, row,column,bit_error_rate$"),
    ],
)
def test_measured_from_csv_names_the_line(tmp_path, line, message):
    path = write(tmp_path / "map.csv", "1,1,0.1", line)
    with pytest.raises(TableError, match=message):
        MeasuredMap.from_csv(path, rows=2, columns=8)


def test_measured_from_csv_refuses_other_files(tmp_path):
    with pytest.raises(TableError, match="^fault map .*none.csv cannot be read: "):
        MeasuredMap.from_csv(tmp_path / "none.csv", rows=2, columns=8)
    (tmp_path / "map.csv").write_text("1,2,3\n")
    message = "map.csv, line 1: the header is 1,2,3; allowed: row,column,bit_error_rate$"
    with pytest.raises(TableError, match=message):
        MeasuredMap.from_csv(tmp_path / "map.csv", rows=2, columns=8)


@pytest.mark.parametrize("thresholds", [(), (0.1, 0.2, 0.3)])
def test_measured_refuses_what_is_not_rows(thresholds):
    message = (
        rf"^the number of cells of the measured map is {len(thresholds)}; "
        "allowed: a multiple of its 2 columns"
    )
    with pytest.raises(InputError, match=message):
        MeasuredMap(columns=2, thresholds=thresholds)


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


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (
            CorrelatedMap(columns=100),
            "^columns of the fault map is 100; allowed: a multiple of .* 8 bi",
        ),
        (
            CorrelatedMap(cluster_columns=12),
            "^cluster_columns of the fault map is 12; allowed: a mult",
        ),
        (
            MeasuredMap(columns=12, thresholds=(0.1,) * 12),
            "^columns of the fault map is 12; allowed: a multiple of the word's 8 bits",
        ),
    ],
)
def test_words_may_not_straddle(law, message):
    with pytest.raises(InputError, match=message):
        SRAM(bits=8, fault_map=law)
