"""Sharpness-aware optimizers around any torch optimizer.

sharpness_aware  base class: the two-pass step, exact restore, checks of closures
ascent           the perturbation ``rho T^2 g / ||T g||``, and buffers kept over the second pass
sam              SAM, T = 1; ASAM, T = ``|w| + eta``; SAMSON, T = ``(|w| + eta) / ||w||_p``
"""

from joulewise.optim.sam import ASAM, SAM, SAMSON
from joulewise.optim.sharpness_aware import SharpnessAware

__all__ = ["ASAM", "SAM", "SAMSON", "SharpnessAware"]
