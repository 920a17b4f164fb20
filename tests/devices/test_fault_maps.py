import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from joulewise.devices import SRAM, Chip, CorrelatedMap, IndependentMap, MeasuredMap
from joulewise.errors import InputError

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
    return MeasuredMap.from_thresholds(thresholds)


MAPS = {
    "independent": IndependentMap(),
    "correlated": CorrelatedMap(row=0.1, column=0.1, cluster=0.2, columns=64),
    "correlated, blocks that do not fit": CorrelatedMap(
        cluster=0.3, columns=40, cluster_columns=16, cluster_rows=3
    ),
    "correlated, interleaved": CorrelatedMap(
        column=0.3, rows=10, columns=32, cluster_columns=2, layout="interleaved"
    ),
    "measured": weak_array(),
    "measured, arrays": MeasuredMap.from_thresholds(
        np.where(np.random.default_rng(2).random((5, 6, 16)) < 0.3, 0.2, np.inf), "interleaved"
    ),
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
            MeasuredMap.from_thresholds([[0.1] * 12]),
            "^columns of the fault map is 12; allowed: a multiple of the word's 8 bits",
        ),
    ],
)
def test_words_may_not_straddle(law, message):
    with pytest.raises(InputError, match=message):
        SRAM(bits=8, fault_map=law)
