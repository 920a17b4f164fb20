"""Memories of conductance pairs as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from joulewise.study.plain import Plain, settings_in_words

if TYPE_CHECKING:
    from joulewise.devices import PCM, Crossbar

__all__ = ["CrossbarMemory", "PCMMemory"]


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
