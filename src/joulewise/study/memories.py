"""Memories as plain data: one definition for study files, the command line, records and pages.

Nothing here imports torch before a memory is built, so that bad input is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from joulewise.errors import InputError, check_kind
from joulewise.study.short_forms import short_form
from joulewise.user_code import cause_of, import_source, importable

if TYPE_CHECKING:
    from joulewise.devices import (
        PCM,
        SRAM,
        CorrelatedMap,
        Crossbar,
        Device,
        Flip,
        IndependentMap,
        Mask,
        MeasuredMap,
        Stuck,
    )

__all__ = [
    "CrossbarMemory",
    "CustomMemory",
    "Memory",
    "PCMMemory",
    "Plain",
    "SRAMMemory",
    "settings_in_words",
]


class Plain(BaseModel):
    """Base of the parts of a study file: frozen, finite, and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        """Refuse unknown fields.

        Raises:
            ValueError: naming those allowed.
        """
        for name in value if isinstance(value, Mapping) else ():
            if name not in cls.model_fields:
                raise ValueError(f"{name} is not a field; allowed: {', '.join(cls.model_fields)}")
        return value


def settings_in_words(entry: BaseModel, *skip: str) -> str:
    """The settings that differ from their defaults, such as ``sigma 1e-06``, joined by commas."""
    parts = []
    for name, field in type(entry).model_fields.items():
        value = getattr(entry, name)
        if name in ("kind", "label", *skip) or value == field.get_default(
            call_default_factory=True
        ):
            continue
        if isinstance(value, BaseModel):
            inner = settings_in_words(value)
            parts.append(" ".join(part for part in (getattr(value, "kind", name), inner) if part))
        elif value is True:
            parts.append(name.replace("_", " "))
        else:
            parts.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(parts)


def _kind_alone(value: Any) -> Any:
    """A union's short form: the kind alone, such as ``flip`` for ``{kind: flip}``."""
    return {"kind": value} if isinstance(value, str) else value


class MaskFault(Plain):
    """A faulty bit reads as 0."""

    kind: Literal["mask"] = "mask"

    def build(self) -> Mask:
        """The fault kind."""
        from joulewise.devices import Mask

        return Mask()


class FlipFault(Plain):
    """A faulty bit reads as the other value, at rates relative to the bit error rate."""

    kind: Literal["flip"] = "flip"
    zero_to_one: float = Field(default=1.0, ge=0, le=2)
    one_to_zero: float = Field(default=1.0, ge=0, le=2)

    def build(self) -> Flip:
        """The fault kind."""
        from joulewise.devices import Flip

        return Flip(zero_to_one=self.zero_to_one, one_to_zero=self.one_to_zero)


class StuckFault(Plain):
    """A faulty bit is stuck, at 1 with this probability."""

    kind: Literal["stuck"] = "stuck"
    at_one: float = Field(default=0.5, ge=0, le=1)

    def build(self) -> Stuck:
        """The fault kind."""
        from joulewise.devices import Stuck

        return Stuck(at_one=self.at_one)


class IndependentFaults(Plain):
    """Cells fail independently."""

    kind: Literal["independent"] = "independent"

    def build(self, bits: int) -> IndependentMap:
        """The fault map of words of ``bits``."""
        from joulewise.devices import IndependentMap

        return IndependentMap()


class CorrelatedFaults(Plain):
    """Faults correlated within rows, columns and blocks of 2 words by 16 rows of an array."""

    kind: Literal["correlated"] = "correlated"
    row: float = Field(default=0.0, ge=0, le=0.9)
    column: float = Field(default=0.0, ge=0, le=0.9)
    cluster: float = Field(default=0.0, ge=0, le=0.9)

    def build(self, bits: int) -> CorrelatedMap:
        """The fault map of words of ``bits``: 32 words in a row, so that words are not cut."""
        from joulewise.devices import CorrelatedMap

        return CorrelatedMap(
            row=self.row,
            column=self.column,
            cluster=self.cluster,
            columns=32 * bits,
            cluster_columns=2 * bits,
        )


