import pytest
import torch
import torch.nn.functional as F
from torch import nn

from joulewise.placement.straight_through import clipped, follow_range, straight_through


def followed(weight, alpha):
    return follow_range(weight, alpha, weight.detach().clone(), clipped(weight, alpha))


def example():
    """Two entries above the range, one below, one at it, one within."""
    weight = nn.Parameter(torch.tensor([2.0, -3.0, 0.5, 1.0, 4.0], dtype=torch.float64))
    slope = torch.tensor([0.3, 0.7, -5.0, 11.0, -2.0], dtype=torch.float64)
    return weight, slope, nn.Parameter(torch.tensor(1.0, dtype=torch.float64))


def test_a_range_has_the_gradient_of_what_it_clips():
    weight, slope, alpha = example()
    assert clipped(weight, alpha).tolist() == [1.0, -1.0, 0.5, 1.0, 1.0]
    stop = followed(weight, alpha)
    (weight * slope).sum().backward()
    expected = (0.3 - 0.7 - 2.0) / 5**0.5
    assert alpha.grad.item() == pytest.approx(expected, rel=1e-15)
    assert torch.equal(weight.grad, slope)
    (weight * slope).sum().backward()
    assert alpha.grad.item() == pytest.approx(2 * expected, rel=1e-15)
    stop()
    (weight * slope).sum().backward()
    assert alpha.grad.item() == pytest.approx(2 * expected, rel=1e-15)


def test_only_what_is_accumulated_counts():
    weight, slope, alpha = example()
    stop = followed(weight, alpha)
    torch.autograd.grad((weight * slope).sum(), weight)
    assert alpha.grad is None
    weight.register_hook(lambda gradient: 10 * gradient)
    (weight * slope).sum().backward()
    assert alpha.grad.item() == pytest.approx(10 * (0.3 - 0.7 - 2.0) / 5**0.5, rel=1e-15)
    stop()


@pytest.mark.parametrize("frozen", ["weight", "alpha"])
def test_what_is_frozen_learns_nothing(frozen):
    weight, slope, alpha = example()
    (weight if frozen == "weight" else alpha).requires_grad_(False)
    stop = followed(weight, alpha)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (scale * weight * slope).sum().backward()
    stop()
    assert alpha.grad is None


def test_a_sparse_gradient_counts_as_a_dense_one():
    found = []
    for sparse in (False, True):
        weight = nn.Parameter(torch.linspace(-2, 2, 12).reshape(6, 2))
        alpha = nn.Parameter(torch.tensor(0.5))
        stop = followed(weight, alpha)
        out = F.embedding(torch.tensor([0, 5, 5, 2]), weight, sparse=sparse)
        (out * torch.arange(8.0).reshape(4, 2)).sum().backward()
        stop()
        assert weight.grad.is_sparse == sparse
        found.append(alpha.grad.item())
    assert found[0] == found[1] != 0


def test_half_precision_adds_up_in_the_precision_of_the_range():
    weight = nn.Parameter(torch.full((4096,), 2.0, dtype=torch.bfloat16))
    alpha = nn.Parameter(torch.tensor(1.0))
    stop = followed(weight, alpha)
    weight.sum().backward()
    stop()
    assert alpha.grad.dtype == torch.float32
    assert alpha.grad.item() == 4096 / 4096**0.5


def test_one_value_and_another_ones_gradient():
    given = torch.tensor([1.0, 2.0], requires_grad=True)
    read = torch.tensor([5.0, 6.0])
    out = straight_through(given, read)
    assert torch.equal(out, read)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert given.grad.tolist() == [3.0, 4.0]
    assert straight_through(given.detach(), read) is read
