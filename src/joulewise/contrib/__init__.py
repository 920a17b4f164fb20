"""Methods for few: built on the core, never imported by it.

learned_ranges      weight ranges trained beside the weights (WCAT)
chip_fitting        parameters of a deployed network fitted to one chip
noise_maximisation  operating points learned during training, one for each tensor
"""

from joulewise.contrib.chip_fitting import Recovery as Recovery
from joulewise.contrib.chip_fitting import fit_to_chip as fit_to_chip
from joulewise.contrib.learned_ranges import LearnedRanges as LearnedRanges
from joulewise.contrib.noise_maximisation import NoiseMaximisation as NoiseMaximisation

__all__ = ["LearnedRanges", "NoiseMaximisation", "Recovery", "fit_to_chip"]
