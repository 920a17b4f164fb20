"""The two-pass step of SAM, ASAM and SAMSON: perturb, differentiate, restore, descend."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from joulewise.errors import InputError, check_kind, refuse
from joulewise.optim.ascent import ascent, kept_buffers

__all__ = ["SharpnessAware"]


class SharpnessAware(Optimizer, ABC):
    """Base class of optimizers that descend by the gradient at a worst point nearby.

    They perturb the weights to ``w + eps``, ``eps = rho T^2 g / ||T g||_2``, and hand the gradient
    found there to ``base``, which steps from w. Subclasses define the positive diagonal matrix T.
    The norm runs over all parameters together; a parameter group may have its own ``rho``, which
    then scales its T, so that groups of different rho share one ellipsoid.

    **Two ways to step.** With a closure that clears the gradients, computes the loss, calls
    ``backward`` and returns the loss, as Lightning's automatic optimization passes one; it is
    called twice::

        loss = optimizer.step(closure)  # the loss at w

    Or with a block, which leaves room for a GradScaler, gradient accumulation and clipping::

        scaler.scale(loss_of(batch)).backward()      # at w; no unscaling here
        with optimizer.ascent():                     # at w + eps, gradients cleared
            scaler.scale(loss_of(batch)).backward()  # or several, for accumulation
        scaler.unscale_(optimizer)                   # at w again, even after an exception
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    A scaler unscales once in a step, which the second gradient needs; eps does not need it, since a
    factor in the first gradient cancels. If the scaler finds infinity it skips the step, with the
    weights at w.

    Refused are a ``step()`` after a single ``backward``, as in the loop of Hugging Face's Trainer,
    which would train without a perturbation (there, the block belongs into ``training_step``); and
    a closure that adds to gradients of earlier batches, as Lightning's does with
    ``accumulate_grad_batches``, whose second pass would see the last batch alone (accumulation
    needs the block, in Lightning manual optimization). ``examples`` has both loops.

    **Preserved state.** The weights are restored from copies, bit for bit, also after an exception
    and Ctrl-C. So are the buffers of every module that runs in the second pass, such as the
    statistics of BatchNorm, which keep the values of the first pass. Dropout draws a new mask in
    the second pass. If the gradient is zero or not finite, eps is 0 and ``base`` gets the gradient
    that it would have got alone. Parameters without a gradient stay where they are. Autocast may
    surround a forward pass or the whole step.

    **Several processes.** Under ``DistributedDataParallel`` each ``backward`` averages gradients,
    so eps is the same on all ranks, and the step is that of one process on the whole batch. With
    the first forward and backward pass under ``model.no_sync()`` each rank perturbs by the gradient
    of its own part of the batch (m-sharpness), for one exchange of gradients instead of two; the
    weights stay the same on all ranks. Parameters sharded over ranks (FSDP) are not supported: each
    rank would take the norm of its own shard.

    ``param_groups`` and ``state`` are those of ``base``, so schedules of the learning rate reach it
    and one state dict holds everything. Weights in half precision round ``w + eps`` to their own
    precision.

    Args:
        params: Parameters, named parameters or groups of them, as for any torch optimizer.
        base: Class of the optimizer that steps, such as ``torch.optim.SGD``.
        own: Options of the subclass and their values, ``rho`` among them; kept in the groups.
        options: Options of ``base``, ``lr`` among them.

    Attributes:
        base: The optimizer that steps. Pass this one to tools that call ``step`` only to create its
            state, and register hooks on state dicts with it.

    Raises:
        InputError: if ``base`` is not a class of optimizers, needs a closure, or has an option that
            is named like one of ``own``; or if an option is out of range.
    """

    base: Optimizer

    def __init__(
        self, params: ParamsT, base: type[Optimizer], own: dict[str, Any], options: dict[str, Any]
    ) -> None:
        if not (isinstance(base, type) and issubclass(base, Optimizer)):
            refuse("base", repr(base), "a class of optimizers, such as torch.optim.SGD")
        if _needs_arguments(base.step):
            refuse("base", base.__name__, "one whose step() needs no closure")
        if isinstance(params, nn.Module):
            refuse("params", f"a {type(params).__name__}", "its parameters()")
        super().__init__(params, own)
        self.base = base(self.param_groups, **options)
        taken = own.keys() & self.base.defaults.keys()
        if taken:
            allowed = f"an optimizer without an option named {' or '.join(sorted(taken))}"
            refuse("base", base.__name__, allowed)
        self.defaults = {**self.base.defaults, **own}
        self.param_groups, self.state = self.base.param_groups, self.base.state
        # Stage of the present step: "start", "perturbed" or "restored". In an object of its own,
        # since wrappers such as Lightning's read attributes of the optimizer that they wrap, and
        # write their own.
        self._progress = {"stage": "start"}

    @abstractmethod
    def _diagonals(self, params: list[Tensor], group: dict[str, Any]) -> list[Tensor] | None:
        """Diagonals of T for some parameters of a group, in their shapes; None where T is 1."""

    @contextmanager
    def ascent(self) -> Iterator[None]:
        """Move the parameters to ``w + eps`` for the block, with cleared gradients.

        Afterwards they are at w, bit for bit, with the gradients that the block accumulated, ready
        for ``step()``. The gradients before the block give eps, which does not depend on a common
        factor in them, such as a GradScaler's or that of norm clipping.

        Raises:
            InputError: if a gradient is sparse, if there is none at all, or within another ascent
                of this optimizer.
        """
        if self._progress["stage"] == "perturbed":
            refuse("ascent()", "within another one", "one at a time")
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            refuse("ascent()", "without any gradient", "one after a first backward pass, at w")
        with self._perturbed():
            yield

    @contextmanager
    def _perturbed(self) -> Iterator[None]:
        with torch.no_grad():
            moves = ascent(self.param_groups, self._diagonals)
            params = [parameter for some, _ in moves for parameter in some]
            # Copies, since adding eps and then subtracting it does not lead back to w.
            copies = [torch.empty_like(p) for p in params]
            _copy(params, copies)
        self._progress["stage"] = "perturbed"
        after = "start"
        try:
            with torch.no_grad():
                while moves:  # not kept during the second pass, which does not need them
                    torch._foreach_add_(*moves.pop())
            torch.clear_autocast_cache()  # a surrounding block may have cached casts of w
            self.zero_grad()
            with kept_buffers():
                yield
            after = "restored"
        finally:
            with torch.no_grad():
                _copy(copies, params)
            torch.clear_autocast_cache()
            self._progress["stage"] = after

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Let ``base`` step from w by the gradient at ``w + eps``.

        Args:
            closure: Clears the gradients, computes the loss, calls ``backward`` and returns the
                loss; called at w and at ``w + eps``. Without one, the step takes the gradients of
                the ``ascent()`` before it. After an ascent, a closure that returns None is called
                once and then ignored, as Lightning's manual optimization passes one.

        Returns:
            The value of the closure at w; None without a closure.

        Raises:
            InputError: without a closure, if there was no ``ascent()`` since the last step; within
                an ascent; and if the closure does not clear the gradients.
        """
        if self._progress["stage"] == "perturbed":
            refuse("step()", "within an ascent, which would undo it", "a step after the block")
        ascended = self._progress["stage"] == "restored"
        loss = None
        if closure is not None:
            with torch.enable_grad():
                with self._watch_for_clearing() as check:
                    loss = closure()
                if not (ascended and loss is None):
                    check()
                    # Not `ascent`, which needs a gradient: Lightning's closure may skip a batch.
                    with self._perturbed():
                        closure()
        elif not ascended:
            allowed = "step() after `with optimizer.ascent():`, or step(closure)"
            refuse("step()", "without an ascent, a plain step of base", allowed)
        self._progress["stage"] = "start"
        self.base.step()
        return loss

    @contextmanager
    def _watch_for_clearing(self) -> Iterator[Callable[[], None]]:
        """Watch a closure; yields a function, to be called after it, that checks for clearing.

        Raises:
            InputError: by that function, if gradients from before the closure are still there.
        """
        # One gradient stands for all; holding the smallest one costs next to no memory.
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        filled = [p for p in params if p.grad is not None and p.numel()]
        param = min(filled, key=Tensor.numel, default=None)
        held = None if param is None else param.grad
        if param is None or held is None:
            yield lambda: None
            return
        version = held._version
        left: list[bool] = []

        def look(*_: Tensor) -> None:
            """Record, as the first new gradient arrives, whether the old one is still there."""
            if not left:
                same = param.grad is held and held._version == version
                left.append(same and bool(held.any()))  # `.data.zero_()` does not bump the version

        def check() -> None:
            look()
            if left[0] and param.grad is held:
                allowed = "one that calls optimizer.zero_grad(), or `with optimizer.ascent():`"
                refuse("the closure", "one that does not clear the gradients", allowed)

        hook = param.register_hook(look)
        try:
            yield check
        finally:
            hook.remove()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add ``params``, with options that differ from the defaults, as for any torch optimizer.

        Raises:
            InputError: if an option is out of range; the group is not added then.
        """
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise

    def state_dict(self) -> dict[str, Any]:
        """The state dict of ``base``, whose groups hold this optimizer's options too."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of this optimizer, or of ``base`` alone.

        Options of this optimizer that its groups lack, as those of a plain ``base`` do, keep their
        values.
        """
        names = self.defaults.keys() - self.base.defaults.keys()
        before = [{name: group[name] for name in names} for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state
        for group, options in zip(self.param_groups, before, strict=True):
            group.update(options | group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base, "_progress": {"stage": "start"}}


def _needs_arguments(step: Callable[..., Any]) -> bool:
    _, *others = inspect.signature(step).parameters.values()  # the first is the optimizer itself
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(o.default is inspect.Parameter.empty and o.kind not in optional for o in others)


def _copy(source: list[Tensor], into: list[Tensor]) -> None:
    if source:  # torch refuses empty lists
        torch._foreach_copy_(into, source)


def _check(group: dict[str, Any]) -> None:
    """Refuse options of a group that are out of range."""
    for name in ("rho", "eta"):
        value = group.get(name, 0.0)
        check_kind(name, value, Real, "a finite number, 0 or more")
        if not 0 <= value < math.inf:
            refuse(name, value, "a finite number, 0 or more")
    if group.get("p", 2) not in (2, math.inf):
        refuse("p", group["p"], "2 or math.inf")
    if group.get("scaled", "shape") not in ("shape", "name"):
        refuse("scaled", repr(group["scaled"]), "'shape' or 'name'")
    if group.get("scaled") == "name" and "param_names" not in group:
        allowed = "model.named_parameters() with scaled='name'"
        refuse("params", "parameters without names", allowed)
