import pytest
import torch
from torch import nn

from joulewise.errors import ModelError
from joulewise.models import MobileNetV2, ResNet


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_resnet20_has_the_parameters_of_the_paper():
    # Table 6 of the paper: 0.27M, for option A shortcuts, which have no parameters.
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    total = count(ResNet((3, 32, 32), 10, depth=20))
    assert total == 269_722 + projections
    assert round(total / 1e6, 2) == 0.27


@pytest.mark.parametrize("depth", [8, 14, 20])
def test_depth_counts_the_layers_with_weights(depth):
    modules = ResNet((3, 32, 32), 10, depth=depth).modules()
    layers = [m for m in modules if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert len(layers) - len(projections) == depth
    assert len(projections) == 2


@pytest.mark.parametrize("depth", [0, 2, 7, 19])
def test_other_depths_are_refused(depth):
    with pytest.raises(ModelError, match=rf"depth is {depth}; allowed: 6n \+ 2"):
        ResNet((3, 32, 32), 10, depth=depth)


def test_a_block_adds_its_input():
    model = ResNet((1, 8, 8), 2, depth=8).eval()
    block = model.stages[0][0]
    nn.init.zeros_(block.second[1].weight)
    inputs = torch.rand(1, 16, 8, 8)
    assert torch.equal(block(inputs), inputs)


# ---- MobileNetV2


def convolutions(model):
    return [m for m in model.modules() if isinstance(m, nn.Conv2d)]


def test_every_3x3_convolution_but_the_first_is_depthwise():
    first, *others = [c for c in convolutions(MobileNetV2((3, 32, 32), 10)) if c.kernel_size[0] > 1]
    assert first.groups == 1
    assert all(c.groups == c.in_channels == c.out_channels for c in others)


def test_the_map_is_halved_twice():
    model = MobileNetV2((1, 8, 8), 10).eval()
    assert model.blocks(model.stem(torch.zeros(1, 1, 8, 8))).shape == (1, 96, 2, 2)


def test_a_shortcut_only_where_shapes_agree():
    blocks = MobileNetV2((1, 8, 8), 10).blocks
    assert [block.has_shortcut for block in blocks] == [
        *(False,),
        *(False, True),
        *(False, True),
        *(False, True),
        *(False,),
    ]
