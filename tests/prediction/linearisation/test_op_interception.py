"""Intercepted operations: recorded uses, and the gradients caught at them."""

import gc
import weakref

import pytest
import torch
from torch.nn import functional

from joulewise.prediction.linearisation.op_interception import Interception


def rand(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def recorded(function, weights):
    """Uses of weights while a function runs, and the interception."""
    interception = Interception(weights)
    with interception:
        output = function(**weights)
    return output, interception.uses, interception


def test_uses_are_counted_by_weight_and_views_know_where_they_begin():
    weights = {"a": rand(6, 4), "b": rand(4, 4)}
    x = rand(2, 4)
    _, uses, _ = recorded(lambda a, b: (x @ a[2:].T, x @ b, x @ a.T, a[:, 1:] @ rand(3)), weights)
    assert [use.key for use in uses] == [("a", 0), ("b", 0), ("a", 1)]
    assert [use.offset for use in uses] == [8, 0, 0]


@pytest.mark.parametrize(
    "view",
    [lambda w: w, lambda w: w[2:], lambda w: w[:, 1:3], lambda w: w.T[1:], lambda w: w[::2, ::3]],
)
def test_gradients_of_a_view_land_on_its_entries(view):
    whole = rand(6, 4)
    part = view(whole)
    _, (use,), _ = recorded(lambda w: functional.linear(rand(2, part.shape[1]), view(w)),
                            {"w": whole})  # fmt: skip
    gradients = rand(3, *part.shape)
    expected = torch.zeros(3, 6, 4)
    for one, own in zip(expected, gradients, strict=True):
        view(one).add_(own)
    torch.testing.assert_close(use.spread(gradients, whole), expected, rtol=0, atol=0)
    torch.testing.assert_close(use.view(whole), part, rtol=0, atol=0)


def test_a_weight_in_another_memory_layout():
    whole = rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    x = rand(2, 3, 5, 5)
    _, (use,), _ = recorded(lambda w: torch.conv2d(x, w), {"w": whole})
    gradients = rand(2, *whole.shape)
    torch.testing.assert_close(use.spread(gradients, whole), gradients, rtol=0, atol=0)


def test_copies_and_arithmetic_on_a_weight_are_no_uses():
    x, weights = rand(2, 4), {"w": rand(6, 4)}
    for function in (
        lambda w: functional.linear(x, w.clone()),
        lambda w: functional.linear(x, 2.0 * w[:, :]),
        lambda w: torch.addmm(x, x, w[:4], alpha=2.0),
    ):
        _, uses, _ = recorded(lambda w, function=function: function(w), weights)
        assert not [use for use in uses if use.read.batched is x]


def test_gradients_are_caught_until_the_hooks_are_released():
    x, weights = rand(2, 4), {"w": rand(3, 4)}
    output, (use,), interception = recorded(lambda w: torch.tanh(functional.linear(x, w)), weights)
    for number in range(2):
        interception.backward(output, torch.ones_like(output), keep=True)
        assert len(use.caught) == number + 1
    expected = 1 - torch.tanh(x @ weights["w"].T).square()
    torch.testing.assert_close(use.caught[0], expected)
    interception.release()
    interception.backward(output, torch.ones_like(output), keep=True)
    assert len(use.caught) == 2
    interception.clear()
    assert not use.caught


def test_without_gradients_nothing_is_rooted():
    with torch.no_grad():
        output, uses, _ = recorded(lambda w: rand(2, 4) @ w.T, {"w": rand(3, 4)})
    assert len(uses) == 1
    assert not output.requires_grad


def test_a_pass_that_was_given_up_is_freed():
    """The second layer holds its input, whose graph holds the hook of the first."""
    weights = {"a": rand(4, 4).requires_grad_(), "b": rand(4, 4)}
    output, uses, interception = recorded(
        lambda a, b: functional.linear(functional.linear(rand(2, 4), a), b), weights
    )
    assert output.requires_grad and len(uses) == 2
    weak = weakref.ref(interception)
    del output, uses, interception
    gc.collect()
    assert weak() is None
