"""SAM, ASAM and SAMSON: one sharpness-aware step, with three diagonal matrices T."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.optim.sharpness_aware import SharpnessAware

__all__ = ["ASAM", "SAM", "SAMSON"]


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: ``eps = rho g / ||g||_2``, T = 1.

    `SharpnessAware` documents ``params``, ``base``, its ``options``, the two ways to step, and the
    state that a step preserves.

    Args:
        rho: Radius, 0 or more, in units of the weights: ``||eps||_2 = rho`` over all parameters.
            With 0 the step is that of ``base``, at twice the cost.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = SAM([w], torch.optim.SGD, lr=0.1, rho=0.5)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = 0.5 * (w**2).sum()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)  # eps = (0.3, 0.4), gradient there (3.3, 4.4)
        >>> print(f"{loss.item():.1f} {w[0].item():.2f} {w[1].item():.2f}")
        12.5 2.67 3.56

    References:
        P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, "Sharpness-Aware Minimization for Efficiently
        Improving Generalization", ICLR 2021, https://arxiv.org/abs/2010.01412. Public codes add
        1e-12 or 1e-16 to the norm; here nothing is added, and a gradient of zero moves nothing.
    """

    def __init__(
        self, params: ParamsT, base: type[Optimizer], *, rho: float = 0.05, **options: Any
    ) -> None:
        super().__init__(params, base, {"rho": rho}, options)

    def _diagonals(self, params: list[Tensor], group: dict[str, Any]) -> None:
        return None


class ASAM(SharpnessAware):
    """Adaptive SAM: ``eps = rho T^2 g / ||T g||_2`` with ``T = |w| + eta``, element by element.

    With ``eta = 0`` the relative move ``eps / w`` is invariant to the scale of a layer where the
    loss is, as before a BatchNorm. `SharpnessAware` documents the rest.

    Args:
        rho: Radius, 0 or more: ``||T^-1 eps||_2 = rho`` over all parameters. Dimensionless for
            scaled tensors; ten times that of SAM is usual.
        eta: Added to ``|w|``, 0 or more, so that weights at 0 move too.
        scaled: Tensors that T scales; T is 1 for the others. ``"shape"``: those with two or more
            axes, so neither biases nor the scales of normalisation. ``"name"``: those with
            ``weight`` in their name, the authors' rule, so the scales of normalisation too; it
            needs ``model.named_parameters()``.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([[2.0, 1.0]]))
        >>> optimizer = ASAM([w], torch.optim.SGD, lr=0.1, rho=0.5, eta=0.0)
        >>> (w @ torch.tensor([[3.0], [8.0]])).sum().backward()  # T g = (6, 8), of norm 10
        >>> with optimizer.ascent():
        ...     print(w.tolist())  # 2 + 0.5 * 2 * 0.6 and 1 + 0.5 * 1 * 0.8
        [[2.5999999046325684, 1.399999976158142]]

    References:
        J. Kwon, J. Kim, H. Park, I. K. Choi, "ASAM: Adaptive Sharpness-Aware Minimization for
        Scale-Invariant Learning of Deep Neural Networks", ICML 2021,
        https://arxiv.org/abs/2102.11600. T follows the authors' code, which scales tensors by name.
        Adaptive SAM in other libraries scales every tensor by ``|w|``, biases too, without eta, so
        that a bias at 0 never moves.
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

    def _diagonals(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        diagonals = list(torch._foreach_abs(params))
        torch._foreach_add_(diagonals, group["eta"])
        return diagonals


class SAMSON(SharpnessAware):
    """SAM scaled by outlier normalisation: ``T = (|w| + eta) / ||w||_p``.

    ``||w||_p`` is the norm of the whole tensor, not of a filter or a channel. With ``p = inf`` it
    is the largest magnitude, which sets the scale of a tensor's words or conductances. T is
    invariant to the scale of a tensor, so the radius is absolute: a tensor of small range moves by
    a larger fraction of it. The scale invariance of ASAM does not hold. `SharpnessAware` documents
    the rest.

    Args:
        rho: Radius, 0 or more, in units of the weights: ``||T^-1 eps||_2 = rho`` over all
            parameters.
        p: Order of the norm in T, 2 or ``math.inf``.
        eta: As for `ASAM`.
        scaled: As for `ASAM`.

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
        follows the authors' code for vision transformers: eta, T = 1 for biases, whole tensors;
        its rho is 0.2 for both p. That code undoes eps by subtraction and updates the statistics of
        BatchNorm in both passes; here neither. A tensor of zeros has no norm to divide by: its T is
        1, or 0 without eta.
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

    def _diagonals(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        eta = group["eta"]
        norms = torch.stack(list(torch._foreach_norm(params, group["p"])))
        norms = torch.where(norms == 0, eta or 1.0, norms)
        diagonals = list(torch._foreach_abs(params))
        torch._foreach_add_(diagonals, eta)
        torch._foreach_div_(diagonals, list(norms))
        return diagonals
