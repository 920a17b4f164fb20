"""Optimizers that look for flat minima: SAM, ASAM and SAMSON, each around any torch optimizer.

sharpness_aware.py   the step they share: climb, differentiate there, come back, descend
climb.py             how far and where to: ``rho T^2 g / ||T g||``, over all parameters together
buffers.py           running statistics move once in a step, not twice
sam.py               T = 1
asam.py              T = |w| + eta
samson.py            T = (|w| + eta) / ||w||_p, the range of each tensor divided out
"""

from joulewise.optim.asam import ASAM as ASAM
from joulewise.optim.sam import SAM as SAM
from joulewise.optim.samson import SAMSON as SAMSON
from joulewise.optim.sharpness_aware import SharpnessAware as SharpnessAware

__all__ = ["ASAM", "SAM", "SAMSON", "SharpnessAware"]
