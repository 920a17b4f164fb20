"""Calling a model: one tensor, several, or named ones in; one tensor out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from joulewise.errors import ModelError

__all__ = ["call"]


def call(model: nn.Module, inputs: Any) -> Tensor:
    """Run a model on a batch.

    Args:
        model: Any module.
        inputs: A tensor; a tuple or list, passed as positional arguments; or a mapping, passed as
            keyword arguments.

    Returns:
        The output tensor: the output itself, its ``logits``, or the first of a tuple.

    Raises:
        ModelError: if the output holds no tensor where one is looked for.
    """
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    elif isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
        output = model(*inputs)
    else:
        output = model(inputs)
    output = getattr(output, "logits", output)
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the model returned a {type(output).__name__}; allowed: a tensor, an object with "
            "logits, or a tuple that begins with a tensor"
        )
    return output
