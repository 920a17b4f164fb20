"""Functions of a Gaussian: mean, variance, and what their covariances follow from.

With ``x ~ N(mu, s^2)``, ``z = (x - mu) / s`` and the probabilists' Hermite polynomials ``He_k``, a
function has the coefficients ``a_k = E[f(x) He_k(z)] = s^k E[f^(k)(x)]``. For x and y jointly
Gaussian with correlation rho,

    Cov(f(x), g(y)) = sum over k >= 1 of rho^k / k! * a_k(f) * a_k(g)        (Mehler's series).

Cut off at any order it is still the covariance of something: every term is positive semi-definite,
and the variance on the diagonal is never below the cut sum. Four terms are off by up to 2 % of the
product of standard deviations for ReLU (3 % where rho is below -0.7 or above 0.95 and the means
differ); for a saturating function whose input spreads four times as far as its transition by up to
4 % for |rho| below 0.95, 10 % beyond. Eight terms divide that by 3.

References:
    F. G. Mehler, J. reine angew. Math. 66, 1866; H. O. Lancaster, "Some properties of the bivariate
    normal distribution considered in the form of a contingency table", Biometrika 44, 1957.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RELU", "Expansion", "PiecewiseLinear", "quadrature", "series"]

# The trapezoidal rule converges exponentially against a Gaussian weight (L. N. Trefethen and J. A.
# C. Weideman, SIAM Review 56, 2014, section 5), where Gauss-Hermite does for smooth functions only:
# at this step a kink is off by 2e-3 of the spread and a jump by 5e-2 of it at worst.
_NODES = torch.linspace(-8.0, 8.0, 65, dtype=torch.float64)
_WEIGHTS = torch.softmax(-0.5 * _NODES**2, 0)

_CHUNK_BYTES = 2**21  # two blocks of the series fit the cache of one core


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expansion:
    """A function of independent or dependent Gaussians, entry by entry.

    Args:
        mean: ``E[f]``, ``[batch, *shape]``, float64 as all others.
        var: ``Var[f]``.
        gain: ``E[f']``; where the input does not vary, whatever is finite.
        std: The standard deviation of the input.
        coefficients: ``a_1, a_2, ...``.
    """

    mean: Tensor
    var: Tensor
    gain: Tensor
    std: Tensor
    coefficients: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseLinear:
    """``f(x) = intercept + slope * x + sum of bend * max(x - at, 0)``; all moments in closed form.

    Args:
        slope: Left of all knots.
        knots: Pairs ``(at, bend)``: where the slope changes, and by how much.
        intercept: As in the formula.

    Example:
        >>> x = RELU.expand(torch.zeros(1, 1), torch.ones(1, 1), order=2)
        >>> [round(float(y), 4) for y in (x.mean, x.var, x.gain)]  # 1/sqrt(2 pi), 1/2 - 1/(2 pi)
        [0.3989, 0.3408, 0.5]
    """

    slope: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    intercept: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """The function itself."""
        y: Tensor = self.intercept + self.slope * x
        for at, bend in self.knots:
            y = y + bend * (x - at).clamp_min(0.0)
        return y

    def expand(self, mean: Tensor, var: Tensor, order: int) -> Expansion:
        """Moments and coefficients under a Gaussian; exact.

        Each knot is seen from the mean: ``f`` is a straight line plus what bends away on the far
        side of each knot, so that no large numbers cancel where the noise is small.

        Args:
            mean: ``[batch, *shape]``.
            var: The same shape, 0 or more.
            order: How many coefficients.
        """
        mean, var = mean.double(), var.double()
        std = _sqrt(var)
        ends = [_Bend(mean, std, at, bend) for at, bend in self.knots]
        zero = torch.zeros_like(mean)
        local = sum((e.bend * (e.side < 0) for e in ends), zero + self.slope)
        cross = sum((e.bend * e.side * var * e.tail for e in ends), zero)
        spread = sum((a.bend * b.bend * a.covariance(b) for a in ends for b in ends), zero)
        gain = sum((e.bend * e.side * e.tail for e in ends), local)
        more = (sum((e.coefficient(k) for e in ends), zero) for k in range(2, order + 1))
        return Expansion(
            mean=sum((e.bend * e.mean for e in ends), self(mean)),
            var=(local**2 * var + 2 * local * cross + spread).clamp_min(0.0),
            gain=gain,
            std=std,
            coefficients=(gain * std, *more),
        )


RELU = PiecewiseLinear(knots=((0.0, 1.0),))
"""``max(x, 0)``."""


class _Bend:
    """``r = max(side * (x - at), 0)``, the side being the one that the mean is not on."""

    def __init__(self, mean: Tensor, std: Tensor, at: float, bend: float) -> None:
        self.at, self.bend, self.std = at, bend, std
        self.side = torch.where(mean >= at, -1.0, 1.0).double()
        away = self.side * (mean - at)  # 0 or less
        varies = std > 0
        safe = torch.where(varies, std, 1.0)
        z = away / safe
        self.z = z
        self.density = torch.where(varies, torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi), 0.0)
        self.tail = torch.where(varies, 0.5 * torch.erfc(-z / math.sqrt(2)), 0.0)
        self.mean = std * self.density + away * self.tail
        self.square = (away**2 + std**2) * self.tail + away * std * self.density

    def covariance(self, other: _Bend) -> Tensor:
        """Of two bends: on one side the farther lies within the nearer; on two, never both."""
        lower, upper = (self, other) if self.at <= other.at else (other, self)
        gap = upper.at - lower.at
        above, below = (far.square + gap * far.mean for far in (upper, lower))
        same_side = torch.where(self.side > 0, above, below)
        return torch.where(self.side == other.side, same_side, 0.0) - self.mean * other.mean

    def coefficient(self, k: int) -> Tensor:
        """``a_k`` of ``bend * max(x - at, 0)``, k >= 2: s (-1)^k He_{k-2}(m) phi(m)."""
        m = self.side * self.z  # (mean - at) / std
        sign = -1.0 if k % 2 else 1.0
        return sign * self.bend * self.std * _hermite(k - 2, m) * self.density


def quadrature(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, var: Tensor, order: int
) -> tuple[Expansion, Tensor]:
    """Moments and coefficients of any function of one number.

    Error below 1e-9 of the spread for functions that are smooth over a quarter of the input's
    standard deviation; see the module's constants for kinks and jumps. Gradients with regard to
    ``mean`` and ``var`` are those of the Gaussian's density, so the function needs none.

    Args:
        function: Takes ``[nodes, batch, *shape]`` to the mean and variance of its value there.
        mean: ``[batch, *shape]``.
        var: The same shape, 0 or more.
        order: How many coefficients.

    Returns:
        The expansion of the function's mean, and the expectation of its variance.
    """
    mean, var = mean.double(), var.double()
    std = _sqrt(var)
    nodes, z, weights = _grid(mean, std)
    values, variances = (part.double() for part in function(nodes))
    out_mean = (weights * values).sum(0)
    centred = values - out_mean
    coefficients = [(weights * _hermite(k, z) * centred).sum(0) for k in range(1, order + 1)]
    varies = std > 0
    expansion = Expansion(
        mean=out_mean,
        var=(weights * centred**2).sum(0),
        gain=torch.where(varies, coefficients[0] / torch.where(varies, std, 1.0), 0.0),
        std=std,
        coefficients=tuple(coefficients),
    )
    return expansion, (weights * variances).sum(0)


def _grid(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes, their distance from the mean in standard deviations, and their weights."""
    shape = (-1, *(1,) * mean.ndim)
    z, weights = (t.to(mean.device).view(shape) for t in (_NODES, _WEIGHTS))
    nodes = (mean + std * z).detach()
    if not mean.requires_grad and not std.requires_grad:
        return nodes, z, weights
    # The nodes stay where they are; what changes with the mean and the spread is their density.
    varies = std > 0
    safe = torch.where(varies, std, 1.0)
    moving = torch.where(varies, (nodes - mean) / safe, z)
    ratio = torch.exp(0.5 * (z**2 - moving**2)) * safe.detach() / safe
    return nodes, moving, weights * ratio


def series(cov: Tensor, expansion: Expansion, *, first: int = 1, overwrite: bool = False) -> Tensor:
    """Mehler's series for every pair of entries.

    Args:
        cov: The covariance of the inputs, ``[batch, size, size]``.
        expansion: Of the function, with a size in all axes but the batch.
        first: The first order to sum.
        overwrite: The result may lie where ``cov`` is.

    Returns:
        ``[batch, size, size]``; on the diagonal the cut sum, too.
    """
    dtype = cov.dtype
    std = expansion.std.flatten(1)
    varies = std > 0
    inverse = torch.where(varies, 1.0 / torch.where(varies, std, 1.0), 0.0).to(dtype)
    terms = [
        (a.flatten(1) / math.sqrt(math.factorial(k))).to(dtype)
        for k, a in enumerate(expansion.coefficients, 1)
    ][first - 1 :]
    if torch.is_grad_enabled():
        return _horner(cov, inverse, terms, slice(None), first)
    out = cov if overwrite else torch.empty_like(cov)
    step = max(_CHUNK_BYTES // (cov[:, 0].numel() * cov.element_size()), 1)
    for start in range(0, cov.shape[1], step):
        rows = slice(start, start + step)
        out[:, rows] = _horner(cov[:, rows], inverse, terms, rows, first)
    return out


def _horner(block: Tensor, inverse: Tensor, terms: list[Tensor], rows: slice, first: int) -> Tensor:
    if not terms:
        return torch.zeros_like(block)
    correlation = block * inverse[:, rows, None] * inverse[:, None]
    # Rounding can exceed 1 where a variance is tiny, and the powers would make much of it.
    correlation = correlation.clamp(-1.0, 1.0)
    total = terms[-1][:, rows, None] * terms[-1][:, None]
    for term in reversed(terms[:-1]):
        total = torch.addcmul(term[:, rows, None] * term[:, None], total, correlation)
    return total * correlation**first


def _hermite(k: int, z: Tensor) -> Tensor:
    """Probabilists' polynomials by ``He_{k+1} = z He_k - k He_{k-1}``."""
    before, now = torch.zeros_like(z), torch.ones_like(z)
    for j in range(k):
        before, now = now, z * now - j * before
    return now


def _sqrt(var: Tensor) -> Tensor:
    """The square root, with gradient 0 and not infinity at 0."""
    positive = var > 0
    return torch.where(positive, torch.where(positive, var, 1.0).sqrt(), 0.0)
