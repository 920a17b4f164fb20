"""Both methods on a device that is no SRAM: nothing in the room may know which device it is."""

import pytest
import torch
from torch import nn

from joulewise.devices import Crossbar
from joulewise.placement import place
from joulewise.prediction import Moments, predict
from joulewise.simulation import simulate

DEVICES = {
    "additive": Crossbar(sigma=1e-6),
    "unclipped": Crossbar(sigma=1e-6, clip=False),
    "variability": Crossbar(variability=0.1),
    "all": Crossbar(sigma=5e-7, variability=0.05, read_noise=5e-7, levels=32),
}


def network():
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


def data(batches=1):
    x = torch.randn(32, 10, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(32) % 3
    return [(x, targets)] * batches


@pytest.mark.parametrize("name", DEVICES)
def test_against_simulation(name):
    placement = place(network(), weights=DEVICES[name], inputs=data()[0][0])
    sim = simulate(placement, data(), g_max=100e-6, chips=1500, seed=0)
    low, high = sim.mse_interval()
    slack = 2.6 * (high - low) / 2 / 1.96
    for method in ("first-order", "moments"):
        forecast = predict(placement, data(), g_max=100e-6, method=method)
        # The noise is 2 % of the weights: what first order leaves out is below 2 %.
        assert float(forecast.mse) == pytest.approx(sim.mean_mse, abs=slack + 0.02 * sim.mean_mse)


@pytest.mark.parametrize("clip", [True, False])
def test_gradients_in_g_max(clip):
    placement = place(network(), weights=Crossbar(sigma=1e-6, clip=clip), inputs=data()[0][0])
    names = [p.name for p in placement.placed]

    def mse(*scaled):
        plan = {name: 1e-5 * s for name, s in zip(names, scaled, strict=True)}
        method = Moments(dtype=torch.float64)
        return predict(placement, [(data()[0][0].double(), None)], plan, method=method).mse

    placement.model.double()
    placement = place(placement.model, weights=Crossbar(sigma=1e-6, clip=clip))
    points = [torch.tensor(s, dtype=torch.float64, requires_grad=True) for s in (2.0, 5.0)]
    assert torch.autograd.gradcheck(mse, points, eps=1e-5, rtol=1e-3)
