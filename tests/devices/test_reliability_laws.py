import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.devices import (
    PROFILES,
    SRAM,
    ExponentialLaw,
    Leakage,
    SpareRows,
    Traffic,
    VoltageTable,
    law,
)
from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J
from joulewise.devices.voltage_table import VoltageRow
from joulewise.errors import InputError, OperatingPointError, TableError

LAW = settings(max_examples=60, derandomize=True, deadline=None)
HEADER = "v_dd,energy_per_bit_j,bit_error_rate"
ALL = rf"{HEADER}\[,measured_bits\]"
ROWS = (VoltageRow(0.5, 1e-14, 1e-2), VoltageRow(0.6, 1.3e-14, 1e-3), VoltageRow(0.8, 2e-14, 1e-6))
TABLE = VoltageTable(rows=ROWS, source="made up")


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


# The exponential law


@pytest.mark.parametrize(
    ("rate", "eta"), [(1e-2, 0.360), (1e-3, 0.540), (1e-4, 0.720), (2.76e-6, 1.0), (0.278, 0.1)]
)
def test_exponential_reference_values(rate, eta):
    """Values by hand, ``eta = -log(rate) / 12.8``."""
    assert -math.log(rate) / 12.8 == pytest.approx(eta, abs=5e-4)
    assert float(ExponentialLaw().bit_error_rate(tensor(eta))) == pytest.approx(rate, rel=6e-3)


@LAW
@given(st.floats(0.1, 100), st.floats(0, 1))
def test_exponential_is_its_formula(a, eta):
    law = ExponentialLaw(a=a, nominal_energy_per_bit_j=3e-13)
    assert float(law.bit_error_rate(tensor(eta))) == pytest.approx(math.exp(-a * eta), rel=1e-12)
    assert float(law.energy_per_bit_j(tensor(eta))) == pytest.approx(3e-13 * eta, rel=1e-12)


def test_exponential_ends():
    law = ExponentialLaw()
    assert law.eta_range == (0.0, 1.0)
    assert float(law.bit_error_rate(tensor(0.0))) == 1.0
    assert float(law.energy_per_bit_j(tensor(1.0))) == HOROWITZ_SRAM_BIT_J == 20e-12 / 64


def test_exponential_has_no_voltage():
    message = (
        "^v_dd has no meaning on the exponential law, which has no voltage axis; "
        "allowed: eta, bit_error_rate, or a measured voltage table$"
    )
    with pytest.raises(OperatingPointError, match=message):
        SRAM(knob="v_dd")
    with pytest.raises(OperatingPointError, match=message):
        SRAM().point(v_dd=0.6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": 0.0}, r"^a is 0; allowed: above 0 to 1e\+06$"),
        ({"a": math.nan}, r"^a is nan; allowed: above 0 to 1e\+06$"),
        (
            {"nominal_energy_per_bit_j": -1.0},
            "^nominal_energy_per_bit_j is -1; allowed: above 0 to",
        ),
    ],
)
def test_exponential_refusals(fields, message):
    with pytest.raises(InputError, match=message):
        ExponentialLaw(**fields)


# Voltage tables


@st.composite
def tables(draw):
    count = draw(st.integers(2, 6))
    volts = sorted(draw(st.sets(st.integers(300, 1200), min_size=count, max_size=count)))
    joules = sorted(draw(st.sets(st.integers(1, 10**6), min_size=count, max_size=count)))
    logs = sorted(draw(st.lists(st.floats(-16, 0), min_size=count, max_size=count)), reverse=True)
    return VoltageTable(
        rows=tuple(
            VoltageRow(v / 1000, j * 1.1e-19, 10**log)
            for v, j, log in zip(volts, joules, logs, strict=True)
        ),
        source="drawn",
    )


@LAW
@given(tables())
def test_a_table_goes_through_its_rows_and_accepts_both_ends(table):
    memory = SRAM(law=table)
    for row in table.rows:
        eta = tensor(memory.point(v_dd=row.v_dd))
        assert float(table.bit_error_rate(eta)) == pytest.approx(row.bit_error_rate, rel=1e-6)
        assert float(table.energy_per_bit_j(eta)) == pytest.approx(row.energy_per_bit_j, rel=1e-12)
        assert float(table.v_dd(eta)) == pytest.approx(row.v_dd, rel=1e-9)
    assert memory.point(v_dd=table.rows[-1].v_dd) == 1.0
    assert memory.point(v_dd=table.rows[0].v_dd) == table.eta_range[0]


