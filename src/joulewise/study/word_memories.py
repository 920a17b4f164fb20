"""Memories of words as plain data: SRAM, DRAM and embedded DRAM."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from joulewise.study.faults import (
    Fault,
    FaultMapEntry,
    IndependentFaults,
    MaskFault,
    MeasuredFaults,
    ProtectionEntry,
    StuckFault,
)
from joulewise.study.messages import named
from joulewise.study.plain import Plain, settings_in_words

if TYPE_CHECKING:
    from joulewise.devices import DRAM, EDRAM, SRAM
    from joulewise.devices.reliability_laws import ReliabilityLaw

__all__ = ["DRAM_LAWS", "LAWS", "LEAKING", "DRAMMemory", "EDRAMMemory", "SRAMMemory"]

# Names of `joulewise.devices.PROFILES`, which cannot be imported without torch.
LAWS = ("exponential", "stutz2021-14nm", "salami2018-kc705b-28nm", "salami2018-vc707-28nm")
LEAKING = ("salami2018-kc705b-28nm", "salami2018-vc707-28nm")
DRAM_LAWS = ("chang2017-ddr3l-c",)


def _is_table(law: str) -> bool:
    return law.endswith(".csv")


class _Words(Plain):
    """Fields of memories of words."""

    label: str = ""
    bits: int = Field(default=8, ge=2, le=16)
    fault: Fault = MaskFault()
    fault_map: FaultMapEntry = Field(
        default=IndependentFaults(), description="where faults lie: independent, correlated, ..."
    )
    protection: ProtectionEntry | None = Field(
        default=None, description="check bits: secded or parity"
    )
    per_channel: bool = Field(default=False, description="weights: a range for each channel")

    @model_validator(mode="after")
    def _check_words(self) -> Self:
        """Refuse check bits beside masks or over more bits than a word has, and words over rows.

        Raises:
            ValueError: naming what is allowed.
        """
        if self.protection is not None and self.fault.kind == "mask":
            raise ValueError("fault is mask beside a protection; allowed: flip or stuck")
        if self.protection is not None and (self.protection.planes or 1) > self.bits:
            planes = self.protection.planes
            raise ValueError(f"protection.planes is {planes}; allowed: at most {self.bits}")
        at = self.fault_map
        if isinstance(at, MeasuredFaults) and at.path.suffix == ".csv" and at.columns % self.bits:
            allowed = f"a multiple of the word's {self.bits} bits"
            raise ValueError(f"fault_map.columns is {at.columns}; allowed: {allowed}")
        return self

    def _named(self, technology: str) -> str:
        """The label, or a short description."""
        if self.label:
            return self.label
        parts = [f"{self.bits}-bit {technology}", self.fault.kind, settings_in_words(self.fault)]
        parts.append(settings_in_words(self, "bits", "fault"))
        return ", ".join(part for part in parts if part)

    @property
    def files(self) -> tuple[str | Path, ...]:
        """Files that the memory depends on."""
        return (self.fault_map.path,) if isinstance(self.fault_map, MeasuredFaults) else ()

    def _shared(self, limit: float | None) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "fault": self.fault.build(),
            "fault_map": self.fault_map.build(self.bits),
            "channel_dim": 0 if self.per_channel else None,
            "limit": limit,
            "protection": None if self.protection is None else self.protection.build(),
        }


class SRAMMemory(_Words):
    """Words of bits in a static memory whose supply is lowered; see `joulewise.SRAM`."""

    kind: Literal["sram"] = "sram"
    law: str = Field(
        default="exponential",
        description="exponential, stutz2021-14nm, salami2018-kc705b-28nm, salami2018-vc707-28nm, "
        "a CSV table v_dd,energy_per_bit_j,bit_error_rate, or measured, with the fault map",
    )
    v_nominal: float | None = Field(default=None, gt=0, description="of a table: nominal supply")
    v_min: float | None = Field(default=None, gt=0, description="of a table: lowest without errors")
    knob: Literal["eta", "v_dd", "bit_error_rate"] = "eta"
    latency_s: float = Field(default=0.0, ge=0, le=1e6, description="seconds over which words leak")

    @model_validator(mode="after")
    def _check_law(self) -> SRAMMemory:
        """Refuse an unknown law, and one without what other fields ask for.

        Raises:
            ValueError: naming those that are known.
        """
        if self.law == "measured":
            if not isinstance(self.fault_map, MeasuredFaults):
                raise ValueError("law is 'measured'; allowed: that with fault_map.kind measured")
        elif self.law not in LAWS and not _is_table(self.law):
            raise ValueError(
                f"law is {self.law!r}; allowed: {', '.join(LAWS)}, measured, or a table FILE.csv"
            )
        if self.knob == "v_dd" and self.law == "exponential":
            raise ValueError("knob is v_dd; allowed: eta or bit_error_rate for this law")
        if self.latency_s and self.law not in LEAKING:
            known = ", ".join(LEAKING)
            raise ValueError(f"latency_s is {self.latency_s:g}; allowed: above 0 for {known} alone")
        supplies = self.v_nominal is not None or self.v_min is not None
        if supplies and self.law in LAWS:
            raise ValueError("v_nominal and v_min are those of a table; allowed: none of them")
        return self

    @property
    def name(self) -> str:
        """The label, or a short description."""
        return self._named("SRAM")

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return "eta", "v_dd", "bit_error_rate"

    @property
    def files(self) -> tuple[str | Path, ...]:
        """Files that the memory depends on."""
        return (*([self.law] if _is_table(self.law) else []), *super().files)

    def _law(self) -> ReliabilityLaw:
        from joulewise.devices import PROFILES, VoltageTable
        from joulewise.errors import refuse

        nominal, least = self.v_nominal, self.v_min
        if _is_table(self.law):
            with named("law"):
                return VoltageTable.from_csv(self.law, v_nominal=nominal, v_min=least)
        if not isinstance(self.fault_map, MeasuredFaults) or self.law != "measured":
            return PROFILES[self.law]
        measured = self.fault_map.measurement()
        if measured is None:
            allowed = "a file with the column v_dd, or another law"
            refuse("law", f"measured, and {self.fault_map.path} states no supplies", allowed)
        with named("law"):
            return measured.law(v_nominal=nominal, v_min=least)

    def build(self, limit: float | None = None) -> SRAM:
        """The device; ``limit`` is the largest magnitude of a word, None that of each tensor.

        Raises:
            InputError: if the law or the fault map cannot be read.
        """
        from joulewise.devices import SRAM

        law = self._law()
        return SRAM(law=law, knob=self.knob, latency_s=self.latency_s, **self._shared(limit))


class DRAMMemory(_Words):
    """DRAM with a longer refresh interval or a reduced supply; see `joulewise.DRAM`."""

    kind: Literal["dram"] = "dram"
    fault: Fault = StuckFault()
    law: str | None = Field(
        default=None, description="law over the supply: chang2017-ddr3l-c, or a CSV table"
    )
    refresh_s: float | None = Field(
        default=None, gt=0, le=1e6, description="refresh interval where law is given"
    )
    latency_s: float = Field(
        default=1e-3, ge=0, le=1e6, description="seconds over which refresh energy is counted"
    )

    @model_validator(mode="after")
    def _check_interval(self) -> DRAMMemory:
        """Refuse an interval that is the knob.

        Raises:
            ValueError: naming the field.
        """
        if self.refresh_s is not None and self.law is None:
            raise ValueError("refresh_s is the knob; allowed: as a point, or here beside law")
        return self

    @field_validator("law")
    @classmethod
    def _check_law(cls, law: str | None) -> str | None:
        """Refuse an unknown law.

        Raises:
            ValueError: naming those that are known.
        """
        if law is not None and law not in DRAM_LAWS and not _is_table(law):
            known = ", ".join(DRAM_LAWS)
            raise ValueError(f"law is {law!r}; allowed: {known}, or a table FILE.csv")
        return law

    @property
    def name(self) -> str:
        """The label, or a short description."""
        return self._named("DRAM")

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return ("refresh_s",) if self.law is None else ("v_dd",)

    @property
    def files(self) -> tuple[str | Path, ...]:
        """Files that the memory depends on."""
        table = () if self.law is None or self.law in DRAM_LAWS else (self.law,)
        return (*table, *super().files)

    def build(self, limit: float | None = None) -> DRAM:
        """The device; see `SRAMMemory.build`."""
        from joulewise.devices import DRAM, PROFILES, VoltageTable

        law: Any = None
        if self.law is not None:
            with named("law"):
                table = _is_table(self.law)
                law = VoltageTable.from_csv(self.law) if table else PROFILES[self.law]
        return DRAM(
            law=law,
            knob=self.knobs[0],
            refresh_s=0.064 if self.refresh_s is None else self.refresh_s,
            latency_s=self.latency_s,
            **self._shared(limit),
        )


class EDRAMMemory(_Words):
    """Words of bits in an embedded DRAM that is refreshed less often; see `joulewise.EDRAM`."""

    kind: Literal["edram"] = "edram"
    fault: Fault = StuckFault(at_one=0.0)
    lifetime_s: float | None = Field(default=None, gt=0, le=1e6, description="from write to read")
    latency_s: float = Field(
        default=1e-3, ge=0, le=1e6, description="seconds over which refresh energy is counted"
    )

    @property
    def name(self) -> str:
        """The label, or a short description."""
        return self._named("eDRAM")

    @property
    def knobs(self) -> tuple[str, ...]:
        """Names that an operating point may have."""
        return ("refresh_s",)

    def build(self, limit: float | None = None) -> EDRAM:
        """The device; see `SRAMMemory.build`."""
        from joulewise.devices import EDRAM

        lifetime = math.inf if self.lifetime_s is None else self.lifetime_s
        return EDRAM(latency_s=self.latency_s, lifetime_s=lifetime, **self._shared(limit))
