import pytest
import torch
from torch import nn

from joulewise.errors import InputError, ModelError
from joulewise.models import MLP, VGG, ZOO, SmallCNN, build, seeded

SHAPES = [(1, 8, 8), (3, 32, 32), (1, 28, 28)]


def test_the_names():
    assert list(ZOO) == ["mlp", "cnn", "vgg", "resnet8", "resnet20", "mobilenetv2", "transformer"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_forward_and_backward(name, shape):
    model = build(name, shape, 7, seed=0)
    logits = model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ZOO)
def test_a_batch_of_one_in_eval_mode(name, shape):
    model = build(name, shape, 7, seed=0).eval()
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, all_three = model(inputs[:1]), model(inputs)
    assert one.shape == (1, 7)
    torch.testing.assert_close(one, all_three[:1])


@pytest.mark.parametrize("name", ZOO)
def test_no_activation_overwrites_its_input(name):
    modules = build(name, (3, 32, 32), 10, seed=0).modules()
    assert not any(m.inplace for m in modules if isinstance(m, nn.ReLU | nn.ReLU6))


@pytest.mark.parametrize("name", ZOO)
def test_the_seed_decides_the_weights(name):
    first, again, other = (build(name, (1, 8, 8), 3, seed=s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    build("cnn", (1, 8, 8), 3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_put_back_after_a_failure():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3):
        torch.rand(5)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_cuda_generators_are_put_back_too():
    torch.zeros(1, device="cuda")
    before = torch.cuda.get_rng_state()
    with seeded(3):
        first = torch.rand(5, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with seeded(3):
        assert torch.equal(first, torch.rand(5, device="cuda"))


def test_a_seed_of_more_than_64_bits_is_refused():
    with pytest.raises(InputError, match="seed is 1e"):
        build("mlp", (1, 8, 8), 10, seed=10**22)


def test_an_unknown_name_is_refused_with_the_names():
    with pytest.raises(ModelError, match="model is 'alexnet'; allowed: one of mlp, cnn, vgg"):
        build("alexnet", (3, 32, 32), 10, seed=0)


@pytest.mark.parametrize("name", ZOO)
def test_zero_classes_are_refused(name):
    with pytest.raises(ModelError, match="classes is 0"):
        build(name, (3, 32, 32), 0, seed=0)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "mlp"])
def test_a_network_for_images_refuses_other_shapes(name):
    with pytest.raises(ModelError, match="input_shape is"):
        build(name, (20,), 10, seed=0)


# ---- MLP, CNN and VGG


@pytest.mark.parametrize("shape", [(20,), (4, 5), (1, 2, 3, 4)])
def test_any_shape_is_flattened(shape):
    assert MLP(shape, 3)(torch.zeros(2, *shape)).shape == (2, 3)


def test_without_hidden_layers_it_is_a_linear_classifier():
    model = MLP((20,), 3, ())
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 20), (3,)]


def test_parameter_count():
    count = sum(p.numel() for p in MLP((1, 28, 28), 10, (256, 256)).parameters())
    assert count == (784 * 256 + 256) + (256 * 256 + 256) + (256 * 10 + 10)


def test_three_convolutions_that_double_in_width():
    model = SmallCNN((3, 9, 17), 10, width=4)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 8, 16]


def test_eight_convolutions_in_four_stacks():
    model = VGG((3, 32, 32), 10, width=4)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 4, 8, 8, 16, 16, 32, 32]


@pytest.mark.parametrize(("side", "last"), [(8, 1), (15, 1), (16, 2), (32, 4)])
def test_the_map_is_halved_three_times(side, last):
    model = VGG((1, side, side), 10, width=2).eval()
    assert model.features(torch.zeros(1, 1, side, side)).shape[-2:] == (last, last)
