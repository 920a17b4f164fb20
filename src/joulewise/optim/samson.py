"""SAMSON: ASAM with the range of each tensor divided out, so that outliers count for less."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.optim.sharpness_aware import SharpnessAware

__all__ = ["SAMSON"]


class SAMSON(SharpnessAware):
    """SAM scaled by outlier normalisation: ``T = (|w| + eta) / ||w||_p``.

    ``||w||_p`` is that of the whole tensor, not of a filter or a channel. With ``p = inf`` it is
    the largest magnitude, the one that sets the scale of a tensor's words or conductances. T does
    not change when a tensor is multiplied by a constant, so the reach is absolute: tensors of small
    range move by more of it. The invariance of ASAM does not hold, and is not meant to. How to
    step, and what a step leaves alone, is on ``SharpnessAware``.

    Args:
        params: Parameters, named parameters or groups of them, as for any torch optimizer.
        base: The class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: Radius, 0 or more, in units of the weights: ``||T^-1 eps||_2 = rho`` over all
            parameters.
        p: Which norm is divided out, 2 or ``math.inf``.
        eta: Added to ``|w|``, 0 or more, so that weights at 0 move too.
        scaled: Which tensors T scales; for the others T is 1. ``"shape"``: those with two or more
            axes, so neither biases nor the scales of normalisation. ``"name"``: those with
            ``weight`` in their name, the authors' rule, so the scales of normalisation too; give
            ``model.named_parameters()``.
        options: The options of ``base``, ``lr`` among them.

    Raises:
        InputError: if ``rho``, ``p``, ``eta`` or ``scaled`` is not allowed, or ``base`` does not
            fit.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([[4.0, 2.0]]))
        >>> optimizer = SAMSON([w], torch.optim.SGD, lr=0.1, rho=0.5, eta=0.0)
        >>> (w @ torch.tensor([[3.0], [8.0]])).sum().backward()  # T = (1, 0.5), T g = (3, 4)
        >>> with optimizer.ascent():
        ...     print(w.tolist())  # 4 + 0.5 * 1 * 0.6 and 2 + 0.5 * 0.5 * 0.8
        [[4.300000190734863, 2.200000047683716]]

    References:
        G. Mordido, S. Henwood, S. Chandar, F. Leduc-Primeau, "SAMSON: Sharpness-Aware Minimization
        Scaled by Outlier Normalization for Improving DNN Generalization and Robustness", 2023,
        https://arxiv.org/abs/2211.11561, constrains ``||eps ||w||_p / |w| ||_2 <= rho``. The rest
        follows the authors' code for vision transformers: eta, T = 1 for what is no weight, whole
        tensors; its rho is 0.2 for both p. That code undoes eps by subtraction and updates the
        statistics of BatchNorm in both passes; here neither. A tensor that is all zero has no range
        to divide out: its T is 1, or 0 without eta.
    """

    def __init__(
        self,
        params: ParamsT,
        base: type[Optimizer],
        *,
        rho: float = 0.2,
        p: float = math.inf,
        eta: float = 0.01,
        scaled: Literal["shape", "name"] = "shape",
        **options: Any,
    ) -> None:
        own = {"rho": rho, "p": p, "eta": eta, "scaled": scaled}
        super().__init__(params, base, own, options)

    def _metric(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        eta = group["eta"]
        ranges = torch.stack(list(torch._foreach_norm(params, group["p"])))
        ranges = torch.where(ranges == 0, eta or 1.0, ranges)
        diagonals = list(torch._foreach_abs(params))
        torch._foreach_add_(diagonals, eta)
        torch._foreach_div_(diagonals, list(ranges))
        return diagonals
