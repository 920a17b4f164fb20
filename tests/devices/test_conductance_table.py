import json

import pytest
import torch

from joulewise.devices import RERAM, ConductanceTable, Crossbar
from joulewise.errors import TableError

US = 1e-6


def at(table, *targets_us):
    return table.at(torch.tensor(targets_us, dtype=torch.float64) * US)


# Deviations in microsiemens, from the polynomials typed a second time.
WAN_1S = [(0, 0.348), (10, 2.2583), (20, 2.0229), (40, 1.103)]
WAN_1DAY = [(0, 0.701), (10, 3.721), (20, 3.9078), (40, 2.651)]


@pytest.mark.parametrize(("name", "points"), [("wan2022-1s", WAN_1S), ("wan2022-1day", WAN_1DAY)])
def test_wan(name, points):
    targets, stds = zip(*points, strict=True)
    means, found = at(RERAM[name], *targets)
    assert means.tolist() == pytest.approx([t * US for t in targets])
    assert found.tolist() == pytest.approx([d * US for d in stds], rel=1e-3)


def test_milo():
    found = at(RERAM["milo2021"], 50, 100, 225)[1]
    assert found.tolist() == pytest.approx([4.327 * US, 3.8716 * US, 2.7332 * US], rel=1e-3)
    assert RERAM["milo2021"].ends == pytest.approx((50 * US, 225 * US))


@pytest.mark.parametrize("name", RERAM)
def test_profiles_are_described(name):
    assert "figure" in RERAM[name].source
    described = Crossbar(programming=RERAM[name], on_off=4.0).describe()
    json.dumps(described, allow_nan=False)
    assert described["conductances_source"] == RERAM[name].source


def test_ends_hold_beyond_the_table():
    table = ConductanceTable(
        targets=(1e-5, 2e-5), means=(1.1e-5, 2e-5), stds=(1e-6, 3e-6), source=""
    )
    means, stds = at(table, 0, 15, 99)
    assert means.tolist() == pytest.approx([1.1e-5, 1.55e-5, 2e-5])
    assert stds.tolist() == pytest.approx([1e-6, 2e-6, 3e-6])


def test_from_csv(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(
        "# chip 3, day 1\ntarget_siemens,mean_siemens,std_siemens\n0,1e-7,1e-7\n1e-5,9e-6,5e-7\n"
    )
    table = ConductanceTable.from_csv(path)
    assert table.means == (1e-7, 9e-6)
    assert table.source == "chip 3, day 1"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,0,0", "table.csv is 1 rows; allowed: two or more"),
        ("1e-5,0,0\n0,0,0", "^targets is not ascending"),
        ("0,0,0\n1e-5,-1,0", "line 3: mean_siemens is -1; allowed: 0 to 1"),
        ("0,0,nan\n1e-5,0,0", "line 2: std_siemens is nan; allowed: 0 to 1"),
        ("0,0\n1e-5,0,0", "line 2 is '0,0'; allowed: 3 numbers"),
    ],
)
def test_bad_tables(tmp_path, rows, message):
    path = tmp_path / "table.csv"
    path.write_text(f"target_siemens,mean_siemens,std_siemens\n{rows}\n")
    with pytest.raises(TableError, match=message):
        ConductanceTable.from_csv(path)


def test_lengths():
    with pytest.raises(TableError, match="^means is 1 numbers; allowed: two numbers or more"):
        ConductanceTable(targets=(0.0, 1e-5), means=(0.0,), stds=(0.0, 0.0), source="")


def test_a_row_for_each_device(tmp_path):
    """Mean and standard deviation over the devices of each target, in any order and unit."""
    path = tmp_path / "devices.csv"
    path.write_text("# array 3\ndevice,measured_us,target_us\n0,9,10\n1,41,40\n2,12,10\n3,38,40\n")
    table = ConductanceTable.from_csv(path)
    assert table.source == "array 3"
    assert table.targets == (10e-6, 40e-6)
    assert table.means == pytest.approx((10.5e-6, 39.5e-6), rel=1e-12)
    assert table.stds == pytest.approx((1.5e-6 * 2**0.5, 1.5e-6 * 2**0.5), rel=1e-12)
    of_devices = ConductanceTable.of_devices(
        [10e-6, 40e-6, 10e-6, 40e-6], [9e-6, 41e-6, 12e-6, 38e-6], source="array 3"
    )
    assert of_devices.means == pytest.approx(table.means, rel=1e-12)
    path.write_text("target_us,measured_us\n10,9\n10,11\n40,41\n")
    with pytest.raises(TableError, match="^target 4e-05 is that of 1 device; allowed: two or more"):
        ConductanceTable.from_csv(path)
    with pytest.raises(TableError, match="^measured is of shape .2,. beside targets of shape .3,."):
        ConductanceTable.of_devices([1e-6, 1e-6, 1e-6], [1e-6, 2e-6], source="")
    path.write_text("target_us,mean_us,std_us\n10,9,5%\n40,41,5%\n")
    with pytest.raises(TableError, match="line 2 is '10,9,5%'; allowed: 3 numbers"):
        ConductanceTable.from_csv(path)
    with pytest.raises(TableError, match="None cannot be read"):
        ConductanceTable.from_csv(None)
