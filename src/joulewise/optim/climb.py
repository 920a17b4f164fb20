"""The climb: from w to the point within reach where, to first order, the loss is highest.

    max L(w + eps)  over  ||T^-1 eps||_2 <= rho   gives   eps = rho T^2 g / ||T g||_2

with g the gradient of L at w and T a positive diagonal. The norm runs over all parameters together.
Everything stays on the parameters' devices: no number is read back in a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.errors import refuse

__all__ = ["Slope", "climb", "slopes"]

Group = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """Parameters that climb by one rule, on one device and in one precision.

    ``params``, ``gradients`` and ``metric``, the diagonals of T, are lists of equal shapes; with no
    metric, T is 1. ``group`` is the parameter group they come from.
    """

    group: Group
    params: list[Tensor]
    gradients: list[Tensor]
    metric: list[Tensor] | None

    def stretched(self) -> list[Tensor]:
        """``T g``; with T = 1 these are the gradients themselves."""
        if self.metric is None:
            return self.gradients
        return list(torch._foreach_mul(self.metric, self.gradients))


def slopes(
    groups: Sequence[Group], metric: Callable[[list[Tensor], Group], list[Tensor] | None]
) -> list[Slope]:
    """Sort the parameters that have gradients by how they climb.

    Args:
        groups: Parameter groups of an optimizer. ``metric`` is asked about tensors with two or more
            axes, or, where ``scaled`` is ``"name"``, about those with ``weight`` in their name; T
            is 1 for the rest.
        metric: Gives the diagonals of T for some parameters of a group; None where T is 1.

    Returns:
        One slope for each group, rule, device and precision that occurs.

    Raises:
        InputError: if a gradient is sparse.
    """
    found = []
    for group, rows in zip(groups, _rows(groups), strict=True):
        bundles: dict[tuple[bool, torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
        for parameter, name in rows:
            if parameter.grad is None or not parameter.numel():
                continue
            if parameter.grad.layout is not torch.strided:
                allowed = "a dense one: build embeddings with sparse=False"
                refuse(f"the gradient of {name}", parameter.grad.layout, allowed)
            scaled = _is_scaled(parameter, name, group)
            bundles[scaled, parameter.device, parameter.dtype].append(parameter)
        for (scaled, _, _), params in bundles.items():
            gradients = [p.grad for p in params if p.grad is not None]
            diagonals = metric(params, group) if scaled else None
            found.append(Slope(group=group, params=params, gradients=gradients, metric=diagonals))
    return found


def climb(upward: Sequence[Slope]) -> None:
    """Add ``rho T^2 g / ||T g||_2`` to the parameters, in place.

    A group's rho is folded into its T, so groups of different rho share one ellipsoid,
    ``sum over groups ||T^-1 eps||^2 / rho^2 <= 1``; with one rho that is the ball above. Where the
    norm is zero or not finite nothing moves, so the second pass has the gradient of the first.

    Args:
        upward: The slopes to climb together.
    """
    if not upward:
        return
    stretched = [slope.stretched() for slope in upward]
    length = _length(upward, stretched)
    unusable = ~torch.isfinite(length) | (length == 0)
    for slope, steps in zip(upward, stretched, strict=True):
        rho = slope.group["rho"]
        sign = -1 if slope.group.get("maximize") else 1  # the worst case of a gain is a low one
        factor = (sign * rho * rho / length).to(steps[0].device)
        moves = list(torch._foreach_mul(steps, factor))
        if slope.metric is not None:
            torch._foreach_mul_(moves, slope.metric)
        # Not left to the factor: zero times infinity is not a number.
        nowhere = unusable.to(factor.device)
        for move in moves:
            move.masked_fill_(nowhere, 0)
        torch._foreach_add_(slope.params, moves)


def _length(upward: Sequence[Slope], stretched: Sequence[list[Tensor]]) -> Tensor:
    """``||rho T g||_2`` over all slopes: no axes, in single precision or better."""
    lengths = []
    for slope, steps in zip(upward, stretched, strict=True):
        # Half precision has too short a range for a sum of squares.
        precision = torch.promote_types(steps[0].dtype, torch.float32)
        norms = torch.stack(list(torch._foreach_norm(steps, 2, dtype=precision)))
        lengths.append(slope.group["rho"] * torch.linalg.vector_norm(norms))
    home = lengths[0].device
    total: Tensor = torch.linalg.vector_norm(torch.stack([part.to(home) for part in lengths]))
    return total


def _rows(groups: Sequence[Group]) -> Iterator[list[tuple[Tensor, str]]]:
    """The parameters of each group with their names, or their places where there are no names."""
    for number, group in enumerate(groups):
        places = (f"parameter {i} of group {number}" for i in range(len(group["params"])))
        yield list(zip(group["params"], group.get("param_names", places), strict=False))


def _is_scaled(parameter: Tensor, name: str, group: Group) -> bool:
    return "weight" in name if group.get("scaled") == "name" else parameter.ndim >= 2
