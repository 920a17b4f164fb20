"""Transforms: changes of a model that keep its function, so that faults in its weights cost less.

heads       the output head of a language model: its mean row, its rotation
rotations   linear layers whose inputs and weights are rotated
folding     modules that are put before or after a layer

Each takes a model and returns another one: the model given is not written to.
"""

from joulewise.transforms.heads import center_head, rotate_head
from joulewise.transforms.rotations import rotate_linear

__all__ = ["center_head", "rotate_head", "rotate_linear"]