class MeasuredFaults(Plain):
    """A measured array, from a CSV file of ``row,column,bit_error_rate``."""

    kind: Literal["measured"] = "measured"
    path: Path
    rows: int = Field(default=512, ge=1, le=1 << 20)
    columns: int = Field(default=256, ge=1, le=1 << 20)

    def build(self, bits: int) -> MeasuredMap:
        """The fault map."""
        from joulewise.devices import MeasuredMap

        return MeasuredMap.from_csv(self.path, rows=self.rows, columns=self.columns)


# Names of `joulewise.devices.PROFILES`, which cannot be imported without torch.
LAWS = (
    "exponential",
    "stutz2021-14nm",
    "salami2018-kc705b-28nm",
    "salami2018-vc707-28nm",
    "chang2017-ddr3l-c",
)


def _is_table(law: str) -> bool:
    return law.endswith(".csv")


_Fault = Annotated[MaskFault | FlipFault | StuckFault, Field(discriminator="kind")]
_Map = Annotated[IndependentFaults | CorrelatedFaults | MeasuredFaults, Field(discriminator="kind")]


class SRAMMemory(Plain):
    """Words of bits in a static memory whose supply is lowered; see `joulewise.SRAM`."""

    kind: Literal["sram"] = "sram"
    label: str = ""
    bits: int = Field(default=8, ge=2, le=16)
    law: str = Field(
        default="exponential",
        description="exponential, stutz2021-14nm, or a CSV table "
        "v_dd,energy_per_bit_j,bit_error_rate",
    )
    fault: Annotated[_Fault, BeforeValidator(_kind_alone)] = MaskFault()
    fault_map: Annotated[_Map, BeforeValidator(_kind_alone)] = Field(
        default=IndependentFaults(), description="where faults lie: independent, correlated, ..."
    )
    knob: Literal["eta", "v_dd", "bit_error_rate"] = "eta"
    per_channel: bool = Field(default=False, description="weights: a range for each channel")

    @field_validator("law")
    @classmethod
    def _check_law(cls, law: str) -> str:
        """Refuse an unknown law.

        Raises:
            ValueError: naming those that are known.
        """
        if law not in LAWS and not _is_table(law):
            raise ValueError(f"law is {law!r}; allowed: {', '.join(LAWS)}, or a table FILE.csv")
        return law

    @property
    def name(self) -> str:
        """The label, or a short description."""
        if self.label:
            return self.label
        parts = [f"{self.bits}-bit SRAM", self.fault.kind, settings_in_words(self.fault)]
        parts.append(settings_in_words(self, "bits", "fault"))
        return ", ".join(part for part in parts if part)

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return "eta", "v_dd", "bit_error_rate"

    @property
    def files(self) -> tuple[str | Path, ...]:
        """Files that the memory depends on."""
        found: list[str | Path] = [self.law] if _is_table(self.law) else []
        return (*found, *([self.fault_map.path] if self.fault_map.kind == "measured" else []))

    def build(self, limit: float | None = None) -> SRAM:
        """The device; ``limit`` is the largest magnitude of a word, None that of each tensor.

        Raises:
            TableError: if the law or the fault map cannot be read.
        """
        from joulewise.devices import PROFILES, SRAM, VoltageTable

        law = VoltageTable.from_csv(self.law) if _is_table(self.law) else PROFILES[self.law]
        return SRAM(
            bits=self.bits,
            law=law,
            fault=self.fault.build(),
            fault_map=self.fault_map.build(self.bits),
            knob=self.knob,
            channel_dim=0 if self.per_channel else None,
            limit=limit,
        )


class ArraySize(Plain):
    """A compute-in-memory array and its converters; see `joulewise.Array`."""

    rows: int | None = Field(default=None, ge=1, le=1 << 30)
    columns: int | None = Field(default=None, ge=1, le=1 << 30)
    input_bits: int | None = Field(default=None, ge=2, le=16)
    output_bits: int | None = Field(default=None, ge=2, le=16)


