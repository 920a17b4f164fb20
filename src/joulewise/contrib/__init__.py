"""Methods for few: built on the core, never imported by it.

full_covariance     prediction by full means and covariances, for small networks
co_design           alternate training through a plan and allocation of the network
learned_ranges      weight ranges trained beside the weights (WCAT)
chip_fitting        parameters of a deployed network fitted to one chip
noise_maximisation  operating points learned during training, one for each tensor
weight_noise        Gaussian weight noise in training: RWP and variance-aware training
"""

from joulewise.contrib.chip_fitting import ChipFitting, fit_to_chip
from joulewise.contrib.co_design import CoDesign, Round, co_design
from joulewise.contrib.full_covariance import FullCovariance
from joulewise.contrib.learned_ranges import LearnedRanges
from joulewise.contrib.noise_maximisation import NoiseMaximisation
from joulewise.contrib.weight_noise import weight_noise
from joulewise.prediction import register_method

__all__ = [
    "ChipFitting",
    "CoDesign",
    "FullCovariance",
    "LearnedRanges",
    "NoiseMaximisation",
    "Round",
    "co_design",
    "fit_to_chip",
    "weight_noise",
]

register_method("full-covariance", FullCovariance)
