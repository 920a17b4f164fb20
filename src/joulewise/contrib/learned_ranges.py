"""Learned ranges: the magnitude that a weight is clipped to, trained beside the weight."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from joulewise.devices import Device
from joulewise.errors import InputError, refuse
from joulewise.placement import Placement, clipped
from joulewise.training.weight_clipping import placed_weights

__all__ = ["LearnedRanges"]

_SMALLEST = 1e-12
_COARSE, _FINE = 49, 33


class LearnedRanges(nn.Module):
    """One range for each placed weight, which `TrainingMemory` clips it to and trains.

    ::

        ranges = LearnedRanges(placement)
        memory = TrainingMemory(placement, eta=0.4, ranges=ranges)
        optimizer = torch.optim.SGD(
            [
                {"params": model.parameters(), "weight_decay": 5e-4},
                {"params": ranges.parameters(), "weight_decay": 0.01},
            ],
            lr=0.1, momentum=0.9,
        )
        ...  # as with any TrainingMemory
        ranges.clip()  # what is placed from now on takes the ranges

    A flip of a word's first bit moves a weight by about its range, so a smaller range is a smaller
    fault, at the price of the weights that it clips. In a block a weight w is stored as
    ``clip(w, -alpha, alpha)``. The gradient of alpha is that of the entries that are clipped, each
    times its sign, their sum over the root of the number of all entries; w gets its gradient
    straight through, clipped or not. The gradient lets a range grow where clipping hurts; what
    shrinks it is the weight decay of its parameter group, as in the code of the paper, where it is
    0.01.

    Weights that share storage have one range. One that is frozen, or that the model does not use,
    gets no gradient, so its range stays as it is. A range that falls below 1e-12 is put back there
    when the next block begins, so that it stays positive. With SAM, ASAM or SAMSON give the group a
    ``rho`` of 0: words that are stored already do not follow a range that climbs.

    The parameters are called ``alpha/`` and the tensor's name, with ``/`` for ``.``, so that a
    state dict says which is which.

    Args:
        placement: Whose weights. They are read here once, to start from.
        init: ``"mse"``, the range with the least squared error of what a perfect memory reads, over
            a grid of 49 from a hundredth of the largest magnitude to all of it, and a finer one
            about the best; or ``"max"``, the largest magnitude, which clips nothing yet.

    Attributes:
        placement: As given.

    Raises:
        InputError: if no weights are placed, one is on a device with a ``limit`` or
            ``channel_dim``, or ``init`` is neither.
        WeightsError: if a weight is NaN or infinite.

    Example:
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> layer.weight.data = torch.tensor([[0.5, -1.0, 0.25]])
        >>> ranges = LearnedRanges(place(layer, weights=SRAM(bits=8)), init="max")
        >>> ranges.describe()
        {'weight': 1.0}
        >>> _ = ranges.by_name()["weight"].data.fill_(0.75)
        >>> ranges.clip()
        >>> layer.weight.tolist()
        [[0.5, -0.75, 0.25]]

    References:
        WCAT, TMLR 2023, openreview BxjHMPwZIH, and its public code, which has the gradient (its arm
        ``ste``), the decay and the start at the least error; there by Nelder-Mead, the grid is
        ours. Ours too: the range of the words is the largest magnitude after clipping, what a
        later placement of the clipped network uses; in the paper's code it is alpha, also where no
        weight reaches it, in words whose largest is alpha less a step.
    """

    def __init__(self, placement: Placement, *, init: Literal["mse", "max"] = "mse") -> None:
        super().__init__()
        if init not in ("mse", "max"):
            refuse("init", repr(init), "'mse' or 'max'")
        self.placement = placement
        self.check_fits(placement)
        start = _least_error if init == "mse" else _largest
        for name, weight in placed_weights(placement).items():
            device = self._devices()[name]
            device.store(weight.detach(), name=name)  # refuses what is not finite, by its name
            wide = torch.promote_types(weight.dtype, torch.float32)
            alpha = max(start(weight.detach(), device), _SMALLEST)
            parameter = nn.Parameter(torch.tensor(alpha, dtype=wide, device=weight.device))
            self.register_parameter(_key(name), parameter)

    def by_name(self) -> dict[str, nn.Parameter]:
        """The ranges by the names of their tensors; each is the parameter itself, one number."""
        return {name: self.get_parameter(_key(name)) for name in self._devices()}

    def check_fits(self, placement: Placement) -> None:
        """Refuse a placement that these ranges are not for.

        Args:
            placement: To be trained with them.

        Raises:
            InputError: if it is of another model or other weights, or a device has a range already.
        """
        mine, theirs = self._devices(), _devices(placement)
        if placement.model is not self.placement.model or mine.keys() != theirs.keys():
            refuse("ranges", "those of another placement", "LearnedRanges(placement) of this one")
        if not theirs:
            raise InputError("ranges have nothing to learn: the placement has no weights")
        for name, device in theirs.items():
            for field in ("limit", "channel_dim"):
                own = getattr(device, field, None)
                if own is not None:
                    allowed = "None, where the range is to be learned"
                    refuse(f"{field} of the memory of {name}", own, allowed)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Put ranges that fell below 1e-12 back there; every block of a memory begins with it."""
        for alpha in self.parameters():
            alpha.clamp_(min=_SMALLEST)

    @torch.no_grad()
    def clip(self) -> None:
        """Clip the placed weights to their ranges, in place: after training."""
        self.keep_positive()
        ranges = self.by_name()
        for name, weight in placed_weights(self.placement).items():
            weight.copy_(clipped(weight, ranges[name]))

    def describe(self) -> dict[str, float]:
        """Plain data for records: the ranges by name."""
        return {name: float(alpha.detach()) for name, alpha in self.by_name().items()}

    def _devices(self) -> dict[str, Device[Any]]:
        return _devices(self.placement)


def _devices(placement: Placement) -> dict[str, Device[Any]]:
    return {p.name: p.device for p in placement.placed if p.role == "weight"}


def _key(name: str) -> str:
    return f"alpha/{name.replace('.', '/')}"


def _largest(weight: Tensor, device: Device[Any]) -> float:
    return float(weight.abs().max())


def _least_error(weight: Tensor, device: Device[Any]) -> float:
    """The range at which what a perfect memory reads is nearest to the weight."""
    largest = weight.abs().max().to(torch.float64)
    shares = torch.logspace(-2, 0, _COARSE, dtype=torch.float64, device=weight.device)
    best = _best(weight, device, shares * largest)
    step = 2 / (_COARSE - 1)  # of the exponents, from each to the next
    about = torch.logspace(-step, step, _FINE, dtype=torch.float64, device=weight.device)
    return float(_best(weight, device, (about * best).clamp(max=largest)))


def _best(weight: Tensor, device: Device[Any], candidates: Tensor) -> Tensor:
    """That of the least error; of equals the largest, candidates ascending."""

    def error(alpha: Tensor) -> Tensor:
        read = device.ideal(device.store(clipped(weight, alpha)))
        return (read.double() - weight.double()).square().sum()

    errors = torch.stack([error(alpha) for alpha in candidates])
    return candidates.flip(0)[errors.flip(0).argmin()]
