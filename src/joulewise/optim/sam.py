"""SAM: the worst point within a ball."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.optim.sharpness_aware import SharpnessAware

__all__ = ["SAM"]


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: ``eps = rho g / ||g||_2``, T = 1.

    How to step, and what a step leaves alone, is on ``SharpnessAware``.

    Args:
        params: Parameters, named parameters or groups of them, as for any torch optimizer.
        base: The class of the optimizer that steps, such as ``torch.optim.SGD``.
        rho: Radius, 0 or more, in units of the weights: ``||eps||_2 = rho`` over all parameters.
            With 0 the step is that of ``base``, for twice the work.
        options: The options of ``base``, ``lr`` among them.

    Raises:
        InputError: if ``rho`` is negative or not finite, or ``base`` does not fit.

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
        1e-12 or 1e-16 to the norm; here nothing is added, and a gradient of zero climbs nowhere.
    """

    def __init__(
        self, params: ParamsT, base: type[Optimizer], *, rho: float = 0.05, **options: Any
    ) -> None:
        super().__init__(params, base, {"rho": rho}, options)

    def _metric(self, params: list[Tensor], group: dict[str, Any]) -> None:
        return None
