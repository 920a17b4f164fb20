from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM
from joulewise.errors import InputError, TableError
from joulewise.mappers import AccessRow, AccessTable, read_zigzag
from joulewise.placement import energy, place, with_accesses

BIT_J = 20e-12 / 64
RUN = Path(__file__).parents[1] / "mappers" / "data" / "zigzag"


def model():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.fixture
def placement():
    return place(
        model(), weights=SRAM(bits=8), activations=SRAM(bits=4), example_inputs=torch.ones(5, 6)
    )


def table(*rows):
    """A table of rows: layer, tensor, component, action, count."""
    fields = ("layer", "tensor", "component", "action", "count")
    return AccessTable(rows=tuple(AccessRow(**dict(zip(fields, row, strict=True))) for row in rows))


TWO = table(
    ("0", "weights", "spad", "read", 96),
    ("0", "weights", "spad", "write", 24),
    ("0", "weights", "dram", "read", 24),
    ("0", "inputs", "spad", "read", 12),
    ("0", "outputs", "spad", "write", 7),
    ("0", "", "mac", "compute", 24),
    ("2", "weights", "dram", "read", 12),
)


def traffic(placement):
    return {t.name: (t.traffic.reads, t.traffic.writes) for t in placement.placed}


def test_accesses_from_a_table(placement):
    traced = traffic(placement)
    taken = with_accesses(placement, TWO, component="spad")
    # Outputs and other tensors keep what was traced.
    assert traffic(taken) == traced | {"0.weight": (96, 24), "0:input": (12, 0)}
    spent = energy(taken, at={"eta": 0.5})
    assert float(spent.memory_j["0.weight"]) == pytest.approx(120 * 8 * BIT_J / 2, rel=1e-12)
    taken = with_accesses(placement, TWO, component="dram")
    assert traffic(taken) == traced | {"0.weight": (24, 0), "2.weight": (12, 0)}


def test_a_table_of_one_component_for_each_tensor_needs_none(placement):
    spads = table(("0", "weights", "weights_spad", "read", 5), ("2", "inputs", "i_spad", "read", 6))
    assert traffic(with_accesses(placement, spads)) == traffic(placement) | {
        "0.weight": (5, 0),
        "2:input": (6, 0),
    }
    with pytest.raises(
        TableError, match="component is None; allowed: the memory that 0.weight lie"
    ):
        with_accesses(placement, TWO)
    with pytest.raises(TableError, match="component is 'sram'; allowed: spad, dram, mac"):
        with_accesses(placement, TWO, component="sram")


@pytest.mark.parametrize("name", ["0", "0.weight"])
def test_layers_of_other_names(placement, name):
    other = table(("fc1", "weights", "spad", "read", 5), ("fc1", "inputs", "spad", "read", 6))
    taken = with_accesses(placement, other, names={"fc1": name})
    assert traffic(taken) == traffic(placement) | {"0.weight": (5, 0), "0:input": (6, 0)}
    # A layer of which nothing is placed, and one that is not in the component.
    with_accesses(placement, TWO, component="dram", names={"2": "1"})
    with_accesses(placement, TWO, component="spad", names={"2": "1"})
    with pytest.raises(TableError) as caught:
        with_accesses(placement, other)
    assert str(caught.value) == (
        "the access table: layer is fc1; allowed: a placed tensor, one of 0.weight, 2.weight, "
        "0:input, 2:input, or a layer of the model, by names= for those of the access table, fc1"
    )
    with pytest.raises(
        InputError, match="names is 'fc': '0'; allowed: a layer of the access table"
    ):
        with_accesses(placement, other, names={"fc": "0"})
    with pytest.raises(InputError, match=r"names is 'fc1': \['0'\]; allowed: a layer of"):
        with_accesses(placement, other, names={"fc1": ["0"]})
    for names in (5, [1], "x"):
        with pytest.raises(InputError, match=r"names is .*; allowed: the model's layer or placed"):
            with_accesses(placement, other, names=names)
    with pytest.raises(InputError, match=r"component is 5 \(int\); allowed: a component of"):
        with_accesses(placement, TWO, component=5)


def test_layers_that_share_a_weight_add_up():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    placement = place(net, weights=SRAM(), example_inputs=torch.ones(1, 4))
    both = table(("0", "weights", "m", "read", 5), ("1", "weights", "m", "read", 6))
    assert traffic(with_accesses(placement, both)) == {"0.weight": (11, 0)}


def test_the_weights_of_a_mapper_are_no_biases():
    everything = place(
        model(), weights=SRAM(), include=["*"], exclude=[], example_inputs=torch.ones(5, 6)
    )
    assert len(everything.placed) == 4
    taken = with_accesses(everything, TWO, component="spad")
    assert traffic(taken) == traffic(everything) | {"0.weight": (96, 24)}


def test_a_layer_with_several_weights_is_refused():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention
            self.bilinear = nn.LSTM(8, 3, batch_first=True)

        def forward(self, x):
            return self.bilinear(self.attention(x, x, x)[0])[0]

    placement = place(Own(), weights=SRAM(), example_inputs=torch.ones(1, 2, 8))
    rows = table(("bilinear", "weights", "m", "read", 5))
    with pytest.raises(
        TableError, match=r"in bilinear; allowed: one of bilinear.weight_ih_l0, bil"
    ):
        with_accesses(placement, rows)
    name = "bilinear.weight_hh_l0"
    assert traffic(with_accesses(placement, rows, names={"bilinear": name}))[name] == (5, 0)


