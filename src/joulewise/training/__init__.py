"""Training: fit weights, today the baseline that robust methods are measured against.

baseline     SGD with momentum and a cosine schedule; seeds in, the same weights out
augment      random crops and mirroring, drawn from a generator
"""

from joulewise.training.augment import augment as augment
from joulewise.training.baseline import EpochRecord as EpochRecord
from joulewise.training.baseline import TrainingRecord as TrainingRecord
from joulewise.training.baseline import TrainingSpec as TrainingSpec
from joulewise.training.baseline import accuracy as accuracy
from joulewise.training.baseline import train as train

__all__ = ["EpochRecord", "TrainingRecord", "TrainingSpec", "accuracy", "augment", "train"]
