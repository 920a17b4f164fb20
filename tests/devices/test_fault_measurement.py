import math

import numpy as np
import pytest
import torch

from joulewise.devices import Chip, FaultMeasurement
from joulewise.errors import InputError, TableError

# Five cells of two arrays, two words to a row.
MEASURED = FaultMeasurement(
    rows=512,
    columns=16,
    arrays=2,
    supplies_v=(0.53, 0.54, 0.55),
    cells=(2 * 16 + 1, 2 * 16 + 15, 8192 + 6, 8192 + 7, 8192 + 511 * 16 + 1),
    first_failure_v=(0.55, 0.54, 0.54, 0.53, 0.53),
    layout="interleaved",
)


def test_the_map_has_exactly_the_measured_cells_at_each_measured_supply():
    law, fault_map = MEASURED.law(v_nominal=1.0), MEASURED.fault_map()
    for v_dd, count in MEASURED.counts.items():
        rate = float(law.bit_error_rate(law.eta(torch.tensor(v_dd, dtype=torch.float64))))
        assert rate == pytest.approx(count / MEASURED.num_cells)
        assert sum(threshold <= rate for threshold in fault_map.thresholds) == count
    between = float(law.bit_error_rate(law.eta(torch.tensor(0.5349, dtype=torch.float64))))
    assert sum(threshold <= between for threshold in fault_map.thresholds) in (3, 5)


def test_words_of_a_chip_are_those_measured():
    """Word 5 of array 0 fails in bits 0 and 7: so do two bits of one word on some chips."""
    rates = np.full((2, 8), MEASURED.counts[0.53] / MEASURED.num_cells)
    patterns = set()
    for seed in range(40):
        cells = MEASURED.fault_map().failing(2048, rates, Chip(seed=seed))[0]
        for word in set(cells // 8):
            patterns.add(sum(1 << int(cell % 8) for cell in cells[cells // 8 == word]))
    assert patterns <= {0b1000_0001, 0b1000, 0b1}
    assert 0b1000_0001 in patterns


def test_the_energy_is_that_of_a_capacitance():
    law = MEASURED.law(v_nominal=1.0, v_min=0.6, energy_per_bit_j=1e-12)
    at = law.energy_per_bit_j(law.eta(torch.tensor(0.54, dtype=torch.float64)))
    assert float(at) == pytest.approx(0.54**2 * 1e-12)
    assert law.access_j_at(1.0) == pytest.approx(1e-12)


def test_from_csv(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("# chip 3\nrow,column,v_dd,array\n0,3,0.6,1\n1,0,0.5,0\n")
    found = FaultMeasurement.from_csv(path, rows=2, columns=8, arrays=2)
    assert found.counts == {0.5: 2, 0.6: 1}
    assert found.cells == (8, 19)
    assert found.first_failure_v == (0.5, 0.6)
    assert found.source == "chip 3"
    wider = FaultMeasurement.from_csv(path, rows=2, columns=8, arrays=2, supplies_v=(0.5, 0.6, 0.7))
    assert wider.counts == {0.5: 2, 0.6: 1, 0.7: 0}
    assert wider.law().ends("v_dd") == (0.5, 0.6)  # a supply without faults has no rate


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,0,0.5", "line 3: row is 2; allowed: a whole number below 2"),
        ("0,0.5,0.5", "line 3: column is 0.5; allowed: a whole number below 8"),
        ("nan,0,0.5", "line 3: row is nan"),
        ("0,3,0.5", "line 3 is a cell named twice; allowed: one line for each cell"),
        ("0,4,-1", "line 3: v_dd is -1; allowed: above 0"),
        ("0,4,nan", "line 3: v_dd is nan; allowed: above 0"),
        ("0,4", "line 3 is '0,4'; allowed: 3 numbers"),
    ],
)
def test_csv_names_the_line(tmp_path, line, message):
    path = tmp_path / "map.csv"
    path.write_text(f"row,column,v_dd\n0,3,0.6\n{line}\n")
    with pytest.raises(TableError, match=message):
        FaultMeasurement.from_csv(path, rows=2, columns=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cells": ("a", "b")}, "^cells is not of numbers alone"),
        ({"cells": (math.nan, 1)}, "^cells is empty, or out of order or range"),
        ({"cells": (1, 10**30)}, "^cells is not of numbers alone"),
        ({"cells": None}, "^cells is None .NoneType.; allowed: ascending"),
        ({"first_failure_v": None}, "^first_failure_v is None"),
        ({"first_failure_v": ([], [])}, "^first_failure_v is of other numbers"),
        ({"first_failure_v": (0.53, 0.6)}, "^first_failure_v is of other numbers"),
        ({"positions": 5}, "^positions is 5 .int.; allowed: 2 pairs of finite numbers"),
        ({"positions": ((0, "a"), (1, 0))}, "^positions is not of numbers alone"),
        ({"positions": ((0, math.inf), (1, 0))}, r"^positions is of shape \(2, 2\), or not finite"),
        ({"positions": ((0, 1),)}, r"^positions is of shape \(1, 2\)"),
        ({"recovered": -5}, "^recovered is -5; allowed: a whole number, 0 or more"),
        ({"recovered": "x"}, "^recovered is 'x'; allowed: a whole number"),
    ],
)
def test_fields_of_other_kinds(fields, message):
    good = {"rows": 4, "columns": 8, "arrays": 2, "supplies_v": (0.53, 0.54)}
    good |= {"cells": (1, 40), "first_failure_v": (0.53, 0.54)}
    with pytest.raises(InputError, match=message):
        FaultMeasurement(**good | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"supplies_v": 5}, "^supplies_v is 5 .int.; allowed: a sequence of supplies"),
        ({"supplies_v": [0.6, None]}, "^supplies_v is not of numbers alone"),
        ({"rows": "a"}, "^rows is 'a'; allowed: a whole number"),
        ({"path": "a\0b"}, "cannot be read: embedded null byte"),
    ],
)
def test_arguments_of_other_kinds(tmp_path, fields, message):
    (tmp_path / "map.csv").write_text("row,column,v_dd\n0,3,0.6\n")
    with pytest.raises(InputError, match=message):
        FaultMeasurement.from_csv(
            **{"path": tmp_path / "map.csv", "rows": 2, "columns": 8, **fields}
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"energy_per_bit_j": "x"}, "^energy_per_bit_j is 'x' .str.; allowed: a number"),
        ({"v_nominal": "1"}, "^v_nominal is '1' .str.; allowed: a number"),
        ({"v_min": 0.55}, "^v_min is 0.55; allowed: above 0.55, the hi"),
    ],
)
def test_figures_of_a_law(fields, message):
    with pytest.raises(InputError, match=message):
        MEASURED.law(**fields)


def test_groups_of_counts():
    with pytest.raises(TableError, match="^group is 'row'; allowed: array or column"):
        MEASURED.failing_per("row", 0.53)


def test_a_law_needs_two_supplies_with_faults(tmp_path):
    path = tmp_path / "map.csv"
    path.write_text("row,column,v_dd\n0,3,0.6\n")
    with pytest.raises(TableError, match="two rows or more"):
        FaultMeasurement.from_csv(path, rows=2, columns=8).law()
