"""Weight clipping: where noise is proportional to a tensor's range, a smaller range has less."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from joulewise.errors import InputError, check_in_range, check_kind
from joulewise.placement import Placement

__all__ = ["clip_weights", "placed_weights"]


@torch.no_grad()
def clip_weights(
    weights: nn.Module | Placement, *, fixed: float | None = None, deviations: float | None = None
) -> None:
    """Clip weights in place; to be called after each step of an optimizer.

    Args:
        weights: A placement, for its placed weights, or a model, for its parameters with two or
            more axes. Weights that share storage are clipped once.
        fixed: Largest magnitude, in the unit of the weights, above 0.
        deviations: Largest magnitude in present standard deviations of each tensor, above 0.

    Raises:
        InputError: if both or neither of the limits are given, or the limit is not above 0.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.3, -0.05], [0.02, -4.0]]))
        >>> clip_weights(layer, fixed=0.1)
        >>> [[round(w, 2) for w in row] for row in layer.weight.tolist()]
        [[0.1, -0.05], [0.02, -0.1]]

    References:
        ``deviations=2.0``: V. Joshi et al., Nat. Commun. 11, 2473, 2020, for CIFAR-10.
        ``fixed=0.1``: a baseline in the public code of WCAT, TMLR 2023, openreview BxjHMPwZIH.
    """
    check_kind("weights", weights, (nn.Module, Placement), "a model or a placement")
    if (fixed is None) == (deviations is None):
        raise InputError("clip_weights needs either fixed= or deviations=")
    for name, value in (("fixed", fixed), ("deviations", deviations)):
        if value is not None:
            check_in_range(name, value, 0.0, 3e38, open_low=True)
    if isinstance(weights, Placement):
        found = list(placed_weights(weights).values())
    else:
        matrices = [p for p in weights.parameters() if p.ndim >= 2 and p.is_floating_point()]
        found = list({p.data_ptr(): p for p in matrices}.values())
    for weight in found:
        if fixed is not None:
            weight.clamp_(-fixed, fixed)
        elif deviations is not None and weight.numel() > 1:
            limit = deviations * weight.std()
            weight.clamp_(-limit, limit)


def placed_weights(placement: Placement) -> dict[str, Tensor]:
    """The model's present parameters of placed weights, by name, each storage once."""
    modules = dict(placement.model.named_modules())
    return {p.name: p.parameters(modules)[0] for p in placement.placed if p.role == "weight"}
