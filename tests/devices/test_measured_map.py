import json
import math

import numpy as np
import pytest
import torch

from joulewise.devices import Chip, MeasuredMap
from joulewise.errors import InputError, TableError

Z = 5.0


def both(rate, bits=8):
    return np.full((2, bits), rate)


def weak_array(rows=40, columns=16, seed=1, weak=0.5, arrays=1):
    generator = np.random.default_rng(seed)
    thresholds = 10 ** generator.uniform(-3, 0, (arrays, rows, columns))
    thresholds[generator.random(thresholds.shape) > weak] = np.inf
    return thresholds


def test_measured_chips_are_windows_of_the_map():
    thresholds = weak_array(rows=6, columns=16)
    law, array = MeasuredMap.from_thresholds(thresholds), thresholds.reshape(-1, 8)
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
    law = MeasuredMap.from_thresholds([[0.01, *[math.inf] * 7]])
    counts = [len(law.failing(1, both(rate), Chip(seed=0))[0]) for rate in (0.00999, 0.01, 0.5)]
    assert counts == [0, 1, 1]


def test_measured_mixture_is_the_frequency_of_patterns():
    law = MeasuredMap.from_thresholds([[0.1, *[math.inf] * 3], [math.inf, 0.5, math.inf, math.inf]])
    weights, given = law.mixture(torch.full((2, 2), 0.2, dtype=torch.float64))
    patterns = {tuple(g[0].tolist()): float(w) for w, g in zip(weights, given, strict=True)}
    assert patterns == {(1.0, 0.0): 0.25, (0.0, 0.0): 0.75}


def test_two_measured_maps_are_described_differently():
    described = [MeasuredMap.from_thresholds(weak_array(seed=seed)).describe() for seed in (1, 2)]
    assert described[0] != described[1]
    assert MeasuredMap.from_thresholds(weak_array(seed=1)).describe() == described[0]
    json.dumps(described)


def write(path, *lines):
    path.write_text("\n".join(["row,column,bit_error_rate", *lines]))
    return path


def test_measured_from_csv(tmp_path):
    path = write(tmp_path / "map.csv", "# array 7", "", "0,3,0.001", "1,0,0.5")
    law = MeasuredMap.from_csv(path, rows=2, columns=8)
    size = {"rows": 2, "columns": 8}
    assert law == MeasuredMap(**size, cells=(3, 8), thresholds=(0.001, 0.5))
    path.write_text("row,column,bit_error_rate,array\n0,3,0.001,1\n1,0,0.5,0\n")
    law = MeasuredMap.from_csv(path, **size, arrays=2)
    assert law == MeasuredMap(**size, arrays=2, cells=(8, 19), thresholds=(0.5, 0.001))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,0,0.1", "line 3: row is 2; allowed: a whole number below 2$"),
        ("-1,0,0.1", "line 3: row is -1; allowed: a whole number below 2$"),
        ("0,8,0.1", "line 3: column is 8; allowed: a whole number below 8$"),
        ("0,0,0", "line 3: bit_error_rate is 0; allowed: above 0 to 1$"),
        ("0,0,1.5", "line 3: bit_error_rate is 1.5; allowed: above 0 to 1$"),
        ("0,0,nan", "line 3: bit_error_rate is nan; allowed: above 0 to 1$"),
        ("0,0", "line 3 is '0,0'; allowed: 3 numbers, row,column,bit_error_rate$"),
        ("0.5,0,0.1", "line 3: row is 0.5; allowed: a whole number below 2$"),
        ("1,1,0.2", "line 3 is a cell named twice; allowed: one line for each cell$"),
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
    message = "map.csv, line 1: the header is 1,2,3; allowed: row,column,bit_error_rate.,array.$"
    with pytest.raises(TableError, match=message):
        MeasuredMap.from_csv(tmp_path / "map.csv", rows=2, columns=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": (), "thresholds": ()}, "^cells is empty, or out of order or range"),
        ({"cells": (3, 3)}, "or range; allowed: ascending numbers below 32, at"),
        ({"cells": (3, 32)}, "^cells is empty, or out of order or range"),
        ({"cells": (-1, 3)}, "^cells is empty, or out of order or range"),
        ({"cells": (0.5, 3)}, "^cells is empty, or out of order or range"),
        ({"cells": (3,)}, r"^thresholds is of shape \(2,\); allowed: .* one for each of 1 cells"),
        ({"thresholds": (0.1, 0.0)}, "^thresholds is out of range; allowed: above 0 to 1, one"),
        ({"thresholds": (0.1, math.nan)}, "^thresholds is out of range"),
        ({"thresholds": ("a", "b")}, "^thresholds is not of numbers alone"),
        ({"thresholds": ((0.1,), (0.1, 0.2))}, "^thresholds is not of numbers alone, or ragged"),
        ({"thresholds": None}, "^thresholds is None .NoneType.; allowed: above 0"),
        ({"cells": ((3, 8), (9, 10))}, "^cells is empty, or out of order or range"),
        ({"cells": ((3, 8), (9,))}, "^cells is not of numbers alone, or ragged"),
        ({"layout": "mixed"}, "^layout is 'mixed'; allowed: adjacent or interleaved$"),
        ({"rows": 0}, "^rows is 0; allowed: a whole number, 1 to"),
    ],
)
def test_measured_refusals(fields, message):
    good = {"rows": 4, "columns": 8, "cells": (3, 8), "thresholds": (0.1, 0.2)}
    with pytest.raises(InputError, match=message):
        MeasuredMap(**{**good, **fields})


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([[0.1, math.nan]], "^thresholds is out of range"),
        ([[0.1, -math.inf]], "^thresholds is out of range"),
        ([["a"]], "^thresholds cannot be read .*allowed: an array of numbers"),
        ([[0.1], [0.1, 0.2]], "^thresholds cannot be read"),
        (torch.ones(2, 2, requires_grad=True), "^thresholds cannot be read"),
        ([0.1, 0.2], r"^thresholds is of shape \(2,\); allowed: an array of numbers, .rows"),
    ],
)
def test_only_infinity_is_a_cell_that_never_fails(thresholds, message):
    with pytest.raises(TableError, match=message):
        MeasuredMap.from_thresholds(thresholds)


