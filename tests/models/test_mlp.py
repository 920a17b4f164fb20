import pytest
import torch

from joulewise.models import MLP


@pytest.mark.parametrize("shape", [(20,), (4, 5), (1, 2, 3, 4)])
def test_any_shape_is_flattened(shape):
    assert MLP(shape, 3)(torch.zeros(2, *shape)).shape == (2, 3)


def test_without_hidden_layers_it_is_a_linear_classifier():
    model = MLP((20,), 3, ())
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 20), (3,)]


def test_parameter_count():
    count = sum(p.numel() for p in MLP((1, 28, 28), 10, (256, 256)).parameters())
    assert count == (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)
