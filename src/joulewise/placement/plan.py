"""Plans: an operating point for each placed tensor, in memory and as a small JSON file.

The file lists name, shape and device of each tensor, so that a network that it does not fit is
refused with the name of the first tensor that differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from joulewise.devices import PlainPoint, Point, plain_point
from joulewise.errors import InputError, refuse
from joulewise.files import write_atomically

if TYPE_CHECKING:
    from joulewise.placement.placement import Placement

__all__ = ["At", "Fit", "Plan"]

# Tensors listed in the text summary.
_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Specification of a tensor that a plan was made for.

    Args:
        role: ``"weight"`` or ``"activation"``.
        shape: Shape of the weight, or of one sample of the activation.
        device: Description of its memory, from ``Device.describe``.
    """

    role: Literal["weight", "activation"]
    shape: tuple[int, ...]
    device: Mapping[str, Any]

    @staticmethod
    def of(placement: Placement) -> dict[str, Fit]:
        """Specifications of the placed tensors by name, with devices as JSON-compatible data."""
        devices = {id(p.device): p.device for p in placement.placed}
        plain = {key: json.loads(json.dumps(device.describe())) for key, device in devices.items()}
        return {
            p.name: Fit(role=p.role, shape=p.shape, device=plain[id(p.device)])
            for p in placement.placed
        }

    def check(self, name: str, here: Fit) -> None:
        """Refuse a tensor of another shape, or on another memory.

        Args:
            name: Name of the tensor.
            here: The tensor as it is placed.

        Raises:
            InputError: naming the tensor and the first field that differs.
        """
        if self.shape != here.shape:
            allowed = f"{self.shape}, which the plan is for"
            refuse(f"the shape of {name}", here.shape, allowed)
        for key in {**self.device, **here.device}:
            if json.dumps(self.device.get(key)) != json.dumps(here.device.get(key)):  # NaN too
                allowed = f"{self.device.get(key)!r}, which the plan is for"
                refuse(f"{key} of the memory of {name}", repr(here.device.get(key)), allowed)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Plan(Mapping[str, Mapping[str, Point]]):
    """An operating point for each placed tensor: a mapping from its name to a knob and its value.

    ``Placement.plan`` makes one with a common point for all tensors. Plans are immutable; a changed
    copy is ``Plan({**plan, "fc.weight": {"eta": 0.7}})``. They are compared by identity.

    Args:
        settings: By name of a placed tensor, one knob and its value, such as ``{"eta": 0.5}``. A
            value is a number, or a tensor: ``[bits]`` for bit planes (least significant first),
            ``[channels, 1]`` for output channels, ``[channels, bits]`` for both. Gradients flow
            back to tensors that require them.
        fits: By name, the tensors that the plan was made for; it is then refused for others. Empty
            for a plan made by hand.
        weights: Digest of the weights that the plan was chosen for; None if for no particular ones.
        note: JSON-compatible data to keep in the file, such as the origin of the plan.

    Raises:
        InputError: if a setting is not one knob and a value.

    Example:
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import place
        >>> placement = place(torch.nn.Linear(4, 3), weights=SRAM())
        >>> plan = placement.plan({"eta": 0.5})
        >>> dict(plan), dict(Plan({**plan, "weight": {"eta": 0.7}}))
        ({'weight': {'eta': 0.5}}, {'weight': {'eta': 0.7}})
    """

    settings: Mapping[str, Mapping[str, Point]]
    fits: Mapping[str, Fit] = field(default_factory=dict, kw_only=True)
    weights: str | None = field(default=None, kw_only=True)
    note: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        """Check that each tensor has one knob."""
        allowed = 'a dict such as {"fc.weight": {"eta": 0.5}}'
        if not isinstance(self.settings, Mapping):
            refuse("the settings of a plan", f"a {type(self.settings).__name__}", allowed)
        for name, setting in self.settings.items():
            if not isinstance(setting, Mapping) or [type(knob) for knob in setting] != [str]:
                got = f"{setting!r:.80}"
                refuse(f"the plan for {name}", got, 'one knob, such as {"eta": 0.5}')
        if self.fits and set(self.fits) != set(self.settings):
            allowed = "the same for both; leave out fits, and give the plan to placement.plan"
            refuse("the tensors of a plan", "others in settings than in fits", allowed)
        settings = {
            name: {knob: _tensor_of_lists(name, value) for knob, value in setting.items()}
            for name, setting in self.settings.items()
        }
        object.__setattr__(self, "settings", settings)

    # Mapping compares by value, which is ambiguous for points that are tensors.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Mapping[str, Point]:
        return self.settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)

    def __repr__(self) -> str:
        lines = [f"Plan for {len(self)} tensors"]
        for name, setting in list(self.settings.items())[:_SHOWN]:
            ((knob, value),) = setting.items()
            lines.append(f"  {name}: {knob} {_shown(value)}")
        if len(self) > _SHOWN:
            lines.append(f"  and {len(self) - _SHOWN} more")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, dict[str, PlainPoint]]:
        """The settings as plain data."""
        return {
            name: {knob: plain_point(value) for knob, value in setting.items()}
            for name, setting in self.settings.items()
        }

    @classmethod
    def of_points(cls, placement: Placement, points: Mapping[str, Point]) -> Plan:
        """A plan of operating points on the knob of each device, by name of the placed tensor."""
        return cls({p.name: {p.device.knob.name: points[p.name]} for p in placement.placed})

    @classmethod
    def chosen_for(
        cls,
        placement: Placement,
        points: Mapping[str, Point],
        note: Mapping[str, Any] | None = None,
    ) -> Plan:
        """A plan that was chosen for the weights of a placement.

        Args:
            placement: The model and its memories.
            points: An operating point of each placed tensor, on its device's knob.
            note: See `Plan`.
        """
        return cls(
            cls.of_points(placement, points),
            fits=Fit.of(placement),
            weights=_digest(placement),
            note=dict(note or {}),
        )

    def is_for_weights_of(self, placement: Placement) -> bool:
        """True if the stored weights are those that the plan was chosen for."""
        return self.weights == _digest(placement)

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan from a file.

        Args:
            path: A file in the format of `write`.

        Raises:
            InputError: if the file cannot be read, or is malformed; names the first wrong field.
        """
        try:
            file = _File.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the plan {path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            text = str(first["msg"]).removeprefix("Input should be ")
            raise InputError(f"the plan {path} is no plan: {place}: {text}") from error
        return file.plan()

    def write(self, path: str | Path) -> None:
        """Write the plan to a JSON file, atomically, one tensor on each line.

        Args:
            path: Path of the file; an existing file is replaced.

        Raises:
            InputError: if it cannot be written, or the plan was not made for a placement.
        """
        if not self.fits:
            allowed = "placement.plan(plan), which says what the plan is for"
            refuse("the plan", "made by hand, for no placement", allowed)
        devices: list[dict[str, Any]] = []
        tensors = []
        for name, setting in self.to_dict().items():
            ((knob, point),) = setting.items()
            fit = self.fits[name]
            device = {"knob": knob, **fit.device}
            if device not in devices:
                devices.append(device)
            index = devices.index(device)
            row = {"name": name, "role": fit.role, "shape": fit.shape, "device": index}
            tensors.append(json.dumps(row | {"point": point}))
        fields = {
            "joulewise_plan": "1",
            "devices": json.dumps(devices),
            "tensors": "[\n    " + ",\n    ".join(tensors) + "\n  ]",
            "weights": json.dumps(self.weights),
            "note": json.dumps(dict(self.note)),
        }
        lines = ",\n".join(f'  "{name}": {value}' for name, value in fields.items())
        try:
            write_atomically(path, f"{{\n{lines}\n}}\n")
        except OSError as error:
            raise InputError(f"the plan {path} cannot be written: {error}") from error


At = Mapping[str, Point] | Plan
"""Operating points as `Placement.points` takes them: knobs with their values, or a plan."""


class _Tensor(BaseModel):
    """One line of the file; ``device`` is an index into the list of devices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: Literal["weight", "activation"]
    shape: tuple[int, ...]
    device: int
    point: PlainPoint