def test_whole_rates_are_numbers():
    assert MeasuredMap(rows=1, columns=8, cells=(3, 5), thresholds=(1, 1)).thresholds == (1, 1)


def test_interleaved_words():
    """Two words of four bits in a row of eight columns: column 5 holds bit 2 of word 1."""
    law = MeasuredMap(rows=1, columns=8, cells=(5,), thresholds=(0.1,), layout="interleaved")
    seen = {tuple(law.failing(2, both(0.2, 4), Chip(seed=seed))[0]) for seed in range(20)}
    assert seen == {(2,), (4 + 2,)}  # the first word read is word 1 or word 0


def test_chips_are_bootstrap_samples_of_the_arrays():
    """Each measured array as often as any other, and every position of its words."""
    thresholds = weak_array(arrays=6, rows=4, columns=8, weak=0.6)
    law, words = MeasuredMap.from_thresholds(thresholds), 10
    rate, chips = 0.05, 3000
    share = (thresholds.reshape(-1, 8) <= rate).mean(0)
    counts = np.zeros((chips, 8))
    for seed in range(chips):
        cells = law.failing(words, both(rate), Chip(seed=seed))[0]
        counts[seed] = np.bincount(cells % 8, minlength=8) / words
    error = counts.std(0, ddof=1) / math.sqrt(chips)
    assert (np.abs(counts.mean(0) - share) < Z * error).all()
    weights, given = law.mixture(torch.full((2, 8), rate, dtype=torch.float64))
    assert np.allclose((weights @ given[:, 0]).numpy(), share)


def test_words_of_one_array_fail_together():
    """One of two arrays has all its cells weak: a word fails if its neighbour does, nearly."""
    thresholds = np.full((2, 64, 8), np.inf)
    thresholds[1] = 0.01
    law = MeasuredMap.from_thresholds(thresholds)
    both_fail = one_fails = 0
    for seed in range(400):
        words = set(law.failing(2, both(0.02), Chip(seed=seed))[0] // 8)
        both_fail += words == {0, 1}
        one_fails += len(words) == 1
    # Neighbours are in two arrays with chance 1 / 64, in different ones with half of that.
    assert abs(both_fail / 400 - 0.5) < Z * 0.5 / 20
    assert one_fails < 400 / 128 + Z * math.sqrt(400 / 128)


def test_planes_and_channels_have_rates_of_their_own():
    thresholds = np.full((1, 4, 8), 0.1)
    rates = np.zeros((2, 2, 8))
    rates[0, 1, 3], rates[1, 0, 7] = 0.2, 0.2  # two channels of two words
    on_zero, on_one = MeasuredMap.from_thresholds(thresholds).failing(4, rates, Chip(seed=0))
    assert on_zero.tolist() == [2 * 8 + 3, 3 * 8 + 3]
    assert on_one.tolist() == [7, 8 + 7]
