"""Training memory: each step computes with the weights as one chip reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from joulewise.devices import Chip, Point, plain_point
from joulewise.errors import (
    InputError,
    check_count,
    check_kind,
    refuse,
)
from joulewise.placement import At, Memory, Placement, Plan
from joulewise.training.in_place_read import interrupts, read_in_place, uninterrupted
from joulewise.training.weight_ranges import WeightRanges

__all__ = ["AtStep", "LinearSchedule", "TrainingMemory"]

AtStep = At | Mapping[str, Point | Callable[[int], Point]] | Callable[[int], At]
"""Operating points, or functions of the step that give them."""


class TrainingMemory(AbstractContextManager[Chip | None]):
    """A memory for fault-aware training, in any training loop.

    ::

        memory = TrainingMemory(jw.place(model, weights=jw.SRAM(bits=8)), at={"eta": 0.6})
        for inputs, targets in loader:
            optimizer.zero_grad()
            with memory:
                loss = criterion(model(inputs), targets)
                loss.backward()
            optimizer.step()

    Within a block the model computes with its placed weights as one chip reads them, and
    activations pass through their memory. Every block draws another chip, so the weights are
    trained for the distribution of chips.

    **Gradients** accumulate in the parameters themselves, straight through words, faults and
    saturation, as if the read were the stored value plus a constant. For additive noise (a
    ``Crossbar`` with ``sigma``, ``clip=False`` and a fixed ``limit``) that is the gradient of the
    noisy loss. For multiplicative noise (``variability``) it lacks the factor of the read over the
    stored value, which ``scale_gradients`` applies. Elsewhere it is a straight-through estimate:
    words and faults have no derivative.

    **Ranges** follow training: the range of a weight is its present largest magnitude, that of an
    activation the largest in the batch, unless the device has a ``limit``. Converters keep the
    traced range of their inputs. With trainable ranges, such as
    ``ranges=LearnedRanges(placement)``, each weight is stored clipped to its own, and backward
    passes accumulate their gradients too. The range of the words is the smaller of the learned
    range and the largest magnitude, so that a placement of the network after ``ranges.clip()``
    stores the words that training ended with.

    **Without faults**, ``perfect=True``, weights and activations are rounded to words, with
    straight-through gradients: quantisation-aware training.

    **One block** is one use of one chip: all reads inside it are the same, read noise included, and
    gradients of several batches accumulate. Backward passes belong inside, where the parameters are
    the reads; PyTorch refuses a graph that crosses a block boundary. Optimizer steps belong
    outside, and are refused inside: values written to a placed weight there are lost when the block
    ends. After the block the weights are restored bit for bit, after an exception too. Statistics
    of BatchNorm are those of the noisy passes; see `reestimate_batchnorm`.

    **With SAM, ASAM and SAMSON** the ascent belongs inside too::

        with memory:
            loss_of(batch).backward()
            with optimizer.ascent():
                loss_of(batch).backward()
        optimizer.step()

    It perturbs the weights as they are read, on the chip of the first gradient. With the block
    inside the ascent, the two gradients would be of different chips, and rounding to words would
    distort the perturbation: for a ResNet-20 in words of 8 bits and SAM with a rho of 0.05, the
    weights that are read move four times as far, at a cosine of 0.24 to eps. Where an optimizer
    calls a closure with the block inside, ``same_chip()`` around the step at least keeps the chip.

    Autocast is supported. Compiled models run uncompiled where activations are placed, arrays have
    converters or noise is new at each read. Weights that are sharded or wrapped for several
    processes (FSDP, DistributedDataParallel) are not supported.

    Args:
        placement: Placed tensors and their devices. The model may train any of its parameters.
        at: Operating points: knobs with their values, such as ``{"eta": 0.6}``, or a plan. A value
            may be a function of the step, such as `LinearSchedule`, and so may ``at`` itself.
        seed: Seed of the chips, 0 or more. Chips depend on it and the step, are the same on any
            machine, and differ from those that `simulate` counts up from its own seed.
        chip: One chip for all blocks, to fit a network to it; instead of ``seed``. Only read noise
            then differs between blocks.
        scale_gradients: True to multiply gradients by the read over the stored value.
        perfect: True to read without faults; excludes ``at``, ``seed`` and ``chip``.
        ranges: Trainable ranges of the weights of this placement. Their state is not part of
            ``state_dict()``.

    Attributes:
        placement: As given.
        ranges: As given.
        steps: Number of finished blocks; the next block is that of step ``steps``, from 0.

    Raises:
        InputError: if arguments exclude each other, one is of the wrong kind, or ``ranges`` do not
            fit the placement.
        OperatingPointError: if a point of the first step is out of range.

    Example:
        >>> import torch
        >>> from joulewise.devices import Crossbar
        >>> from joulewise.placement import place
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> noisy = place(layer, weights=Crossbar(sigma=1e-6))
        >>> memory = TrainingMemory(noisy, at={"g_max": 25e-6})
        >>> seen = set()
        >>> for _ in range(3):
        ...     with memory:
        ...         seen.add(layer(torch.ones(1, 3)).item())
        >>> len(seen), memory.steps
        (3, 3)

    References:
        V. Joshi et al., Nat. Commun. 11, 2473, 2020, add Gaussian noise with a standard deviation
        of 3.8 % of each layer's largest weight: ``Crossbar(sigma=0.038 * g_max / 2**0.5,
        clip=False)`` at that ``g_max`` (both devices of a pair are noisy), with
        ``clip_weights(model, deviations=2.0)`` after each step.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        at: AtStep | None = None,
        seed: int | None = None,
        chip: Chip | None = None,
        scale_gradients: bool = False,
        perfect: bool = False,
        ranges: WeightRanges | None = None,
    ) -> None:
        check_kind("placement", placement, Placement, "the result of joulewise.place(model, ...)")
        for field, flag in (("perfect", perfect), ("scale_gradients", scale_gradients)):
            check_kind(field, flag, bool, "True or False")
        if chip is not None:
            check_kind("chip", chip, Chip, "a Chip, such as Chip(seed=3), or None")
        if (at is not None) + perfect != 1:
            raise InputError(
                'a training memory needs at, such as at={"eta": 0.5}, or perfect=True, and not both'
            )
        if seed is not None and chip is not None:
            raise InputError("training takes a seed of many chips, or one chip, not both")
        if perfect and (seed is not None or chip is not None or scale_gradients):
            raise InputError(
                "perfect is given beside a seed, a chip or scale_gradients; allowed: perfect=True "
                "without them, since a memory without faults does not use them"
            )
        if ranges is not None:
            check_kind("ranges", ranges, WeightRanges, "trainable ranges, or None")
            ranges.check_fits(placement)
        self.placement, self.ranges = placement, ranges
        self.steps = 0
        self._at = at
        seed = 0 if seed is None else check_count("seed", seed, 0)
        self._seed, self._chip = seed if chip is None else chip.seed, chip
        self._scale_gradients, self._perfect = scale_gradients, perfect
        # Ranges of activations follow the batch.
        free = tuple(replace(placed, limit=None) for placed in placement.placed)
        self._following = replace(placement, placed=free)
        self._block: ExitStack | None = None
        self._memory: Memory | None = None
        self._held = False
        self._points(0)

    def plan_at(self, step: int) -> Plan:
        """Plan of a step, counted from 0; the most reliable one for a perfect memory.

        Raises:
            OperatingPointError: if a point is out of range.
        """
        return self.placement.plan(self._at_step(step))

    def _points(self, step: int) -> dict[str, Point]:
        """Operating point of each placed tensor in a step."""
        return self.placement.points(self._at_step(step))

    def _at_step(self, step: int) -> At:
        if self._at is None:
            return self.placement.most_reliable()
        at: Any = self._at(step) if callable(self._at) else self._at
        if isinstance(at, Plan) or not isinstance(at, Mapping):
            return at
        return {knob: value(step) if callable(value) else value for knob, value in at.items()}

    def chip_at(self, step: int) -> Chip | None:
        """Chip of a step, counted from 0; None for a perfect memory."""
        if self._perfect:
            return None
        if self._chip is not None:
            return replace(self._chip, use=step)
        (drawn,) = np.random.SeedSequence((self._seed, step)).generate_state(1, np.uint64)
        return Chip(seed=int(drawn >> 1))

    @uninterrupted
    def __enter__(self) -> Chip | None:
        """Begin a block and return the chip that reads, None for a perfect memory.

        Raises:
            InputError: within another block of this memory.
            WeightsError: if a weight is NaN or infinite.
        """
        if self._block is not None:
            refuse("a block", "within another one of the same memory", "one after the other")
        chip = self.chip_at(self.steps)
        with ExitStack() as block:
            points, ranges = self._points(self.steps), self.ranges
            if ranges is not None:
                ranges.keep_positive()
            self._memory = read_in_place(
                block,
                self._following,
                points,
                chip,
                scale_gradients=self._scale_gradients,
                ranges=None if ranges is None else ranges.by_name(),
            )
            block.callback(register_optimizer_step_pre_hook(self._refuse_step).remove)
            self._block = block.pop_all()
        if interrupts.waiting:
            self._end().close()
        return chip

    @uninterrupted
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the block and restore the weights."""
        block = self._end()
        try:
            block.close()
        finally:
            self.steps += not self._held

    def _end(self) -> ExitStack:
        """Detach the stack that undoes the block, so that the next block may begin."""
        block, self._block, self._memory = self._block, None, None
        assert block is not None
        return block

    @contextmanager
    def same_chip(self) -> Iterator[None]:
        """Count all blocks inside as one step, on the same chip and at the same operating points.

        Raises:
            InputError: within a block, or another ``same_chip()``.

        Example:
            >>> from joulewise.devices import SRAM
            >>> from joulewise.models import build
            >>> from joulewise.placement import place
            >>> model = build("mlp", (1, 8, 8), 10, seed=0)
            >>> memory = TrainingMemory(place(model, weights=SRAM(bits=8)), at={"eta": 0.6})
            >>> with memory.same_chip():
            ...     with memory as chip:
            ...         pass
            ...     with memory as same:
            ...         pass
            >>> chip == same, memory.steps
            (True, 1)
        """
        if self._held or self._block is not None:
            refuse("same_chip()", "within a block or another same_chip()", "around blocks")
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.steps += 1

    def state_dict(self) -> dict[str, int]:
        """State that a resumed run needs to draw the same chips."""
        return {"seed": self._seed, "steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Resume from the `state_dict` of another memory with the same options.

        Raises:
            InputError: if the state is that of a memory with another seed.
        """
        seed, steps = state_dict["seed"], state_dict["steps"]
        if seed != self._seed:
            refuse("the seed of the state", seed, f"{self._seed}, the seed of this memory")
        self.steps = check_count("steps", steps, 0)

    def describe(self) -> dict[str, Any]:
        """Plain data for records."""
        # By identity: a user's device need not be hashable.
        devices = {id(p.device): p.device for p in self.placement.placed}
        first, last = self._points(0), self._points(max(self.steps - 1, 0))
        kind = "one for each step" if self._chip is None else "one"
        return {
            "devices": [device.describe() for device in devices.values()],
            "chips": "perfect" if self._perfect else kind,
            "seed": self._seed,
            "steps": self.steps,
            "scale_gradients": self._scale_gradients,
            "ranges": None if self.ranges is None else self.ranges.describe(),
            "first_plan": {name: plain_point(point) for name, point in first.items()},
            "last_plan": {name: plain_point(point) for name, point in last.items()},
        }

    def _refuse_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Pre-step hook of all optimizers during a block.

        Raises:
            InputError: if the step would write to a placed weight.
        """
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        modules = dict(self.placement.model.named_modules())
        for placed in self.placement.placed:
            if any(id(p) in stepped for p in placed.parameters(modules)):
                got = f"within the block, where the update of {placed.name} would be lost"
                refuse("step()", got, "a step after the block")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSchedule:
    """A schedule that moves linearly from one operating point to another, then stays constant.

    Args:
        start: Operating point of step 0, on the device's knob.
        stop: Operating point of step ``steps`` and all later ones.
        steps: Number of steps from ``start`` to ``stop``, 1 or more.

    Raises:
        InputError: if ``steps`` is not a whole number of 1 or more.

    Example:
        >>> eta = LinearSchedule(start=1.0, stop=0.6, steps=4)
        >>> [round(eta(step), 1) for step in range(6)]
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.6]
    """

    start: float
    stop: float
    steps: int

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1)

    def __call__(self, step: int) -> float:
        """Operating point of a step, counted from 0."""
        done = min(step / self.steps, 1.0)
        return (1 - done) * self.start + done * self.stop
