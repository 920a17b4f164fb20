"""Memories of conductance pairs as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from joulewise.study.messages import named
from joulewise.study.plain import Plain, settings_in_words

if TYPE_CHECKING:
    from joulewise.devices import PCM, Crossbar

__all__ = ["PROGRAMMING_TABLES", "CrossbarMemory", "PCMMemory"]

_G_RANGE = (1e-7, 1e-3)
# Names of `joulewise.devices.RERAM`, which cannot be imported without torch.
PROGRAMMING_TABLES = ("wan2022-1s", "wan2022-1day", "wan2022-2days", "milo2021")


class ArraySize(Plain):
    """A compute-in-memory array and its converters; see `joulewise.Array`."""

    rows: int | None = Field(default=None, ge=1, le=1 << 30)
    columns: int | None = Field(default=None, ge=1, le=1 << 30)
    input_bits: int | None = Field(default=None, ge=2, le=16)
    output_bits: int | None = Field(default=None, ge=2, le=16)


class _Analog(Plain):
    """Fields of memories of conductance pairs."""

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
        default=0.0, ge=0, le=1, description="programming noise over the conductance"
    )
    read_noise: float = Field(default=0.0, ge=0, le=1, description="noise of a read, siemens")
    clip: bool = Field(default=True, description="conductances stop at 0")
    programming: str | None = Field(
        default=None,
        description="measured programming: wan2022-1s, wan2022-1day, wan2022-2days, milo2021, or "
        "a CSV table; see joulewise.devices.ConductanceTable.from_csv",
    )
    on_off: float | None = Field(default=None, gt=1, le=1e12, description="ratio of conductances")
    g_min: float = Field(default=0.0, ge=0, le=0.5, description="lowest conductance, siemens")
    stuck_off: float = Field(default=0.0, ge=0, le=1, description="fraction of devices")
    stuck_on: float = Field(default=0.0, ge=0, le=1, description="fraction of devices")
    mapping: Literal["pair", "offset"] = "pair"
    slices: int = Field(default=1, ge=1, le=8, description="bit slices of a weight, of levels each")
    wire_ohm: float = Field(default=0.0, ge=0, le=1e3, description="wire between devices, ohms")
    g_range: tuple[float, float] = Field(
        default=_G_RANGE, description="lowest and highest g_max, siemens; required with wire_ohm"
    )

    @field_validator("programming")
    @classmethod
    def _check_programming(cls, programming: str | None) -> str | None:
        """Refuse an unknown table.

        Raises:
            ValueError: naming those that are known.
        """
        if (
            programming is not None
            and programming not in PROGRAMMING_TABLES
            and not programming.endswith(".csv")
        ):
            known = ", ".join(PROGRAMMING_TABLES)
            raise ValueError(f"programming is {programming!r}; allowed: {known}, or a FILE.csv")
        return programming

    @field_validator("g_range", mode="before")
    @classmethod
    def _check_two(cls, g_range: Any) -> Any:
        """Refuse other than two values.

        Raises:
            ValueError: naming the field.
        """
        if isinstance(g_range, str) or not isinstance(g_range, Sequence) or len(g_range) != 2:
            raise ValueError(f"g_range is {g_range!r:.60}; allowed: two, such as 1e-6+1e-4")
        return g_range

    @model_validator(mode="after")
    def _check_together(self) -> CrossbarMemory:
        """Refuse fields that exclude each other.

        Raises:
            ValueError: naming what is allowed.
        """
        if self.programming is not None and (self.sigma or self.variability):
            raise ValueError("programming stands beside sigma or variability; allowed: one of them")
        if self.slices > 1 and self.levels is None:
            raise ValueError("levels is missing; allowed: the steps of a slice, beside slices")
        if self.g_min and self.on_off is not None:
            raise ValueError("g_min stands beside on_off; allowed: one of them")
        if self.wire_ohm and self.mapping == "offset":
            raise ValueError("mapping is offset beside wire_ohm; allowed: pair")
        if self.wire_ohm and self.g_range == _G_RANGE:
            allowed = "beside wire_ohm, another that ends at the most reliable g_max"
            raise ValueError(f"g_range is {self.g_range}, the default; allowed: {allowed}")
        if not 0 < self.g_range[0] < self.g_range[1] <= 1:
            raise ValueError(f"g_range is {self.g_range}; allowed: two that ascend, above 0 to 1")
        if self.stuck_off + self.stuck_on > 1:
            raise ValueError("stuck_off + stuck_on is above 1; allowed: 1 or less")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the memory depends on."""
        table = self.programming
        return () if table is None or table in PROGRAMMING_TABLES else (table,)

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
        from joulewise.devices import RERAM, ConductanceTable, Crossbar

        table = None
        if self.programming is not None:
            known = self.programming in PROGRAMMING_TABLES
            with named("programming"):
                table = (
                    RERAM[self.programming]
                    if known
                    else ConductanceTable.from_csv(self.programming)
                )
        return Crossbar(
            sigma=self.sigma,
            variability=self.variability,
            read_noise=self.read_noise,
            clip=self.clip,
            programming=table,
            on_off=math.inf if self.on_off is None else self.on_off,
            g_min=self.g_min,
            stuck_off=self.stuck_off,
            stuck_on=self.stuck_on,
            mapping=self.mapping,
            slices=self.slices,
            wire_ohm=self.wire_ohm,
            g_range=self.g_range,
            **self._shared(limit),
        )


class PCMMemory(_Analog):
    """Pairs of phase-change conductances that drift; see `joulewise.PCM`."""

    files: ClassVar[tuple[str, ...]] = ()

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
