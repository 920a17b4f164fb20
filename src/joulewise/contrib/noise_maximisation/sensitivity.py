"""Derivatives of the loss with respect to the level of one tensor, and their average over blocks.

A level is the fraction of a knob's range, from the least reliable point at 0 to the most reliable
one at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.devices import Device, Knob

__all__ = ["Sensitivity", "derivatives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """Averages over blocks of one tensor's derivatives with respect to its level.

    The noise of a tensor changes while derivatives are averaged, by a known factor: the average of
    the derivative of the loss is divided by that of ``V'``, with ``V`` the expected squared error
    of the read, and multiplied by the present ``V'``. The average is thus of the sensitivity of the
    loss to noise, which hardly depends on the points, so that it does not lag behind them and they
    do not oscillate.

    Args:
        blocks: Number of blocks with a measurement.
        loss: Average derivative of the loss.
        noise: Average magnitude of ``V'``.
        now: Magnitude of ``V'`` in the last block.
    """

    blocks: int = 0
    loss: float = 0.0
    noise: float = 0.0
    now: float = 0.0

    @property
    def benefit(self) -> float:
        """Decrease of the loss per unit of level, at the points of the last block."""
        return -self.loss / self.noise * self.now if self.noise > 0 else 0.0

    def updated(self, loss: float, noise: float, horizon: float) -> Sensitivity:
        """The averages with one more block.

        Args:
            loss: Derivative of the loss in this block.
            noise: ``V'`` in this block.
            horizon: Blocks to average over, 1 or more; at the beginning, all so far.
        """
        weight = max(1 / (self.blocks + 1), 1 / horizon)
        return Sensitivity(
            blocks=self.blocks + 1,
            loss=self.loss + weight * (loss - self.loss),
            noise=self.noise + weight * (abs(noise) - self.noise),
            now=abs(noise),
        )


def derivatives(
    device: Device[Any],
    stored: Any,
    knob: Knob,
    at: float,
    *,
    read: Tensor,
    gradient: Tensor,
) -> tuple[float, float]:
    """Derivatives, with respect to the level, of the loss and of the expected squared error.

    A word reads ``m + e``, with mean ``m`` and variance ``v`` over chips, both known functions of
    the level. With ``g`` the gradient of the loss at the read, the derivative of the expected loss
    is estimated by ``sum g (m' + e v' / (2 v))``, primes for derivatives in the level: that of a
    word that reads ``m + sqrt(v) n`` at constant ``n``. It is unbiased for a quadratic loss and
    independent words, at any distribution of ``e``, and for Gaussian noise (a ``Crossbar`` without
    ``clip``) at any loss; elsewhere it holds to second order in the noise. (The simpler
    ``<g, d> v' / (2 v)``, with ``d`` the difference to a perfect read, has only half of the cost of
    a shifted mean.)

    Args:
        device: The device of the tensor.
        stored: The tensor as stored there.
        knob: Its knob.
        at: The level, 0 to 1.
        read: The tensor as read in this block.
        gradient: Gradient of the loss at ``read``.

    References:
        The reparametrised gradient of D. P. Kingma and M. Welling, ICLR 2014, arXiv 1312.6114, for
        Gaussian noise.
    """
    with torch.enable_grad():
        level = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        moments = device.moments(stored, knob.points(level))
        mean, var = moments.mean.detach(), moments.var.detach()
        # g (m' + e v' / (2 v)) is the derivative of g (m + r v) with constant r = e / (2 v).
        # Where the variance is 0, e is 0 too.
        ratio = torch.where(var > 0, (read - mean) / (2 * var), 0.0)
        slope = gradient.to(mean.dtype)
        loss = (slope * (moments.mean + ratio * moments.var)).sum(dtype=torch.float64)
        # V = sum (m - ideal)^2 + v, hence V' = sum 2 (m - ideal) m' + v'.
        shift = mean - device.ideal(stored).to(mean.dtype)
        noise = (2 * shift * moments.mean + moments.var).sum(dtype=torch.float64)
        (of_loss,) = torch.autograd.grad(loss, level, retain_graph=True)
        (of_noise,) = torch.autograd.grad(noise, level)
    return float(of_loss), float(of_noise)
