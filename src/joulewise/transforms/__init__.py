"""Transforms: changes of a model that keep its function, so that faults in its weights cost less.

heads            the output head of a language model: its mean row, its rotation
residual         the residual stream of a decoder, rotated in all weights that read or write it
residual_stream  those weights, found by a pass
rotations        linear layers whose inputs and weights are rotated
folding          modules that are put before or after a layer

Each takes a model and returns another one: the model given is not written to.
"""

from joulewise.transforms.heads import center_head, rotate_head
from joulewise.transforms.residual import rotate_residual
from joulewise.transforms.rotations import rotate_linear

__all__ = ["center_head", "rotate_head", "rotate_linear", "rotate_residual"]
