"""Training through a memory: each step computes with what one chip reads of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from joulewise.devices import Chip, Point, plain_point
from joulewise.errors import InputError, check_in_range, check_whole, refuse
from joulewise.placement import Memory, Placed, Placement
from joulewise.training.in_place_read import InPlaceRead, interrupts, uninterrupted
from joulewise.training.ranges import LearnedRanges

__all__ = ["Plan", "TrainingMemory"]

Plan = Mapping[str, Point]


class TrainingMemory(AbstractContextManager[Chip | None]):
    """A memory that a network is trained through, in anyone's training loop.

    ::

        memory = TrainingMemory(jw.place(model, weights=jw.SRAM(bits=8)), eta=0.6)
        for inputs, targets in loader:
            optimizer.zero_grad()
            with memory:
                loss = criterion(model(inputs), targets)
                loss.backward()
            optimizer.step()

    Within a block the model computes with what one chip reads of its placed weights as they are
    now, activations pass through their memory, and every block meets another chip. The network
    learns to work whatever chip it is put on.

    **Gradients** land on the parameters themselves, straight through words, faults and saturation,
    as if what is read were what is stored plus a constant. For noise that is added to the weights
    (a ``Crossbar`` with ``sigma``, ``clip=False``, and a ``limit`` of its own) that is the gradient
    of the noisy loss. For noise in proportion to them (``variability``) it lacks a factor, what is
    read over what is stored, which ``scale_gradients`` multiplies in. Elsewhere it is an estimate:
    words and faults have no slope of their own.

    **Ranges** follow what is trained: of a weight its largest magnitude now, of an activation the
    largest in the batch, unless the device has a ``limit``. Converters keep the range of inputs
    that was traced.

    **Without faults**, ``perfect=True``, each block reads what a perfect memory of that format
    reads, of weights and activations: rounded to words, with straight-through gradients. That is
    quantisation-aware training.

    **Learned ranges**, ``ranges=LearnedRanges(placement)``: in a block each weight is stored
    clipped to its range, and backward passes accumulate the gradients of the ranges beside those
    of the weights. The range of the words is then the smaller of the two, the learned range and
    the largest magnitude, so that a placement of the network that ``ranges.clip()`` clipped stores
    the words that training ended with. (WCAT's code takes the learned one where it is larger too.)

    **One block** is one use of one chip: all that runs inside reads the same, noise of reads
    included, and gradients of several batches accumulate. Backward passes belong inside, where
    PyTorch has the weights that were read; a graph that crosses the border of a block it refuses.
    Steps belong outside, and are refused inside: what is written to a placed weight there is lost
    as the block ends. After it the weights are back bit for bit, whatever happened. Statistics of
    BatchNorm are those of the noisy passes, see `reestimate_batchnorm`.

    **With SAM, ASAM and SAMSON** the ascent belongs inside too::

        with memory:
            loss_of(batch).backward()
            with optimizer.ascent():
                loss_of(batch).backward()
        optimizer.step()

    It climbs from the weights as they are read, on the chip that the first gradient is of. Around
    the block it would climb on one chip by the gradient of another, and words would round it: of a
    ResNet-20 in words of 8 bits, SAM with a rho of 0.05 then moves the weights that are read four
    times as far, at a cosine of 0.24 to the climb. Where an optimizer calls a closure with the
    block inside, ``one_chip()`` around the step at least holds the chip.

    Autocast goes with it, and ``torch.compile`` where no activations are placed. Weights that are
    sharded or wrapped for several processes (FSDP, DistributedDataParallel) are not supported.

    Args:
        placement: What is stored where. The model may train any of its parameters, or none.
        plan: An operating point for each placed tensor, or a function of the step that gives them.
        seed: Names the chips, 0 or more. They depend on it and the step, are the same on any
            machine, and are none that `simulate` counts up from its own seed.
        chip: The one chip of all blocks, to fit a network to it; instead of ``seed``. Only noise
            of reads then differs between blocks.
        scale_gradients: See above.
        perfect: Read without faults; instead of a plan or a setting, and of chips.
        ranges: To clip the weights to, and to train; for the weights of this placement. Their
            state is their own, see ``ranges.state_dict()``.
        **setting: One operating point for all placed tensors, such as ``eta=0.6``, or a function of
            the step such as `Ramp`.

    Attributes:
        placement: As given.
        ranges: As given.
        steps: Blocks so far; the next one is of step ``steps``, counted from 0.

    Raises:
        InputError: unless there is exactly one of ``plan``, a setting and ``perfect``; if there are
            both a seed and a chip, or either of them or ``scale_gradients`` beside ``perfect``; or
            if ``ranges`` do not fit the placement.
        OperatingPointError: if the point of the first step is out of range.

    Example:
        >>> import torch
        >>> from joulewise.devices import Crossbar
        >>> from joulewise.placement import place
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> noisy = place(layer, weights=Crossbar(sigma=1e-6))
        >>> memory = TrainingMemory(noisy, g_max=25e-6)
        >>> seen = set()
        >>> for _ in range(3):
        ...     with memory:
        ...         seen.add(layer(torch.ones(1, 3)).item())
        >>> len(seen), memory.steps
        (3, 3)

    References:
        V. Joshi et al., Nat. Commun. 11, 2473, 2020, add Gaussian noise of 3.8 % of each layer's
        largest weight: ``Crossbar(sigma=0.038 * g_max / 2**0.5, clip=False)`` at that ``g_max``
        (both devices of a pair are noisy), with ``clip_weights(model, deviations=2.0)`` after each
        step.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        plan: Plan | Callable[[int], Plan] | None = None,
        seed: int | None = None,
        chip: Chip | None = None,
        scale_gradients: bool = False,
        perfect: bool = False,
        ranges: LearnedRanges | None = None,
        **setting: Point | Callable[[int], Point],
    ) -> None:
        if (plan is not None) + bool(setting) + perfect != 1:
            raise InputError(
                "training needs a plan or one setting such as eta=0.5, or perfect=True, and no two"
            )
        if seed is not None and chip is not None:
            raise InputError("training takes a seed for many chips, or one chip, and not both")
        if perfect and (seed is not None or chip is not None or scale_gradients):
            raise InputError(
                "perfect is given beside a seed, a chip or scale_gradients, which a memory without "
                "faults has no use for; allowed: perfect=True without them"
            )
        check_in_range("seed", seed or 0, 0, 2**63)
        if ranges is not None:
            ranges.check_fits(placement)
        self.placement, self.ranges = placement, ranges
        self.steps = 0
        self._given, self._setting = plan, setting
        self._seed, self._chip = seed or 0, chip
        self._scale_gradients, self._perfect = scale_gradients, perfect
        self._following = _following(placement)
        self._block: ExitStack | None = None
        self._memory: Memory | None = None
        self._held = False
        self.plan(0)

    def plan(self, step: int) -> dict[str, Point]:
        """The operating point of each placed tensor in a step, counted from 0.

        Of a perfect memory the most reliable one.

        Raises:
            OperatingPointError: if one is out of range.
        """
        if self._perfect:
            return self.placement.plan_at_most_reliable()
        if self._given is not None:
            given = self._given(step) if callable(self._given) else self._given
            return self.placement.check_plan(given)
        setting = {k: at(step) if callable(at) else at for k, at in self._setting.items()}
        return self.placement.plan(**setting)

    def chip(self, step: int) -> Chip | None:
        """The chip of a step, counted from 0; None for a perfect memory."""
        if self._perfect:
            return None
        if self._chip is not None:
            return replace(self._chip, use=step)
        (drawn,) = np.random.SeedSequence((self._seed, step)).generate_state(1, np.uint64)
        return Chip(seed=int(drawn >> 1))

    @uninterrupted
    def __enter__(self) -> Chip | None:
        """Begin a block; gives the chip that is read, None for a perfect memory.

        Raises:
            InputError: within another block of this memory.
            WeightsError: if a weight is NaN or infinite.
        """
        if self._block is not None:
            refuse("a block", "within another one of the same memory", "one after the other")
        chip = self.chip(self.steps)
        with ExitStack() as block:
            plan = self.plan(self.steps)
            options: dict[str, Any] = {"scale_gradients": self._scale_gradients}
            if self.ranges is not None:
                self.ranges.keep_positive()
                options["ranges"] = self.ranges.by_name()
            read = InPlaceRead(self._following, plan, chip, **options)
            self._memory = block.enter_context(read)
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
        """End the block: the weights are back."""
        block = self._end()
        try:
            block.close()
        finally:
            self.steps += not self._held

    def _end(self) -> ExitStack:
        """What is to be closed as a block ends; the next one may begin."""
        block, self._block, self._memory = self._block, None, None
        assert block is not None
        return block

    @contextmanager
    def one_chip(self) -> Iterator[None]:
        """All blocks within are one step: of the same chip, at the same operating points.

        Yields:
            Nothing.

        Raises:
            InputError: within a block, or another ``one_chip()``.

        Example:
            >>> from joulewise.devices import SRAM
            >>> from joulewise.models import build
            >>> from joulewise.placement import place
            >>> model = build("mlp", (1, 8, 8), 10, seed=0)
            >>> memory = TrainingMemory(place(model, weights=SRAM(bits=8)), eta=0.6)
            >>> with memory.one_chip():
            ...     with memory as chip:
            ...         pass
            ...     with memory as same:
            ...         pass
            >>> chip == same, memory.steps
            (True, 1)
        """
        if self._held or self._block is not None:
            refuse("one_chip()", "within a block or another one_chip()", "around blocks")
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.steps += 1

    def state_dict(self) -> dict[str, int]:
        """What a run needs in order to go on with the chips that it would have met."""
        return {"seed": self._own_seed, "steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on where another memory was.

        Args:
            state_dict: From `state_dict`.

        Raises:
            InputError: if it is that of a memory with another seed, whose chips are others.
        """
        seed, steps = state_dict["seed"], state_dict["steps"]
        if seed != self._own_seed:
            refuse("the seed of the state", seed, f"{self._own_seed}, that of this memory")
        check_in_range("steps", steps, 0, 2**62)
        check_whole("steps", steps)
        self.steps = steps

    def describe(self) -> dict[str, Any]:
        """Plain data for records: who read, how often, and at which operating points."""
        # By identity: a device of one's own need not have a hash.
        devices = {id(p.device): p.device for p in self.placement.placed}
        first, last = self.plan(0), self.plan(max(self.steps - 1, 0))
        return {
            "devices": [device.describe() for device in devices.values()],
            "chips": self._chips,
            "seed": self._own_seed,
            "steps": self.steps,
            "scale_gradients": self._scale_gradients,
            "ranges": None if self.ranges is None else self.ranges.describe(),
            "first_plan": {name: plain_point(point) for name, point in first.items()},
            "last_plan": {name: plain_point(point) for name, point in last.items()},
        }

    @property
    def _chips(self) -> str:
        if self._perfect:
            return "perfect"
        return "one" if self._chip is not None else "one for each step"

    @property
    def _own_seed(self) -> int:
        return self._seed if self._chip is None else self._chip.seed

    def _refuse_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Before any optimizer's step within a block.

        Raises:
            InputError: if it would write to a placed weight.
        """
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        modules = dict(self.placement.model.named_modules())
        for placed in self.placement.placed:
            own = {id(modules[path]._parameters.get(name)) for path, name in placed.owners}
            if own & stepped:
                got = f"within the block, where it would be lost on {placed.name}"
                refuse("step()", got, "a step after the block")


def _following(placement: Placement) -> Placement:
    """The placement with ranges of activations that follow the batch."""
    placed: tuple[Placed, ...] = tuple(replace(p, limit=None) for p in placement.placed)
    return replace(placement, placed=placed)
