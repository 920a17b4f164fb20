"""Placing: which tensors of a model live on which memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from joulewise.devices import Device, WordMemory
from joulewise.errors import InputError, ModelError, check_kind, refuse
from joulewise.placement.kv_cache import is_cache_name
from joulewise.placement.placement import Placed, Placement
from joulewise.placement.process_state import guarded
from joulewise.placement.storage import ParameterGroup, parameter_groups
from joulewise.placement.tracing import Trace, trace

__all__ = ["place"]


@guarded
def place(
    model: nn.Module,
    *,
    weights: Device[Any] | Mapping[str, Device[Any] | None] | None = None,
    activations: Device[Any] | None = None,
    kv_cache: Device[Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    example_inputs: Any = None,
    rebuild: Callable[[], nn.Module] | None = None,
) -> Placement:
    """Say which tensors of a model live on which memory.

    Weights are parameters with two axes or more (convolutions, linear layers, embeddings,
    attention); parameters of one axis, such as biases, stay in reliable memory unless ``include``
    names them. Parameters that share storage are placed once. Activations are the floating tensors
    at the input of each layer that owns a weight. The first axis is the batch, and the range of
    their words is the largest magnitude in ``example_inputs``, so pass a representative batch.

    Args:
        model: Any module.
        weights: The memory that holds weights, or None; or memories by patterns of names, the first
            that matches, such as ``{"lm_head.*": SRAM(bits=16), "*": SRAM(bits=8)}``. A weight with
            several owners matches by each of its names.
        activations: The memory that holds layer inputs, or None.
        kv_cache: The memory that holds the keys and values of a causal model of transformers, or
            None; tensors ``cache.0:key``, ``cache.0:value`` and so on, for as many positions as
            ``example_inputs`` has. Each position has cells of its own.
        include: Patterns (``*``, ``?``, ``[...]``) on names such as ``layer1.0.conv1.weight`` or
            ``layer1.0.conv1:input``; empty for the default above.
        exclude: Patterns of names to leave in reliable memory; wins over ``include``.
        example_inputs: A batch, used to count accesses and to set the range of activations; needed
            where ``activations`` or ``kv_cache`` is given.
        rebuild: Builds an equal model, which is then given the state dict of ``model``: for a model
            that cannot be copied, since simulation and prediction run on a copy.

    Returns:
        The placement.

    Raises:
        InputError: if nothing would be placed, a pattern matches nothing, or an argument is of the
            wrong kind.
        ModelError: if a tensor cannot be placed; the message names it, and says what to exclude.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> placement = place(model, weights=SRAM(bits=8), example_inputs=torch.ones(1, 4))
        >>> [(tensor.name, tensor.words) for tensor in placement.placed], placement.macs
        ([('0.weight', 12), ('1.weight', 6)], 18.0)
    """
    check_kind("model", model, nn.Module, "a torch.nn.Module", ModelError)
    _check_memories(weights, activations, kv_cache, example_inputs)
    if rebuild is not None and not callable(rebuild):
        refuse("rebuild", f"of type {type(rebuild).__name__}", "a function that builds a model")
    choice = _Choice(include, exclude)
    groups = parameter_groups(model)
    if not groups:
        raise ModelError("the model has no parameters; there is nothing to place")
    stored = _place_weights(groups, _Memories(weights), choice)
    placement = Placement(model=model, placed=stored, reliable_bits=0, rebuild=rebuild)
    if example_inputs is not None:
        layers = _layers(model) if activations is not None else []
        counts = trace(placement, example_inputs, layers, cache=kv_cache is not None)
        extra = _place_activations(counts, activations, kv_cache, choice, layers)
        placement = replace(placement, placed=stored + extra)
        placement = placement.counted(counts)
    choice.check_used()
    if not placement.placed:
        raise InputError("nothing is placed: every tensor is excluded or has fewer than two axes")
    placed = {tensor.name for tensor in placement.placed}
    reliable = sum(8 * g.tensor.nbytes for name, g in groups.items() if name not in placed)
    for tensor in stored:
        if isinstance(tensor.device, WordMemory):
            reliable += tensor.device.scale_bits(tensor.shape)
    return replace(placement, reliable_bits=reliable)


def _check_memories(
    weights: Device[Any] | Mapping[str, Device[Any] | None] | None,
    activations: Device[Any] | None,
    kv_cache: Device[Any] | None,
    inputs: Any,
) -> None:
    by_field = {"activations": activations, "kv_cache": kv_cache, "weights": weights}
    if isinstance(weights, Mapping):
        by_field |= {f"weights[{pattern!r}]": device for pattern, device in weights.items()}
        del by_field["weights"]
    for field, device in by_field.items():
        if device is not None:
            check_kind(field, device, Device, "a memory such as SRAM(bits=8), or None")
    if weights is None and activations is None and kv_cache is None:
        raise InputError("place was given no memory; give weights= or activations= a device")
    for field, device in (("activations", activations), ("kv_cache", kv_cache)):
        if device is not None and device.array is not None:
            refuse(field, type(device).__name__, "a memory that does not compute, an SRAM")
        if device is not None and inputs is None:
            verb = "need" if field == "activations" else "needs"
            raise InputError(f"{field} {verb} example_inputs=, a batch that sets their range")


class _Choice:
    """Include and exclude patterns, and the names that they were asked for."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self.include, self.exclude = _patterns("include", include), _patterns("exclude", exclude)
        self.names: list[str] = []

    def takes(self, name: str, by_default: bool) -> bool:
        self.names.append(name)
        included = any(fnmatchcase(name, p) for p in self.include) if self.include else by_default
        return included and not any(fnmatchcase(name, p) for p in self.exclude)

    def check_used(self) -> None:
        for pattern in (*self.include, *self.exclude):
            if not any(fnmatchcase(name, pattern) for name in self.names):
                some = _some(self.names)
                refuse("the pattern", f"{pattern!r}, which matches no tensor", f"one of {some}")