class _File(BaseModel):
    """Schema of a plan file; each device's description includes the name of its ``knob``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    joulewise_plan: Literal[1] = 1
    devices: tuple[dict[str, Any], ...]
    tensors: tuple[_Tensor, ...]
    weights: str | None
    note: dict[str, Any] = {}

    def plan(self) -> Plan:
        settings: dict[str, Mapping[str, Any]] = {}
        fits = {}
        for tensor in self.tensors:
            if tensor.name in settings:
                refuse(f"{tensor.name} in the plan", "named twice", "one line for each tensor")
            if not 0 <= tensor.device < len(self.devices):
                allowed = f"0 to {len(self.devices) - 1}" if self.devices else "one that is listed"
                refuse(f"the device of {tensor.name} in the plan", tensor.device, allowed)
            device = dict(self.devices[tensor.device])
            knob = device.pop("knob", None)
            if not isinstance(knob, str):
                refuse(f"the knob of the memory of {tensor.name}", repr(knob), "the name of a knob")
            settings[tensor.name] = {knob: tensor.point}
            fits[tensor.name] = Fit(role=tensor.role, shape=tensor.shape, device=device)
        return Plan(settings, fits=fits, weights=self.weights, note=self.note)


def _tensor_of_lists(name: str, value: Any) -> Any:
    """Lists and arrays as tensors; other values as they are, for the device to check."""
    if not isinstance(value, (list, tuple, np.ndarray)):
        return value
    try:
        return torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError):
        refuse(f"the plan for {name}", f"{value!r:.60}", "numbers, as many in each row")


def _digest(placement: Placement) -> str:
    modules = dict(placement.model.named_modules())
    found = hashlib.blake2b(digest_size=8)
    for placed in placement.weights:
        parameter = placed.parameters(modules)[0]
        found.update(parameter.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"{value:.4g}" if isinstance(value, float) else f"{value!r:.40}"
    if value.numel() == 1:
        return f"{float(value.detach()):.4g}"
    ends = "" if not value.numel() else f"{value.detach().min():.4g} to {value.detach().max():.4g} "
    return f"{ends}({'x'.join(str(n) for n in value.shape)} values)"
