"""Memories as plain data: one definition for study files, the command line, records and pages.

Nothing here imports torch before a memory is built, so that bad input is refused at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from joulewise.errors import InputError, check_kind
from joulewise.study.analog_memories import CrossbarMemory, PCMMemory
from joulewise.study.factories import made_by
from joulewise.study.plain import Plain
from joulewise.study.short_forms import short_form
from joulewise.study.word_memories import DRAMMemory, EDRAMMemory, SRAMMemory

if TYPE_CHECKING:
    from joulewise.devices import Device

__all__ = ["CustomMemory", "Memory"]


class CustomMemory(Plain):
    """A memory of one's own, made by a function without arguments."""

    files: ClassVar[tuple[str, ...]] = ()

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
        allowed = "a function without arguments that returns a joulewise.Device"
        device = made_by(self.factory, field="factory", allowed=allowed)
        check_kind(f"what {self.factory} returns", device, Device, "a joulewise.Device")
        checked: Device[Any] = device
        return checked


Memory = Annotated[
    Annotated[
        SRAMMemory | DRAMMemory | EDRAMMemory | CrossbarMemory | PCMMemory | CustomMemory,
        Field(discriminator="kind"),
    ],
    BeforeValidator(short_form),
]
"""A memory of any kind; also from its short form, see `short_form`."""
