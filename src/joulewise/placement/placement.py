"""Placements: the tensors of a model that live on a memory, and how often they are accessed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from joulewise.devices import Device, Point, Traffic
from joulewise.errors import InputError, ModelError, OperatingPointError, refuse
from joulewise.placement.private_copy import PrivateModel
from joulewise.placement.process_state import guarded
from joulewise.placement.storage import Owner, owned_parameters, parameter_groups
from joulewise.placement.tracing import Trace, trace

__all__ = ["Placed", "Placement", "check_complete", "counts_of"]


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
        return prod(self.shape)

    @property
    def channels(self) -> int | None:
        """Output channels of a weight, along its first axis; None for what has none."""
        return self.shape[0] if self.role == "weight" and self.shape else None

    def parameters(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        """The parameters of a weight that the model has now, one for each owner.

        Args:
            modules: The modules of the model, by path.
        """
        return owned_parameters(modules, self.owners)


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
        """True if accesses and multiply-accumulates are known."""
        return self.macs is not None

    @guarded
    def trace(self, inputs: Any) -> Placement:
        """This placement with accesses counted in one forward pass over ``inputs``."""
        if self.traced:
            return self
        return self.counted(counts_of(self, inputs))

    def counted(self, counts: Trace) -> Placement:
        """This placement with the accesses of a trace.

        Multiply-accumulates in memories that compute are theirs, and no arithmetic.
        """
        return replace(
            self,
            placed=tuple(replace(p, traffic=_traffic(p, counts)) for p in self.placed),
            macs=counts.macs - counts.macs_in_memory,
        )

    def plan(self, **setting: Point) -> dict[str, Point]:
        """The plan that gives every placed tensor the same operating point.

        Args:
            **setting: One name and value, for instance ``eta=0.5`` or ``v_dd=0.6``.
        """
        return {tensor.name: tensor.device.point(**setting) for tensor in self.placed}

    def plan_at_most_reliable(self) -> dict[str, Point]:
        """The plan that gives every placed tensor its device's most reliable point."""
        return {tensor.name: tensor.device.knob.most_reliable for tensor in self.placed}

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
            point = tensor.device.point(**{tensor.device.knob.name: plan[tensor.name]})
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
    if not placed.device.knob.channels and point.ndim > 1:
        allowed = f"one for the whole tensor, as a {type(placed.device).__name__} takes it"
        got = f"of shape {tuple(point.shape)}"
        refuse(f"the operating point of {placed.name}", got, allowed, OperatingPointError)
    if not placed.device.knob.channels or (point.ndim == 1 and placed.device.knob.bit_planes):
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


def counts_of(placement: Placement, inputs: Any, layers: Sequence[str] = ()) -> Trace:
    """Counts of one forward pass of a private copy of the model, all parameters watched.

    Args:
        placement: What is stored where.
        inputs: A batch.
        layers: Modules whose inputs are watched too.
    """
    owners = {name: group.owners for name, group in parameter_groups(placement.model).items()}
    private = PrivateModel(placement.model, owners, placement.rebuild)
    private.own_placed()
    computing = [placed.name for placed in placement.placed if placed.device.array is not None]
    return trace(private, layers, inputs, computing)


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
    matrix_inputs = counts.matrix_inputs.get(tensor.name, ())
    if tensor.device.array is not None and not matrix_inputs:
        raise ModelError(
            f"{tensor.name} is in no product with vectors that is known (linear layers, "
            "convolutions, products of matrices) in the traced forward pass, so a memory that "
            f"computes cannot hold it; exclude '{tensor.name}'"
        )
    return Traffic(words=tensor.words, reads=reads, writes=0.0, matrix_inputs=matrix_inputs)
