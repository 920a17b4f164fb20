"""The knob that an operating point is a setting of, in words."""

from __future__ import annotations

from dataclasses import dataclass

from joulewise.study import Comparison
from joulewise.units import format_si

__all__ = ["Knob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A knob's name and unit.

    Args:
        name: ``"eta"``, ``"v_dd"`` or another.
        unit: What a setting is measured in, for instance ``"V"``; empty for a pure number.

    Example:
        >>> Knob(name="eta").named(0.4), Knob(name="v_dd", unit="V").named(0.62, 2)
        ('eta 0.400', '0.62 V')
        >>> Knob(name="g_max", unit="S").text(2.5e-5)  # conductances span decades
        '25 uS'
    """

    name: str
    unit: str = ""

    @classmethod
    def of(cls, comparison: Comparison) -> Knob:
        """The knob of a comparison; a table of relative voltages names its own unit."""
        if comparison.knob == "g_max":
            return cls(name="g_max", unit="S")
        if comparison.knob != "v_dd":
            return cls(name=comparison.knob)
        device = comparison.weights_device or comparison.activations_device or {}
        return cls(name="v_dd", unit=str(device.get("voltage_unit", "V")))

    @property
    def title(self) -> str:
        """What a column of settings is called."""
        return "supply voltage" if self.name == "v_dd" else self.name

    def text(self, value: float, digits: int = 3) -> str:
        """A setting with its unit, to that many digits after the decimal point."""
        if self.unit == "S":
            return format_si(value, "S", digits)
        return f"{value:.{digits}f} {self.unit}".rstrip()

    def named(self, value: float, digits: int = 3) -> str:
        """A setting that a reader can tell from any other number."""
        return self.text(value, digits) if self.unit else f"{self.name} {value:.{digits}f}"

    def low_end(self, value: float) -> str:
        """The lower end of an interval: the unit is on the upper one, where it is the same."""
        return self.text(value) if self.unit == "S" else f"{value:.3f}"
