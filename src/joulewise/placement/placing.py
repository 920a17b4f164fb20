"""Placing: which tensors of a model live on which memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from joulewise.devices import Device, Point, Traffic
from joulewise.errors import InputError, ModelError, OperatingPointError, refuse
from joulewise.placement.addresses import extent
from joulewise.placement.execution import guarded
from joulewise.placement.private_copy import Owner, PrivateModel, check_initialised
from joulewise.placement.tracing import Trace, trace

__all__ = ["Placed", "Placement", "check_complete", "place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One tensor that lives on a memory.

    Args:
        name: A parameter's name, or a layer's name with ``:input``.
        role: ``"weight"`` or ``"activation"``.
        device: The memory.
        shape: The shape of the weight, or of one sample of the activation.
        owners: Where a weight is used: module path and parameter name, several if it is shared. For
            an activation, the layer's path and an empty name.
        limit: For an activation, the largest magnitude that its words represent.
        traffic: Accesses per inference; None until a forward pass was traced.
    """

    name: str
    role: Literal["weight", "activation"]
    device: Device[Any]
    shape: tuple[int, ...]
    owners: tuple[Owner, ...]
    limit: float | None = None
    traffic: Traffic | None = None

    @property
    def words(self) -> int:
        """Words stored."""
        words = 1
        for length in self.shape:
            words *= length
        return words

    @property
    def channels(self) -> int | None:
        """Output channels of a weight, along its first axis; None for what has none."""
        return self.shape[0] if self.role == "weight" and self.shape else None

    def parameters(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        """Of a weight, those that the model has now, one for each owner.

        Args:
            modules: The modules of the model, by path.
        """
        owned = (modules[path]._parameters[name] for path, name in self.owners)
        return [parameter for parameter in owned if parameter is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A model, and which of its tensors live on which memory.

    Args:
        model: The model; written to by training alone.
        placed: The placed tensors: weights in the model's order, then activations.
        reliable_bits: Bits of the parameters left in reliable memory, at their own dtype.
        macs: Multiply-accumulates per inference outside of memories that compute; None until a
            forward pass was traced.
        rebuild: Builds an equal model, for one that cannot be copied; see `place`.
    """

    model: nn.Module
    placed: tuple[Placed, ...]
    reliable_bits: int
    macs: float | None = None
    rebuild: Callable[[], nn.Module] | None = None

    @property
    def traced(self) -> bool:
        """Whether accesses and multiply-accumulates are known."""
        return self.macs is not None

    @guarded
    def trace(self, inputs: Any) -> Placement:
        """This placement with accesses counted in one forward pass over ``inputs``."""
        if self.traced:
            return self
        return _count(self, _traced(self, _groups(self.model), [], inputs))

    def plan(self, **setting: Point) -> dict[str, Point]:
        """The plan that gives every placed tensor the same operating point.

        Args:
            **setting: One name and value, for instance ``eta=0.5`` or ``v_dd=0.6``.
        """
        return {tensor.name: tensor.device.point(**setting) for tensor in self.placed}

    def plan_at_most_reliable(self) -> dict[str, Point]:
        """The plan that gives every placed tensor its device's most reliable point."""
        return {tensor.name: tensor.device.most_reliable for tensor in self.placed}

    def check_plan(self, plan: Mapping[str, Point]) -> dict[str, Point]:
        """A plan for exactly the tensors that are placed, each point within its device's range.

        Raises:
            InputError: if a tensor is missing from the plan, or is not placed.
            OperatingPointError: if a point is out of range, or for channels that are not there.
        """
        names = [tensor.name for tensor in self.placed]
        for name in plan:
            if name not in names:
                raise InputError(f"the plan names {name}, which is not placed; allowed: {names}")
        check_complete(plan, names)
        checked = {}
        for tensor in self.placed:
            point = tensor.device.point(**{tensor.device.knob: plan[tensor.name]})
            _check_channels(tensor, point)
            checked[tensor.name] = point
        return checked


def _check_channels(placed: Placed, point: Point) -> None:
    """Refuse points for channels that a tensor does not have.

    Raises:
        OperatingPointError: naming the tensor.
    """
    if not isinstance(point, Tensor) or point.ndim == 0:
        return
    if not placed.device.channel_points and point.ndim > 1:
        allowed = f"one for the whole tensor, as a {type(placed.device).__name__} takes it"
        got = f"of shape {tuple(point.shape)}"
        refuse(f"the operating point of {placed.name}", got, allowed, OperatingPointError)
    if not placed.device.channel_points or (point.ndim == 1 and placed.device.planes):
        return
    if placed.channels is None:
        allowed = "one for the whole tensor: only weights have output channels"
        got = f"for {len(point)} channels"
        refuse(f"the operating point of {placed.name}", got, allowed, OperatingPointError)
    if len(point) != placed.channels:
        allowed = f"{placed.channels}, one for each output channel, or one for the whole tensor"
        refuse(f"the points of {placed.name}", len(point), allowed, OperatingPointError)


def check_complete(plan: Mapping[str, Point], names: Iterable[str]) -> None:
    """Refuse a plan that leaves out one of ``names``.

    Raises:
        InputError: naming the first that is missing.
    """
    for name in names:
        if name not in plan:
            raise InputError(f"the plan has no operating point for {name}; give it one")


@guarded
def place(
    model: nn.Module,
    *,
    weights: Device[Any] | None = None,
    activations: Device[Any] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    inputs: Any = None,
    rebuild: Callable[[], nn.Module] | None = None,
) -> Placement:
    """Say which tensors of a model live on which memory.

    Weights are parameters with two axes or more (convolutions, linear layers, embeddings,
    attention); parameters of one axis, such as biases, stay in reliable memory unless ``include``
    names them. Parameters that share storage are placed once. Activations are the floating tensors
    at the input of each layer that owns a weight. The first axis is the batch, and the range of
    their words is the largest magnitude in ``inputs``, so pass a representative batch.

    Args:
        model: Any module.
        weights: The memory that holds weights, or None.
        activations: The memory that holds layer inputs, or None.
        include: Patterns (``*``, ``?``, ``[...]``) on names such as ``layer1.0.conv1.weight`` or
            ``layer1.0.conv1:input``; empty for the default above.
        exclude: Patterns of names to leave in reliable memory; wins over ``include``.
        inputs: A batch, used to count accesses and to set the range of activations; needed where
            ``activations`` is given.
        rebuild: Builds an equal model, which is then given the state dict of ``model``: for a model
            that cannot be copied, since simulation and prediction run on a copy.

    Returns:
        The placement.

    Raises:
        InputError: if nothing would be placed, or a pattern matches nothing.
        ModelError: if a tensor cannot be placed; the message names it, and says what to exclude.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> placement = place(model, weights=SRAM(bits=8), inputs=torch.ones(1, 4))
        >>> [(tensor.name, tensor.words) for tensor in placement.placed], placement.macs
        ([('0.weight', 12), ('1.weight', 6)], 18.0)
    """
    if weights is None and activations is None:
        raise InputError("place was given no memory; give weights= or activations= a device")
    if activations is not None and activations.computes:
        refuse("activations", type(activations).__name__, "a memory that does not compute, an SRAM")
    if activations is not None and inputs is None:
        raise InputError("activations need inputs=, a representative batch that sets their range")
    choice = _Choice(include, exclude)
    groups = _groups(model)
    if not groups:
        raise ModelError("the model has no parameters; there is nothing to place")
    stored = _place_weights(groups, weights, choice)
    placement = Placement(model=model, placed=stored, reliable_bits=0, rebuild=rebuild)
    if inputs is not None:
        layers = _layers(model) if activations is not None else []
        counts = _traced(placement, groups, layers, inputs)
        if activations is not None:
            extra = _place_activations(counts, activations, choice, layers)
            placement = replace(placement, placed=stored + extra)
        placement = _count(placement, counts)
    choice.check_used()
    if not placement.placed:
        raise InputError("nothing is placed: every tensor is excluded or has fewer than two axes")
    placed = {tensor.name for tensor in placement.placed}
    reliable = sum(_bits(group.tensor) for name, group in groups.items() if name not in placed)
    return replace(placement, reliable_bits=reliable)


def _traced(
    placement: Placement, groups: Mapping[str, _Group], layers: Sequence[str], inputs: Any
) -> Trace:
    """Counts of one forward pass of a private copy of the model."""
    private = PrivateModel(
        placement.model, {name: g.owners for name, g in groups.items()}, placement.rebuild
    )
    private.own_placed()
    return trace(private, layers, inputs, _computing(placement.placed))


def _bits(tensor: Tensor) -> int:
    return 8 * tensor.numel() * tensor.element_size()


class _Choice:
    """Include and exclude patterns, and which of them matched anything."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self.include, self.exclude = _patterns("include", include), _patterns("exclude", exclude)
        self.used: set[str] = set()
        self.names: list[str] = []

    def takes(self, name: str, by_default: bool) -> bool:
        self.names.append(name)
        excluded = self._matches(name, self.exclude)
        included = self._matches(name, self.include)
        return not excluded and (included if self.include else by_default)

    def _matches(self, name: str, patterns: tuple[str, ...]) -> bool:
        hits = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        self.used.update(hits)
        return bool(hits)

    def check_used(self) -> None:
        for pattern in (*self.include, *self.exclude):
            if pattern not in self.used:
                some = ", ".join(self.names[:6]) + (", ..." if len(self.names) > 6 else "")
                refuse("the pattern", f"{pattern!r}, which matches no tensor", f"one of {some}")


def _patterns(field: str, patterns: Iterable[str]) -> tuple[str, ...]:
    if isinstance(patterns, str):
        refuse(field, f"the string {patterns!r}", f"a list of patterns, [{patterns!r}]")
    return tuple(patterns)


@dataclass(frozen=True, slots=True)
class _Group:
    """A parameter, and everywhere it is used."""

    tensor: Tensor
    owners: tuple[Owner, ...]


def _groups(model: nn.Module) -> dict[str, _Group]:
    """Parameters by name, those that share storage once, under their first name."""
    check_initialised(model)
    found: dict[tuple[Any, ...], tuple[str, Tensor, list[Owner]]] = {}
    for path, module in model.named_modules(remove_duplicate=True):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            full = f"{path}.{name}" if path else name
            if parameter.is_meta:
                allowed = "a device with memory: load the model's weights first"
                refuse(f"the device of {full}", "meta", allowed, ModelError)
            if parameter.layout != torch.strided:
                refuse(f"the layout of {full}", parameter.layout, "a dense tensor", ModelError)
            key = (parameter.data_ptr() or id(parameter), parameter.shape, parameter.stride())
            found.setdefault(key, (full, parameter.detach(), []))[2].append((path, name))
    groups = {full: _Group(tensor, tuple(owners)) for full, tensor, owners in found.values()}
    _check_apart(groups)
    return groups


def _check_apart(groups: Mapping[str, _Group]) -> None:
    spans = sorted((*extent(group.tensor), name) for name, group in groups.items())
    for (_, end, first), (start, _, second) in zip(spans, spans[1:], strict=False):
        if start < end:
            allowed = "parameters that share all of their storage, laid out alike, or none"
            refuse(f"the storage of {second}", f"in part that of {first}", allowed, ModelError)


def _place_weights(
    groups: Mapping[str, _Group], device: Device[Any] | None, choice: _Choice
) -> tuple[Placed, ...]:
    taken = {
        name: group
        for name, group in groups.items()
        if choice.takes(name, group.tensor.ndim >= 2 and group.tensor.numel() > 0)
    }
    if device is None:  # patterns on weights count as used in any case
        return ()
    for name, group in taken.items():
        if not group.tensor.is_floating_point():
            allowed = f"a floating dtype; exclude '{name}'"
            refuse(f"the dtype of {name}", group.tensor.dtype, allowed, ModelError)
    return tuple(
        Placed(
            name=name,
            role="weight",
            device=device,
            shape=tuple(group.tensor.shape),
            owners=group.owners,
        )
        for name, group in taken.items()
    )


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
    counts: Trace, device: Device[Any], choice: _Choice, layers: Sequence[str]
) -> tuple[Placed, ...]:
    for layer in layers:
        if layer not in counts.called and choice.takes(f"{layer}:input", True):
            raise ModelError(
                f"the input of {layer} cannot be placed: the module is not called on its own in "
                f"this model (its weight is used by the module around it); exclude '{layer}:input'"
            )
    taken = {name: seen for name, seen in counts.activations.items() if choice.takes(name, True)}
    for seen in taken.values():
        if seen.refusal is not None:
            raise ModelError(seen.refusal)
    return tuple(
        Placed(
            name=name,
            role="activation",
            device=device,
            shape=seen.shape,
            owners=((name.rpartition(":")[0], ""),),
            limit=seen.largest or 1.0,
        )
        for name, seen in taken.items()
    )


def _computing(placed: Sequence[Placed]) -> list[str]:
    """The tensors on memories that compute."""
    return [tensor.name for tensor in placed if tensor.device.computes]


def _count(placement: Placement, counts: Trace) -> Placement:
    """The placement with the traffic of a trace; what memories compute is no arithmetic."""
    return replace(
        placement,
        placed=tuple(replace(p, traffic=_traffic(p, counts)) for p in placement.placed),
        macs=counts.macs - counts.macs_loaded,
    )


def _traffic(tensor: Placed, counts: Trace) -> Traffic:
    if tensor.role == "activation":
        words = counts.activations[tensor.name].words_per_inference
        return Traffic(words=tensor.words, reads=words, writes=words)
    reads = counts.weight_reads.get(tensor.name, 0.0)
    if reads == 0:
        raise ModelError(
            f"{tensor.name} is never read in the traced forward pass, so faults in it would do "
            f"nothing; exclude '{tensor.name}'"
        )
    loads = counts.loads.get(tensor.name, ())
    if tensor.device.computes and not loads:
        raise ModelError(
            f"{tensor.name} is in no product with vectors that is known (linear layers, "
            "convolutions, products of matrices) in the traced forward pass, so a memory that "
            f"computes cannot hold it; exclude '{tensor.name}'"
        )
    return Traffic(words=tensor.words, reads=reads, writes=0.0, loads=loads)
