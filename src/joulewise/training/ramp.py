"""Ramps: an operating point that moves as training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from joulewise.errors import check_in_range, check_whole

__all__ = ["Ramp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """A straight line from one operating point to another; from then on it stays there.

    Args:
        start: The operating point of step 0, on the device's knob.
        stop: That of step ``steps`` and of all later ones.
        steps: How many steps it takes, 1 or more.

    Raises:
        InputError: if ``steps`` is not a whole number of 1 or more.

    Example:
        >>> eta = Ramp(start=1.0, stop=0.6, steps=4)
        >>> [round(eta(step), 1) for step in range(6)]
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.6]
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        """Check the field once."""
        check_in_range("steps", self.steps, 1, 2**62)
        check_whole("steps", self.steps)

    def __call__(self, step: int) -> float:
        """The operating point of a step, counted from 0."""
        done = min(step / self.steps, 1.0)
        return (1 - done) * self.start + done * self.stop
