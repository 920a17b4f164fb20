"""The self-check: wrong gradients are found, and models that cannot be linearised refused."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from joulewise.devices import SRAM
from joulewise.errors import ModelError
from joulewise.models import ZOO, build, seeded
from joulewise.placement import place, take
from joulewise.prediction import FirstOrder, predict
from joulewise.prediction.linearisation import op_interception
from joulewise.prediction.linearisation.gradients import WholeGradients
from joulewise.prediction.linearisation.op_readers import READERS
from joulewise.prediction.linearisation.self_check import cover
from per_sample import Functional


def checked(problem):
    means = {n: m.mean.detach() for n, m in problem.memory.moments(problem.points).items()}
    return cover(problem, means)


def convolutional():
    with seeded(0):
        return (
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
            .double()
            .eval()
        )


def scaled(jacobian):
    return 1.001 * jacobian


def of_one_sample(jacobian):
    """Wrong in the last sample alone, as a wrong order of the samples would be."""
    return torch.cat([jacobian[:-1], jacobian[:1]])


def of_one_entry(jacobian):
    wrong = jacobian.clone()
    wrong[(slice(None), slice(None), *[-1] * (jacobian.ndim - 2))] *= -1
    return wrong


def misread(reader, spoil):
    """A reader whose gradients are spoilt."""

    def read(*args, **kwargs):
        def wrong(one):
            def gradients(batch):
                return Spoilt(one.gradients(batch), spoil)

            return replace(one, gradients=gradients)

        return [wrong(one) for one in reader(*args, **kwargs)]

    return read


class Spoilt:
    def __init__(self, gradients, spoil):
        self.gradients, self.spoil = gradients, spoil

    def jacobians(self, gs):
        return self.spoil(self.gradients.jacobians(gs))

    def __getattr__(self, name):
        def spoilt(*args):
            gs = args[0] if isinstance(args[0], list) else [args[0]]
            return getattr(WholeGradients(jacobian=self.jacobians(gs)), name)(*args)

        return spoilt


@pytest.mark.parametrize("spoil", [scaled, of_one_sample, of_one_entry])
@pytest.mark.parametrize(
    ("func", "weight"), [(torch.conv2d, "0.weight"), (functional.linear, "3.weight")]
)
def test_a_planted_wrong_gradient_is_found_and_does_no_harm(
    cases, monkeypatch, func, weight, spoil
):
    model, x = convolutional(), cases.normal(5, 2, 4, 4)
    placement = place(model, weights=SRAM(bits=5), example_inputs=x)
    data, method = [(x, torch.arange(5) % 3)], FirstOrder(subsample_channels=False, chips=2)
    right = predict(placement, data, at={"eta": 0.4}, method=method)
    wrong = {**READERS, func: misread(READERS[func], spoil)}
    monkeypatch.setattr(op_interception, "READERS", wrong)
    with cases.problem(model, x) as problem:
        assert checked(problem).one_by_one == {weight}
    mended = predict(placement, data, at={"eta": 0.4}, method=method)
    for name, part in right.variance.items():
        torch.testing.assert_close(mended.variance[name], part, rtol=1e-5, atol=0)
    torch.testing.assert_close(mended.mse, right.mse, rtol=1e-5, atol=0)
    # Unchecked, the wrong gradient would have made a difference.
    monkeypatch.setattr("joulewise.prediction.linearisation.self_check._agree", lambda *_: True)
    unchecked = predict(placement, data, at={"eta": 0.4}, method=method)
    if spoil is not of_one_entry:  # whose square is the same
        assert not torch.isclose(unchecked.variance[weight], right.variance[weight], rtol=1e-4)


def test_an_operation_without_a_reader_is_found(cases, monkeypatch):
    fewer = {func: reader for func, reader in READERS.items() if func is not torch.conv2d}
    monkeypatch.setattr(op_interception, "READERS", fewer)
    with cases.problem(convolutional(), cases.normal(5, 2, 4, 4)) as problem:
        assert checked(problem).one_by_one == {"0.weight"}


def test_a_reader_that_fails_is_found(cases, monkeypatch):
    def fails(jacobian):
        raise RuntimeError("shapes")

    wrong = {**READERS, torch.conv2d: misread(READERS[torch.conv2d], fails)}
    monkeypatch.setattr(op_interception, "READERS", wrong)
    with cases.problem(convolutional(), cases.normal(5, 2, 4, 4)) as problem:
        assert checked(problem).one_by_one == {"0.weight"}


def test_the_batch_axis_of_each_use(cases):
    """Samples on the first axis, on the second, and flattened with tokens that come first."""
    model = Functional(
        lambda x, a, b, c: (
            (x @ a).transpose(0, 1).tanh() @ b
        ).tanh().flatten(0, 1).matmul(c).reshape(4, -1, 3).mean(0),
        (5, 5), (5, 5), (5, 3),
    ).double()  # fmt: skip
    with cases.problem(model, cases.normal(6, 4, 5)) as problem:
        found = checked(problem)
    axes = {key: (axis.axis, axis.tokens_first) for key, axis in found.batch_axes.items()}
    expected = {0: (0, False), 1: (1, False), 2: (0, True)}
    assert axes == {(f"weights.{n}", 0): axis for n, axis in expected.items()}
    assert not found.one_by_one and not found.repeated


def test_weights_that_are_used_several_times(cases):
    model = Functional(lambda x, a, b: (x @ a).tanh() @ a @ b, (4, 4), (4, 3)).double()
    with cases.problem(model, cases.normal(6, 4)) as problem:
        found = checked(problem)
    assert found.repeated == {"weights.0"}
    assert not found.one_by_one
    assert found.numbers == 3 * 4  # the inputs of three products


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_needs_no_sample_by_sample_pass(cases, name):
    model = build(name, (3, 8, 8), 5, seed=0).eval()
    with cases.problem(model, cases.normal(4, 3, 8, 8, dtype=torch.float32)) as problem:
        assert not checked(problem).one_by_one


def test_a_scripted_module_is_differentiated_sample_by_sample(cases):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.scripted = torch.jit.script(nn.Linear(5, 4))
            self.plain = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.plain(torch.tanh(self.scripted(inputs)))

    with cases.problem(Half().double().eval(), cases.normal(4, 5)) as problem:
        assert "scripted.weight" in problem.plan
        assert checked(problem).one_by_one == {"scripted.weight"}


def test_an_output_that_cannot_be_differentiated_is_refused(cases):
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 4)

        def forward(self, inputs):
            return self.linear(inputs).argmax(1, keepdim=True).double()

    with (
        cases.problem(Hard().double().eval(), cases.normal(4, 5)) as problem,
        pytest.raises(ModelError, match=r"shape \(3, 1\).*does not depend differentiably"),
    ):
        checked(problem)


def check_refused(cases, model, inputs, match):
    with (
        cases.problem(model.double().eval(), inputs) as problem,
        pytest.raises(ModelError, match=match),
    ):
        checked(problem)


def test_samples_that_depend_on_each_other_are_refused(cases):
    mixed = Functional(lambda x, w: functional.linear(x, w) + x.mean(0) @ w.T, (3, 5))
    check_refused(cases, mixed, cases.normal(4, 5), "changes with the other samples of its batch")
    drawn = Functional(lambda x, w: functional.dropout(x @ w.T, 0.5, True), (3, 5))
    with seeded(0):
        check_refused(cases, drawn, cases.normal(4, 5), "one that draws random numbers")


def test_an_output_with_tokens_first_is_refused(cases):
    last = Functional(lambda x, w: (x @ w.T).transpose(0, 1), (3, 5))
    check_refused(cases, last, cases.normal(4, 6, 5), "the shape of the output is")


def test_an_embedding_that_rescales_itself_is_refused(cases):
    model = nn.Sequential(nn.Embedding(7, 4, max_norm=0.5), nn.Flatten())
    check_refused(cases, model, torch.tensor([[0, 6], [3, 2], [1, 1]]), "max_norm")


def test_take_cuts_what_belongs_to_the_batch():
    nested = {"x": torch.arange(4), "y": (torch.arange(8).reshape(4, 2), torch.arange(3)), "z": 1}
    some = take(nested, 4, slice(1, 3))
    assert some["x"].tolist() == [1, 2]
    assert some["y"][0].tolist() == [[2, 3], [4, 5]]
    assert some["y"][1].tolist() == [0, 1, 2]
    assert some["z"] == 1


def test_the_model_is_left_as_it_was(cases):
    model, inputs = convolutional(), cases.normal(4, 2, 4, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    objects = [id(p) for p in model.parameters()]
    with cases.problem(model, inputs) as problem:
        checked(problem)
    assert [id(p) for p in model.parameters()] == objects
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
