"""Layer-wise noise maximisation: one operating point per tensor, learned while weights are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from joulewise.devices import Chip, KnobRange, Point, plain_point
from joulewise.errors import InputError, check_in_range, check_whole, refuse
from joulewise.placement import Placed, Placement
from joulewise.placement import energy as energy_of
from joulewise.training.balance import LOWEST, moves, price_of
from joulewise.training.in_place_read import uninterrupted
from joulewise.training.through import Plan, TrainingMemory

__all__ = ["NoiseMaximisation"]


@dataclass(frozen=True, slots=True)
class _Slopes:
    """Slopes in the share of one tensor's range, in one block or on average over some.

    Args:
        loss: Estimated.
        noise: Of the expected squared error of what is read, known.
    """

    loss: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Average:
    """The slopes of one tensor, averaged over blocks; that of the noise by its size.

    Args:
        blocks: Over which it was measured.
        loss: Slope of the loss.
        noise: Slope of the expected squared error.
        now: That of the last block alone.
    """

    blocks: int = 0
    loss: float = 0.0
    noise: float = 0.0
    now: float = 0.0

    @property
    def harm(self) -> float:
        """The loss that a share towards reliability saves at the points of the last block."""
        return -self.loss / self.noise * self.now if self.noise > 0 else 0.0


class NoiseMaximisation(TrainingMemory):
    """A memory to train through that learns how unreliable each tensor's part of it may be.

    It is used as `TrainingMemory` is. When a block ends, the gradients that its backward passes
    left say what the noise in each placed weight costs, and the points move::

        placement = jw.place(model, weights=jw.SRAM(bits=8), inputs=batch)
        memory = jw.NoiseMaximisation(placement, energy=0.4)
        for inputs, targets in loader:
            optimizer.zero_grad()
            with memory:
                criterion(model(inputs), targets).backward()
            optimizer.step()
        plan = memory.plan(memory.steps)

    **What it minimises**: ``E[loss] + price * energy / energy of the most reliable plan``, the
    expectation over chips. With ``energy`` in place of ``price``, the price is the one that leads
    to that energy, found anew in every step.

    **The slope of the loss in a point.** A word reads ``m + e``, ``m`` its mean and ``v`` its
    variance over chips, both functions of the point and known. With ``g`` the gradient of the
    loss where it was read, the slope is estimated by ``sum g (m' + e v' / (2 v))``, primes for
    slopes in the point. It is the gradient of a word that is read as ``m + sqrt(v) n``, ``n``
    held. Its mean is the slope of the expected loss, exactly, where the loss is quadratic and the
    words of a tensor are independent, whatever the distribution of ``e``; and for Gaussian noise
    (a ``Crossbar`` without ``clip``) whatever the loss. Elsewhere it holds to second order in the
    noise. (The simpler ``<g, d> v' / (2 v)``, ``d`` the difference to a perfect read, counts only
    half of what a shifted mean costs.)

    **Averages.** One block says little, so slopes are averaged over about ``horizon`` blocks. A
    tensor's noise moves while they are, by a factor that is known: the average of the slope of the
    loss is taken over that of the slope of the expected squared error ``V`` of the read, and
    multiplied by ``V'`` at the present point. So what is averaged is the sensitivity of the loss
    to noise, which the points hardly change; averages do not lag behind the points, which would
    make them swing. A slope that favours noise counts as no harm.

    **Steps.** Points move on the share of their range, of its logarithm where that spans a decade,
    by ``lr (h - c) / (h + c)``: ``h`` is what a share towards reliability saves of the loss, ``c``
    what it costs. That is 0 where the two balance, and never beyond ``lr``: one chip that reads a
    large weight wrongly moves a point no further than any other. It needs no unit of the loss, and
    points of layers whose sensitivities differ by decades move equally fast. Points stay above 5 %
    of their range, below which an SRAM reads nothing that a slope could be taken of. Of a tensor
    that shows no harm the point falls by ``lr`` in a block, until it does.

    A point takes ``1 / lr`` blocks from one end of its range to the other, and in the first steps
    of training noise in a head may even help, so that its point falls first: a run of a few dozen
    blocks learns weights and points that are worse than one common point.

    The rule is ours. Henwood et al. learn a reliability for each layer too; how they update it was
    not available to us, and no result here is theirs.

    **Limits.** One number per tensor: points of bit planes or columns are not learned. Activations
    that are placed keep the point they start from, and their energy counts. Placed weights need
    gradients. Clear gradients before the block; what was there before it is left out, and so is
    what is cleared within, to None or to zeros. In a block with several backward passes the loss is
    their sum, in one with an ``ascent`` that of its second pass. Gradients that are NaN or infinite
    move no point. What `TrainingMemory` says of chips, ranges and gradients holds here.

    Args:
        placement: What is stored where; traced, for the energy.
        energy: The energy of the plan over that of the most reliable one, above what the lowest
            points need, to 1; or give ``price``.
        price: What the energy of the most reliable plan is worth, in units of the loss, above 0.
        start: The plan to begin with, one number for each tensor. None: with ``energy``, the plan
            of that energy with all points at the same share of their range; with ``price``, the
            most reliable one.
        lr: The longest step, in shares of a range, above 0 to 0.5.
        horizon: Blocks to average over, 1 or more; at the beginning, all so far.
        every: Blocks from one measurement, and move, to the next, 1 or more. Measuring works out
            the moments of every word and the energy, which of a crossbar takes longest.
        loss_scale: What the loss was multiplied by, such as ``scaler.get_scale``; None for 1.
        seed: As for `TrainingMemory`.

    Attributes:
        price: Of energy, in the last step.

    Raises:
        InputError: if both or neither of ``energy`` and ``price`` are given, a field is outside its
            range, the placement is not traced, no weight is placed, or one has no gradient.
        OperatingPointError: if a point of ``start`` is out of range.

    Example:
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import energy, place
        >>> loud, quiet = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))
        >>> model, x = torch.nn.ModuleList([loud, quiet]), torch.eye(64)
        >>> model.forward = lambda x: 10 * loud(x) + quiet(x)
        >>> placement = place(model, weights=SRAM(bits=8), inputs=x)
        >>> memory = NoiseMaximisation(placement, energy=0.4, lr=0.02)
        >>> target = model(x).detach()
        >>> for _ in range(100):
        ...     model.zero_grad()
        ...     with memory:
        ...         (model(x) - target).square().mean().backward()
        >>> plan = memory.plan(memory.steps)
        >>> plan["0.weight"] > 0.5, plan["1.weight"] < 0.3
        (True, True)
        >>> round(energy(placement, plan).normalised, 3)
        0.4

    References:
        S. Henwood, F. Leduc-Primeau, Y. Savaria, "Layerwise noise maximisation to train low-energy
        deep neural networks", AICAS 2020, arXiv 1912.10764: the idea; see above for the rule. The
        estimate is the reparametrised gradient of D. P. Kingma and M. Welling, ICLR 2014, arXiv
        1312.6114, for Gaussian noise.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        energy: float | None = None,
        price: float | None = None,
        start: Plan | None = None,
        lr: float = 0.01,
        horizon: float = 100.0,
        every: int = 1,
        loss_scale: Callable[[], float] | None = None,
        seed: int | None = None,
    ) -> None:
        if (energy is None) == (price is None):
            raise InputError("noise maximisation needs energy= or price=, and not both")
        check_in_range("lr", lr, 0.0, 0.5, open_low=True)
        check_in_range("horizon", horizon, 1.0, 1e9)
        check_in_range("every", every, 1, 2**62)
        check_whole("every", every)
        if price is not None:
            check_in_range("price", price, 0.0, 1e30, open_low=True)
        _check_learnable(placement)
        self._ranges = {p.name: KnobRange.of(p.device) for p in placement.placed}
        self._shares: dict[str, float] = {}
        self._energy, self.price = energy, price or 0.0
        self._lr, self._horizon, self._every = lr, horizon, every
        self._loss_scale = loss_scale
        self._averages: dict[str, _Average] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._measured = False
        self.placement = placement
        super().__init__(placement, plan=self._begin(start), seed=seed)
        self._first = dict(self.plan(0))

    def plan(self, step: int) -> dict[str, Point]:
        """The present operating points, whatever the step: they depend on what training met."""
        return {name: self._ranges[name].point(share) for name, share in self._shares.items()}

    @uninterrupted
    def __enter__(self) -> Chip | None:
        """Begin a block, as that of `TrainingMemory`."""
        owned = [p for own in _owned(self.placement).values() for p in own]
        before = {id(p): (p.grad, p.grad.clone()) for p in owned if p.grad is not None}
        chip = super().__enter__()
        self._before = before
        assert self._block is not None
        for parameter in owned:
            if parameter.requires_grad and id(parameter) in before:
                forget: Any = partial(self._forget, parameter)
                hook: Any = parameter.register_hook(forget)  # type: ignore[no-untyped-call]
                self._block.callback(hook.remove)
        return chip

    def _forget(self, parameter: Tensor, arriving: Tensor) -> None:
        """As a gradient arrives where there are zeros: what was there before was cleared."""
        if parameter.grad is None or not parameter.grad.to_dense().any():
            self._before.pop(id(parameter), None)

    @uninterrupted
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the block: the weights are back, and the points move."""
        try:
            if kind is None and self.steps % self._every == 0:
                self._average(self._measure())
        finally:
            self._before = {}
            super().__exit__(kind, error, trace)
        if not self._held:
            self._move()

    @contextmanager
    def one_chip(self) -> Iterator[None]:
        """As that of `TrainingMemory`; the points move once, at the end.

        Yields:
            Nothing.
        """
        with super().one_chip():
            yield
        self._move()

    def _begin(self, start: Plan | None) -> dict[str, Point]:
        """Set the shares to those of the first plan.

        Raises:
            InputError: if no plan has the energy that is wanted.
        """
        if self._energy is not None:
            low = self._at_common(LOWEST)
            if not low < self._energy <= 1.0:
                allowed = f"above {low:.3g}, which the lowest points need, to 1"
                refuse("energy", self._energy, allowed)
        if start is not None:
            checked = self.placement.check_plan(start)
            for name, point in checked.items():
                if isinstance(point, Tensor) and point.ndim:
                    got = f"{point.numel()} numbers"
                    refuse(f"the point of {name}", got, "one number; that is what is learned")
                self._shares[name] = self._ranges[name].share(float(point))
        elif self._energy is None or self._energy == 1.0:
            self._shares = dict.fromkeys(self._ranges, 1.0)
        else:
            wanted = self._energy
            share = brentq(lambda s: self._at_common(s) - wanted, LOWEST, 1.0, xtol=1e-9)
            self._shares = dict.fromkeys(self._ranges, float(share))
        return self.plan(0)

    def _at_common(self, share: float) -> float:
        plan = {name: limits.point(share) for name, limits in self._ranges.items()}
        return energy_of(self.placement, plan).normalised

    def _measure(self) -> dict[str, _Slopes]:
        """Slopes of this block; empty where a gradient is not finite.

        Raises:
            InputError: if the loss scale is not a number above 0.
        """
        scale = 1.0 if self._loss_scale is None else float(self._loss_scale())
        check_in_range("loss_scale", scale, 0.0, 1e300, open_low=True)
        found = {}
        owned = _owned(self.placement)
        for placed in _weights(self.placement):
            own = owned[placed.name]
            gradient = self._gradient(own)
            if gradient is not None:
                slopes = self._slopes(placed, own[0].detach(), gradient)
                found[placed.name] = _Slopes(slopes.loss / scale, slopes.noise)
        finite = all(math.isfinite(slopes.loss) for slopes in found.values())
        return found if finite else {}

    def _gradient(self, own: list[Tensor]) -> Tensor | None:
        """What the backward passes of this block added to the gradients of a weight."""
        parts = []
        for parameter in own:
            grad = parameter.grad
            if grad is None:
                continue
            kept = self._before.get(id(parameter))
            if kept is not None and kept[0] is grad:  # else it was cleared in between
                added = grad - kept[1]
                if not (added.count_nonzero() and grad.count_nonzero()):
                    continue
                grad = added
            parts.append(grad.to_dense())
        return torch.stack(parts).sum(0) if parts else None

    def _slopes(self, placed: Placed, read: Tensor, gradient: Tensor) -> _Slopes:
        """Of one tensor, by what was read of it; see the class."""
        assert self._memory is not None
        stored, name = self._memory.stored[placed.name], placed.name
        with torch.enable_grad():
            share = torch.tensor(self._shares[name], dtype=torch.float64, requires_grad=True)
            point = self._ranges[name].differentiable(share)
            moments = placed.device.moments(stored, point)
            mean, var = moments.mean.detach(), moments.var.detach()
            # Words that never vary have no error either.
            errors = torch.where(var > 0, (read - mean) / (2 * var), 0.0)
            shift = mean - placed.device.ideal(stored).to(mean.dtype)
            slope = gradient.to(mean.dtype)
            loss = (slope * (moments.mean + errors * moments.var)).sum(dtype=torch.float64)
            noise = (2 * shift * moments.mean + moments.var).sum(dtype=torch.float64)
            (of_loss,) = torch.autograd.grad(loss, share, retain_graph=True)
            (of_noise,) = torch.autograd.grad(noise, share)
        return _Slopes(float(of_loss), float(of_noise))

    def _average(self, found: Mapping[str, _Slopes]) -> None:
        self._measured = self._measured or bool(found)
        for name, new in found.items():
            old = self._averages.get(name, _Average())
            part = max(1 / (old.blocks + 1), 1 / self._horizon)
            self._averages[name] = _Average(
                blocks=old.blocks + 1,
                loss=old.loss + part * (new.loss - old.loss),
                noise=old.noise + part * (abs(new.noise) - old.noise),
                now=abs(new.noise),
            )

    def _move(self) -> None:
        """Move the points of all tensors that were measured so far, if any was since last time."""
        if not self._measured:
            return
        self._measured = False
        names = list(self._averages)
        spent, slopes = self._spent()
        harms = np.array([self._averages[name].harm for name in names])
        costs = np.array([slopes[name] for name in names])
        shares = np.array([self._shares[name] for name in names])
        if self._energy is not None:
            change = self._energy - spent
            self.price = price_of(change, harms, costs, self._lr, shares)
        moved = shares + moves(harms, costs, self.price, self._lr, shares)
        self._shares.update(zip(names, moved.tolist(), strict=True))

    def _spent(self) -> tuple[float, dict[str, float]]:
        """Energy at the present points and its slopes in the shares, over the most reliable."""
        spent, reliable, slopes = 0.0, 0.0, {}
        for placed in self.placement.placed:
            assert placed.traffic is not None
            reliable += float(placed.device.energy(placed.traffic, placed.device.most_reliable))
            share = torch.tensor(self._shares[placed.name], dtype=torch.float64, requires_grad=True)
            with torch.enable_grad():
                point = self._ranges[placed.name].differentiable(share)
                joules = placed.device.energy(placed.traffic, point)
                (slope,) = torch.autograd.grad(joules, share)
            spent += float(joules.detach())
            slopes[placed.name] = float(slope)
        return spent / reliable, {name: slope / reliable for name, slope in slopes.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a run needs in order to go on as it would have; plain data."""
        return {
            **super().state_dict(),
            "shares": dict(self._shares),
            "first_plan": dict(self._first),
            "averages": {name: asdict(average) for name, average in self._averages.items()},
            "price": self.price,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another memory was, that was made with the same options.

        Args:
            state_dict: From `state_dict`.

        Raises:
            InputError: if it is that of a memory with another seed, or of other tensors.
        """
        shares = dict(state_dict["shares"])
        if list(shares) != list(self._shares):
            refuse(
                "the tensors of the state",
                list(shares),
                f"those of this memory, {list(self._shares)}",
            )
        super().load_state_dict(state_dict)
        self._shares, self._first = shares, dict(state_dict["first_plan"])
        averages = state_dict["averages"]
        self._averages = {name: _Average(**average) for name, average in averages.items()}
        self.price = state_dict["price"]

    def describe(self) -> dict[str, Any]:
        """Plain data for records; ``last_plan`` is the one that was learned."""
        plan = self.plan(self.steps)
        return super().describe() | {
            "learned": "layer-wise noise maximisation",
            "energy": self._energy,
            "price": self.price,
            "lr": self._lr,
            "horizon": self._horizon,
            "every": self._every,
            "first_plan": {name: plain_point(point) for name, point in self._first.items()},
            "last_plan": {name: plain_point(point) for name, point in plan.items()},
            "last_energy": energy_of(self.placement, plan).normalised,
        }


def _check_learnable(placement: Placement) -> None:
    """Refuse what no gradient would ever say anything of.

    Raises:
        InputError: if the placement is not traced, no weight is placed, or one has no gradient.
    """
    if not placement.traced:
        refuse("placement", "without access counts", "place(..., inputs=a batch), for the energy")
    owned = _owned(placement)
    if not owned:
        refuse("placement", "of activations alone", "one of weights; activations keep their points")
    for name, own in owned.items():
        if not any(parameter.requires_grad for parameter in own):
            allowed = "True: the gradient says what noise in it costs; or exclude it"
            refuse(f"requires_grad of {name}", False, allowed)


def _weights(placement: Placement) -> list[Placed]:
    return [p for p in placement.placed if p.role == "weight"]


def _owned(placement: Placement) -> dict[str, list[Tensor]]:
    """The parameters of each placed weight, each object once."""
    modules = dict(placement.model.named_modules())
    return {
        placed.name: list({id(p): p for p in placed.parameters(modules)}.values())
        for placed in _weights(placement)
    }
