"""Passes against sums over samples, outputs and weights of Jacobians by autograd."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from joulewise.devices import SRAM, Chip, SharedFactor
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.prediction.linearisation import Linearisation
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


class Oracle:
    """A linearisation whose probes are given, and the Jacobians by autograd."""

    def __init__(self, problem, *probes):
        self.problem, self.x = problem, problem.batches[0].inputs
        self.network = Linearisation(problem, seed=0, memory_bytes=1 << 30)
        assert self.network._coverage.repeated == {"tied.weight"}
        assert self.network._coverage.one_by_one == {"odd"}
        given = iter(probes)
        self.network._signs = lambda output: next(given)
        (self.piece,) = self.network.pieces(OUTPUTS)
        self.means = self.network.fixed
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


def close(found, expected, single=False):
    """Single where gradients were taken sample by sample, which are float32."""
    torch.testing.assert_close(
        found, expected, rtol=1e-5 if single else 1e-9, atol=1e-6 if single else 1e-12,
        check_dtype=not single,
    )  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
def test_variances(problem, shared):
    """``J C J^T``, the covariance of the words in full where they share a factor."""
    probes = [rand(SAMPLES, OUTPUTS, seed=k) for k in (1, 2)]
    one = Oracle(problem, *probes)
    if shared:
        one.network.commons = {
            name: SharedFactor(
                var=torch.tensor(0.3).double(), coupling=0.1 * rand(*mean.shape, seed=7)
            )
            for name, mean in one.means.items()
        }
    _, found = one.network.probed_variance(one.piece, 2)
    assert set(found) == set(WEIGHTS)
    for name in WEIGHTS:
        covariance = torch.diag(one.network.variances[name].flatten())
        if shared:
            common, mean = one.network.commons[name], one.means[name].flatten()
            mixed = torch.outer(mean, common.coupling.flatten())
            covariance = covariance + common.var * torch.outer(mean, mean) + mixed + mixed.T
        rows = [one.probed(probe)[name].flatten(1) for probe in probes]
        expected = sum(torch.einsum("np,pq,nq->n", row, covariance, row) for row in rows)
        close(found[name], expected / (2 * OUTPUTS), name == "odd")


def test_squares_and_responses_of_a_probe(problem):
    probe = rand(SAMPLES, OUTPUTS, seed=1)
    one = Oracle(problem, probe)
    found = {}
    _, same, _ = one.network.probe(one.piece, found.__setitem__)
    assert same is probe and set(found) == set(WEIGHTS)
    for name, gradients in found.items():
        exact, single = one.probed(probe)[name], name == "odd"
        close(gradients.summed(), exact.square().sum(0), single)
        noise = [rand(*exact.shape[1:], seed=k) for k in (2, 3)]
        moved = torch.stack([(exact * n).sum((*range(2, exact.ndim),)) for n in noise], 2)
        close(gradients.response(noise)[:, 0], moved.sum(1), single)
        close(gradients.response_by_channel(noise), moved, single)


def test_logits(problem):
    one = Oracle(problem)
    chips = [Chip(seed=3), Chip(seed=4)]
    found = one.network.logits(one.piece, 2, chips)
    assert set(found.cov) == set(WEIGHTS) and not found.has_target
    moved = 0
    for name in WEIGHTS:
        chosen = found.classes[..., None]
        exact = one.jacobians[name].flatten(2)
        exact = exact.gather(1, chosen.expand(-1, -1, exact.shape[2]))
        var = one.network.variances[name].flatten()
        close(found.cov[name], torch.einsum("nkp,p,nlp->nkl", exact, var, exact), name == "odd")
        noise = torch.stack([one.network.noise(name, chip).flatten() for chip in chips])
        moved = moved + torch.einsum("nkp,dp->nkd", exact, noise)
    close(found.chips, moved, single=True)


def test_activations():
    """Each word of each sample has faults of its own."""
    x, weight = rand(SAMPLES, 5), rand(OUTPUTS, 5, seed=1)
    model = nn.Linear(5, OUTPUTS, bias=False).double()
    model.weight.data = weight
    placement = place(model, include=[], activations=SRAM(bits=4), example_inputs=x)
    (placed,) = placement.placed
    probe = rand(SAMPLES, OUTPUTS, seed=2)
    g = probe @ weight
    with loaded_problem(placement, [x], placement.plan({"eta": 0.4})) as problem:
        network = Linearisation(problem, seed=0, memory_bytes=1 << 30)
        network._signs = lambda output: probe
        (piece,) = network.pieces(0)
        _, variance = network.probed_variance(piece, 1)
        *_, (use,) = network.probe(piece, lambda name, gradients: None)
        stored = placed.device.store(x, limit=placed.limit)
        var = placed.device.moments(stored, problem.points[placed.name]).var
    close(variance[placed.name], (g.square() * var).sum(1) / OUTPUTS)
    close(use.caught[0], g)


def test_a_use_that_was_not_checked_is_differentiated_sample_by_sample(problem):
    probe = rand(SAMPLES, OUTPUTS, seed=1)

    def differentiated_alone(axes):
        one = Oracle(problem, probe)
        one.network._coverage = replace(one.network._coverage, batch_axes=axes)
        _, found = one.network.probed_variance(one.piece, 1)
        for name in WEIGHTS:
            squared = one.probed(probe)[name].square() * one.network.variances[name]
            close(found[name], squared.flatten(1).sum(1) / OUTPUTS, single=True)
        return one.network._coverage.one_by_one

    seen = Oracle(problem).network._coverage.batch_axes
    assert differentiated_alone(seen) == {"odd"}
    fewer = {k: axis for k, axis in seen.items() if k[0] != "once.weight"}
    assert differentiated_alone(fewer) == {"odd", "once.weight"}
    first = {k: axis for k, axis in seen.items() if k != ("tied.weight", 1)}
    assert differentiated_alone(first) == {"odd", "tied.weight"}
    # Two channels are not four samples.
    longer = {k: replace(axis, axis=1) for k, axis in seen.items() if k[0] == "once.weight"}
    assert differentiated_alone({**seen, **longer}) == {"odd", "once.weight"}
