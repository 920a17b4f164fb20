"""The estimate of a block, read from the state of a memory whose points do not move."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import nn

from joulewise.contrib import NoiseMaximisation
from joulewise.devices import SRAM, Crossbar, Flip, Mask
from joulewise.models import seeded
from joulewise.placement import place

HELD = {"lr": 1e-12, "price": 1.0}


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ROWS = 400


def slopes_of(model, device, loss_of, share, blocks=30):
    """The estimate of each of some blocks, the point held, of equal rows that read independently.

    It is that of one row, averaged over so many draws.
    """
    one, columns = model.weight.detach(), model.in_features
    model = nn.Linear(columns, ROWS, bias=False).double()
    model.weight.data.copy_(one.expand(ROWS, -1))
    placement = place(model, weights=device, example_inputs=rand(3, columns))
    limits = device.knob.least_reliable, device.knob.most_reliable
    point = limits[0] + share * (limits[1] - limits[0])
    if isinstance(device, Crossbar):
        point = limits[0] * (limits[1] / limits[0]) ** share
    memory = NoiseMaximisation(placement, start={device.knob.name: point}, horizon=1, **HELD)
    found = []
    for _ in range(blocks):
        model.zero_grad()
        with memory:
            (loss_of(model.weight) / ROWS).backward()
        found.append(memory.state_dict()["averages"]["weight"]["loss"])
    return np.array(found)


def assert_estimates(found, expected_loss, share):
    """The mean is the slope of the exact expectation, within four standard errors."""
    step = 1e-4
    slope = (expected_loss(share + step) - expected_loss(share - step)) / (2 * step)
    error = found.std(ddof=1) / len(found) ** 0.5
    assert error < 0.2 * abs(slope)  # else this would show nothing
    assert found.mean() == pytest.approx(slope, abs=4 * error)


def quadratic(columns, seed=0):
    """A loss of a row of weights whose Hessian is dense, and whose slope at them is not 0."""
    x, y = rand(8, columns, seed=seed), rand(8, 1, seed=seed + 1)

    def loss(weight):
        return (F.linear(x, weight) - y).square().sum()

    return loss, 2 * x.square().sum(0)


def row(columns):
    with seeded(2):
        return nn.Linear(columns, 1, bias=False).double()


@pytest.mark.parametrize("fault", [Mask(), Flip(), Flip(zero_to_one=2.0, one_to_zero=0.5)])
@pytest.mark.parametrize("share", [0.15, 0.3])
def test_of_words_the_estimate_is_the_slope_of_all_patterns_of_faults(fault, share):
    device, model = SRAM(bits=3, fault=fault), row(3)
    loss, _ = quadratic(3)
    stored = device.store(model.weight.detach())
    codes = torch.round(stored.values / stored.scale).int()
    patterns = list(itertools.product(range(8), repeat=3))
    losses = []  # for each pattern of cells that fail where they hold 0, and where they hold 1
    cells = [torch.tensor([pattern], dtype=torch.int32) for pattern in patterns]
    for hit in cells:
        read = fault.read(codes, hit, hit, 3).double() * stored.scale
        losses.append(float(loss(read)))
    ones = [int(code) & 7 for code in codes[0]]

    def expected(share):
        rates = fault.rates(torch.tensor(math.exp(-12.8 * share), dtype=torch.float64))
        total = 0.0
        for pattern, at in zip(patterns, losses, strict=True):
            chance = 1.0
            for held, word in zip(ones, pattern, strict=True):
                for bit in range(3):
                    rate = float(rates[held >> bit & 1])
                    chance *= rate if word >> bit & 1 else 1 - rate
            total += chance * at
        return total

    assert_estimates(slopes_of(model, device, loss, share), expected, share)


@pytest.mark.parametrize("clip", [False, True])
def test_of_conductances_it_is_the_slope_of_the_closed_form(clip):
    device, model, share = Crossbar(sigma=2e-6, clip=clip, limit=1.0), row(12), 0.55
    loss, hessian = quadratic(12)
    weights = model.weight.detach()[0].numpy()

    def rectified(target, std):
        if not clip:
            return target, std**2
        first, second = (
            integrate.quad(lambda n, k=k: max(0, target + std * n) ** k * stats.norm.pdf(n), -9, 9,
                           points=[-target / std], epsabs=1e-13)[0]
            for k in (1, 2)
        )  # fmt: skip
        return first, second - first**2

    def expected(share):
        std = 2e-6 / (1e-7 * 1e4**share)
        pairs = [(rectified(abs(w), std), rectified(0.0, std)) for w in weights]
        mean = np.sign(weights) * [own[0] - idle[0] for own, idle in pairs]
        var = [own[1] + idle[1] for own, idle in pairs]
        return float(loss(torch.from_numpy(mean)[None])) + float(hessian.numpy() @ var) / 2

    assert_estimates(slopes_of(model, device, loss, share), expected, share)


def test_for_gaussian_noise_it_is_exact_whatever_the_loss():
    device, model, share = Crossbar(sigma=2e-6, clip=False, limit=1.0), row(1), 0.35

    def loss(weight):
        return torch.log(torch.cosh(4 * weight - 1)).sum()  # convex, then straight

    nodes, weights = np.polynomial.hermite_e.hermegauss(100)

    def expected(share):
        std = 2**0.5 * 2e-6 / (1e-7 * 1e4**share)
        reads = torch.from_numpy(model.weight.item() + std * nodes)
        values = torch.log(torch.cosh(4 * reads - 1)).numpy()
        return float(weights @ values / weights.sum())

    assert_estimates(slopes_of(model, device, loss, share), expected, share)
