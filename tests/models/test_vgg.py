import pytest
import torch
from torch import nn

from joulewise.models import VGG


def test_eight_convolutions_in_four_stacks():
    model = VGG((3, 32, 32), 10, width=4)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 4, 8, 8, 16, 16, 32, 32]


@pytest.mark.parametrize(("side", "last"), [(8, 1), (15, 1), (16, 2), (32, 4)])
def test_the_map_is_halved_three_times(side, last):
    model = VGG((1, side, side), 10, width=2).eval()
    assert model.features(torch.zeros(1, 1, side, side)).shape[-2:] == (last, last)
