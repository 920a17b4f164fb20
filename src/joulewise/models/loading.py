"""Models from users' code, and the device and memory layout to compute with."""

from __future__ import annotations

import copy
import inspect
from operator import attrgetter

import torch
from torch import nn

from joulewise.errors import ModelError, check_kind, refuse
from joulewise.models.zoo import ZOO, build, seeded
from joulewise.user_code import cause_of, import_source, importable

__all__ = ["host", "load_model"]


def load_model(path: str, input_shape: tuple[int, ...], classes: int, *, seed: int) -> nn.Module:
    """Model of the zoo or of a user's code, which runs: load only what you trust.

    The part after the colon is a function or a class, called without arguments if it requires
    none, and otherwise with those of ``input_shape`` and ``classes`` that its signature names.
    It may also be an ``nn.Module``, of which a copy is returned; it was made when its module was
    first imported, so a later seed does not change it. Modules are looked up in the current folder
    first, then wherever Python looks; for a file, its own folder comes before both.

    Args:
        path: A key of ``ZOO``, ``package.module:function`` or ``path/to/file.py:function``.
        input_shape: Shape of one input, without the batch axis.
        classes: Number of outputs.
        seed: Seed of torch's random numbers while the model is made; see ``seeded``.

    Raises:
        ModelError: if the path has another form, if importing or calling fails (the message names
            the exception), or if the result is not an ``nn.Module``.

    Example:
        >>> load_model("torch.nn:Identity", (3, 32, 32), 10, seed=0)
        Identity()
    """
    forms = f"{', '.join(ZOO)}, package.module:function or path/to/file.py:function"
    check_kind("model", path, str, forms, ModelError)
    if path in ZOO:
        return build(path, input_shape, classes, seed=seed)
    source, _, attribute = path.rpartition(":")
    if not (source and attribute):
        refuse("model", repr(path), forms, ModelError)
    try:
        with importable(source):
            with seeded(seed):
                maker = attrgetter(attribute)(import_source(source))
            # Seeded again: only the first import executes a module, which may draw numbers.
            with seeded(seed):
                model = _make(maker, input_shape, classes)
    # SystemExit: a script without a __main__ guard must not end the study.
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model is {path!r}, which failed with {cause_of(error)}; allowed: a function, class or"
            " nn.Module that imports and runs from here; correct it and try again"
        ) from error
    if not isinstance(model, nn.Module):
        refuse("model", f"{path!r}, which gives {type(model).__name__}", "nn.Module", ModelError)
    return model


def _make(maker: object, input_shape: tuple[int, ...], classes: int) -> object:
    # Before the test for callables, since modules are. A copy, since training it would otherwise
    # change the result of the next load.
    if isinstance(maker, nn.Module):
        return copy.deepcopy(maker)
    if not callable(maker):
        raise TypeError(f"an object of type {type(maker).__name__} cannot be called")
    parameters = inspect.signature(maker).parameters.values()
    required = [p for p in parameters if p.default is p.empty and "VAR_" not in p.kind.name]
    if not required:
        return maker()
    offered = {"input_shape": input_shape, "classes": classes}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return maker(**{name: value for name, value in offered.items() if name in named})


def host(model: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Move a model to the GPU if there is one, and networks for images to channels last.

    Channels last makes convolutions on a CPU about a fifth faster; an ``input_shape`` of three axes
    is taken for an image. The model is moved in place and returned.

    Example:
        >>> weight = host(nn.Conv2d(3, 8, 3), (3, 32, 32)).weight
        >>> weight.is_contiguous(memory_format=torch.channels_last)
        True
    """
    if torch.cuda.is_available():
        model = model.cuda()
    volumes = any(parameter.ndim == 5 for parameter in model.parameters())
    if len(input_shape) == 3 and not volumes:  # the layout is defined for four axes
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