class _Analog(Plain):
    """Fields of memories of conductance pairs."""

    files: ClassVar[tuple[str, ...]] = ()

    label: str = ""
    levels: int | None = Field(default=None, ge=1, le=1 << 16, description="conductances above 0")
    rounding: Literal["nearest", "floor"] = "nearest"
    array: ArraySize = ArraySize()
    per_channel: bool = Field(default=False, description="a range for each output channel")

    def _shared(self, limit: float | None) -> dict[str, Any]:
        from joulewise.devices import Array

        return {
            "levels": self.levels,
            "rounding": self.rounding,
            "array": Array(**self.array.model_dump()),
            "channel_dim": 0 if self.per_channel else None,
            "limit": limit,
        }


class CrossbarMemory(_Analog):
    """Pairs of conductances with programming and read noise; see `joulewise.Crossbar`."""

    kind: Literal["crossbar"] = "crossbar"
    sigma: float = Field(default=0.0, ge=0, le=1, description="programming noise, siemens")
    variability: float = Field(
        default=0.0, ge=0, le=10, description="programming noise over the conductance"
    )
    read_noise: float = Field(default=0.0, ge=0, le=1, description="noise of a read, siemens")
    clip: bool = Field(default=True, description="conductances stop at 0")

    @property
    def name(self) -> str:
        """The label, or a short description."""
        return self.label or ", ".join(p for p in ("crossbar", settings_in_words(self)) if p)

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return ("g_max",)

    def build(self, limit: float | None = None) -> Crossbar:
        """The device; see `SRAMMemory.build`."""
        from joulewise.devices import Crossbar

        return Crossbar(
            sigma=self.sigma,
            variability=self.variability,
            read_noise=self.read_noise,
            clip=self.clip,
            **self._shared(limit),
        )


class PCMMemory(_Analog):
    """Pairs of phase-change conductances that drift; see `joulewise.PCM`."""

    kind: Literal["pcm"] = "pcm"
    devices: int = Field(default=1, ge=1, le=1024, description="devices in parallel")
    compensate: bool = Field(default=True, description="drift, by one factor for each tensor")

    @property
    def name(self) -> str:
        """The label, or a short description."""
        return self.label or ", ".join(p for p in ("PCM", settings_in_words(self)) if p)

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return ("seconds",)

    def build(self, limit: float | None = None) -> PCM:
        """The device; see `SRAMMemory.build`."""
        from joulewise.devices import PCM

        return PCM(devices=self.devices, compensate=self.compensate, **self._shared(limit))


class CustomMemory(Plain):
    """A memory of one's own, made by a function without arguments."""

    kind: Literal["custom"] = "custom"
    label: str = ""
    factory: str = Field(description="package.module:function, or file.py:function")

    @property
    def name(self) -> str:
        """The label, or the function."""
        return self.label or self.factory.rpartition(":")[2]

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have; empty, since the function has to run first."""
        return ()

    @property
    def files(self) -> tuple[str, ...]:
        """The function, whose module is the file that the memory depends on."""
        return (self.factory,)

    def build(self, limit: float | None = None) -> Device[Any]:
        """The device.

        Raises:
            InputError: if the function cannot be imported, fails, or returns no device.
        """
        from joulewise.devices import Device

        if limit is not None:
            raise InputError(
                "place.common_range is true, and the range of a custom memory is its own; allowed: "
                "false"
            )
        module, _, function = self.factory.rpartition(":")
        try:
            with importable(module):
                device = getattr(import_source(module), function)()
        except (Exception, SystemExit) as error:  # user code: anything may happen
            raise InputError(
                f"factory is {self.factory!r}, which fails with {cause_of(error)}; allowed: "
                "a function without arguments that returns a joulewise.Device"
            ) from error
        check_kind(f"what {self.factory} returns", device, Device, "a joulewise.Device")
        checked: Device[Any] = device
        return checked


Memory = Annotated[
    Annotated[SRAMMemory | CrossbarMemory | PCMMemory | CustomMemory, Field(discriminator="kind")],
    BeforeValidator(short_form),
]
"""A memory of any kind; also from its short form, see `short_form`."""
