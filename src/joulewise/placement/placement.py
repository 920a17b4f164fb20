"""Placements: the tensors of a model that are stored in memories, and their access counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from joulewise.devices import Device, Point, Traffic
from joulewise.errors import InputError, ModelError, OperatingPointError, check_kind, refuse
from joulewise.placement.plan import At, Fit, Plan
from joulewise.placement.process_state import guarded
from joulewise.placement.storage import Owner, owned_parameters
from joulewise.placement.tracing import Trace, trace
from joulewise.results import Result

__all__ = ["Placed", "Placement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One tensor that is stored in a memory.

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
        """Number of words stored."""
        return prod(self.shape)

    @property
    def channels(self) -> int | None:
        """Output channels of a weight, the length of its first axis; None if it has none."""
        return self.shape[0] if self.role == "weight" and self.shape else None

    def parameters(self, modules: Mapping[str, nn.Module]) -> list[Tensor]:
        """Current parameters of a weight in modules by path, one for each owner."""
        return owned_parameters(modules, self.owners)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Placement(Result):
    """A model, and the memories that its tensors are stored in.

    Args:
        model: The model; only training writes to it.
        placed: The placed tensors: weights in the model's order, then activations.
        reliable_bits: Bits of the parameters left in reliable memory, at their own dtype.
        macs: Multiply-accumulates per inference outside of compute-in-memory arrays; None until a
            forward pass was traced.
        rebuild: Builds an equal model, for one that cannot be copied; see `place`.
    """

    model: nn.Module
    placed: tuple[Placed, ...]
    reliable_bits: int
    macs: float | None = None
    rebuild: Callable[[], nn.Module] | None = None

    def to_dict(self) -> dict[str, Any]:
        """See `Result`; the tensors and their memories, without the model."""
        return {
            "tensors": [
                {**row, "shape": list(fit.shape), "device": dict(fit.device)}
                for row, fit in zip(self._rows(), Fit.of(self).values(), strict=True)
            ],
            "reliable_bits": self.reliable_bits,
            "macs": self.macs,
        }

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "tensor": placed.name,
                "role": placed.role,
                "memory": type(placed.device).__name__,
                "words": placed.words,
                "reads": None if placed.traffic is None else placed.traffic.reads,
                "writes": None if placed.traffic is None else placed.traffic.writes,
            }
            for placed in self.placed
        ]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        figures: dict[str, str] = {}
        for role in ("weight", "activation"):
            own = [placed for placed in self.placed if placed.role == role]
            memories = ", ".join(dict.fromkeys(type(placed.device).__name__ for placed in own))
            if own:
                words = sum(placed.words for placed in own)
                figures[f"{role}s"] = f"{len(own)} tensors, {words:,} words on {memories}"
        figures["other parameters"] = f"{self.reliable_bits:,} bits in reliable memory"
        traced = "not traced: give place a batch as example_inputs, for energies"
        figures["arithmetic"] = traced if self.macs is None else f"{self.macs:,.0f} MACs"
        return f"Placement of a {type(self.model).__name__}", figures

    @property
    def weights(self) -> list[Placed]:
        """The placed weights, in the model's order."""
        return [placed for placed in self.placed if placed.role == "weight"]

    @property
    def traced(self) -> bool:
        """True if accesses and multiply-accumulates are known."""
        return self.macs is not None

    @guarded
    def trace(self, inputs: Any) -> Placement:
        """This placement with accesses counted in one forward pass over ``inputs``."""
        if self.traced:
            return self
        return self.counted(trace(self, inputs))

    def counted(self, counts: Trace) -> Placement:
        """This placement with the accesses of a trace.

        Multiply-accumulates in compute-in-memory arrays are left out of ``macs``: their energy is
        that of the device.
        """
        return replace(
            self,
            placed=tuple(replace(p, traffic=_traffic(p, counts)) for p in self.placed),
            macs=counts.macs - counts.macs_in_memory,
        )

    def points(self, at: At) -> dict[str, Point]:
        """Operating point of each placed tensor, on its device's knob.

        Args:
            at: Knobs with their values, such as ``{"eta": 0.5}``, each for all tensors whose memory
                has that knob, or a plan.

        Raises:
            InputError: if ``at`` is neither, or is a plan for other tensors.
            OperatingPointError: if a tensor is set by no knob or by several, a knob sets no tensor,
                or a point is out of range, or does not match the channels of its tensor.
        """
        allowed = 'knobs with values, such as {"eta": 0.5}, or a joulewise.Plan'
        check_kind("at", at, Mapping, allowed)
        settings = self._settings(at)
        points = {}
        for tensor in self.placed:
            points[tensor.name] = tensor.device.point(**settings[tensor.name])
            _check_channels(tensor, points[tensor.name])
        return points

    def _settings(self, at: At) -> Mapping[str, Mapping[str, Point]]:
        """One knob and its value for each placed tensor."""
        return self._settings_of(at) if isinstance(at, Plan) else self._settings_by_knob(at)

    def _settings_of(self, plan: Plan) -> Mapping[str, Mapping[str, Point]]:
        own = dict.fromkeys(tensor.name for tensor in self.placed)
        for name in plan:
            if name not in own:
                some = ", ".join(list(own)[:4])
                raise InputError(
                    f"the plan is for another network or placement: it has a point for {name}, "
                    f"which is not placed here; placed are {some}{', ...' if len(own) > 4 else ''}"
                )
        for name in own:
            if name not in plan:
                raise InputError(
                    f"the plan is for another network or placement: {name} is placed here, and the "
                    "plan has no point for it"
                )
        if plan.fits:
            for name, here in Fit.of(self).items():
                plan.fits[name].check(name, here)
        return plan

    def _settings_by_knob(self, at: Mapping[str, Point]) -> Mapping[str, Mapping[str, Point]]:
        used: set[str] = set()
        settings: dict[str, Mapping[str, Point]] = {}
        for tensor in self.placed:
            names = (tensor.device.knob.name, *tensor.device.knob.aliases)
            taken = {name: value for name, value in at.items() if name in names}
            if len(taken) != 1:
                got = " and ".join(list(at)[:2]) or "nothing"
                got += f" and {len(at) - 2} more" if len(at) > 2 else ""
                allowed = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
                if any(placed.name in at for placed in self.placed):
                    allowed += ", or a Plan, for points by tensor"
                where = f"at, for {tensor.name} on a {type(tensor.device).__name__},"
                refuse(where, got, allowed, OperatingPointError)
            used.update(taken)
            settings[tensor.name] = taken
        for name in at:
            if name not in used:
                got = f"given {name}, which sets no placed tensor"
                refuse("at", got, ", ".join(sorted(used)), OperatingPointError)
        return settings

    def plan(self, at: At) -> Plan:
        """A plan of given points, checked.

        Args:
            at: See `points`. The plan keeps its knobs and values.

        Raises:
            InputError: see `points`.
        """
        self.points(at)
        return Plan(self._settings(at), fits=Fit.of(self))

    def most_reliable(self) -> Plan:
        """The plan that gives every placed tensor its device's most reliable point."""
        return Plan.of_points(self, {p.name: p.device.knob.most_reliable for p in self.placed})


def _check_channels(placed: Placed, point: Point) -> None:
    """Refuse points for channels that a tensor does not have."""
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
    matrix_inputs = tuple(counts.matrix_inputs.get(tensor.name, ()))
    if tensor.device.array is not None and not matrix_inputs:
        raise ModelError(
            f"{tensor.name} is in no product with vectors that is known (linear layers, "
            "convolutions, products of matrices) in the traced forward pass, so a memory that "
            f"computes cannot hold it; exclude '{tensor.name}'"
        )
    return Traffic(words=tensor.words, reads=reads, writes=0.0, matrix_inputs=matrix_inputs)