@LAW
@given(tables(), st.floats(0, 1), st.floats(0, 1))
def test_a_table_is_monotone(table, a, b):
    first, last = table.rows[0].v_dd, table.rows[-1].v_dd
    volts = tensor([min(first + share * (last - first), last) for share in sorted((a, b))])
    eta = table.eta(volts)
    assert float(eta[0]) <= float(eta[1]) <= 1.0
    low, high = table.bit_error_rate(eta).tolist()
    assert high <= low * (1 + 1e-9)


def test_between_rows_the_log_of_the_rate_and_the_energy_are_linear_in_volts():
    eta = TABLE.eta(tensor(0.75))
    assert float(eta) == pytest.approx((1.3e-14 * 0.25 + 2e-14 * 0.75) / 2e-14, rel=1e-12)
    expected = 10 ** (-3 * 0.25 - 6 * 0.75)
    assert float(TABLE.bit_error_rate(eta)) == pytest.approx(expected, rel=1e-9)


def test_a_table_keeps_its_unit_and_describes_itself():
    table = VoltageTable(rows=ROWS, source="made up", voltage_unit="Vmin")
    assert table.describe() == {
        "law": "voltage table",
        "source": "made up",
        "voltage_unit": "Vmin",
        "law_rows": [[0.5, 1e-14, 1e-2], [0.6, 1.3e-14, 1e-3], [0.8, 2e-14, 1e-6]],
    }
    assert TABLE.voltage_unit == "V"


@pytest.mark.parametrize("volts", [0.49, 0.81, math.nan])
def test_a_table_does_not_extrapolate(volts):
    message = rf"^v_dd \(V\) is {volts}; allowed: 0.5 to 0.8$"
    with pytest.raises(OperatingPointError, match=message):
        SRAM(law=TABLE).point(v_dd=volts)


def test_a_table_of_one_row_is_refused():
    message = r"^the voltage table is 1 row\(s\); allowed: two rows or more$"
    with pytest.raises(TableError, match=message):
        VoltageTable(rows=ROWS[:1], source="")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            (0.5, 2e-14, 1e-4),
            "^row 2: v_dd is 0.5 V after 0.5 V; allowed: one row for each voltage",
        ),
        (
            (0.4, 2e-14, 1e-4),
            "^row 2: v_dd is 0.4 V after 0.5 V; allowed: one row for each voltage",
        ),
        ((0.7, 1e-14, 1e-4), "^row 2: energy_per_bit_j is 1e-14 J, not above that of 0.5 V; allo"),
        (
            (0.7, 2e-14, 0.02),
            "^row 2: bit_error_rate is 0.02, above that of 0.5 V; allowed: a rate",
        ),
        (
            (0.7, 2e-14, 0.0),
            "^row 2: bit_error_rate is 0; allowed: .* or 0 beside .* measured_bits$",
        ),
        ((0.7, math.nan, 0.001), "^row 2: energy_per_bit_j is nan; allowed: above 0 to 1e-08$"),
        ((math.nan, 2e-14, 0.001), "^row 2: v_dd is nan; allowed: above 0 to 100$"),
        ((0.7, 2e-14, math.nan), "^row 2: bit_error_rate is nan; allowed: above 0 to 1$"),
    ],
)
def test_rows_that_are_no_law_are_refused(second, message):
    with pytest.raises(TableError, match=message):
        VoltageTable(rows=(ROWS[0], VoltageRow(*second)), source="")


def write(path, *lines):
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


def test_from_csv_in_either_order(tmp_path):
    lines = ["# bench 3,", "# 28 nm", "0.8,2e-14,1e-6", "", "0.6,1.3e-14,1e-3", "0.5,1e-14,1e-2"]
    table = VoltageTable.from_csv(write(tmp_path / "t.csv", *lines))
    assert table.rows == ROWS
    assert table.source == "bench 3, 28 nm"
    assert table.voltage_unit == "V"


