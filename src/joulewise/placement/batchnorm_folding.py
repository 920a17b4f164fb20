"""Batch normalisation folded into the layer before it, as accelerators deploy it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from joulewise.errors import ModelError, check_kind, refuse
from joulewise.nested import tensors_in
from joulewise.placement.private_copy import PrivateModel
from joulewise.placement.process_state import guarded

__all__ = ["fold_batchnorm"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@guarded
def fold_batchnorm(model: nn.Module, inputs: Any) -> nn.Module:
    """A copy of a model with each batch normalisation folded into the layer that feeds it.

    Which layer feeds which normalisation is observed in one forward pass, so any control flow will
    do; the result is checked against the model on the same inputs. A weight that is computed by
    pruning, weight or spectral normalisation or another parametrisation is folded as its value.

    Args:
        model: Any module; left as it was.
        inputs: A batch.

    Returns:
        A copy, uncompiled and in evaluation mode. Normalisations that no convolution or linear
        layer feeds stay.

    Raises:
        ModelError: if ``model`` is no module, or the folded copy computes something else, for
            instance because a layer's output is also used without its normalisation.

    Example:
        >>> block = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> fold_batchnorm(block, torch.ones(1, 1, 8, 8))
        Sequential(
          (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
    """
    check_kind("model", model, nn.Module, "a torch.nn.Module", ModelError)
    private = PrivateModel(model, {})
    with torch.no_grad():
        expected = private.call(inputs)
    private.reset()
    folded = _uncompiled(private.model)
    for layer, norm in _pairs(folded, inputs):
        source = folded.get_submodule(layer)
        _store_computed(source)
        target: Any = folded.get_submodule(norm)
        fuse: Any = fuse_linear_bn_eval if isinstance(source, nn.Linear) else fuse_conv_bn_eval
        _replace(folded, source, fuse(source, target))
        _replace(folded, target, nn.Identity().eval())
    with torch.no_grad():
        actual = PrivateModel(folded, {}).call(inputs)
    _check_same(actual, expected)
    return folded


def _uncompiled(module: nn.Module) -> nn.Module:
    """Unwrap what ``torch.compile`` wraps: a wrapper runs the module that it was made with."""
    module = getattr(module, "_orig_mod", module)
    for name, child in module._modules.items():
        if child is not None and (inner := _uncompiled(child)) is not child:
            module._modules[name] = inner
    return module


# By the class of the hook and its attribute that holds the parameter's name.
_REMOVERS: Mapping[tuple[type, str], Callable[[nn.Module, str], nn.Module]] = {
    (prune.BasePruningMethod, "_tensor_name"): prune.remove,
    (WeightNorm, "name"): remove_weight_norm,
    (SpectralNorm, "name"): remove_spectral_norm,
}


def _store_computed(layer: nn.Module) -> None:
    """Store parameters that are computed before each pass, as values."""
    for hook in list(layer._forward_pre_hooks.values()):
        for (kind, attribute), remove in _REMOVERS.items():
            if isinstance(hook, kind):
                remove(layer, getattr(hook, attribute))
    if not parametrize.is_parametrized(layer):
        return
    parametrized: Any = layer.parametrizations
    values = {name: getattr(layer, name) for name in parametrized}
    # Not by remove_parametrizations, which changes the class, and that is the user's too.
    layer.__class__ = parametrize.type_before_parametrizations(layer)
    del layer.parametrizations
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value.detach()))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module under each of its paths."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            model.set_submodule(path, new)


def _check_same(actual: Tensor, expected: Tensor) -> None:
    if not expected.isfinite().all():
        allowed = "a model that works"
        refuse("the model's output", "NaN or infinite", allowed, ModelError)
    # Folding reorders arithmetic and rounds weights anew; anything beyond is a different network.
    dtype = expected.dtype if expected.is_floating_point() else torch.float32
    relative = max(1e-3, 10 * torch.finfo(dtype).eps)
    tolerance = relative * float(expected.abs().max()) + 1e-6
    off = float((actual.double() - expected.double()).abs().max())
    if not off <= tolerance:
        raise ModelError(
            f"folding changes the output by {off:.3g}: some layer's output is also used without "
            "its batch normalisation; place the model unfolded"
        )


def _pairs(model: nn.Module, inputs: Any) -> list[tuple[str, str]]:
    """Layer and normalisation, where the output of the first is the input of the second."""
    # The output is kept alive, so that an id is not used again; its version tells of an activation
    # in place in between.
    made: dict[int, tuple[str, Tensor, int]] = {}
    calls: Counter[str] = Counter()
    pairs: list[tuple[str, str]] = []

    def make(path: str, module: nn.Module, args: Any, output: Any) -> None:
        calls[path] += 1
        # A linear layer's features are on the last axis, a normalisation's on the second.
        if isinstance(module, _CONVOLUTIONS) or output.ndim == 2:
            made[id(output)] = (path, output, _version(output))

    def consume(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        calls[path] += 1
        (consumed,) = tensors_in((args, kwargs))
        layer, _, version = made.get(id(consumed), ("", consumed, -1))
        if _version(consumed) == version:
            pairs.append((layer, path))

    private = PrivateModel(model, {})
    for path, module in private.modules.items():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            module.register_forward_hook(partial(make, path))
        elif isinstance(module, _NORMS) and module.running_mean is not None:
            module.register_forward_pre_hook(partial(consume, path), with_kwargs=True)
    with torch.no_grad():
        private.run(inputs)
    return [pair for pair in pairs if all(calls[path] == 1 for path in pair)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
