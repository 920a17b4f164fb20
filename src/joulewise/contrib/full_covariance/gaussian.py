"""Functions of Gaussian variables: means, variances, and Mehler's series for covariances.

With ``x ~ N(mu, s^2)``, ``z = (x - mu) / s`` and the probabilists' Hermite polynomials ``He_k``, a
function has the coefficients ``a_k = E[f(x) He_k(z)] = s^k E[f^(k)(x)]``. For x and y jointly
Gaussian with correlation rho,

    Cov(f(x), g(y)) = sum over k >= 1 of rho^k / k! * a_k(f) * a_k(g)        (Mehler's series).

Truncated at any order it still is a covariance: every term is positive semi-definite, and the
variance on the diagonal is never below the truncated sum. Four terms are off by up to 2 % of the
product of standard deviations for ReLU (3 % where rho is below -0.7 or above 0.95 and the means
differ); for a saturating function whose input spreads four times as far as its transition by up to
4 % for |rho| below 0.95, 10 % beyond. Eight terms divide that by 3.

References:
    F. G. Mehler, J. reine angew. Math. 66, 1866; H. O. Lancaster, "Some properties of the bivariate
    normal distribution considered in the form of a contingency table", Biometrika 44, 1957.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.contrib.full_covariance.joint import Gain, Joint, Noise, Outcome, Value

__all__ = ["RELU", "Expansion", "PiecewiseLinear", "elementwise", "quadrature", "series"]

# The trapezoidal rule converges exponentially against a Gaussian weight (L. N. Trefethen and J. A.
# C. Weideman, SIAM Review 56, 2014, section 5), where Gauss-Hermite does for smooth functions only:
# at this step a kink is off by 2e-3 of the spread and a jump by 5e-2 of it at worst.
_NODES = torch.linspace(-8.0, 8.0, 65, dtype=torch.float64)
_WEIGHTS = torch.softmax(-0.5 * _NODES**2, 0)

_CHUNK_BYTES = 2**21  # two blocks of the series fit the cache of one core


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expansion:
    """Moments and Hermite coefficients of a function of each entry, under Gaussian marginals.

    Args:
        mean: ``E[f]``, ``[batch, *shape]``, float64 as all others.
        var: ``Var[f]``.
        gain: ``E[f']``; any finite number where the input does not vary.
        std: Standard deviation of the input.
        coefficients: ``a_1, a_2, ...``.
    """

    mean: Tensor
    var: Tensor
    gain: Tensor
    std: Tensor
    coefficients: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseLinear:
    """``f(x) = intercept + slope x + sum of bend max(x - at, 0)``; all moments in closed form.

    Args:
        slope: Slope left of all knots.
        knots: Pairs ``(at, bend)``: position of a knot, and change of the slope there.
        intercept: See the formula.

    Example:
        >>> x = RELU.expand(torch.zeros(1, 1), torch.ones(1, 1), order=2)
        >>> [round(float(y), 4) for y in (x.mean, x.var, x.gain)]  # 1/sqrt(2 pi), 1/2 - 1/(2 pi)
        [0.3989, 0.3408, 0.5]
    """

    slope: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    intercept: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate the function."""
        y: Tensor = self.intercept + self.slope * x
        for at, bend in self.knots:
            y = y + bend * (x - at).clamp_min(0.0)
        return y

    def expand(self, mean: Tensor, var: Tensor, order: int) -> Expansion:
        """Moments and coefficients for a Gaussian input; exact.

        Around the mean, ``f`` is a straight line (the line of the segment that holds the mean) plus
        a hinge on the far side of each knot. Sums of such small terms do not cancel where the noise
        is small, as moments of ``max(x - at, 0)`` would.

        Args:
            mean: ``[batch, *shape]``.
            var: The same shape, 0 or more.
            order: Number of coefficients.
        """
        mean, var = mean.double(), var.double()
        std = _sqrt(var)
        hinges = [_Hinge(mean, std, at, bend) for at, bend in self.knots]
        zero = torch.zeros_like(mean)
        slope = sum((h.bend * (h.side < 0) for h in hinges), zero + self.slope)
        # Var(slope x + h) = slope^2 s^2 + 2 slope Cov(x, h) + Var h, h the sum of the hinges.
        cross = sum((h.bend * h.side * var * h.tail for h in hinges), zero)
        spread = sum((a.bend * b.bend * a.covariance(b) for a in hinges for b in hinges), zero)
        gain = sum((h.bend * h.side * h.tail for h in hinges), slope)
        more = (sum((h.coefficient(k) for h in hinges), zero) for k in range(2, order + 1))
        return Expansion(
            mean=sum((h.bend * h.mean for h in hinges), self(mean)),
            var=(slope**2 * var + 2 * slope * cross + spread).clamp_min(0.0),
            gain=gain,
            std=std,
            coefficients=(gain * std, *more),
        )


RELU = PiecewiseLinear(knots=((0.0, 1.0),))
"""``max(x, 0)``."""


class _Hinge:
    """``r = max(side (x - at), 0)``, ``side`` pointing away from the mean."""

    def __init__(self, mean: Tensor, std: Tensor, at: float, bend: float) -> None:
        self.at, self.bend, self.std = at, bend, std
        self.side = torch.where(mean >= at, -1.0, 1.0).double()
        away = self.side * (mean - at)  # 0 or less
        varies = std > 0
        self.z = z = away / torch.where(varies, std, 1.0)
        self.density = torch.where(varies, torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi), 0.0)
        self.tail = torch.where(varies, 0.5 * torch.erfc(-z / math.sqrt(2)), 0.0)
        # Moments of max(X, 0) for X ~ N(away, std^2): see `rectified_moments`.
        self.mean = std * self.density + away * self.tail
        self.square = (away**2 + std**2) * self.tail + away * std * self.density

    def covariance(self, other: _Hinge) -> Tensor:
        """Covariance of two hinges.

        ``E[r q] = E[r^2] + gap E[r]`` on one side of the mean, where the farther hinge r is nonzero
        only where the nearer one q is; 0 on two sides, where one of them always is 0.
        """
        lower, upper = (self, other) if self.at <= other.at else (other, self)
        gap = upper.at - lower.at
        above, below = (far.square + gap * far.mean for far in (upper, lower))
        same_side = torch.where(self.side > 0, above, below)
        return torch.where(self.side == other.side, same_side, 0.0) - self.mean * other.mean

    def coefficient(self, k: int) -> Tensor:
        """``a_k = bend s (-1)^k He_{k-2}(m) phi(m)``, ``m = (mean - at) / s``, for k >= 2."""
        sign = -1.0 if k % 2 else 1.0
        return sign * self.bend * self.std * _hermite(k - 2, self.side * self.z) * self.density


