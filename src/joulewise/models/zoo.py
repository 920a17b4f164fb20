"""The table of names, and building one of the networks from a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from joulewise.errors import ModelError, check_in_range, refuse
from joulewise.models.cnn import SmallCNN
from joulewise.models.mlp import MLP
from joulewise.models.mobilenet import MobileNetV2
from joulewise.models.resnet import ResNet
from joulewise.models.transformer import Transformer
from joulewise.models.vgg import VGG

__all__ = ["ZOO", "build", "seeded"]

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
    """Seed torch's global generators within the block, and put them back afterwards.

    Only torch is seeded, not numpy or ``random``.

    Args:
        seed: Any whole number that ``torch.Generator.manual_seed`` takes, of 64 bits.

    Yields:
        Nothing.

    Example:
        >>> import torch
        >>> with seeded(0):
        ...     first = torch.rand(3)
        >>> with seeded(0):
        ...     torch.equal(first, torch.rand(3))
        True
    """
    check_in_range("seed", seed, -(2**63), 2**63 - 1)
    # A CUDA context is not worth starting for this; where one runs, the seed reaches it too.
    running: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = range(torch.cuda.device_count()) if running else ()
    with torch.random.fork_rng(devices=cuda):
        # Constructors of nn.Module read only the global generator; the fork restores it.
        torch.manual_seed(seed)  # noqa: TID251
        yield


def build(name: str, input_shape: tuple[int, ...], classes: int, *, seed: int) -> nn.Module:
    """One of the networks of the zoo, initialised from a seed.

    A shape that the network does not take is refused with a ModelError too.

    Args:
        name: A key of ``ZOO``.
        input_shape: Shape of one input, without the batch axis.
        classes: How many outputs.
        seed: Decides the initial weights; torch's global generators are left as they were.

    Returns:
        The network, in training mode, on the CPU.

    Raises:
        ModelError: if there is no network of that name.

    Example:
        >>> sum(p.numel() for p in build("resnet20", (3, 32, 32), 10, seed=0).parameters())
        272474
    """
    if name not in ZOO:
        refuse("model", repr(name), f"one of {', '.join(ZOO)}", ModelError)
    with seeded(seed):
        return ZOO[name](input_shape, classes)
