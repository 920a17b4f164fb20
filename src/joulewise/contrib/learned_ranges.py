"""Learned ranges (WCAT): the magnitude that a weight is clipped to, trained beside the weight."""

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
# Points of the two grids that search for the initial range.
_COARSE, _FINE = 49, 33


class LearnedRanges(nn.Module):
    """A trainable range for each placed weight; a `joulewise.training.WeightRanges`.

    ::

        ranges = LearnedRanges(placement)
        memory = TrainingMemory(placement, at={"eta": 0.4}, ranges=ranges)
        optimizer = torch.optim.SGD(
            [
                {"params": model.parameters(), "weight_decay": 5e-4},
                {"params": ranges.parameters(), "weight_decay": 0.01},
            ],
            lr=0.1, momentum=0.9,
        )
        ...  # as with any TrainingMemory
        ranges.clip()  # for placements from now on

    A flip of a word's sign bit moves a weight by about its range, so a smaller range means smaller
    faults, at the cost of clipping. In a block a weight w is stored as ``clip(w, -alpha, alpha)``.
    With g the gradient of the loss at the stored value and N the number of entries, the gradient of
    alpha is ``sum over |w| > alpha of sign(w) g / sqrt(N)``; w gets g straight through, clipped or
    not. The gradient widens a range where clipping costs accuracy; the weight decay of its
    parameter group, 0.01 in the paper's code, narrows it.

    Weights that share storage share a range. A weight that is frozen or unused has no gradient, and
    its range keeps its value. A range below 1e-12 is set to 1e-12 when the next block begins. With
    SAM, ASAM or SAMSON the group needs a ``rho`` of 0, since weights that are stored already do not
    follow a perturbed range.

    Parameters are named ``alpha/`` and the tensor's name, with ``/`` for ``.``.

    Args:
        placement: The placement of the weights. Weights are read once, for the initial ranges.
        init: ``"mse"``: the range with the least squared error of a perfect memory's read, over a
            logarithmic grid of 49 points from 1 % to 100 % of the largest magnitude, and a finer
            one around the best. ``"max"``: the largest magnitude, without clipping at first.

    Attributes:
        placement: As given.

    Raises:
        InputError: if no weights are placed, a weight is on a device with a ``limit`` or
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
        WCAT, TMLR 2023, openreview BxjHMPwZIH, and its public code, which has the gradient (option
        ``ste``), the decay and the initial range of least error, found there by Nelder-Mead and
        here on a grid. Here the range of the words is the largest magnitude after clipping, as in a
        later placement of the clipped network; in the paper's code it is alpha even if no weight
        reaches it, and the largest word is one step below alpha.
    """

    def __init__(self, placement: Placement, *, init: Literal["mse", "max"] = "mse") -> None:
        super().__init__()
        if init not in ("mse", "max"):
            refuse("init", repr(init), "'mse' or 'max'")
        self.placement = placement
        self.check_fits(placement)
        devices = _devices(placement)
        for name, parameter in placed_weights(placement).items():
            weight, device = parameter.detach(), devices[name]
            device.store(weight, name=name)  # refuses NaN and infinity by name
            start = float(weight.abs().max()) if init == "max" else _least_error(weight, device)
            wide = torch.promote_types(weight.dtype, torch.float32)
            alpha = torch.tensor(max(start, _SMALLEST), dtype=wide, device=weight.device)
            self.register_parameter(_key(name), nn.Parameter(alpha))

    def by_name(self) -> dict[str, nn.Parameter]:
        """The ranges, scalar parameters, by the names of their tensors."""
        return {name: self.get_parameter(_key(name)) for name in _devices(self.placement)}

    def check_fits(self, placement: Placement) -> None:
        """Refuse a placement with other weights than these ranges.

        Args:
            placement: The placement to train.

        Raises:
            InputError: if it is of another model or other weights, or a device has a range already.
        """
        own, theirs = _devices(self.placement), _devices(placement)
        if placement.model is not self.placement.model or own.keys() != theirs.keys():
            refuse("ranges", "those of another placement", "LearnedRanges(placement) of this one")
        if not theirs:
            raise InputError("the placement has no weights; allowed: one or more, for their ranges")
        for name, device in theirs.items():
            for field in ("limit", "channel_dim"):
                given = getattr(device, field, None)
                if given is not None:
                    refuse(f"{field} of the memory of {name}", given, "None with learned ranges")

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Raise ranges below 1e-12 to it; called at the start of every block."""
        for alpha in self.parameters():
            alpha.clamp_(min=_SMALLEST)

    @torch.no_grad()
    def clip(self) -> None:
        """Clip the placed weights to their ranges, in place, after training."""
        self.keep_positive()
        ranges = self.by_name()
        for name, weight in placed_weights(self.placement).items():
            weight.copy_(clipped(weight, ranges[name]))

    def describe(self) -> dict[str, float]:
        """The ranges by name, as plain numbers for records."""
        return {name: float(alpha.detach()) for name, alpha in self.by_name().items()}


def _devices(placement: Placement) -> dict[str, Device[Any]]:
    return {p.name: p.device for p in placement.placed if p.role == "weight"}


def _key(name: str) -> str:
    return f"alpha/{name.replace('.', '/')}"


def _least_error(weight: Tensor, device: Device[Any]) -> float:
    """The range with the least squared error of a perfect memory's read of the clipped weight."""
    largest = weight.abs().max().to(torch.float64)
    fractions = torch.logspace(-2, 0, _COARSE, dtype=torch.float64, device=weight.device)
    best = _best(weight, device, fractions * largest)
    # One coarse step of the exponent to either side.
    step = 2 / (_COARSE - 1)
    factors = torch.logspace(-step, step, _FINE, dtype=torch.float64, device=weight.device)
    return float(_best(weight, device, (factors * best).clamp(max=largest)))


def _best(weight: Tensor, device: Device[Any], candidates: Tensor) -> Tensor:
    """The candidate of least error, the largest of equals; ``candidates`` ascend."""

    def error(alpha: Tensor) -> Tensor:
        read = device.ideal(device.store(clipped(weight, alpha)))
        return (read.double() - weight.double()).square().sum()

    errors = torch.stack([error(alpha) for alpha in candidates])
    return candidates.flip(0)[errors.flip(0).argmin()]
