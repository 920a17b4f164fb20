"""Training: fit weights, plainly or so that they survive an unreliable memory.

training_memory  training through a memory: each step computes with the reads of one chip
in_place_read    swap of the model's parameters for what a chip reads, safe from SIGINT
weight_ranges    protocol of trainable ranges that weights are clipped to
batchnorm        BatchNorm statistics re-estimated under the noise of a memory
weight_clipping  weights clipped after each step
recipe           training options, optimizer and learning-rate schedule of a run
_train           the training loop and data augmentation
"""

from joulewise.training._train import EpochRecord, TrainingRecord, accuracy, augment, train
from joulewise.training.batchnorm import reestimate_batchnorm
from joulewise.training.recipe import Method, TrainingSpec
from joulewise.training.training_memory import LinearSchedule, TrainingMemory
from joulewise.training.weight_clipping import clip_weights
from joulewise.training.weight_ranges import WeightRanges

__all__ = [
    "EpochRecord",
    "LinearSchedule",
    "Method",
    "TrainingMemory",
    "TrainingRecord",
    "TrainingSpec",
    "WeightRanges",
    "accuracy",
    "augment",
    "clip_weights",
    "reestimate_batchnorm",
    "train",
]
