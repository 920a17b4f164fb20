from dataclasses import replace

import pytest
import torch
from torch import nn

from joulewise.devices import HOROWITZ_INT8, ISAAC, SRAM, Arithmetic, Crossbar, ExponentialLaw
from joulewise.errors import InputError, TableError
from joulewise.placement import Plan, energy, place, with_accesses

BIT_J = 20e-12 / 64


def model():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.fixture
def placement():
    return place(
        model(), weights=SRAM(bits=8), activations=SRAM(bits=4), example_inputs=torch.ones(5, 6)
    )


def test_by_hand(placement):
    etas = {"0.weight": 0.5, "2.weight": 0.25, "0:input": 0.75, "2:input": 1.0}
    plan = Plan({name: {"eta": eta} for name, eta in etas.items()})
    spent = energy(placement, at=plan)
    # Weights: 24 and 12 words of 8 bits, read once. Inputs: 6 and 4 words of 4 bits, written and
    # read once.
    expected = {
        "0.weight": 24 * 8 * BIT_J * 0.5,
        "2.weight": 12 * 8 * BIT_J * 0.25,
        "0:input": 12 * 4 * BIT_J * 0.75,
        "2:input": 8 * 4 * BIT_J * 1.0,
    }
    assert list(spent.memory_j) == list(expected)
    for name, joules in expected.items():
        assert float(spent.memory_j[name]) == pytest.approx(joules, rel=1e-12, abs=0)
    reliable = (24 * 8 + 12 * 8 + 12 * 4 + 8 * 4) * BIT_J
    assert spent.memory_reliable_j == pytest.approx(reliable, rel=1e-12, abs=0)
    assert spent.unplaced_j == pytest.approx(7 * 32 * BIT_J, rel=1e-12, abs=0)  # float32 biases
    assert spent.arithmetic_j == pytest.approx((24 + 12) * 0.3e-12, rel=1e-12, abs=0)
    memory = sum(expected.values())
    assert spent.memory_total_j == pytest.approx(memory, rel=1e-12, abs=0)
    assert spent.normalised == pytest.approx(memory / reliable, rel=1e-12, abs=0)
    everything = memory + spent.unplaced_j + spent.arithmetic_j
    assert spent.total_j == pytest.approx(everything, rel=1e-12, abs=0)


@pytest.mark.parametrize("eta", [0.1, 0.5, 1.0])
def test_one_eta_for_all_is_the_normalised_energy(placement, eta):
    assert energy(placement, at=placement.plan({"eta": eta})).normalised == pytest.approx(
        eta, rel=1e-12, abs=0
    )


def test_the_arithmetic_is_an_argument(placement):
    free = Arithmetic(mac_j=0.0, source="none")
    plan = placement.plan({"eta": 0.5})
    assert energy(placement, at=plan, arithmetic=free).arithmetic_j == 0
    assert energy(placement, at=plan).arithmetic_j == HOROWITZ_INT8.mac_j * 36


def test_differentiable_in_the_points(placement):
    names = [tensor.name for tensor in placement.placed]

    def total(*points):
        settings = [{"eta": point} for point in points]
        spent = energy(placement, at=Plan(dict(zip(names, settings, strict=True))))
        return torch.stack(list(spent.memory_j.values())) * 1e12

    points = [torch.tensor(eta, dtype=torch.float64, requires_grad=True) for eta in (0.2, 0.4)]
    points += [torch.full((4,), 0.6, dtype=torch.float64, requires_grad=True)] * 2
    assert torch.autograd.gradcheck(total, points)


def test_one_point_for_each_bit_plane(placement):
    planes = torch.arange(1, 9, dtype=torch.float64) / 8
    plan = Plan({**placement.plan({"eta": 0.5}), "0.weight": {"eta": planes}})
    joules = float(energy(placement, at=plan).memory_j["0.weight"])
    assert joules == pytest.approx(24 * BIT_J * 36 / 8, rel=1e-12, abs=0)


def test_one_point_for_each_channel(placement):
    channels = torch.tensor([[0.1], [0.2], [0.6], [0.7]], dtype=torch.float64)
    common = placement.plan({"eta": 0.5})
    plan = Plan({**common, "0.weight": {"eta": channels}})
    joules = float(energy(placement, at=plan).memory_j["0.weight"])
    assert joules == pytest.approx(24 * 8 * BIT_J * 0.4, rel=1e-12, abs=0)
    planes = channels * torch.arange(1, 9, dtype=torch.float64) / 8
    plan = Plan({**common, "0.weight": {"eta": planes}})
    joules = float(energy(placement, at=plan).memory_j["0.weight"])
    assert joules == pytest.approx(24 * BIT_J * 0.4 * 36 / 8, rel=1e-12, abs=0)


def test_columns_of_a_crossbar_have_energies_of_their_own():
    """A network of one column has the energy of that column, but for the inputs they share."""
    x = torch.rand(7, 6, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(6, 3, bias=False)
    readout = replace(ISAAC, input_j=0.0)
    crossbar = Crossbar(sigma=1e-6, limit=1.0, readout=readout)
    points = torch.tensor([[1e-5], [3e-5], [8e-5]], dtype=torch.float64)
    (whole,) = place(layer, weights=crossbar, example_inputs=x).placed
    by_channel = crossbar.energy_by_channel(whole.traffic, points, 3)
    for channel, point in enumerate(points):
        alone = nn.Linear(6, 1, bias=False)
        alone.weight.data = layer.weight.data[channel : channel + 1]
        placement = place(alone, weights=crossbar, example_inputs=x)
        joules = energy(placement, at={"g_max": float(point)}).memory_j["weight"]
        torch.testing.assert_close(by_channel[channel], joules, rtol=1e-12, atol=0)
    together = energy(place(layer, weights=crossbar, example_inputs=x), at={"g_max": points})
    torch.testing.assert_close(together.memory_j["weight"], by_channel.sum())


def test_each_device_has_its_own_price():
    cheap = SRAM(bits=8, law=ExponentialLaw(nominal_energy_per_bit_j=1e-15))
    placement = place(model(), weights=cheap, example_inputs=torch.ones(1, 6))
    spent = energy(placement, at=placement.plan({"eta": 1.0}))
    assert spent.memory_total_j == pytest.approx(36 * 8 * 1e-15, rel=1e-12, abs=0)


def test_a_placement_that_was_not_traced_is_refused():
    untraced = place(model(), weights=SRAM())
    with pytest.raises(InputError, match="energy needs access counts; give place"):
        energy(untraced, at=untraced.plan({"eta": 1.0}))
    traced = untraced.trace(torch.ones(2, 6))
    assert energy(traced, at=traced.plan({"eta": 1.0})).normalised == pytest.approx(1.0)


def test_a_plan_that_leaves_out_a_tensor_is_refused(placement):
    plan = {n: s for n, s in placement.plan({"eta": 0.5}).items() if n != "2.weight"}
    with pytest.raises(InputError, match=r"2\.weight is placed here, and the plan has no point"):
        energy(placement, at=Plan(plan))


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
        ("name,reads,writes\n\n1.weight,1,1\n", "line 3: name is 1.weight; allowed: a placed"),
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
    with pytest.raises(InputError, match="with_accesses needs a traced placement"):
        with_accesses(place(model(), weights=SRAM()), tmp_path / "any.csv")
