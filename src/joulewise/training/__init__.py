"""Training: fit weights, plainly or so that they survive an unreliable memory.

recipe       what a run is: epochs, rates, schedule, method
baseline     the training loop; seeds in, the same weights out
methods      SGD, SAM, ASAM and SAMSON by name
augment      random crops and mirroring, drawn from a generator
in_place_read  the weights replaced by what a chip reads, for one block
through      training through a memory: each step computes with what one chip reads
noise_maximisation  one operating point per tensor, learned while weights are
balance      how far learned points move, and the price of energy that leads to a budget
ramp         an operating point that moves as training goes on
clipping     weights clipped after each step
ranges       the magnitude that weights are clipped to, learned beside them
batchnorm    statistics of BatchNorm as a memory makes them, after training
recovery     what is left to fit once a network lies on a chip, fitted to it
"""

from joulewise.training.augment import augment as augment
from joulewise.training.baseline import EpochRecord as EpochRecord
from joulewise.training.baseline import TrainingRecord as TrainingRecord
from joulewise.training.baseline import accuracy as accuracy
from joulewise.training.baseline import train as train
from joulewise.training.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from joulewise.training.clipping import clip_weights as clip_weights
from joulewise.training.methods import Method as Method
from joulewise.training.noise_maximisation import NoiseMaximisation as NoiseMaximisation
from joulewise.training.ramp import Ramp as Ramp
from joulewise.training.ranges import LearnedRanges as LearnedRanges
from joulewise.training.recipe import TrainingSpec as TrainingSpec
from joulewise.training.recovery import Recovery as Recovery
from joulewise.training.recovery import fit_to_chip as fit_to_chip
from joulewise.training.through import TrainingMemory as TrainingMemory

__all__ = [
    "EpochRecord",
    "LearnedRanges",
    "Method",
    "NoiseMaximisation",
    "Ramp",
    "Recovery",
    "TrainingMemory",
    "TrainingRecord",
    "TrainingSpec",
    "accuracy",
    "augment",
    "clip_weights",
    "fit_to_chip",
    "reestimate_batchnorm",
    "train",
]
