from dataclasses import replace

import pytest
import torch
from torch import nn

from joulewise.devices import HOROWITZ_INT8, ISAAC, SRAM, Arithmetic, Crossbar, ExponentialLaw
from joulewise.errors import InputError
from joulewise.placement import Plan, energy, place

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
