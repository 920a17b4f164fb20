import torch
from torch import nn

from joulewise.models import MobileNetV2


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
