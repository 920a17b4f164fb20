"""Process-wide switches, the state of a thread, random numbers: what a run must leave as it was.

Everything here is undone by whoever entered it *and* by `guarded`, at the entry of each public
function: Python may deliver Ctrl-C between the call of ``__exit__`` and its first line.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "Exact",
    "Opened",
    "SameDraws",
    "TwiceDifferentiable",
    "guarded",
    "random_state",
    "restored_modes",
]


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Switch = tuple[Callable[[], Any], Callable[[Any], None], Any]
"""A reader and a writer of one process-wide setting of PyTorch, and the value wanted."""

_lock, _generators = threading.RLock(), threading.RLock()


class _Switches:
    """Settings of PyTorch held for as long as any block wants them, in any thread.

    Args:
        switches: The settings; asked for when the first block begins.
    """

    def __init__(self, switches: Callable[[], list[Switch]]) -> None:
        self._switches = switches
        self._tokens: set[int] = set()
        self._before: list[tuple[Callable[[Any], None], Any]] = []

    def hold(self, token: int) -> None:
        with _lock:
            if self._tokens:
                self._tokens.add(token)
                return
            switches = self._switches()
            self._before = [(write, read()) for read, write, _ in switches]
            self._tokens.add(token)  # before the first is written: an interrupt finds it
            for _, write, value in switches:
                write(value)

    def release(self, token: int) -> None:
        """Idempotent, and whole when called again after an interrupt."""
        with _lock:
            if self._tokens == {token}:
                for write, before in self._before:
                    write(before)
            self._tokens.discard(token)


def _eager() -> list[Switch]:
    """A compiled graph leaves out what happens between its operations, or fails at it."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")  # imported where something compiles
    if dynamo is None:
        return []
    return [(lambda: dynamo._stance, dynamo._set_stance, dynamo.DynamoStance("force_eager"))]


def _float32() -> list[Switch]:
    """TF32 has 10 bits of mantissa: its rounding moves outputs more than a good memory does.

    The outputs of a ResNet-20 on pairs of conductances with noise of 1e-4 of their range move by
    three times as much. Older settings first: writing one overwrites the newer ones of the same
    products.
    """
    backends: Any = torch.backends  # its type stubs leave most of these out
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    attributes: list[tuple[Any, str, Any]] = [(cudnn, "allow_tf32", False)]
    if hasattr(cudnn, "conv"):  # since PyTorch 2.9 each kind of product has a setting of its own
        attributes += [(kind, "fp32_precision", "ieee") for kind in (cudnn.conv, cudnn.rnn, matmul)]
    found: list[Switch] = [
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        *((partial(getattr, o, n), partial(setattr, o, n), value) for o, n, value in attributes),
    ]
    return [switch for switch in found if _readable(switch[0])]


def _readable(read: Callable[[], Any]) -> bool:
    """False for an old setting that PyTorch refuses to read: newer ones contradict it."""
    try:
        read()
    except RuntimeError:
        return False
    return True


_mha, _c, _cuda = torch.backends.mha, torch._C, torch.backends.cuda
_EAGER, _FLOAT32 = _Switches(_eager), _Switches(_float32)
# Fused transformer layers call no submodule, so placed activations would pass them by.
_FAST_PATH = _Switches(lambda: [(_mha.get_fastpath_enabled, _mha.set_fastpath_enabled, False)])
# A recurrent layer as one operation hides its products from a trace.
_RECURRENT = _Switches(
    lambda: [
        (_c._get_mkldnn_enabled, _c._set_mkldnn_enabled, False),
        (_c._get_cudnn_enabled, _c._set_cudnn_enabled, False),
    ]
)
# So does attention, whose gradient in one operation has no gradient either.
_ATTENTION = _Switches(
    lambda: [
        (_cuda.flash_sdp_enabled, _cuda.enable_flash_sdp, False),
        (_cuda.mem_efficient_sdp_enabled, _cuda.enable_mem_efficient_sdp, False),
        (_cuda.cudnn_sdp_enabled, _cuda.enable_cudnn_sdp, False),
        (_cuda.math_sdp_enabled, _cuda.enable_math_sdp, True),
    ]
)


