"""The knob that an operating point is a setting of, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joulewise.study import Comparison, ContenderRecord
from joulewise.units import format_si, format_time

__all__ = ["Knob", "title_of", "unit_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A knob's name and unit.

    Args:
        name: ``"eta"``, ``"v_dd"`` or another.
        unit: What a setting is measured in, for instance ``"V"``; empty for a pure number.
        rising: Whether a higher setting is more reliable.
        alone: Whether the report has no other knob, and a bare number says enough.

    Example:
        >>> Knob(name="eta").named(0.4), Knob(name="v_dd", unit="V").named(0.62, 2)
        ('eta 0.400', '0.62 V')
        >>> Knob(name="g_max", unit="S").text(2.5e-5)  # conductances span decades
        '25 uS'
        >>> Knob(name="seconds", unit="s", rising=False).text(7200)
        '2 hours'
    """

    name: str
    unit: str = ""
    rising: bool = True
    alone: bool = True

    @classmethod
    def of(cls, comparison: Comparison, contender: ContenderRecord) -> Knob:
        """The knob of a network's memory; a table of relative voltages names its own unit."""
        alone = len({other.knob for other in comparison.contenders}) <= 1
        unit = unit_of(contender.knob, contender.device)
        return cls(name=contender.knob, unit=unit, rising=contender.rising, alone=alone)

    @property
    def title(self) -> str:
        """What a column of settings is called."""
        return {"v_dd": "supply voltage", "seconds": "time since programming"}.get(
            self.name, self.name
        )

    @property
    def least(self) -> str:
        """What the least reliable setting is called."""
        return f"{'lowest' if self.rising else 'longest'} {self.title}"

    def text(self, value: float, digits: int = 3) -> str:
        """A setting with its unit, to that many digits after the decimal point."""
        if self.unit == "s":
            return format_time(value)
        if self.unit == "S":
            return format_si(value, "S")
        if not self.unit and not self.alone:
            return self.named(value, digits)
        return f"{value:.{digits}f} {self.unit}".rstrip()

    def named(self, value: float, digits: int = 3) -> str:
        """A setting that a reader can tell from any other number."""
        return self.text(value, digits) if self.unit else f"{self.name} {value:.{digits}f}"

    def bounded(self, setting: str) -> str:
        """A setting, already written, that is the end of what was simulated."""
        return f"at {'most' if self.rising else 'least'} {setting}"

    def between(self, one: float, other: float) -> str:
        """An interval; a unit that does not depend on the number is written once."""
        low, high = sorted((one, other))
        if self.unit in {"s", "S"}:
            return f"{self.text(low)} to {self.text(high)}"
        return f"{low:.3f} to {high:.3f} {self.unit}".rstrip()


def unit_of(knob: str, device: Mapping[str, Any]) -> str:
    """What a knob's settings are measured in; empty for a pure number.

    Args:
        knob: Its name.
        device: The device, as its ``describe`` has it.
    """
    if knob == "v_dd":
        return str(device.get("voltage_unit", "V"))
    return {"g_max": "S", "seconds": "s"}.get(knob, "")


def title_of(comparison: Comparison) -> str:
    """What a column of settings is called where networks may have different knobs."""
    titles = {Knob.of(comparison, contender).title for contender in comparison.contenders}
    return titles.pop() if len(titles) == 1 else "operating point"
