"""In-place reads: for one block of training, the user's model computes with the reads of a chip.

Reads are evaluated first; then pointers are swapped, and swapped back when the block ends. SIGINT
is delivered between the swaps, not within them: Python may run a signal handler before the first
line of ``__exit__``, where no ``try`` protects the swap.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import CodeType, FrameType
from typing import Any, TypeVar

from torch import Tensor

from joulewise.devices import Chip, Point
from joulewise.placement import Memory, Placement
from joulewise.placement.private_copy import enter_block, leave_block
from joulewise.placement.process_state import Exact

__all__ = ["interrupts", "read_in_place", "uninterrupted"]

Function = TypeVar("Function", bound=Callable[..., Any])


class _Interrupts:
    """A SIGINT handler that defers the signal while a function that swaps is on the stack."""

    def __init__(self) -> None:
        self.critical: set[CodeType] = set()
        self._blocks = 0
        self._pending = False
        self._before: Any = None

    def begin(self) -> None:
        """Install the handler, for the first block of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._blocks and callable(before := signal.getsignal(signal.SIGINT)):
            self._before = before
            signal.signal(signal.SIGINT, self._handle)
        self._blocks += 1

    def end(self) -> None:
        """Restore the user's handler after the last block."""
        if threading.current_thread() is not threading.main_thread() or not self._blocks:
            return
        self._blocks -= 1
        if not self._blocks and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._before)

    @property
    def waiting(self) -> bool:
        """True if a SIGINT was deferred and this is the main thread, which delivers it."""
        return self._pending and threading.current_thread() is threading.main_thread()

    def deliver(self) -> None:
        """Call the user's handler for a deferred SIGINT."""
        if self.waiting:
            self._pending = False
            self._before(signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        at = frame
        while at is not None:
            if at.f_code in self.critical:
                self._pending = True
                return
            at = at.f_back
        self._before(number, frame)


interrupts = _Interrupts()


def uninterrupted(function: Function) -> Function:
    """Decorate a function that SIGINT must not interrupt while a block is open."""
    interrupts.critical.add(function.__code__)
    return function


def read_in_place(
    block: ExitStack,
    placement: Placement,
    points: Mapping[str, Point],
    chip: Chip | None,
    *,
    scale_gradients: bool = False,
    ranges: Mapping[str, Tensor] | None = None,
) -> Memory:
    """Store the present weights, and compute with one chip's reads of them until a block closes.

    The model keeps its mode, and its forward passes update buffers as usual. Gradients accumulate
    in the parameters themselves, straight through the words and faults of weights and activations.
    All weights are read once, read noise included. When the block closes, the weights are restored:
    the same objects with the same storage. Values written to them inside are lost.

    Args:
        block: Takes what undoes the swap. It is opened and closed in functions that are
            `uninterrupted`, and closed at once if `interrupts.waiting`.
        placement: Placed tensors and their devices.
        points: An operating point for each placed tensor.
        chip: The chip that reads; None for a perfect memory of the same format at any point.
        scale_gradients: True to multiply the gradient of each weight by read over stored value.
        ranges: By name of a placed weight, the magnitude that it is clipped to before it is stored,
            above 0; gradients of those that require one accumulate in ``grad``; see `WeightRanges`.

    Raises:
        InputError: within another block over the same weights.
        WeightsError: if a weight is NaN or infinite.
    """
    memory = Memory(placement, None, ranges)
    own: Mapping[str, Any] = memory.parameters
    interrupts.begin()
    block.callback(interrupts.deliver)
    block.callback(interrupts.end)
    enter_block(own)
    block.callback(leave_block, own)
    block.enter_context(Exact(None, eager=memory.watches))
    block.callback(memory.attach())
    block.callback(memory.changed)
    block.callback(memory.original)
    memory.changed()
    if chip is None:
        memory.ideal()
    else:
        memory.read(points, chip)
    if scale_gradients:
        block.callback(memory.scale_gradients())
    block.callback(memory.learn_ranges())
    return memory
