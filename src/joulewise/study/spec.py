"""Specs: choices as plain data, as a command line or a file gives them, and what they build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from joulewise.contrib import LearnedRanges
from joulewise.data import Dataset
from joulewise.devices import (
    PCM,
    PROFILES,
    SRAM,
    Array,
    CorrelatedMap,
    Crossbar,
    Device,
    Flip,
    IndependentMap,
    Mask,
    MeasuredMap,
    Stuck,
    VoltageTable,
)
from joulewise.devices.fault_kinds import FaultKind
from joulewise.devices.fault_maps import FaultMap
from joulewise.devices.reliability_laws import ReliabilityLaw
from joulewise.errors import InputError, TableError, WeightsError, refuse
from joulewise.models import host, load_model, load_weights
from joulewise.placement import Placement, fold_batchnorm, place, prepare, with_accesses
from joulewise.study.comparison import Contender
from joulewise.training import TrainingMemory, TrainingRecord

__all__ = ["MemorySpec", "NetworkSpec", "PlacementSpec", "memory_specs"]

_CALIBRATION = 512
_NOISE = ("sigma", "variability", "read_noise")
_CONVERTERS = ("input_bits", "output_bits")
_OF_CROSSBAR = (*_NOISE, "clip", "array_rows", "array_columns", *_CONVERTERS)
_OF_PCM = ("devices", "compensate")
_OF_PAIRS = ("levels", "rounding")
_FAULTS = (
    *("profile", "fault", "zero_to_one", "one_to_zero", "stuck_at_one"),
    *("row", "column", "cluster", "fault_map", "map_rows", "map_columns"),
)
_OF_SRAM = ("bits", *_FAULTS)


class MemorySpec(BaseModel):
    """A memory, by the words that the command line uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["sram", "crossbar", "pcm"] = "sram"
    per_channel: bool = False
    common_range: bool = False
    bits: int = Field(default=8, ge=2, le=16)
    profile: str = Field(default="exponential", description="a profile's name, or a CSV table")
    fault: Literal["mask", "flip", "stuck"] = "mask"
    zero_to_one: float = Field(default=1.0, ge=0, le=2)
    one_to_zero: float = Field(default=1.0, ge=0, le=2)
    stuck_at_one: float = Field(default=0.5, ge=0, le=1)
    row: float = Field(default=0.0, ge=0, le=0.9)
    column: float = Field(default=0.0, ge=0, le=0.9)
    cluster: float = Field(default=0.0, ge=0, le=0.9)
    fault_map: Path | None = None
    map_rows: int = Field(default=512, ge=1)
    map_columns: int = Field(default=256, ge=1)
    sigma: float = 0.0
    variability: float = 0.0
    read_noise: float = 0.0
    levels: int | None = None
    rounding: Literal["nearest", "floor"] = "nearest"
    clip: bool = True
    array_rows: int | None = None
    array_columns: int | None = None
    input_bits: int | None = None
    output_bits: int | None = None
    devices: int = 1
    compensate: bool = True

    @property
    def knobs(self) -> tuple[str, ...]:
        """The settings that an operating point of this memory can be."""
        return {"sram": ("eta", "v_dd"), "crossbar": ("g_max",), "pcm": ("seconds",)}[self.device]

    def build(self, channel_dim: int | None = None, limit: float | None = None) -> Device[Any]:
        """The device.

        Args:
            channel_dim: The axis with a scale for each index; None for one scale.
            limit: The largest magnitude to represent; None takes that of each tensor.
        """
        self._check_used(self.without_use())
        if self.device == "crossbar":
            return Crossbar(
                sigma=self.sigma,
                variability=self.variability,
                read_noise=self.read_noise,
                clip=self.clip,
                levels=self.levels,
                rounding=self.rounding,
                channel_dim=channel_dim,
                limit=limit,
                array=Array(
                    rows=self.array_rows,
                    columns=self.array_columns,
                    input_bits=self.input_bits,
                    output_bits=self.output_bits,
                ),
            )
        if self.device == "pcm":
            return PCM(
                devices=self.devices,
                compensate=self.compensate,
                levels=self.levels,
                rounding=self.rounding,
                channel_dim=channel_dim,
                limit=limit,
            )
        return SRAM(
            bits=self.bits,
            law=self._law(),
            fault=self._fault(),
            fault_map=self._map(),
            channel_dim=channel_dim,
            limit=limit,
        )

    def check_perfect(self) -> None:
        """Refuse what a perfect memory of this format has no use for: noise and faults.

        Raises:
            InputError: naming the setting.
        """
        self._check_used(dict.fromkeys((*_FAULTS, *_NOISE, "clip", *_OF_PCM), "a perfect memory"))

    def check_trains(self, *, perfect: bool = False) -> None:
        """Refuse a memory that training through it would not follow, or not notice.

        Args:
            perfect: Whether nothing fails in it.

        Raises:
            InputError: if it has one range for all weights, or gives weights back as they are.
        """
        if self.common_range:
            raise InputError(
                "common_range is that of the network as it was, which training through a memory "
                "leaves behind; allowed: without it, or with per_channel"
            )
        if self.device == "sram" or (self.device == "pcm" and not perfect):
            return
        of_crossbar = _CONVERTERS if perfect else (*_CONVERTERS, *_NOISE)
        needed = ("levels", *(of_crossbar if self.device == "crossbar" else ()))
        if not any(getattr(self, field) for field in needed):
            memory = f"a {'perfect ' if perfect else ''}{self.device}"
            raise InputError(
                f"{memory} that reads weights exactly is given, and training through it would "
                f"change nothing; allowed: one with {' or '.join(needed)}"
            )

    def _check_used(self, idle: Mapping[str, str]) -> None:
        """Refuse settings that would do nothing.

        Raises:
            InputError: naming the setting and the one that it belongs to.
        """
        for field, with_what in idle.items():
            value, default = getattr(self, field), type(self).model_fields[field].default
            if value != default:
                raise InputError(f"{field} is {value}, and does nothing with {with_what}")

    def without_use(self) -> dict[str, str]:
        """The settings that do nothing here, and beside what they do nothing."""
        if self.device != "sram":
            others = _OF_PCM if self.device == "crossbar" else _OF_CROSSBAR
            idle = dict.fromkeys((*_OF_SRAM, *others), f"device {self.device}")
            if self.levels is None:
                idle["rounding"] = "no levels"
            if self.device == "crossbar" and not self.sigma and not self.variability:
                idle["clip"] = "no programming noise"
            return idle
        idle = dict.fromkeys((*_OF_CROSSBAR, *_OF_PCM, *_OF_PAIRS), "device sram")
        if self.fault != "flip":
            idle |= dict.fromkeys(("zero_to_one", "one_to_zero"), f"fault {self.fault}")
        if self.fault != "stuck":
            idle["stuck_at_one"] = f"fault {self.fault}"
        if self.fault_map is None:
            idle |= dict.fromkeys(("map_rows", "map_columns"), "no fault_map")
        else:
            idle |= dict.fromkeys(("row", "column", "cluster"), "a measured fault_map")
        return idle

    def _law(self) -> ReliabilityLaw:
        if self.profile in PROFILES:
            return PROFILES[self.profile]
        if not self.profile.endswith(".csv"):
            allowed = f"{', '.join(PROFILES)}, or a table ending in .csv"
            refuse("profile", repr(self.profile), allowed, TableError)
        return VoltageTable.from_csv(self.profile)

    def _fault(self) -> FaultKind:
        if self.fault == "flip":
            return Flip(zero_to_one=self.zero_to_one, one_to_zero=self.one_to_zero)
        return Stuck(at_one=self.stuck_at_one) if self.fault == "stuck" else Mask()

    def _map(self) -> FaultMap:
        if self.fault_map is not None:
            return MeasuredMap.from_csv(
                self.fault_map, rows=self.map_rows, columns=self.map_columns
            )
        if self.row or self.column or self.cluster:
            # 32 words to a row and 2 to the width of a block, so that words of any width fit.
            return CorrelatedMap(
                row=self.row,
                column=self.column,
                cluster=self.cluster,
                columns=32 * self.bits,
                cluster_columns=2 * self.bits,
            )
        return IndependentMap()