class _Block:
    """A block that holds switches; `guarded` releases what an interrupt left held."""

    def __init__(self, *switches: _Switches) -> None:
        self._held = switches

    def __enter__(self) -> None:
        _thread.blocks.append(self)
        for switches in self._held:
            switches.hold(id(self))

    def __exit__(self, *error: object) -> None:
        self.release()

    def release(self) -> None:
        for switches in self._held:
            switches.release(id(self))
        if self in _thread.blocks:
            _thread.blocks.remove(self)


class _Thread(threading.local):
    """Blocks that the thread is in."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []


_thread = _Thread()


class Exact(_Block):
    """Every submodule is called, and a model on a GPU multiplies float32 as float32.

    A setting that followed ``torch.backends.fp32_precision`` keeps its value from then on, since
    PyTorch does not tell such a value from one that was chosen.

    Args:
        model: Precision is left alone if it is on no GPU, or None.
        eager: True to run compiled models uncompiled.
    """

    def __init__(self, model: nn.Module | None, *, eager: bool = True) -> None:
        on_gpu = model is not None and any(p.is_cuda for p in model.parameters())
        super().__init__(_FAST_PATH, *[_EAGER] * eager, *[_FLOAT32] * on_gpu)


Opened = partial(_Block, _RECURRENT, _ATTENTION)
"""Recurrent layers and attention run as the products that they are made of."""

TwiceDifferentiable = partial(_Block, _ATTENTION)
"""Attention runs as the products that it is made of, whose gradients have gradients."""


def guarded(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A public function that leaves the thread and the process as they were, after Ctrl-C too.

    Gradient mode, stacks of torch's modes, random generators and switches are put back; inference
    mode, whose tensors cannot be written to later, is left for as long as it runs.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        put_back = _thread_state()
        try:
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False):
                    return function(*args, **kwargs)
            return function(*args, **kwargs)
        finally:
            try:
                put_back()
            except BaseException:  # an interrupt in here: once more, whole
                put_back()
                raise

    return call


def _thread_state() -> Callable[[], None]:
    """Remember the state of this thread; the result puts it back, any number of times."""
    grad, blocks = torch.is_grad_enabled(), len(_thread.blocks)
    functions = torch._C._len_torch_function_stack()
    dispatches = torch._C._len_torch_dispatch_stack()

    def put_back() -> None:
        while torch._C._len_torch_function_stack() > functions:
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack() > dispatches:
            torch._C._pop_torch_dispatch_stack(None)
        torch.set_grad_enabled(grad)
        for block in _thread.blocks[blocks:]:
            block.release()
        SameDraws.put_back()

    return put_back


def random_state() -> list[Tensor]:
    """The states of PyTorch's global generators, the CPU's first."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return [torch.get_rng_state(), *cuda]


class SameDraws:
    """The global generators begin at one seed, whoever runs; afterwards they are as they were.

    One thread at a time: the generators are the process's.

    Args:
        seed: The seed; None to leave the generators where they are at the beginning.
    """

    _before: list[Tensor] | None = None

    def __init__(self, seed: int | None = 0) -> None:
        self._seed = seed

    def __enter__(self) -> None:
        _generators.acquire()
        SameDraws._before = random_state()
        if self._seed is not None:
            torch.default_generator.manual_seed(self._seed)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self.put_back()

    @classmethod
    def put_back(cls) -> None:
        """End the block of this thread, if there is one."""
        if not _generators._is_owned():  # type: ignore[attr-defined]
            return
        if cls._before is not None:
            cpu, *cuda = cls._before
            torch.set_rng_state(cpu)
            if cuda:
                torch.cuda.set_rng_state_all(cuda)
        cls._before = None
        _generators.release()


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """Training and evaluation modes come back after it.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
