from torch import nn

from joulewise.models import SmallCNN


def test_three_convolutions_that_double_in_width():
    model = SmallCNN((3, 9, 17), 10, width=4)
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [4, 8, 16]
