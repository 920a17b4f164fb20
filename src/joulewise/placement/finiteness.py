"""Finiteness: the first layer whose output is NaN or infinite, by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from joulewise.data.nested import tensors_in
from joulewise.errors import ModelError, refuse
from joulewise.placement.calling import call

__all__ = ["check_finite"]


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
