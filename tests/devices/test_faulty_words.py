"""Grouping of cells against plain Python; the replacement of words is tested with the SRAM."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.devices.faulty_words import FaultyWords

CELLS = st.sets(st.integers(0, 59))


def grouped(cells, bits):
    patterns = {}
    for cell in cells:
        patterns[cell // bits] = patterns.get(cell // bits, 0) | 1 << cell % bits
    return patterns


@settings(max_examples=100, derandomize=True, deadline=None)
@given(CELLS, CELLS, st.integers(2, 16), st.integers(0, 40))
def test_cells_are_grouped_by_word(on_zero, on_one, bits, words):
    zeros, ones = (np.array(sorted(cells), dtype=np.int64) for cells in (on_zero, on_one))
    expected = [grouped(cells, bits) for cells in (on_zero, on_one)]
    places = sorted({*expected[0], *expected[1]})
    found = FaultyWords.of_cells(zeros, ones, bits)
    assert found.places.tolist() == places
    assert found.on_zero.tolist() == [expected[0].get(place, 0) for place in places]
    assert found.on_one.tolist() == [expected[1].get(place, 0) for place in places]
    assert found.on_zero.dtype == found.on_one.dtype == torch.int32
    first = found.first(words)
    assert first.places.tolist() == [place for place in places if place < words]
    assert first.on_one.tolist() == found.on_one[: len(first.places)].tolist()


def test_equal_cells_have_one_pattern():
    cells = np.array([3, 9, 10], dtype=np.int64)
    found = FaultyWords.of_cells(cells, cells, 8)
    assert found.on_zero is found.on_one
    assert (found.places.tolist(), found.on_zero.tolist()) == ([0, 1], [8, 6])
