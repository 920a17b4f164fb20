"""ASAM: the worst point within reach, where reach is in proportion to the weights."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.optim.sharpness_aware import SharpnessAware

__all__ = ["ASAM"]


class ASAM(SharpnessAware):
    """Adaptive SAM: ``eps = rho T^2 g / ||T g||_2`` with ``T = |w| + eta``, element by element.

    With ``eta = 0`` the relative move ``eps / w`` stays as it is when a layer is multiplied by a
    constant and the loss does not change with it, as before a BatchNorm. How to step, and what a
    step leaves alone, is on ``SharpnessAware``.

    Args:
        params: Parameters, named parameters or groups of them, as for any torch optimizer.
        base: The class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: Radius, 0 or more: ``||T^-1 eps||_2 = rho`` over all parameters. No unit where weights
            are scaled; a tenfold of SAM's is usual.
        eta: Added to ``|w|``, 0 or more, so that weights at 0 move too.
        scaled: Which tensors T scales; for the others T is 1. ``"shape"``: those with two or more
            axes, so neither biases nor the scales of normalisation. ``"name"``: those with
            ``weight`` in their name, the authors' rule, so the scales of normalisation too; give
            ``model.named_parameters()``.
        options: The options of ``base``, ``lr`` among them.

    Raises:
        InputError: if ``rho``, ``eta`` or ``scaled`` is not allowed, or ``base`` does not fit.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([[2.0, 1.0]]))
        >>> optimizer = ASAM([w], torch.optim.SGD, lr=0.1, rho=0.5, eta=0.0)
        >>> (w @ torch.tensor([[3.0], [8.0]])).sum().backward()  # T g = (6, 8), of length 10
        >>> with optimizer.ascent():
        ...     print(w.tolist())  # 2 + 0.5 * 2 * 0.6 and 1 + 0.5 * 1 * 0.8
        [[2.5999999046325684, 1.399999976158142]]

    References:
        J. Kwon, J. Kim, H. Park, I. K. Choi, "ASAM: Adaptive Sharpness-Aware Minimization for
        Scale-Invariant Learning of Deep Neural Networks", ICML 2021,
        https://arxiv.org/abs/2102.11600. T follows the authors' code, which scales tensors by name.
        What other libraries call adaptive SAM scales every tensor by ``|w|``, biases too, without
        eta, so that a bias at 0 never moves.
    """

    def __init__(
        self,
        params: ParamsT,
        base: type[Optimizer],
        *,
        rho: float = 0.5,
        eta: float = 0.01,
        scaled: Literal["shape", "name"] = "shape",
        **options: Any,
    ) -> None:
        super().__init__(params, base, {"rho": rho, "eta": eta, "scaled": scaled}, options)

    def _metric(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        diagonals = list(torch._foreach_abs(params))
        torch._foreach_add_(diagonals, group["eta"])
        return diagonals
