"""Training: fit weights, plainly or so that they survive an unreliable memory.

training_memory  training through a memory: each step computes with the reads of one chip
in_place_read    one block in which the model's parameters are what a chip reads
weight_ranges    protocol of trainable ranges that weights are clipped to
batchnorm        BatchNorm statistics re-estimated under the noise of a memory
weight_clipping  weights clipped after each step
recipe           training options, optimizer and learning-rate schedule of a run
_train           the training loop and data augmentation
"""

from joulewise.training._train import EpochRecord as EpochRecord
from joulewise.training._train import TrainingRecord as TrainingRecord
from joulewise.training._train import accuracy as accuracy
from joulewise.training._train import augment as augment
from joulewise.training._train import train as train
from joulewise.training.batchnorm import reestimate_batchnorm as reestimate_batchnorm
from joulewise.training.recipe import Method as Method
from joulewise.training.recipe import TrainingSpec as TrainingSpec
from joulewise.training.training_memory import LinearSchedule as LinearSchedule
from joulewise.training.training_memory import TrainingMemory as TrainingMemory
from joulewise.training.weight_clipping import clip_weights as clip_weights
from joulewise.training.weight_ranges import WeightRanges as WeightRanges

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