def test_from_csv_without_comments_names_the_file(tmp_path):
    path = write(tmp_path / "t.csv", "0.5,1e-14,1e-2", "0.8,2e-14,1e-6")
    assert VoltageTable.from_csv(path).source == path.name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0.6,1e-14", f"t.csv, line 4 is '0.6,1e-14'; allowed: 3 numbers, {HEADER}$"),
        ("0.6,x,1e-3", f"t.csv, line 4 is '0.6,x,1e-3'; allowed: 3 numbers, {HEADER}$"),
        ("0,1.5e-14,1e-3", "t.csv, line 4: v_dd is 0; allowed: above 0 to 100$"),
        (
            "0.6,-1e-14,1e-3",
            "t.csv, line 4: energy_per_bit_j is -1e-14; allowed: above 0 to 1e-08$",
        ),
        ("0.6,1.5e-14,0", "t.csv, line 4: bit_error_rate is 0; allowed: .* column measured_bits$"),
        ("0.6,1.5e-14,nan", "t.csv, line 4: bit_error_rate is nan; allowed: above 0 to 1$"),
        ("0.5,1.5e-14,1e-3", "t.csv, line 4: v_dd is 0.5 V after 0.5 V; allowed: one row"),
        ("0.6,0.5e-14,1e-3", "t.csv, line 4: energy_per_bit_j is 5e-15 J, not above .*; allowed"),
        ("0.6,1.5e-14,0.1", "t.csv, line 4: bit_error_rate is 0.1, above .*; allowed: a rate"),
    ],
)
def test_from_csv_names_the_line(tmp_path, line, message):
    path = write(tmp_path / "t.csv", "# made up", "0.5,1e-14,1e-2", line)
    with pytest.raises(TableError, match=message) as refusal:
        VoltageTable.from_csv(path)
    assert "\n" not in str(refusal.value)


def test_from_csv_refuses_other_files(tmp_path):
    with pytest.raises(TableError, match="^voltage table .*none.csv cannot be read: "):
        VoltageTable.from_csv(tmp_path / "none.csv")
    path = tmp_path / "t.csv"
    path.write_text("# nothing\n")
    with pytest.raises(TableError, match=f"t.csv has no rows; allowed: a header {ALL} and rows$"):
        VoltageTable.from_csv(path)
    path.write_text("volts,joules,rate\n")
    message = f"t.csv, line 1: the header is volts,joules,rate; allowed: {ALL}$"
    with pytest.raises(TableError, match=message):
        VoltageTable.from_csv(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TableError, match="cannot be read"):
        VoltageTable.from_csv(path)
    message = r"^the voltage table is 1 row\(s\); allowed"
    with pytest.raises(TableError, match=message):
        VoltageTable.from_csv(write(path, "0.5,1e-14,1e-2"))


# References of savings


def test_references_of_savings():
    rows = (VoltageRow(0.5, 1.0e-14, 1e-2), VoltageRow(0.7, 2.0e-14, 1e-4))
    table = VoltageTable(rows=rows, source="made up", v_nominal=1.0, v_min=0.8)
    # Above the table energy rises with the square of the voltage; within it is interpolated.
    assert table.reference_supplies == {"nominal supply": 1.0, "V_min": 0.8}
    assert table.access_j_at(1.0) == pytest.approx(2.0e-14 * (1.0 / 0.7) ** 2)
    assert table.access_j_at(0.6) == pytest.approx(1.5e-14)
    # No part of what is read: a plan for the table without them fits.
    assert table.describe() == VoltageTable(rows=rows, source="made up").describe()
    traffic = Traffic(words=10, reads=20, writes=5)
    assert SRAM(bits=4, law=table).reference_energies(traffic) == pytest.approx(
        {"nominal supply": 100 * 2.0e-14 / 0.49, "V_min": 100 * 2.0e-14 * 0.64 / 0.49}
    )
    assert VoltageTable(rows=rows, source="made up").reference_supplies == {}
    assert SRAM(law=ExponentialLaw()).reference_energies(traffic) == {}
    for supplies in ({"v_min": 0.7}, {"v_min": 0.8, "v_nominal": 0.75}):
        message = "v_min is 0.7; allowed: above 0.7, the hi|v_nominal is 0.75"
        with pytest.raises(TableError, match=message):
            VoltageTable(rows=rows, source="made up", **supplies)


# Rates: the cheapest point that has one, and those that were measured as 0


@pytest.mark.parametrize("name", PROFILES)
def test_the_cheapest_eta_of_a_rate_has_that_rate(name):
    profile = law(name)
    eta = torch.linspace(*profile.eta_range, 101, dtype=torch.float64)
    found = profile.cheapest_eta(profile.bit_error_rate(eta[:-1]))
    torch.testing.assert_close(found, eta[:-1], rtol=1e-12, atol=1e-12)
    at = eta[1:-1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: profile.cheapest_eta(profile.bit_error_rate(x)), at)


def test_where_several_voltages_have_a_rate_the_lowest_is_cheapest():
    rates = (0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5)
    rows = [VoltageRow(0.4 + k / 10, (4 + k) * 1e-15, rate) for k, rate in enumerate(rates)]
    table = VoltageTable(rows=tuple(rows), source="made up")
    eta = table.cheapest_eta(tensor([0.1, 1e-2, 1e-3, 1e-4, 1e-5]))
    assert table.v_dd(eta).tolist() == pytest.approx([0.4, 0.55, 0.6, 0.75, 0.8])


