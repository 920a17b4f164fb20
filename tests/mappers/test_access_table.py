import math

import pytest

from joulewise.errors import InputError, TableError
from joulewise.mappers import AccessRow, AccessTable


def row(layer="conv1", tensor="weights", component="sram", action="read", count=8.0, joules=None):
    return AccessRow(
        layer=layer,
        tensor=tensor,
        component=component,
        action=action,
        count=count,
        joules=joules,
    )


@pytest.fixture
def table():
    return AccessTable(
        rows=(
            row(joules=1e-12),
            row(action="write", count=2.0, joules=3e-12),
            row(layer="fc, last", component="dram", joules=5e-12),
            row(tensor="", component="mac", action="compute", count=100.0),
        )
    )


def test_names_filters_and_totals(table):
    assert table.layers == ("conv1", "fc, last")
    assert table.components == ("sram", "dram", "mac")
    assert table.total_j == 9e-12
    assert table.totals() == {"sram": 4e-12, "dram": 5e-12, "mac": 0.0}
    by_action = {"read": 6e-12, "write": 3e-12, "compute": 0.0}
    assert table.totals("action") == pytest.approx(by_action, rel=1e-12, abs=0)
    assert table.filter(component="sram", action="write").rows == table.rows[1:2]
    assert table.filter(component=("sram", "dram")).rows == table.rows[:3]
    assert repr(table).splitlines()[0] == "Accesses of 2 layers, 9 pJ"
    assert [one["count"] for one in table.to_dict()["rows"]] == [8, 2, 8, 100]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"component": "sra"}, "component is 'sra'; allowed: sram, dram, mac"),
        ({"layer": ["conv1", "fc"]}, "layer is 'fc'; allowed: conv1, fc, last"),
        ({"count": "8"}, "by is 'count'; allowed: layer, tensor, component, action"),
        ({"component": "dram", "action": "write"}, "the access table is without rows"),
        ({"layer": None}, "layer is None .NoneType.; allowed: a name, or several"),
        ({"layer": 5}, "layer is 5 .int.; allowed: a name, or several"),
        ({"layer": [["conv1"]]}, "layer is of type list; allowed: a name, or several"),
    ],
)
def test_a_filter_that_leaves_nothing_is_refused(table, wanted, message):
    with pytest.raises(TableError, match=message):
        table.filter(**wanted)


def test_a_csv_file_gives_the_table_back(table, tmp_path):
    table.to_csv(tmp_path / "table.csv")
    assert AccessTable.from_csv(tmp_path / "table.csv") == table
    text = (tmp_path / "table.csv").read_text()
    assert text.startswith(
        "layer,tensor,component,action,count,joules\nconv1,weights,sram,read,8.0,"
    )
    (tmp_path / "windows.csv").write_bytes(
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"# end\r\n\r\n"
    )
    assert AccessTable.from_csv(tmp_path / "windows.csv") == table


def test_the_short_form_names_placed_tensors(tmp_path):
    (tmp_path / "short.csv").write_text('name, reads,writes\n"a,b", 3,0\n')
    assert AccessTable.from_csv(tmp_path / "short.csv").rows == (
        row(layer="a,b", tensor="", component="", count=3.0),
        row(layer="a,b", tensor="", component="", action="write", count=0.0),
    )


LONG = "layer,tensor,component,action,count,joules\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv has no rows; allowed: a header name,reads,writes and rows, or a header layer"),
        (LONG, "t.csv has no rows"),
        ("layer,count\n", "line 1: the header is layer,count; allowed: name,reads,writes or layer"),
        (LONG + "a,weights,sram,read,1\n", "line 2 is 'a,weights,sram,read,1'; allowed: text and"),
        (LONG + "a,weights,sram,read,,\n", "line 2 is 'a,weights,sram,read,,'; allowed: text and"),
        (LONG + "a,weights,sram,read,nan,\n", "line 2: count is nan; allowed: 0 to 1e"),
        (LONG + "a,weights,sram,read,-1,\n", "line 2: count is -1; allowed: 0 to 1e"),
        (LONG + "a,weights,sram,read,1,nan\n", "line 2: joules is nan; allowed: 0 to 1e"),
        (LONG + "a,weights,sram,read,1,-1\n", "line 2: joules is -1; allowed: 0 to 1e"),
        (LONG + 2 * "a,weights,sram,read,1,\n", "line 3: layer is a,weights,sram again; allowed:"),
        (LONG + '"#a",weights,sram,read,1,\n', "line 2: layer is '#a'; allowed: printable text"),
        (LONG + "a\tb,weights,sram,read,1,\n", "line 2: layer is 'a.tb'; allowed: printable text"),
        (LONG + "a" * 200_000 + ",w,s,read,1,\n", "line 2 is 'aaa"),
    ],
)
def test_a_malformed_file_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        AccessTable.from_csv(tmp_path / "t.csv")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("path", ["", "\0", "nowhere.csv", 3])
def test_a_path_of_no_file_is_refused(tmp_path, path):
    with pytest.raises(TableError, match="access counts"):
        AccessTable.from_csv(tmp_path / path if isinstance(path, str) else path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": math.nan}, "count is nan; allowed: 0 to 1e"),
        ({"count": -1}, "count is -1; allowed"),
        ({"count": "8"}, "count is '8'"),
        ({"count": 10**400}, "count is an integer of over 300 digits; allowed"),
        ({"joules": math.inf}, "joules is inf; allowed"),
        ({"action": "Read"}, "action is 'Read'; allowed: lower case"),
        ({"layer": 3}, "layer is 3; allowed: printable text"),
        ({"layer": " #a"}, "layer is ' #a'; allowed: printable text that starts with no # and has"),
        ({"tensor": " a"}, "tensor is ' a'; allowed: .* no outer spaces"),
        ({"component": "a "}, "component is 'a '; allowed: .* no outer spaces"),
    ],
)
def test_a_row_checks_itself(change, message):
    with pytest.raises(TableError, match=message):
        row(**change)


def test_a_table_checks_its_rows(tmp_path):
    with pytest.raises(TableError, match="two rows of conv1, weights, sram, read; allowed: one"):
        AccessTable(rows=(row(), row(count=3.0)))
    with pytest.raises(TableError, match="a row of the access table is of type dict"):
        AccessTable(rows=({},))
    for rows in (None, 5):
        with pytest.raises(TableError, match=f"rows is {rows} .*; allowed: a tuple of AccessRow"):
            AccessTable(rows=rows)
    with pytest.raises(InputError, match="path is None .NoneType.; allowed: a path"):
        AccessTable(rows=(row(),)).to_csv(None)
    with pytest.raises(InputError, match="cannot be written"):
        AccessTable(rows=(row(),)).to_csv("\0")
    with pytest.raises(InputError, match="cannot be written"):
        AccessTable(rows=(row(),)).to_csv(tmp_path / "nowhere" / "t.csv")
