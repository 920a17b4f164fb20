"""Tables of supplies as others write them: order and units of columns, and numbers in per cent."""

import pytest

import joulewise as jw
from joulewise.errors import TableError

STANDARD = "v_dd,energy_per_bit_j,bit_error_rate\n0.5,1e-14,0.01\n0.6,2e-14,0.001\n"


def test_columns_in_other_units_and_order(tmp_path):
    standard, given = tmp_path / "a.csv", tmp_path / "b.csv"
    standard.write_text(STANDARD)
    given.write_text(
        "corner,bit_error_rate,v_dd_mv,energy_per_bit_pj\n"
        '"TT, 25 C",0.1 %,600,0.02\nTT,1%,500,0.01\n'
    )
    expected, found = (jw.VoltageTable.from_csv(path).rows for path in (standard, given))
    for row, other in zip(expected, found, strict=True):
        assert other.v_dd == pytest.approx(row.v_dd, rel=1e-12)
        assert other.energy_per_bit_j == pytest.approx(row.energy_per_bit_j, rel=1e-12)
        assert other.bit_error_rate == pytest.approx(row.bit_error_rate, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STANDARD.replace("1e-14", "0.01"), "energy_per_bit_j is 0.01; allowed: above 0 to 1e-08"),
        ("v_dd,v_dd_mv,energy_per_bit_j,bit_error_rate\n", "the header is v_dd,v_dd_mv,"),
        (STANDARD + f"0.7,3e-14,{'1' * 140_000}x\n", "line 4 is"),
        (STANDARD.replace("1e-14", "1e-12%"), "line 2 is '0.5,1e-12%,0.01'; allowed: 3 numbers"),
        (STANDARD.replace("0.01", "1% of"), "line 2 is '0.5,1e-14,1% of'; allowed: 3 numbers"),
    ],
)
def test_wrong_units_are_named(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=message):
        jw.VoltageTable.from_csv(path, v_min=0.55)