class _Memories:
    """Memories of weights by patterns of names."""

    def __init__(self, weights: Device[Any] | Mapping[str, Device[Any] | None] | None) -> None:
        by_pattern = weights if isinstance(weights, Mapping) else {"*": weights}
        self._by_pattern = dict(
            zip(_patterns("weights", by_pattern), by_pattern.values(), strict=True)
        )
        self._used = {"*"}

    def of(self, group: ParameterGroup, name: str) -> Device[Any] | None:
        """The memory of a parameter."""
        names = [name, *(f"{path}.{own}".lstrip(".") for path, own in group.owners)]
        for pattern, device in self._by_pattern.items():
            if any(fnmatchcase(one, pattern) for one in names):
                self._used.add(pattern)
                return device
        return None

    def check_used(self, names: Sequence[str]) -> None:
        """Refuse a pattern that no parameter has, or a memory made for others."""
        some = _some(names)
        for device in self._by_pattern.values():
            for name in () if device is None else device.tensors:
                if name not in names:
                    got = f"made for {name!r}, which is no tensor of the model"
                    refuse(f"a {type(device).__name__}", got, f"one for {some}")
        for pattern in self._by_pattern:
            if pattern not in self._used:
                refuse("weights", f"given for {pattern!r}, which matches none", f"one of {some}")


def _some(names: Sequence[str]) -> str:
    """The first names, for messages."""
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _patterns(field: str, patterns: Iterable[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        refuse(field, f"the string {patterns!r}", f"a list of patterns, [{patterns!r}]")
    check_kind(field, patterns, Iterable, 'a list of patterns, such as ["conv1.*"]')
    patterns = tuple(patterns)
    for pattern in patterns:
        check_kind(f"a pattern of {field}", pattern, str, "a string, such as 'conv1.*'")
    return patterns


def _place_weights(
    groups: Mapping[str, ParameterGroup], memories: _Memories, choice: _Choice
) -> tuple[Placed, ...]:
    placed = []
    for name, group in groups.items():
        tensor, owners = group
        device = memories.of(group, name)
        taken = choice.takes(name, tensor.ndim >= 2 and tensor.numel() > 0)
        if not taken or device is None:  # patterns on weights count as used in any case
            continue
        if not tensor.is_floating_point():
            allowed = f"a floating dtype; exclude '{name}'"
            refuse(f"the dtype of {name}", tensor.dtype, allowed, ModelError)
        shape = tuple(tensor.shape)
        weight = Placed(name=name, role="weight", device=device, shape=shape, owners=owners)
        placed.append(weight)
    memories.check_used(list(groups))
    return tuple(placed)


def _layers(model: nn.Module) -> list[str]:
    """Modules that own a parameter with two axes or more, by path.

    A parametrised weight (weight normalisation, say) lives in a child that holds only the recipe;
    the layer that is called is the one above.
    """
    paths: dict[str, None] = {}
    for path, module in model.named_modules():
        if any(p is not None and p.ndim >= 2 for p in module._parameters.values()):
            paths[f".{path}".split(".parametrizations.")[0][1:]] = None
    return list(paths)


def _place_activations(
    counts: Trace,
    activations: Device[Any] | None,
    kv_cache: Device[Any] | None,
    choice: _Choice,
    layers: Sequence[str],
) -> tuple[Placed, ...]:
    for layer in layers:
        if layer not in counts.called and choice.takes(f"{layer}:input", True):
            raise ModelError(
                f"the input of {layer} cannot be placed: the module is not called on its own in "
                f"this model (its weight is used by the module around it); exclude '{layer}:input'"
            )
    placed = []
    for name, seen in counts.activations.items():
        device = kv_cache if is_cache_name(name) else activations
        if device is None or not choice.takes(name, True):
            continue
        if seen.refusal is not None:
            raise ModelError(seen.refusal)
        activation = Placed(
            name=name,
            role="activation",
            device=device,
            shape=seen.shape,
            # A cache belongs to the whole model.
            owners=(("" if is_cache_name(name) else name.rpartition(":")[0], ""),),
            limit=seen.largest or 1.0,
        )
        placed.append(activation)
    return tuple(placed)
