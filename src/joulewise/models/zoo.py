"""Zoo of small networks by name, with MLP, CNN and VGG; each is initialised from a seed.

Networks map inputs [batch, *input_shape] to logits [batch, classes]. Except for MLP, an input shape
is ``(channels, height, width)``, from 8x8 up.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import nn

from joulewise.errors import ModelError, check_in_range, check_kind, refuse
from joulewise.models.resnet import MobileNetV2, ResNet, average_pool, conv_bn
from joulewise.models.shapes import check_image, check_shape
from joulewise.models.transformer import Transformer

__all__ = ["MLP", "VGG", "ZOO", "SmallCNN", "build", "seeded"]


class MLP(nn.Sequential):
    """Multilayer perceptron with ReLU on the flattened input of any shape.

    Args:
        hidden: Widths of the hidden layers; empty for a linear classifier.

    Example:
        >>> MLP((1, 28, 28), 10)(torch.zeros(4, 1, 28, 28)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (256, 256)
    ) -> None:
        check_shape(input_shape, classes)
        widths = (math.prod(input_shape), *hidden)
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        head = nn.Linear(widths[-1], classes)
        super().__init__(OrderedDict(features=nn.Sequential(*layers), head=head))


class SmallCNN(nn.Sequential):
    """Three 3x3 convolutions with batch normalisation, each followed by a 2x2 max-pool.

    Args:
        width: Channels of the first convolution; each next one has twice as many.

    Example:
        >>> SmallCNN((1, 8, 8), 10)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int = 32) -> None:
        channels = (check_image(input_shape, classes), width, 2 * width, 4 * width)
        layers = [
            nn.Sequential(*conv_bn(before, after, 3), nn.ReLU(), nn.MaxPool2d(2))
            for before, after in pairwise(channels)
        ]
        features, head = nn.Sequential(*layers), nn.Linear(channels[-1], classes)
        super().__init__(OrderedDict(features=features, pool=average_pool(), head=head))


class VGG(nn.Sequential):
    """Eight 3x3 convolutions in four stacks, the channels doubling from stack to stack.

    Differs from the paper, since images are small: two convolutions in each of four stacks,
    batch normalisation, and one linear layer on the average of the last map.

    Args:
        width: Channels of the first stack (64 in the paper).

    Example:
        >>> VGG((1, 8, 8), 10, width=8)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])

    References:
        K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", ICLR 2015, https://arxiv.org/abs/1409.1556, section 2.1 and table 1.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, *, width: int = 32) -> None:
        channels = (check_image(input_shape, classes), width, 2 * width, 4 * width, 8 * width)
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            first, second = conv_bn(before, after, 3), conv_bn(after, after, 3)
            layers += [nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU()), nn.MaxPool2d(2)]
        # The last max-pool would empty a map of 8x8; the average takes its place.
        features, head = nn.Sequential(*layers[:-1]), nn.Linear(channels[-1], classes)
        super().__init__(OrderedDict(features=features, pool=average_pool(), head=head))


ZOO: Mapping[str, Callable[[tuple[int, ...], int], nn.Module]] = MappingProxyType(
    {
        "mlp": MLP,
        "cnn": SmallCNN,
        "vgg": VGG,
        "resnet8": partial(ResNet, depth=8),
        "resnet20": partial(ResNet, depth=20),
        "mobilenetv2": MobileNetV2,
        "transformer": Transformer,
    }
)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators within a block and restore them afterwards.

    NumPy and ``random`` are not seeded; ``seed`` has 64 bits, as ``torch.Generator`` takes.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     torch.equal(first, torch.rand(3))
        True
    """
    check_in_range("seed", seed, -(2**63), 2**63 - 1)
    # CUDA is not initialised just for this; where it is, its generators are seeded too.
    running: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = range(torch.cuda.device_count()) if running else ()
    with torch.random.fork_rng(devices=cuda):
        # Constructors of nn.Module draw from the global generator only; the fork restores it.
        torch.manual_seed(seed)  # noqa: TID251
        yield


def build(name: str, input_shape: tuple[int, ...], classes: int, *, seed: int) -> nn.Module:
    """Network of the zoo, initialised from a seed.

    Args:
        name: A key of ``ZOO``.
        input_shape: Shape of one input, without the batch axis.
        classes: Number of outputs.
        seed: Seed of the initial weights; see `seeded`.

    Returns:
        The network, in training mode, on the CPU.

    Raises:
        ModelError: if there is no network of that name, or it does not take ``input_shape``.

    Example:
        >>> sum(p.numel() for p in build("resnet20", (3, 32, 32), 10, seed=0).parameters())
        272474
    """
    check_kind("model", name, str, f"one of {', '.join(ZOO)}", ModelError)
    if name not in ZOO:
        refuse("model", repr(name), f"one of {', '.join(ZOO)}", ModelError)
    check_kind("input_shape", input_shape, Sequence, "axes such as (3, 32, 32)", ModelError)
    check_kind("classes", classes, int, "a whole number, 1 or more", ModelError)
    with seeded(seed):
        return ZOO[name](input_shape, classes)
