"""Energy of arithmetic, which does not depend on the memory's operating point."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from joulewise.errors import check_in_range

__all__ = ["HOROWITZ_INT8", "Arithmetic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """Energy of a multiply-accumulate (MAC).

    Args:
        mac_j: Joules per MAC, 0 to 1.
        source: Origin of the figure.
    """

    mac_j: float
    source: str

    def __post_init__(self) -> None:
        check_in_range("mac_j", self.mac_j, 0.0, 1.0)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        return asdict(self)


HOROWITZ_INT8 = Arithmetic(
    mac_j=0.3e-12,
    source="8-bit multiply 0.2 pJ + 32-bit add 0.1 pJ, 45 nm: Horowitz, ISSCC 2014, figure 1.1.9",
)
"""8-bit multiplication with 32-bit accumulation in 45 nm."""
