"""Execution of a model: one tensor, several, or named ones in; one finite tensor out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import CheckpointError

from joulewise.errors import JoulewiseError, ModelError, refuse
from joulewise.nested import tensors_in
from joulewise.user_code import cause_of

__all__ = ["call", "check_finite", "differentiating", "running"]


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


@contextmanager
def running(inputs: Any) -> Iterator[None]:
    """A forward pass of user code on a batch; what it raises becomes one sentence.

    Yields:
        Nothing.

    Raises:
        ModelError: if the model fails.
        JoulewiseError: if joulewise refuses something on the way.
        OutOfMemoryError: if there is too little memory.
        CheckpointError: if a forward pass computes parts twice.
    """
    try:
        yield
    except (JoulewiseError, CheckpointError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code: anything may happen
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        cause = cause_of(error)
        raise ModelError(f"the model fails on inputs of shape {shapes} with {cause}") from error


@contextmanager
def differentiating(otherwise: str = "") -> Iterator[None]:
    """A backward pass through user code; what it raises becomes one sentence.

    Args:
        otherwise: Another remedy, for the end of the sentence.

    Yields:
        Nothing.

    Raises:
        ModelError: if the model cannot be differentiated.
        JoulewiseError: if joulewise refuses something on the way.
        OutOfMemoryError: if there is too little memory.
        CheckpointError: if a forward pass computes parts twice.
    """
    try:
        yield
    except (JoulewiseError, CheckpointError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the model cannot be differentiated: {cause_of(error)}; allowed: differentiable "
            f"operations that do not write to tensors that gradients need{otherwise}"
        ) from error


def check_finite(model: nn.Module, inputs: Any, output: Tensor, when: str) -> None:
    """Refuse an output that is not finite, naming the first layer where that begins.

    Args:
        model: The model, computing with the tensors that gave the output.
        inputs: The batch that gave it.
        output: The model's output.
        when: What the model computed with, for the message.
    """
    if bool(torch.isfinite(output).all()):
        return
    guilty: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, args: Any, found: Any) -> None:
            if not all(bool(t.isfinite().all()) for t in tensors_in(found)):
                guilty.append(name)

        return see

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(look(name)).remove)
        with torch.no_grad():
            call(model, inputs)
    first = f"the output of {guilty[0]}" if guilty else "the model's output"
    refuse(first, f"NaN or infinite {when}", "finite activations", ModelError)
