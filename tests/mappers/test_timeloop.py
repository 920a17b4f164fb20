from pathlib import Path

import pytest

from joulewise.errors import TableError
from joulewise.mappers import read_timeloop

RUNS = Path(__file__).parent / "data" / "timeloop"
NEW = RUNS / "eyeriss_like" / "timeloop-mapper.stats.txt"
OLD = RUNS / "conv1d" / "timeloop-model.stats.txt"
SPARSE = RUNS / "dot_product_gating" / "timeloop-model.stats.txt"


@pytest.mark.parametrize(
    ("path", "printed", "components"),
    [
        # fJ/Compute of 10838016 computes, which has leakage in it.
        (
            NEW,
            5469.65e-15 * 10838016,
            {
                "mac": 207.69e-15 * 10838016,
                "psum_spad": 386.77e-15 * 10838016,
                "weights_spad": 1006.69e-15 * 10838016,
                "ifmap_spad": 112.37e-15 * 10838016,
                "shared_glb": 375.27e-15 * 10838016,
                "DRAM": 3380.86e-15 * 10838016,
            },
        ),
        # pJ/MACC of 48 MACCs; the total topology energy is 102.86 pJ.
        (OLD, 102.86e-12, {"MACC": 0.6e-12 * 48, "Buffer": 1.54e-12 * 48}),
        # pJ/Compute of 4 actual computes; 13.75 pJ in all.
        (SPARSE, 13.75e-12, {"MAC": 0.56e-12 * 4, "Buffer": 2.88e-12 * 4}),
    ],
)
def test_the_energies_are_those_that_timeloop_printed(path, printed, components):
    table = read_timeloop(path)
    # Two digits after the point of each figure.
    assert table.total_j == pytest.approx(printed, rel=0.005 / 207 if path == NEW else 1.5e-3)
    assert table.totals() == pytest.approx(components, rel=5e-5 if path == NEW else 8e-3)
    assert table.layers == (path.parent.name,)


def test_accesses_are_those_of_all_instances():
    table = read_timeloop(NEW)
    # "Total scalar accesses" of the file's operational intensity.
    printed = {
        "psum_spad": 18063360,
        "weights_spad": 11031552,
        "ifmap_spad": 12192768,
        "shared_glb": 1913456,
        "DRAM": 572528,
    }
    for component, total in printed.items():
        found = table.filter(component=component, action=("read", "write"))
        assert sum(row.count for row in found.rows) == total
    found = {r.action: r for r in table.filter(component="weights_spad").rows}
    assert found["read"].count == 126 * 86016 and found["write"].count == 126 * 1536
    # One energy for both, shared by number: 0.99 pJ an access.
    assert found["read"].joules + found["write"].joules == pytest.approx(10893306.24e-12)
    assert found["write"].joules / found["write"].count == pytest.approx(0.99e-12, abs=0.005e-12)
    assert found["leak"].tensor == "" and found["leak"].joules == pytest.approx(17254.12e-12)


def test_gated_accesses_do_not_count_and_data_spaces_have_roles():
    table = read_timeloop(SPARSE, tensors={"A": "weights", "B": "inputs"})
    found = {(r.tensor, r.action): r.count for r in table.filter(component="Buffer").rows}
    assert found == {
        ("weights", "read"): 16,
        ("inputs", "read"): 4,
        ("Z", "read"): 3,
        ("Z", "write"): 4,
    }
    assert table.filter(action="compute").rows[0].count == 4


def test_energies_of_networks_are_theirs(tmp_path):
    text = OLD.read_text().replace("Total                   = 2.14", "Total = 3.14")
    start = text.index("Buffer <==> MACC")
    network = text[start:]
    for label, joules in (
        ("Energy (total)                          ", "20.00"),
        ("Link transfer energy (total)            ", "18.00"),
        ("Spatial Reduction Energy (total)        ", "10.00"),
    ):
        network = network.replace(f"{label}: 0.00 pJ", f"{label}: {joules} pJ", 1)
    (tmp_path / "n.stats.txt").write_text(text[:start] + network)
    found = read_timeloop(tmp_path / "n.stats.txt").filter(component="Buffer <==> MACC").rows
    assert {(r.tensor, r.action, r.count, r.joules) for r in found} == {
        ("weights", "transfer", 48, 20e-12),
        ("weights", "link transfer", 0, 18e-12),
        ("weights", "spatial reduction", 0, 10e-12),
    }


def test_a_folder_has_a_layer_in_each_subfolder(tmp_path):
    table = read_timeloop(RUNS)
    assert table.layers == ("conv1d", "dot_product_gating", "eyeriss_like")
    assert table.filter(layer="conv1d").rows == read_timeloop(OLD).rows
    (tmp_path / "a").mkdir()
    for name in ("timeloop-model", "timeloop-mapper"):
        (tmp_path / "a" / f"{name}.stats.txt").write_bytes(OLD.read_bytes())
    with pytest.raises(TableError, match=r"timeloop-model.stats.txt: its folder is a again; allow"):
        read_timeloop(tmp_path)
    with pytest.raises(TableError, match=r"is a folder without \*\*/\*.stats.txt; allowed: one of"):
        read_timeloop(Path(__file__).parent / "data" / "zigzag")


def test_lines_may_end_as_on_windows(tmp_path):
    file = tmp_path / "conv1d" / "timeloop-model.stats.txt"
    file.parent.mkdir()
    file.write_bytes(OLD.read_bytes().replace(b"\n", b"\r\n"))
    assert read_timeloop(file) == read_timeloop(OLD)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(per-instance)              : 32", "(per-instance) : nan", r"Buffer, Outputs: .* is nan"),
        (
            "(per-instance)              : 32",
            "(per-instance) : -32",
            r"reads .* is -32; allowed: 0",
        ),
        ("(per-instance)              : 32", "(per-instance) : many", r"is 'many'; allowed: a num"),
        ("(total)                           : 33.60 pJ", "(total) : 33.60 kWh", r"in aJ, fJ, pJ"),
        ("(total)                           : 33.60 pJ", "(total) : 3.60 pJ", r"the sum of all en"),
        ("MACCs = 48", "MACCs = many", r"computes is 'many'; allowed: a number"),
        ("MACCs = 48", "", r"is a file without a total; allowed: Computes or MACCs"),
    ],
)
def test_a_malformed_file_is_refused_by_field(tmp_path, old, new, message):
    text = OLD.read_text()
    assert old in text
    (tmp_path / "t.stats.txt").write_text(text.replace(old, new))
    with pytest.raises(TableError, match=rf"t.stats.txt.*{message}"):
        read_timeloop(tmp_path / "t.stats.txt")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", NEW.read_bytes()[:3000]])
def test_what_is_no_stats_file_is_refused(tmp_path, content):
    (tmp_path / "t.stats.txt").write_bytes(content)
    with pytest.raises(TableError, match=r"t.stats.txt"):
        read_timeloop(tmp_path / "t.stats.txt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.stats.txt").mkdir()
    with pytest.raises(TableError, match=r"x.stats.txt cannot be read"):
        read_timeloop(tmp_path / "folder")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (5, "tensors is 5 .int.; allowed: roles by data space"),
        (["Weights"], "tensors is of type list; allowed: roles by data space"),
        ({"A": "weights"}, "tensors is 'A': 'weights'; allowed: a role of "),
        ({"Weights": 5}, "tensors is 'Weights': 5; allowed: a role of "),
    ],
)
def test_roles_of_other_data_spaces_are_refused(tensors, message):
    with pytest.raises(TableError, match=message):
        read_timeloop(OLD, tensors=tensors)