def test_a_table_of_nothing_that_is_placed_is_refused(placement):
    with pytest.raises(TableError, match=r"is of A,  in 0, 2; allowed: weights or inputs of 0.wei"):
        with_accesses(placement, table(("0", "A", "m", "read", 5), ("2", "", "m", "leak", 0)))
    only = place(model(), weights=SRAM(), example_inputs=torch.ones(5, 6))
    assert traffic(with_accesses(only, TWO, component="spad"))["0.weight"] == (96, 24)
    assert with_accesses(
        only, table(("pool", "inputs", "m", "read", 5), ("0", "weights", "m", "read", 1))
    )


def test_a_run_of_zigzag(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    placement = place(net, weights=SRAM(), example_inputs=torch.ones(1, 1, 8, 8))
    found = read_zigzag(RUN, RUN / "tpu_like.yaml")
    names = dict(zip(found.layers, (p.name for p in placement.weights), strict=True))
    taken = with_accesses(placement, found, component="rf_128B", names=names)
    assert traffic(taken) == {"0.weight": (4608, 72), "3.weight": (5120, 5120)}
    # As many multiply-accumulates as were traced, each of which reads a weight once.
    assert placement.macs == 4608 + 5120
    found.filter(component="rf_128B").to_csv(tmp_path / "t.csv")
    again = with_accesses(placement, tmp_path / "t.csv", names=names)
    assert traffic(again) == traffic(taken)


def counts(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "counts.csv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_accesses_from_a_file(placement, tmp_path, encoding):
    text = "name, reads, writes\n# by a mapper\n\n  # indented\n0.weight, 48, 24\n2:input,1e3,0\n"
    taken = with_accesses(placement, counts(tmp_path, text, encoding))
    traffic = {tensor.name: tensor.traffic for tensor in taken.placed}
    before = {tensor.name: tensor.traffic for tensor in placement.placed}
    assert traffic["0.weight"] == replace(before["0.weight"], reads=48.0, writes=24.0)
    assert traffic["2:input"] == replace(before["2:input"], reads=1000.0, writes=0.0)
    assert traffic["2.weight"] == before["2.weight"] and traffic["0:input"] == before["0:input"]
    spent = energy(taken, at=taken.plan({"eta": 1.0}))
    assert float(spent.memory_j["0.weight"]) == pytest.approx(72 * 8 * BIT_J, rel=1e-12, abs=0)
    assert taken.macs == placement.macs and taken.model is placement.model


def test_a_name_with_a_comma_is_quoted(tmp_path):
    weights = nn.ParameterDict({"a,b": nn.Parameter(torch.ones(2, 2))})

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = weights

        def forward(self, inputs):
            return inputs @ self.weights["a,b"]

    placement = place(Model(), weights=SRAM(), example_inputs=torch.ones(1, 2))
    taken = with_accesses(placement, counts(tmp_path, 'name,reads,writes\n"weights.a,b",9,1\n'))
    assert (taken.placed[0].traffic.reads, taken.placed[0].traffic.writes) == (9.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "counts.csv has no rows; allowed: a header name,reads,writes and rows"),
        ("# only\n", "counts.csv has no rows"),
        ("# first\n0.weight,1,1\n", "line 2: the header is 0.weight,1,1; allowed: name,reads"),
        ("name,reads,writes\n\n1.weight,1,1\n", "counts.csv: layer is 1.weight; allowed: a placed"),
        ("name,reads,writes\n0.weight,many,1\n", "line 2 is '0.weight,many,1'; allowed: text and"),
        ("name,reads,writes\n0.weight,1\n", "line 2 is '0.weight,1'; allowed: text and"),
        ("name,reads,writes\n0.weight,1,000,0\n", "line 2 is '0.weight,1,000,0'; allowed: text"),
        ("name,reads,writes\n0.weight,-1,1\n", "line 2: reads is -1; allowed: 0 to 1e\\+30"),
        ("name,reads,writes\n0.weight,1,nan\n", "line 2: writes is nan"),
        ("name,reads,writes\n0.weight,inf,0\n", "line 2: reads is inf"),
        ("name,reads,writes\n0.weight,1,0\n0.weight,2,0\n", "line 3: name is 0.weight again"),
    ],
)
def test_a_malformed_file_is_refused_by_line(placement, tmp_path, text, message):
    with pytest.raises(TableError, match=message):
        with_accesses(placement, counts(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(placement, tmp_path):
    with pytest.raises(TableError, match="access counts .*absent.csv cannot be read"):
        with_accesses(placement, tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TableError, match="access counts .*binary.csv cannot be read"):
        with_accesses(placement, tmp_path / "binary.csv")


def test_accesses_need_a_trace(tmp_path):
    with pytest.raises(InputError, match="accesses need a traced placement; give place"):
        with_accesses(place(model(), weights=SRAM()), tmp_path / "any.csv")
