"""Plan files: one operating point for each stored tensor, to read, edit and hand over.

A plan is a small JSON file. It says which tensors it is for, of which shapes, on which devices, so
that it is refused, by name, for a network that it does not fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from joulewise.devices import PlainPoint, Point, plain_point
from joulewise.errors import InputError, refuse
from joulewise.files import write_atomically
from joulewise.placement.placement import Placed, Placement

__all__ = ["PlanFile"]


class _Tensor(BaseModel):
    """One stored tensor; ``device`` is its number in the list of devices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["weight", "activation"]
    shape: tuple[int, ...]
    device: int
    point: PlainPoint


class PlanFile(BaseModel):
    """A plan with what it is for.

    Args:
        joulewise_plan: The version of the format.
        devices: Each kind of memory, as its ``describe`` says it, with the name of its ``knob``.
        tensors: Name, role, shape, device and operating point of each stored tensor, the point as
            a number, or as one for each bit plane (least significant first); for output channels,
            as one row for each, of one number or of one for each bit plane.
        weights: A digest of the stored weights, for which the plan was chosen.
        note: What else is worth knowing: how it was made, what was shown of it.

    Example:
        >>> import torch
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> layer = torch.nn.Linear(4, 3)
        >>> file = PlanFile.of(place(layer, weights=SRAM()), {"weight": 0.5})
        >>> file.plan_for(place(layer, weights=SRAM()))
        {'weight': 0.5}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    joulewise_plan: Literal[1] = 1
    devices: tuple[dict[str, Any], ...]
    tensors: tuple[_Tensor, ...]
    weights: str
    note: dict[str, Any] = {}

    @classmethod
    def of(
        cls, placement: Placement, plan: Mapping[str, Point], note: Mapping[str, Any] | None = None
    ) -> PlanFile:
        """A plan of a placement.

        Args:
            placement: What is stored where.
            plan: An operating point for each placed tensor.
            note: Plain data to keep with it.
        """
        plan = placement.check_plan(plan)
        devices: list[dict[str, Any]] = []
        tensors = []
        for placed in placement.placed:
            device = _described(placed)
            if device not in devices:
                devices.append(device)
            tensors.append(
                _Tensor(
                    name=placed.name,
                    role=placed.role,
                    shape=placed.shape,
                    device=devices.index(device),
                    point=plain_point(plan[placed.name]),
                )
            )
        return cls(
            devices=tuple(devices),
            tensors=tuple(tensors),
            weights=_digest(placement),
            note=dict(note or {}),
        )

    @classmethod
    def read(cls, path: str | Path) -> PlanFile:
        """Read a file.

        Args:
            path: As written by `write`, or edited since.

        Raises:
            InputError: if it is not there, or is no plan; the message names the first field.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.model_validate_json(text)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the plan {path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the file"
            said = str(first["msg"]).removeprefix("Input should be ")
            raise InputError(f"the plan {path} is no plan: {field}: {said}") from error

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all, one tensor on each line.

        Args:
            path: Where it goes; an older file of that name is replaced.

        Raises:
            InputError: if it cannot be written.
        """
        fields = self.model_dump(mode="json")
        lines = ",\n    ".join(json.dumps(tensor) for tensor in fields.pop("tensors"))
        parts = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()]
        parts.insert(2, f'  "tensors": [\n    {lines}\n  ]')
        try:
            write_atomically(path, "{\n" + ",\n".join(parts) + "\n}\n")
        except OSError as error:
            raise InputError(f"the plan {path} cannot be written: {error}") from error

    def plan_for(self, placement: Placement) -> dict[str, Point]:
        """The plan, for a placement that it fits.

        Args:
            placement: What is stored where.

        Raises:
            InputError: naming the first tensor that the plan is not for, or does not fit.
            OperatingPointError: if a point is out of its device's range, or for other channels.
        """
        known = {tensor.name: tensor for tensor in self.tensors}
        names = [tensor.name for tensor in self.tensors]
        if twice := [name for name in known if names.count(name) > 1]:
            refuse(f"{twice[0]} in the plan", "named twice", "one line for each tensor")
        own = {placed.name: placed for placed in placement.placed}
        for name in known:
            if name not in own:
                some = ", ".join(list(own)[:4])
                raise InputError(
                    f"the plan is for another network or placement: it has a point for {name}, "
                    f"which is not placed here; placed are {some}{', ...' if len(own) > 4 else ''}"
                )
        for name, placed in own.items():
            if name not in known:
                raise InputError(
                    f"the plan is for another network or placement: {name} is placed here, and the "
                    "plan has no point for it"
                )
            self._check_fits(known[name], placed)
            _check_rows(known[name])
        return placement.check_plan(
            {
                name: torch.tensor(tensor.point, dtype=torch.float64)
                if isinstance(tensor.point, tuple)
                else tensor.point
                for name, tensor in known.items()
            }
        )

    def is_for_weights_of(self, placement: Placement) -> bool:
        """True if the stored weights are those that the plan was chosen for."""
        return self.weights == _digest(placement)

    def _check_fits(self, tensor: _Tensor, placed: Placed) -> None:
        if tensor.shape != placed.shape:
            refuse(
                f"the shape of {placed.name}",
                placed.shape,
                f"{tensor.shape}, which the plan is for",
            )
        if not 0 <= tensor.device < len(self.devices):
            allowed = f"0 to {len(self.devices) - 1}"
            refuse(f"the device of {tensor.name} in the plan", tensor.device, allowed)
        planned, here = self.devices[tensor.device], _described(placed)
        for field in {**planned, **here}:
            if planned.get(field) != here.get(field):
                allowed = f"{planned.get(field)!r}, which the plan is for"
                refuse(f"{field} of the memory of {placed.name}", repr(here.get(field)), allowed)


def _check_rows(tensor: _Tensor) -> None:
    """Refuse a table of points whose rows are not alike."""
    rows = tensor.point if isinstance(tensor.point, tuple) else ()
    lengths = {len(row) for row in rows if isinstance(row, tuple)}
    if len(lengths) > 1:
        said = " and ".join(str(length) for length in sorted(lengths))
        refuse(f"{tensor.name} in the plan", f"given rows of {said} numbers", "as many in each")


def _described(placed: Placed) -> dict[str, Any]:
    """A device as JSON has it."""
    described = {"knob": placed.device.knob.name, **placed.device.describe()}
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _digest(placement: Placement) -> str:
    modules = dict(placement.model.named_modules())
    found = hashlib.blake2b(digest_size=8)
    for placed in placement.placed:
        if placed.role == "weight":
            for parameter in placed.parameters(modules)[:1]:
                found.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()
