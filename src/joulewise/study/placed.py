"""Placed tensors as plain data: what a record has to say of each, from input to output."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from joulewise.errors import InputError
from joulewise.placement import Placed, Placement

__all__ = ["PlacedRecord", "placed_records"]


class PlacedRecord(BaseModel):
    """One placed tensor.

    Args:
        name: A parameter's name, or a layer's name with ``:input``.
        role: Weight or activation.
        words: Words stored.
        bits: Bits in a word; None where the device has no words of bits.
        reads: Words that one inference reads.
        writes: Words that one inference writes.
        reliable_j: Joules of those accesses at the device's most reliable point.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["weight", "activation"]
    words: int
    bits: int | None
    reads: float
    writes: float
    reliable_j: float


def placed_records(placement: Placement) -> tuple[PlacedRecord, ...]:
    """The placed tensors in the order of the network's modules, each layer's input first.

    Args:
        placement: A traced placement.

    Raises:
        InputError: if the placement was not traced.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> x = torch.ones(1, 4)
        >>> placement = place(net, weights=SRAM(), activations=SRAM(), example_inputs=x)
        >>> [record.name for record in placed_records(placement)]
        ['0:input', '0.weight', '1:input', '1.weight']
    """
    place = {name: number for number, (name, _) in enumerate(placement.model.named_modules())}
    ordered = sorted(
        placement.placed, key=lambda tensor: (place[tensor.owners[0][0]], tensor.role == "weight")
    )
    return tuple(_record(tensor) for tensor in ordered)


def _record(tensor: Placed) -> PlacedRecord:
    if tensor.traffic is None:
        raise InputError("records need access counts; give place(..., example_inputs=a batch)")
    device = tensor.device
    return PlacedRecord(
        name=tensor.name,
        role=tensor.role,
        words=tensor.words,
        bits=device.describe().get("bits"),
        reads=tensor.traffic.reads,
        writes=tensor.traffic.writes,
        reliable_j=float(device.energy(tensor.traffic, device.knob.most_reliable)),
    )
