"""Training: fit weights, plainly or so that they survive an unreliable memory.

training_memory  training through a memory: each step computes with the reads of one chip
in_place_read    swap of the model's parameters for what a chip reads, safe from SIGINT
weight_ranges    protocol of trainable ranges that weights are clipped to
batchnorm        BatchNorm statistics re-estimated under the noise of a memory
weight_clipping  weights clipped after each step
recipe           optimizer and learning-rate schedule of a run
spec             training options as plain data
_train           the training loop and data augmentation
"""

import lazy_loader

# Imported when first used: study files are checked without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