def test_a_rate_of_zero_counts_with_its_upper_bound():
    """One-sided 95 %, Clopper and Pearson: ``1 - 0.05^(1/n)``, about the rule of three."""
    zero = VoltageTable(rows=(*ROWS[:2], VoltageRow(0.8, 2e-14, 0.0, 10**4)), source="made up")
    bound = 1 - 0.05 ** (1 / 10**4)
    assert bound == pytest.approx(3e-4, rel=2e-3)
    assert float(zero.bit_error_rate(tensor(1.0))) == pytest.approx(bound, rel=1e-9)
    assert zero.describe()["law_rows"][2][2] == pytest.approx(bound, rel=1e-9)
    assert zero.describe()["measured_bits"] == [None, None, 10**4]
    few = VoltageTable(rows=(*ROWS[:2], VoltageRow(0.8, 2e-14, 0.0, 10)), source="made up")
    assert few.ends("bit_error_rate") == (1e-2, 1e-3)  # no more than that of the next lower voltage


def test_measured_bits_are_a_column_of_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{HEADER},measured_bits\n0.5,1e-14,1e-2,1e6\n0.8,2e-14,0,1e6\n")
    table = VoltageTable.from_csv(path)
    assert table.rows[1] == VoltageRow(0.8, 2e-14, 0.0, 1e6)
    assert SRAM(law=table).point(v_dd=0.8) == 1.0
    path.write_text(f"{HEADER},measured_bits\n0.5,1e-14,1e-2,0\n0.8,2e-14,0,1e6\n")
    with pytest.raises(TableError, match="line 2: measured_bits is 0; allowed: 1 to"):
        VoltageTable.from_csv(path)


def test_leakage():
    leakage = Leakage(watts_per_bit=2e-12, v_dd=0.5, exponent_per_v=4.0, source="made up")
    assert float(leakage.power_w(tensor(0.5))) == pytest.approx(2e-12)
    assert float(leakage.power_w(tensor(1.0))) == pytest.approx(4e-12 * math.exp(2.0))
    with pytest.raises(InputError, match="^watts_per_bit is 0; allowed: above 0"):
        Leakage(watts_per_bit=0.0, v_dd=0.5, exponent_per_v=4.0, source="")


def test_energy_includes_leakage_over_the_latency():
    leakage = Leakage(watts_per_bit=1e-9, v_dd=0.5, exponent_per_v=4.0, source="made up")
    table = VoltageTable(rows=ROWS, source="made up", v_nominal=1.0, leakage=leakage)
    memory = SRAM(bits=8, law=table, knob="v_dd", latency_s=1e-3)
    traffic = Traffic(words=10, reads=20, writes=5)
    for volts in (0.5, 0.6, 0.8):
        dynamic = float(SRAM(bits=8, law=table, knob="v_dd").energy(traffic, volts))
        leaks = 10 * 8 * 1e-3 * float(leakage.power_w(tensor(volts)))
        assert float(memory.energy(traffic, volts)) == pytest.approx(dynamic + leaks)
    # The last row is 2e-14 J at 0.8 V; energy rises with the square of the supply.
    nominal = 25 * 8 * 2e-14 / 0.64 + 80e-3 * float(leakage.power_w(tensor(1.0)))
    assert memory.reference_energies(traffic)["nominal supply"] == pytest.approx(nominal)
    by_channel = memory.energy_by_channel(traffic, tensor([[0.5], [0.8]]), 2)
    each = [float(memory.energy(traffic, volts)) / 2 for volts in (0.5, 0.8)]
    assert by_channel.tolist() == pytest.approx(each)
    planes = tensor([0.5] * 4 + [0.8] * 4)
    assert float(memory.energy(traffic, planes)) == pytest.approx(sum(each))
    assert memory.describe()["latency_s"] == 1e-3


def test_latency_needs_a_law_with_leakage():
    with pytest.raises(InputError, match=r"^latency_s is 0.001; allowed: 0, since the law"):
        SRAM(latency_s=1e-3)
    with pytest.raises(InputError, match=r"^latency_s is -1; allowed: 0 to"):
        SRAM(latency_s=-1.0)


def test_maps_and_laws_are_described_apart():
    """Rows of an array, and rows of a table."""
    one, other = (SRAM(law=TABLE, fault_map=SpareRows(rows=rows)) for rows in (64, 512))
    assert one.describe() != other.describe()


def test_leakage_needs_volts():
    leakage = Leakage(watts_per_bit=1e-9, v_dd=0.5, exponent_per_v=4.0, source="made up")
    with pytest.raises(TableError, match="^leakage is given; allowed: None, since the supplies"):
        VoltageTable(rows=ROWS, source="made up", voltage_unit="Vmin", leakage=leakage)
