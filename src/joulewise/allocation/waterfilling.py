"""Water-filling: the plan of least energy where each error falls exponentially with its share.

At the optimum, what a share of any variable's range saves in error is in one ratio, the water
level, to what it costs in energy. Where the error of a variable falls as ``exp(-a share)``, its
share follows in closed form from the slopes at any one point. So it does for an SRAM's ``eta`` at
low error rates, and on the logarithmic scale of a conductance; elsewhere the result is near.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor

__all__ = ["filled"]

# How far apart slopes are taken to see how fast they fall, in shares; and the range of what counts
# as a fall.
_APART, _SLOWEST, _FASTEST = 0.02, 1.0, 200.0
_LEVELS = 30.0


def filled(
    error: Callable[[Tensor], Tensor], energy: Callable[[Tensor], Tensor], start: Tensor
) -> Tensor:
    """Shares with the error that ``start`` has, at about the least energy.

    With ``g`` and ``c`` the slopes of error and energy at the start and ``a`` the rate at which
    ``g`` falls, variable ``i`` gets ``start_i + log(g_i / (mu c_i)) / a_i``, within 0 and 1; the
    water level ``mu`` is the one that keeps the error.

    Args:
        error: Of shares, a float64 scalar, differentiable.
        energy: Likewise.
        start: float64 ``[variables]``, 0 to 1.

    Returns:
        Shares, or the start itself where these would cost more.

    Example:
        >>> sensitivity = torch.tensor([4.0, 1.0], dtype=torch.float64)
        >>> start = torch.full((2,), 0.5, dtype=torch.float64)
        >>> found = filled(lambda x: (sensitivity * (-10 * x).exp()).sum(), torch.sum, start)
        >>> p = (-10 * found).exp()  # in proportion to energy over sensitivity
        >>> round(float(p[1] / p[0]), 2)
        4.0
    """
    here, ahead = _slope(error, start), _slope(error, start - _APART)
    costs = _slope(energy, start)
    known = (here < 0) & (costs > 0)
    if not bool(known.any()):
        return start
    gains = torch.where(known, -here, 1.0)
    rates = (torch.where(ahead < 0, -ahead, gains) / gains).log() / _APART
    rates = rates.clamp(_SLOWEST, _FASTEST)
    worth = gains.log() - torch.where(known, costs, 1.0).log()

    def at(level: float) -> Tensor:
        moved = start + (worth - level) / rates
        return torch.where(known, moved, start).clamp(0, 1)

    with torch.no_grad():
        wanted = float(error(start))
        low, high = float(worth[known].min()) - _LEVELS, float(worth[known].max()) + _LEVELS
        if not float(error(at(low))) <= wanted <= float(error(at(high))):
            return start
        level = brentq(lambda mu: float(error(at(mu))) - wanted, low, high, xtol=1e-4)
        shares = at(float(level))
        return shares if float(energy(shares)) < float(energy(start)) else start


def _slope(figure: Callable[[Tensor], Tensor], shares: Tensor) -> Tensor:
    at = shares.detach().clamp(0, 1).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(figure(at), at)
    return slope