def quadrature(
    function: Callable[[Tensor], tuple[Tensor, Tensor]], mean: Tensor, var: Tensor, order: int
) -> tuple[Expansion, Tensor]:
    """Moments and coefficients of any function of one variable.

    Error below 1e-9 of the spread for functions that are smooth over a quarter of the standard
    deviation of the input; see the constants of this module for kinks and jumps. Gradients with
    respect to ``mean`` and ``var`` are those of the Gaussian density, so the function needs none.

    Args:
        function: Takes ``[nodes, batch, *shape]`` to mean and variance of its value there.
        mean: ``[batch, *shape]``.
        var: The same shape, 0 or more.
        order: Number of coefficients.

    Returns:
        The expansion of the mean of the function, and the expectation of its variance.
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
    """Nodes, their distances from the mean in standard deviations, and their weights."""
    shape = (-1, *(1,) * mean.ndim)
    z, weights = (t.to(mean.device).view(shape) for t in (_NODES, _WEIGHTS))
    nodes = (mean + std * z).detach()
    if not mean.requires_grad and not std.requires_grad:
        return nodes, z, weights
    # The nodes are constants; the density at them changes with the mean and the spread.
    varies = std > 0
    safe = torch.where(varies, std, 1.0)
    moving = torch.where(varies, (nodes - mean) / safe, z)
    ratio = torch.exp(0.5 * (z**2 - moving**2)) * safe.detach() / safe
    return nodes, moving, weights * ratio


def elementwise(
    source: Value,
    expansion: Expansion,
    joint: Joint,
    *,
    last: bool,
    noise: Mapping[str, Noise] | None = None,
) -> Outcome:
    """Outcome of a function of each entry.

    Args:
        source: Its input.
        expansion: Its moments and coefficients.
        joint: The covariances.
        last: True if nothing else needs the covariance of the source with itself.
        noise: Noise of placed tensors that is added to the output.
    """
    dtype, noise = source.mean.dtype, noise or {}
    cov = series(joint.own(source, last=last), expansion, overwrite=last)
    cov.diagonal(dim1=1, dim2=2).copy_(expansion.var.flatten(1))
    for part in noise.values():
        cov = part.add_to(cov)
    gain = Gain.diagonal(expansion.gain.flatten(1).to(dtype))
    return Outcome(mean=expansion.mean.to(dtype), cov=cov, gains=[(source, gain)], noise=noise)


def series(cov: Tensor, expansion: Expansion, *, first: int = 1, overwrite: bool = False) -> Tensor:
    """Mehler's series for every pair of entries.

    Args:
        cov: Covariance of the inputs, ``[batch, size, size]``.
        expansion: Coefficients of the function.
        first: Order of the first term.
        overwrite: True if the result may share memory with ``cov``.

    Returns:
        ``[batch, size, size]``, the truncated sum on the diagonal, too.
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
    """Sum of ``terms_k(i) terms_k(j) rho_ij^k`` from order ``first``, for some rows i."""
    if not terms:
        return torch.zeros_like(block)
    correlation = block * inverse[:, rows, None] * inverse[:, None]
    # Rounding errors take it beyond 1 where a variance is tiny, and its powers would grow.
    correlation = correlation.clamp(-1.0, 1.0)
    total = terms[-1][:, rows, None] * terms[-1][:, None]
    for term in reversed(terms[:-1]):
        total = torch.addcmul(term[:, rows, None] * term[:, None], total, correlation)
    return total * correlation**first


def _hermite(k: int, z: Tensor) -> Tensor:
    """Probabilists' Hermite polynomials by ``He_{k+1} = z He_k - k He_{k-1}``."""
    before, now = torch.zeros_like(z), torch.ones_like(z)
    for j in range(k):
        before, now = now, z * now - j * before
    return now


def _sqrt(var: Tensor) -> Tensor:
    """Square root with gradient 0, not infinite, at 0."""
    positive = var > 0
    return torch.where(positive, torch.where(positive, var, 1.0).sqrt(), 0.0)
