"""A model from a zoo name, ``package.module:function`` or ``path/to/file.py:function``."""

from __future__ import annotations

import copy
import inspect
from operator import attrgetter

from torch import nn

from joulewise.errors import ModelError, refuse
from joulewise.models.zoo import ZOO, build, seeded
from joulewise.user_code import cause_of, import_source, importable

__all__ = ["load_model"]


def load_model(path: str, input_shape: tuple[int, ...], classes: int, *, seed: int) -> nn.Module:
    """The model that a path names; user code runs, so load only what you trust.

    The part after the colon is a function or a class, called with no arguments if it requires
    none, and otherwise with those of ``input_shape`` and ``classes`` that its signature names.
    It may also be an ``nn.Module``, of which a copy is returned; such a one was made when its
    module was first imported, so a later seed does not change it. Modules are looked up in the
    current folder first, then wherever Python looks; for a file, its own folder comes before both.

    Args:
        path: A key of ``ZOO``, ``package.module:function`` or ``path/to/file.py:function``.
        input_shape: Shape of one input, without the batch axis.
        classes: How many outputs.
        seed: Decides what torch draws while the model is made; see ``seeded``.

    Returns:
        The model, in the mode and on the device in which it was made.

    Raises:
        ModelError: if the path is of another form, if importing or calling fails (the sentence
            says with which exception), or if what results is not an ``nn.Module``.

    Example:
        >>> load_model("torch.nn:Identity", (3, 32, 32), 10, seed=0)
        Identity()
    """
    if path in ZOO:
        return build(path, input_shape, classes, seed=seed)
    source, _, attribute = path.rpartition(":")
    if not (source and attribute):
        forms = f"{', '.join(ZOO)}, package.module:function or path/to/file.py:function"
        refuse("model", repr(path), forms, ModelError)
    try:
        with importable(source):
            with seeded(seed):
                maker = attrgetter(attribute)(import_source(source))
            # Anew, since only the first import of a module executes it and may draw numbers.
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
    # Checked first, since an nn.Module can be called as well. A copy, since training it would
    # otherwise change what the next load returns.
    if isinstance(maker, nn.Module):
        return copy.deepcopy(maker)
    if not callable(maker):
        raise TypeError(f"an object of type {type(maker).__name__} cannot be called")
    parameters = inspect.signature(maker).parameters.values()
    if not any(_is_required(parameter) for parameter in parameters):
        return maker()
    offered = {"input_shape": input_shape, "classes": classes}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return maker(**{name: value for name, value in offered.items() if name in named})


def _is_required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic
