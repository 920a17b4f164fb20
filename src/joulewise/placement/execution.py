"""Execution of user models: calling conventions, the main tensor of an output, error messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.checkpoint import CheckpointError

from joulewise.errors import JoulewiseError, ModelError, refuse
from joulewise.nested import all_finite, tensors_in
from joulewise.user_code import cause_of

__all__ = [
    "call",
    "check_finite",
    "check_logits",
    "differentiating",
    "main_tensor",
    "run",
    "running",
    "tensor_of",
]


def run(model: nn.Module, inputs: Any) -> Any:
    """Run a model on a batch.

    Args:
        model: Any module.
        inputs: A tensor; a tuple or list, passed as positional arguments; or a mapping, passed as
            keyword arguments.

    Returns:
        The output, or its ``logits`` if it has such an attribute.
    """
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    elif isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
        output = model(*inputs)
    else:
        output = model(inputs)
    return getattr(output, "logits", output)


def main_tensor(output: Any) -> Tensor | None:
    """The tensor of an output whose error is measured.

    Returns:
        The output itself, the first entry of a tuple or list, or the entry ``logits`` or ``out`` of
        a mapping, else its first; None if that is no tensor, as for lists of detections.
    """
    if isinstance(output, Mapping):
        named = [output[key] for key in ("logits", "out") if key in output]
        output = next(iter([*named, *output.values()]), None)
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def check_logits(output: Any) -> None:
    """Refuse hidden states, the output of language models without a head.

    Raises:
        ModelError: naming models with one.
    """
    if isinstance(output, Mapping) and "last_hidden_state" in output:
        got = "one without a head, whose outputs are hidden states"
        allowed = "one whose outputs are logits, for instance by AutoModelForCausalLM"
        refuse("the model", got, allowed, ModelError)


def call(model: nn.Module, inputs: Any) -> Tensor:
    """Run a model on a batch and return its `main_tensor`.

    Raises:
        ModelError: if there is none.
    """
    return tensor_of(run(model, inputs))


def tensor_of(output: Any) -> Tensor:
    """The `main_tensor` of an output.

    Raises:
        ModelError: if there is none.
    """
    tensor = main_tensor(output)
    if tensor is None:
        raise ModelError(
            f"the model returned a {type(output).__name__} without a tensor of one shape, so its "
            "output error is not defined; allowed: simulate and allocate with a metric, or a model "
            "that returns a tensor, an object with logits, or a tuple or dict of tensors"
        )
    return tensor


def running(inputs: Any) -> AbstractContextManager[None]:
    """Context of a user model's forward pass; exceptions become one-sentence errors."""

    def message(cause: str) -> str:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        return f"the model fails on inputs of shape {shapes} with {cause}"

    return _translated(message)


def differentiating(otherwise: str = "") -> AbstractContextManager[None]:
    """Context of a backward pass through a user model; exceptions become one-sentence errors.

    Args:
        otherwise: A further remedy, appended to the message.
    """
    return _translated(
        lambda cause: (
            f"the model cannot be differentiated: {cause}; allowed: differentiable operations that "
            f"do not write to tensors that gradients need{otherwise}"
        )
    )


@contextmanager
def _translated(message: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    # Refusals by joulewise; parts of a forward pass computed twice; too little memory.
    except (JoulewiseError, CheckpointError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the user's code: anything may happen
        raise ModelError(message(cause_of(error))) from error


def check_finite(model: nn.Module, inputs: Any, output: Any, when: str) -> None:
    """Refuse an output that is not finite, naming the first layer with such an output.

    Args:
        model: The model, computing with the tensors that gave the output.
        inputs: The batch that gave it.
        output: The model's output.
        when: What the model computed with, for the message.

    Raises:
        ModelError: naming the layer.
    """
    if all_finite(output):
        return
    # A second pass, with hooks: hooks on all layers would slow down every pass.
    guilty: list[str] = []

    def look(name: str, module: nn.Module, args: Any, found: Any) -> None:
        if not all_finite(found):
            guilty.append(name)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(partial(look, name)).remove)
        with torch.no_grad():
            run(model, inputs)
    first = f"the output of {guilty[0]}" if guilty else "the model's output"
    refuse(first, f"NaN or infinite {when}", "finite activations", ModelError)
