"""Water-filling: the plan of least energy where each error falls exponentially with its level.

At the optimum the marginal error of each variable is in one ratio, the water level, to its marginal
energy. Where the errors fall as ``exp(-a x)`` with the levels ``x``, these follow in closed form
from the slopes at any one plan. So they do for an SRAM's ``eta`` at low error rates, and for a
conductance on its logarithmic scale; elsewhere the result is near the optimum.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor

__all__ = ["water_filling"]

# The rate ``a`` is the change of the logarithm of the slope over this step, clamped to a range: an
# SRAM's is about 13, and a variable whose error does not fall would go to infinity.
_STEP, _SLOWEST, _FASTEST = 0.02, 1.0, 200.0
# The bracket of the water level's logarithm, beyond those at which any variable stays at its start.
_BEYOND = 30.0


def water_filling(
    error: Callable[[Tensor], Tensor], energy: Callable[[Tensor], Tensor], start: Tensor
) -> Tensor:
    """Levels with the error that ``start`` has, at about the least energy.

    With the slopes ``-g`` of the error and ``c`` of the energy at the start, and the rate ``a`` at
    which ``g`` falls, variable ``i`` gets ``start_i + log(g_i / (mu c_i)) / a_i``, clipped to [0,
    1]; the water level ``mu`` is the one that keeps the error.

    Args:
        error: The error, a float64 scalar, differentiable in the levels.
        energy: The energy, likewise.
        start: float64 ``[variables]``, 0 to 1.

    Returns:
        float64 ``[variables]``; the start itself where the solution would cost more.

    Example:
        >>> sensitivity = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> start = torch.full((2,), 0.5, dtype=torch.float64)
        >>> found = water_filling(lambda x: (sensitivity * (-10 * x).exp()).sum(), torch.sum, start)
        >>> p = (-10 * found).exp()  # in proportion to energy over sensitivity
        >>> round(float(p[1] / p[0]), 2)
        4.0
    """
    here, behind = _slope(error, start), _slope(error, start - _STEP)
    costs = _slope(energy, start)
    # Variables whose error or energy does not depend on their level stay where they are.
    known = (here < 0) & (costs > 0)
    if not bool(known.any()):
        return start
    gains = torch.where(known, -here, 1.0)
    rates = (torch.where(behind < 0, -behind, gains) / gains).log() / _STEP
    rates = rates.clamp(_SLOWEST, _FASTEST)
    log_ratio = gains.log() - torch.where(known, costs, 1.0).log()

    def at(log_mu: float) -> Tensor:
        moved = start + (log_ratio - log_mu) / rates
        return torch.where(known, moved, start).clamp(0, 1)

    with torch.no_grad():
        wanted = float(error(start))
        low = float(log_ratio[known].min()) - _BEYOND
        high = float(log_ratio[known].max()) + _BEYOND
        if not float(error(at(low))) <= wanted <= float(error(at(high))):
            return start
        log_mu = brentq(lambda mu: float(error(at(mu))) - wanted, low, high, xtol=1e-4)
        levels = at(float(log_mu))
        return levels if float(energy(levels)) < float(energy(start)) else start


def _slope(figure: Callable[[Tensor], Tensor], levels: Tensor) -> Tensor:
    at = levels.detach().clamp(0, 1).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(figure(at), at)
    return slope
