"""In-place reads: for one block of training, the user's model computes with the reads of a chip.

Reads are evaluated first; then pointers are swapped, and swapped back when the block ends. SIGINT
is delivered between the swaps, not within them: Python may run a signal handler before the first
line of ``__exit__``, where no ``try`` protects the swap.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

from torch import Tensor

from joulewise.devices import Chip, Point
from joulewise.placement import Memory, Placement
from joulewise.placement.private_copy import enter_block, leave_block
from joulewise.placement.process_state import Exact

__all__ = ["InPlaceRead", "interrupts", "uninterrupted"]


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


class InPlaceRead(AbstractContextManager[Memory]):
    """A block in which the present weights are stored and the model computes with one chip's reads.

    The model keeps its mode, and its forward passes update buffers as usual. Gradients accumulate
    in the parameters themselves, straight through the words and faults of weights and activations.
    All weights are read once, read noise included. Afterwards, also after an exception or SIGINT,
    the weights are restored: the same objects with the same storage. Values written to them inside
    are lost.

    Forward and backward passes belong into one block: PyTorch refuses a backward pass through
    weights of another block as one after an in-place change.

    Args:
        placement: Placed tensors and their devices.
        points: An operating point for each placed tensor.
        chip: The chip that reads; None for a perfect memory of the same format at any point.
        scale_gradients: True to multiply the gradient of each weight by read over stored value.
        ranges: By name of a placed weight, the magnitude that it is clipped to before it is stored,
            above 0; gradients of those that require one accumulate in ``grad``; see `WeightRanges`.

    Raises:
        InputError: on entry, within another block over the same weights.
        WeightsError: on entry, if a weight is NaN or infinite.
    """

    def __init__(
        self,
        placement: Placement,
        points: Mapping[str, Point],
        chip: Chip | None,
        *,
        scale_gradients: bool = False,
        ranges: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._placement, self._points, self._chip = placement, points, chip
        self._scale_gradients, self._ranges = scale_gradients, ranges
        self._undo: ExitStack | None = None

    @uninterrupted
    def __enter__(self) -> Memory:
        """Read and swap."""
        memory = Memory(self._placement, None, self._ranges)
        own: Mapping[str, Any] = memory.parameters
        with ExitStack() as stack:
            interrupts.begin()
            stack.callback(interrupts.deliver)
            stack.callback(interrupts.end)
            enter_block(own)
            stack.callback(leave_block, own)
            self._swap(memory, stack)
            self._undo = stack.pop_all()
        if interrupts.waiting:
            self._undo.close()
        return memory

    def _swap(self, memory: Memory, stack: ExitStack) -> None:
        stack.enter_context(Exact(None, eager=memory.watches))
        stack.callback(memory.attach())
        stack.callback(memory.changed)
        stack.callback(memory.original)
        memory.changed()
        if self._chip is None:
            memory.ideal()
        else:
            memory.read(self._points, self._chip)
        if self._scale_gradients:
            stack.callback(memory.scale_gradients())
        stack.callback(memory.learn_ranges())

    @uninterrupted
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Swap back."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()
