"""Curves: what is tabulated is what would be worked out, with its slope, kinks included."""

import torch

from joulewise.devices import Knob
from joulewise.prediction.moment_curves import MomentCurves

ETA = Knob(name="eta", least_reliable=0.0, most_reliable=1.0)
SIEMENS = Knob(name="g_max", least_reliable=1e-7, most_reliable=1e-3)
POINTS = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def falling(point):
    p = torch.exp(-12.8 * point)
    return torch.stack([p * (1 - p), 3 * p, (1 - p).square() - 1, 0 * p])


def test_it_is_the_figure_within_a_millionth():
    curves = MomentCurves.tabulate(ETA, falling, 4)
    for which in range(4):
        expected = torch.func.vmap(falling)(POINTS)[:, which]
        found = curves.at(POINTS, torch.tensor(which))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert len(curves.levels) < 300


def test_logarithmic_knobs():
    points = SIEMENS.points(POINTS)
    curves = MomentCurves.tabulate(SIEMENS, lambda g: (1 / g.square() + g)[None], 1)
    found = curves.at(points, torch.tensor(0))
    torch.testing.assert_close(found, 1 / points.square() + points, rtol=1e-6, atol=0)


def test_the_ends_are_exact_and_slopes_go_on_there():
    curves = MomentCurves.tabulate(ETA, falling, 4)
    for end in (0.0, 1.0):
        at = torch.tensor(end, dtype=torch.float64, requires_grad=True)
        value = curves.at(at, torch.tensor(1))
        (slope,) = torch.autograd.grad(value, at)
        expected = 3 * torch.exp(-12.8 * at.detach())
        torch.testing.assert_close(value.detach(), expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(slope, -12.8 * expected, rtol=1e-12, atol=0)


def test_slopes_between():
    curves = MomentCurves.tabulate(ETA, falling, 4)
    at = POINTS[:50].clone().requires_grad_()
    (slope,) = torch.autograd.grad(curves.at(at, torch.tensor(1)).sum(), at)
    expected = -12.8 * 3 * torch.exp(-12.8 * at.detach())
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=0)


def test_a_kink_is_found():
    """A law that is piecewise in the knob, as a measured one is."""

    def kinked(point):
        return torch.exp(torch.where(point < 0.4321, -20 * point, -8.6420 + 5 * (0.4321 - point)))[
            None
        ]

    curves = MomentCurves.tabulate(ETA, kinked, 1)
    expected = torch.func.vmap(kinked)(POINTS)[:, 0]
    torch.testing.assert_close(curves.at(POINTS, torch.tensor(0)), expected, rtol=1e-5, atol=0)
    assert len(curves.levels) < 300