def memory_specs(devices: Sequence[str], settings: Mapping[str, Any]) -> tuple[MemorySpec, ...]:
    """Several memories from one set of settings, each with those that are its own.

    Args:
        devices: One for each memory, as `MemorySpec` has them.
        settings: Values of other fields.

    Raises:
        InputError: if a device is named twice, or a setting does something with none of them.

    Example:
        >>> sram, crossbar = memory_specs(["sram", "crossbar"], {"bits": 6, "sigma": 1e-6})
        >>> (sram.bits, sram.sigma), (crossbar.bits, crossbar.sigma)
        ((6, 0.0), (8, 1e-06))
    """
    if len(set(devices)) < len(devices) or not devices:
        refuse("device", ", ".join(devices) or "empty", "each device once")
    whole = [MemorySpec.model_validate({**settings, "device": device}) for device in devices]
    if len(whole) == 1:
        return tuple(whole)
    idle = [spec.without_use() for spec in whole]
    for field in (f for f in MemorySpec.model_fields if all(f in fields for fields in idle)):
        value = getattr(whole[0], field)
        if value != MemorySpec.model_fields[field].default:
            raise InputError(f"{field} is {value}, and does nothing with {' or '.join(devices)}")
    return tuple(
        MemorySpec(**spec.model_dump(exclude=set(fields)))
        for spec, fields in zip(whole, idle, strict=True)
    )


