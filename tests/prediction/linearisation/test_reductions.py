"""Reductions against sums over samples, outputs and weights of Jacobians by autograd."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from joulewise.devices import SRAM, SharedFactor
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.prediction.linearisation.op_interception import Interception
from joulewise.prediction.linearisation.reductions import (
    ClassReduction,
    LogitJacobians,
    SensitivityReduction,
    UncheckedUse,
    VarianceReduction,
)
from joulewise.prediction.linearisation.self_check import cover
from joulewise.prediction.problem import loaded_problem
from per_sample import rand

SAMPLES, OUTPUTS = 4, 3
WEIGHTS = ("once.weight", "tied.weight", "odd", "head.weight")


class Mixed(nn.Module):
    """A weight used once, one used twice, one of an unknown operation, and a turned one."""

    def __init__(self):
        super().__init__()
        self.once, self.tied = nn.Conv2d(2, 4, 3, groups=2), nn.Linear(4, 4)
        self.odd, self.head = nn.Parameter(torch.randn(4, 4) / 3), nn.Linear(OUTPUTS, 4, bias=False)

    def forward(self, x):
        hidden = self.tied(self.once(x).tanh().mean((2, 3))).tanh()
        hidden = self.tied(hidden).tanh() @ torch.linalg.matrix_exp(self.odd)
        return hidden @ self.head.weight


@pytest.fixture
def problem(cases):
    with seeded(0):
        model = Mixed().double().eval()
    x = cases.normal(SAMPLES, 2, 5, 5)
    with cases.problem(model, x, include=list(WEIGHTS)) as found:
        yield found


class Pass:
    """One forward pass at the mean, its Jacobians by autograd, and reductions of it."""

    def __init__(self, problem):
        self.problem, self.x = problem, problem.batches[0].inputs
        moments = problem.memory.moments(problem.points)
        self.means = {name: m.mean.detach() for name, m in moments.items()}
        self.variances = {name: m.var.detach() for name, m in moments.items()}
        self.coverage = cover(problem, self.means)
        assert self.coverage.repeated == {"tied.weight"}
        assert self.coverage.one_by_one == {"odd"}
        self.jacobians = self.by_autograd()

    def by_autograd(self):
        leaves = {name: mean.clone().requires_grad_() for name, mean in self.means.items()}
        self.problem.memory.expect(self.problem.points, leaves)
        rows = {name: [] for name in leaves}
        for sample in range(SAMPLES):
            with torch.enable_grad():
                (output,) = self.problem.memory.call(self.x[sample : sample + 1])
                output = output.unbind()
            for name, leaf in leaves.items():
                found = [torch.autograd.grad(o, leaf, retain_graph=True)[0] for o in output]
                rows[name].append(torch.stack(found))
        return {name: torch.stack(parts) for name, parts in rows.items()}

    def probed(self, probe):
        """``[samples, *weight]`` for one probe ``[samples, outputs]`` of the outputs."""
        return {n: torch.einsum("nk,nk...->n...", probe, j) for n, j in self.jacobians.items()}

    def options(self):
        return {"samples": SAMPLES, "means": self.means, "coverage": self.coverage}

    def run(self, reduction, probes):
        interception = Interception(self.means, reduction.receive)
        self.problem.memory.expect(self.problem.points, self.means)
        with torch.enable_grad(), interception:
            output = self.problem.memory.call(self.x)
        for probe in probes:
            torch.autograd.grad(
                output, interception.root, probe, retain_graph=True, allow_unused=True
            )
        return reduction


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_variances(problem, shared):
    """``J C J^T``, the covariance of the words in full where they share a factor."""
    one = Pass(problem)
    commons = {}
    if shared:
        commons = {
            name: SharedFactor(
                var=torch.tensor(0.3).double(), coupling=0.1 * rand(*mean.shape, seed=7)
            )
            for name, mean in one.means.items()
        }
    probes = [rand(SAMPLES, OUTPUTS, seed=k) for k in (1, 2)]
    reduction = VarianceReduction(
        **one.options(), variances=one.variances, commons=commons, generator=None
    )
    for probe in probes:
        one.run(reduction, [probe])
        reduction.add_whole("odd", one.probed(probe)["odd"][:, None])
        reduction.end_probe()
    for name in WEIGHTS:
        covariance = torch.diag(one.variances[name].flatten())
        if shared:
            common, mean = commons[name], one.means[name].flatten()
            mixed = torch.outer(mean, common.coupling.flatten())
            covariance = covariance + common.var * torch.outer(mean, mean) + mixed + mixed.T
        rows = [one.probed(probe)[name].flatten(1) for probe in probes]
        expected = sum(torch.einsum("np,pq,nq->n", row, covariance, row) for row in rows)
        close(reduction.totals[name], expected)


def test_sensitivities(problem):
    one, probe = Pass(problem), rand(SAMPLES, OUTPUTS, seed=1)
    reduction = one.run(SensitivityReduction(**one.options()), [probe])
    assert set(reduction.totals) == {"once.weight", "head.weight"}
    for name, total in reduction.totals.items():
        close(total, one.probed(probe)[name].square().sum(0))


def test_logits(problem):
    one = Pass(problem)
    probes = [functional.one_hot(torch.full((SAMPLES,), k), OUTPUTS).double() for k in (2, 0)]
    reduction = one.run(LogitJacobians(**one.options()), probes)
    assert set(reduction.names()) == set(WEIGHTS) - {"odd"}
    reduction.add_whole("odd", one.jacobians["odd"][:, [2, 0]])
    assert set(reduction.names()) == set(WEIGHTS)
    for name in WEIGHTS:
        exact, var = one.jacobians[name][:, [2, 0]].flatten(2), one.variances[name]
        products = torch.einsum("nkp,p,nlp->nkl", exact, var.flatten(), exact)
        close(reduction.products(name, var), products)
        noise = rand(5, *var.shape, seed=3)
        response = torch.einsum("nkp,dp->nkd", exact, noise.flatten(1))
        close(reduction.response(name, noise), response)
        close(reduction.jacobian(name).flatten(2), exact)


@pytest.mark.parametrize("by_channel", [(), WEIGHTS])
def test_classes(problem, by_channel):
    """Sums over the words one by one, and one channel at a time."""
    one, probe = Pass(problem), rand(SAMPLES, OUTPUTS, seed=1)
    memory, stored = SRAM(bits=4), problem.memory.stored
    classes = {name: memory.word_classes(stored[name]) for name in WEIGHTS}
    shifts = {name: rand(2, c.count, seed=5) for name, c in classes.items()}
    reduction = one.run(
        ClassReduction(**one.options(), classes=classes, shifts=shifts, by_channel=by_channel),
        [probe],
    )
    reduction.add_whole("odd", one.probed(probe)["odd"][:, None])
    reduction.end_probe()
    for name in WEIGHTS:
        gradients, found = one.probed(probe)[name], classes[name]
        scaled = gradients * found.scale
        channels = len(gradients[0])
        squares = torch.zeros(channels, found.count, dtype=torch.float64)
        moved = torch.zeros(SAMPLES, channels, 2, dtype=torch.float64)
        for channel in range(channels):
            for index, own in zip(
                found.index[channel].flatten(), scaled[:, channel].flatten(1).T, strict=True
            ):
                squares[channel, index] += own.square().sum()
                moved[:, channel] += own[:, None] * shifts[name][:, index]
        if by_channel:
            close(reduction.squares[name], squares)
            close(reduction.moved[name], moved.flatten(1))
        else:
            close(reduction.squares[name], squares.sum(0))
            close(reduction.moved[name], moved.sum(1))


def test_activations():
    """Each word of each sample has faults of its own."""
    x, weight = rand(SAMPLES, 5), rand(OUTPUTS, 5, seed=1)
    model = nn.Linear(5, OUTPUTS, bias=False).double()
    model.weight.data = weight
    placement = place(model, activations=SRAM(bits=4), example_inputs=x)
    (placed,) = placement.placed
    g, mean, var = rand(SAMPLES, 5, seed=2), rand(SAMPLES, 5, seed=3), rand(SAMPLES, 5).square()
    with loaded_problem(placement, [x], placement.plan({"eta": 0.4})) as problem:
        coverage = cover(problem, {})
    options = {"samples": SAMPLES, "means": {}, "coverage": coverage}
    reduction = VarianceReduction(**options, variances={}, commons={}, generator=None)
    reduction.observe(placed, x, mean, var)(g)
    close(reduction.totals[placed.name], (g.square() * var).sum(1))

    classes = placed.device.word_classes(placed.device.store(x, limit=placed.limit))
    shifts = rand(2, classes.count, seed=4)
    found = ClassReduction(**options, classes={}, shifts={placed.name: shifts})
    found.observe(placed, x, mean, var)(g)
    unit = torch.broadcast_to(classes.scale, g.shape)
    squares, moved = torch.zeros(classes.count).double(), torch.zeros(SAMPLES, 2).double()
    for sample in range(SAMPLES):
        for word in range(5):
            step = g[sample, word] * unit[sample, word]
            index = classes.index[sample, word]
            squares[index] += step.square()
            moved[sample] += step * shifts[:, index]
    close(found.squares[placed.name], squares)
    close(found.moved[placed.name], moved)


def test_a_use_that_was_not_checked_is_told(problem):
    one = Pass(problem)
    seen = one.coverage.batch_axes

    def runs(**changes):
        options = one.options() | {"coverage": replace(one.coverage, **changes)}
        one.run(
            VarianceReduction(**options, variances=one.variances, commons={}, generator=None), []
        )

    runs()
    with pytest.raises(UncheckedUse, match=r"once\.weight"):
        runs(batch_axes={k: axis for k, axis in seen.items() if k[0] != "once.weight"})
    with pytest.raises(UncheckedUse, match=r"tied\.weight"):  # a second use, taken for the only one
        runs(repeated=frozenset())
    longer = {k: replace(axis, axis=1) for k, axis in seen.items() if k[0] == "once.weight"}
    with pytest.raises(UncheckedUse, match=r"once\.weight"):  # two channels are not four samples
        runs(batch_axes={**seen, **longer})