class PlacementSpec(BaseModel):
    """What of a network goes to the memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory: MemorySpec = MemorySpec()
    store: Literal["weights", "activations", "both"] = "weights"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fold_batchnorm: bool = False
    accesses: Path | None = None

    def place(self, model: nn.Module, data: Dataset) -> Placement:
        """A placement of a model, traced on samples of a data set.

        Activations get their range from the first 512 training samples, or test samples where there
        is no training split.

        Args:
            model: Batch normalisation is folded already, if it is to be.
            data: The data set.
        """
        memory = self.memory
        if memory.per_channel and memory.common_range:
            refuse("common_range", "given beside per_channel", "one of the two")
        if memory.device != "sram" and self.store != "weights":
            allowed = f"'weights': device {memory.device} holds no activations"
            refuse("store", repr(self.store), allowed)
        limit = _largest(model) if memory.common_range else None
        weights = memory.build(0 if memory.per_channel else None, limit)
        placement = place(
            model,
            weights=None if self.store == "activations" else weights,
            activations=None if self.store == "weights" else memory.build(),
            include=self.include,
            exclude=self.exclude,
            example_inputs=_calibration(data, model),
        )
        return with_accesses(placement, self.accesses) if self.accesses else placement

    def place_to_train(
        self,
        model: nn.Module,
        data: Dataset,
        *,
        at: Mapping[str, float] | None,
        seed: int = 0,
        ranges: bool = False,
    ) -> TrainingMemory:
        """A memory to train a model through, placed as `place` does.

        Args:
            model: The model.
            data: The data set.
            at: The operating point, such as ``{"eta": 0.5}``; None for a memory in which nothing
                fails.
            seed: Of the chips.
            ranges: Whether the ranges of weights are learned in it.

        Raises:
            InputError: as `MemorySpec.check_trains` does.
        """
        self.memory.check_trains(perfect=at is None)
        placement = self.place(model, data)
        learned = LearnedRanges(placement) if ranges else None
        if at is None:
            return TrainingMemory(placement, ranges=learned, perfect=True)
        return TrainingMemory(placement, ranges=learned, at=at, seed=seed)


class NetworkSpec(BaseModel):
    """A network: how to make it, and the weights to give it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: Path | None = None
    seed: int = Field(default=0, ge=0)

    @property
    def name(self) -> str:
        """What reports call it: the weights file's name, or the model."""
        return self.weights.stem if self.weights is not None else self.model

    def place(
        self,
        data: Dataset,
        spec: PlacementSpec,
        *,
        name: str = "",
        knob: str | None = None,
        points: Sequence[float] | None = None,
    ) -> Contender:
        """Make the network, load its weights, and place it as `PlacementSpec.place` does.

        Args:
            data: The data set; decides input shape and classes.
            spec: What goes where.
            name: What reports call it; empty takes the network's own.
            knob: As `Contender` has it.
            points: As `Contender` has them.

        Returns:
            The placed network, with its training record where the weights file holds one.
        """
        model = load_model(self.model, data.input_shape, data.classes, seed=self.seed)
        metadata = {} if self.weights is None else load_weights(model, self.weights)
        model = host(model, data.input_shape)
        if spec.fold_batchnorm:
            model = fold_batchnorm(model, _calibration(data, model)[:8])
        return Contender(
            name=name or self.name,
            placement=spec.place(model, data),
            training=self._training(metadata),
            knob=knob,
            points=None if points is None else tuple(points),
        )

    def _training(self, metadata: Mapping[str, str]) -> TrainingRecord | None:
        """The record that a weights file holds, if any.

        Raises:
            WeightsError: if what is there is no record.
        """
        text = metadata.get("training")
        if not text:
            return None
        try:
            return TrainingRecord.model_validate_json(text)
        except ValueError as error:
            raise WeightsError(
                f"weights file {self.weights} has a training record that cannot be read; allowed: "
                "one that joulewise train wrote, or none"
            ) from error


def _largest(model: nn.Module) -> float | None:
    """The largest magnitude among the weights that are placed by default."""
    weights = [p.detach() for p in model.parameters() if p.ndim >= 2 and p.numel()]
    return max((float(weight.abs().max()) for weight in weights), default=0.0) or None


def _calibration(data: Dataset, model: nn.Module) -> Tensor:
    split = data.train or data.test
    (batch,) = prepare(split.subset(min(_CALIBRATION, len(split))), model, _CALIBRATION)
    inputs: Tensor = batch.inputs
    return inputs
