"""The training memory of layer-wise noise maximisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from joulewise.contrib.noise_maximisation.balance import LOWEST, moves, price_of
from joulewise.contrib.noise_maximisation.sensitivity import Sensitivity, derivatives
from joulewise.devices import Chip, Point, plain_point
from joulewise.errors import InputError, check_count, check_in_range, refuse
from joulewise.placement import At, Placed, Placement, Plan
from joulewise.placement import energy as energy_of
from joulewise.training.in_place_read import uninterrupted
from joulewise.training.training_memory import TrainingMemory

__all__ = ["NoiseMaximisation"]


class NoiseMaximisation(TrainingMemory):
    """A training memory that learns how unreliable the memory of each tensor may be.

    It is used as a `TrainingMemory`. At the end of a block, the gradients of its backward passes
    give the cost of the noise in each placed weight, and the operating points move::

        placement = jw.place(model, weights=jw.SRAM(bits=8), example_inputs=batch)
        memory = jw.contrib.NoiseMaximisation(placement, energy=0.4)
        for inputs, targets in loader:
            optimizer.zero_grad()
            with memory:
                criterion(model(inputs), targets).backward()
            optimizer.step()
        plan = memory.plan_at(memory.steps)

    **Objective**: ``E[loss] + price * energy / energy of the most reliable plan``, the expectation
    over chips. With ``energy`` in place of ``price``, each step finds the price that leads to that
    energy. Points are moved on their *level*: the fraction of the knob's range, from the least
    reliable point at 0 to the most reliable one at 1, on a logarithmic scale if the range spans a
    decade.

    **Derivative of the loss.** Mean and variance of a read word are known functions of the level;
    with them, the gradient at the read gives an estimate of the derivative of the expected loss
    (`sensitivity.derivatives`). That of one block is noisy, so it is averaged over about
    ``horizon`` blocks. If noise lowers the loss, its cost counts as 0.

    **Steps.** Levels move by ``lr (b - c) / (b + c)``, with ``b`` the decrease of the loss per unit
    of level and ``c`` the increase of ``price * energy``. That is 0 where the two balance and at
    most ``lr``, so that one large weight read wrongly has bounded effect; it has no unit, and
    layers whose sensitivities differ by decades move equally fast. Levels stay above 0.05. A tensor
    without a cost of noise falls by ``lr`` in each block.

    A point takes ``1 / lr`` blocks from one end of its range to the other, and in the first steps
    of training noise in the last layer may even lower the loss, so that its point falls first: in a
    run of a few dozen blocks, weights and points end up worse than with one common point.

    **Limits.** There is one point per tensor, none for bit planes or columns. Placed activations
    keep their first point, and their energy counts. Placed weights need gradients. Gradients from
    before the block, and gradients that are cleared within it, do not count. In a block with
    several backward passes the loss is their sum, in one with an ``ascent`` that of its second
    pass. Gradients that are NaN or infinite move no point. Chips, ranges and gradients are as in
    `TrainingMemory`.

    Args:
        placement: Placed tensors and their devices; traced, for the energy.
        energy: Energy of the plan over that of the most reliable one, above that of the lowest
            levels, to 1; excludes ``price``.
        price: Value of the energy of the most reliable plan, in units of the loss, above 0.
        start: First plan, one number for each tensor. None: with ``energy``, the plan of that
            energy with a common level; with ``price``, the most reliable one.
        lr: Longest step of a level, above 0 to 0.5.
        horizon: Blocks to average over, 1 or more; at the beginning, all so far.
        every: Blocks from one measurement and move to the next, 1 or more. A measurement evaluates
            the moments of every word, and the energy, which is slow for a crossbar.
        loss_scale: Factor of the loss, such as ``scaler.get_scale``; None for 1.
        seed: As for `TrainingMemory`.

    Attributes:
        price: Price of energy in the last step.

    Raises:
        InputError: if both or neither of ``energy`` and ``price`` are given, a field is outside its
            range, the placement is not traced, no weight is placed, or one has no gradient.
        OperatingPointError: if a point of ``start`` is out of range.

    Example:
        >>> from joulewise.devices import SRAM
        >>> from joulewise.placement import energy, place
        >>> class LoudAndQuiet(torch.nn.ModuleList):
        ...     def forward(self, x):
        ...         return 10 * self[0](x) + self[1](x)
        >>> model = LoudAndQuiet(torch.nn.Linear(64, 64, bias=False) for _ in range(2))
        >>> x = torch.eye(64)
        >>> placement = place(model, weights=SRAM(bits=8), example_inputs=x)
        >>> memory = NoiseMaximisation(placement, energy=0.4, lr=0.02)
        >>> target = model(x).detach()
        >>> for _ in range(100):
        ...     model.zero_grad()
        ...     with memory:
        ...         (model(x) - target).square().mean().backward()
        >>> plan = memory.plan_at(memory.steps)
        >>> plan["0.weight"]["eta"] > 0.5, plan["1.weight"]["eta"] < 0.3
        (True, True)
        >>> round(energy(placement, at=plan).normalised, 3)
        0.4

    References:
        S. Henwood, F. Leduc-Primeau, Y. Savaria, "Layerwise noise maximisation to train low-energy
        deep neural networks", AICAS 2020, arXiv 1912.10764: the idea of one learned reliability per
        layer. Their update was not available to us; the rule here, and all results, are ours.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        energy: float | None = None,
        price: float | None = None,
        start: At | None = None,
        lr: float = 0.01,
        horizon: float = 100.0,
        every: int = 1,
        loss_scale: Callable[[], float] | None = None,
        seed: int | None = None,
    ) -> None:
        if (energy is None) == (price is None):
            raise InputError("noise maximisation needs either energy= or price=")
        check_in_range("lr", lr, 0.0, 0.5, open_low=True)
        check_in_range("horizon", horizon, 1.0, 1e9)
        check_count("every", every, 1)
        if price is not None:
            check_in_range("price", price, 0.0, 1e30, open_low=True)
        _check_learnable(placement)
        self._knobs = {p.name: p.device.knob for p in placement.placed}
        self._levels: dict[str, float] = {}
        self._energy, self.price = energy, price or 0.0
        self._lr, self._horizon, self._every = lr, horizon, every
        self._loss_scale = loss_scale
        self._averages: dict[str, Sensitivity] = {}
        # Gradients that arrived in this block, of parameters that had a gradient before it.
        self._arrived: dict[int, Tensor | None] = {}
        self._measured = False
        self.placement = placement
        self._begin(start)
        super().__init__(placement, at=self._at_step, seed=seed)
        self._first = self._points(0)

    def _at_step(self, step: int) -> Plan:
        """Present operating points; ``step`` has no effect, since they depend on training."""
        return self._plan_of({n: self._knobs[n].point(level) for n, level in self._levels.items()})

    def _plan_of(self, points: Mapping[str, Point]) -> Plan:
        return Plan.of_points(self.placement, points)

    @uninterrupted
    def __enter__(self) -> Chip | None:
        """Begin a block, as `TrainingMemory` does."""
        chip = super().__enter__()
        assert self._block is not None
        for _, parameters in _weights(self.placement):
            for parameter in parameters:
                if parameter.requires_grad and parameter.grad is not None:
                    self._block.callback(self._collect(parameter))
        return chip

    def _collect(self, parameter: Tensor) -> Callable[[], None]:
        """Sum the gradients that arrive at a parameter beside earlier ones; return the undo."""
        arrived, key = self._arrived, id(parameter)
        arrived[key] = None

        def add(arriving: Tensor) -> None:
            if key not in arrived:
                return
            if parameter.grad is None or not parameter.grad.to_dense().any():
                del arrived[key]  # earlier gradients were cleared: ``grad`` is of this block
                return
            before = arrived[key]
            arrived[key] = arriving.to_dense() if before is None else before + arriving.to_dense()

        hook: Any = parameter.register_hook(add)  # type: ignore[no-untyped-call]
        remove: Callable[[], None] = hook.remove
        return remove

    @uninterrupted
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the block, restore the weights and move the points."""
        try:
            if kind is None and self.steps % self._every == 0:
                for name, found in self._measure().items():
                    old = self._averages.get(name, Sensitivity())
                    self._averages[name] = old.updated(*found, self._horizon)
                    self._measured = True
        finally:
            self._arrived.clear()
            super().__exit__(kind, error, trace)
        if not self._held:
            self._move()

    @contextmanager
    def same_chip(self) -> Iterator[None]:
        """Make all blocks within one step, as in `TrainingMemory`; points move once, at the end.

        Yields:
            Nothing.
        """
        with super().same_chip():
            yield
        self._move()

    def _begin(self, start: At | None) -> None:
        """Set the levels to those of the first plan.

        Raises:
            InputError: if no plan has the given energy.
        """
        wanted = self._energy
        if wanted is not None:
            low = self._energy_at(LOWEST)
            if not low < wanted <= 1.0:
                refuse("energy", wanted, f"above {low:.3g}, the energy of the lowest levels, to 1")
        if start is not None:
            for name, point in self.placement.points(start).items():
                if isinstance(point, Tensor) and point.ndim:
                    refuse(f"the point of {name}", f"{point.numel()} numbers", "one number")
                self._levels[name] = self._knobs[name].level(float(point))
            return
        level = 1.0
        if wanted is not None and wanted != 1.0:
            level = float(brentq(lambda x: self._energy_at(x) - wanted, LOWEST, 1.0, xtol=1e-9))
        self._levels = dict.fromkeys(self._knobs, level)

    def _energy_at(self, level: float) -> float:
        points = {name: limits.point(level) for name, limits in self._knobs.items()}
        return energy_of(self.placement, at=self._plan_of(points)).normalised

    def _measure(self) -> dict[str, tuple[float, float]]:
        """Derivatives of loss and squared error by tensor; empty if one of the loss is not finite.

        Raises:
            InputError: if the loss scale is not a number above 0.
        """
        scale = 1.0 if self._loss_scale is None else float(self._loss_scale())
        check_in_range("loss_scale", scale, 0.0, 1e300, open_low=True)
        assert self._memory is not None
        found = {}
        for placed, parameters in _weights(self.placement):
            parts = [part for p in parameters if (part := self._gradient(p)) is not None]
            if not parts:
                continue
            loss, noise = derivatives(
                placed.device,
                self._memory.stored[placed.name],
                self._knobs[placed.name],
                self._levels[placed.name],
                read=parameters[0].detach(),
                gradient=torch.stack(parts).sum(0),
            )
            found[placed.name] = loss / scale, noise
        return found if all(math.isfinite(loss) for loss, _ in found.values()) else {}

    def _gradient(self, parameter: Tensor) -> Tensor | None:
        """Gradient that the backward passes of this block added to a parameter, dense."""
        if parameter.grad is None:
            return None
        gradient = parameter.grad.to_dense()
        if id(parameter) not in self._arrived:
            return gradient
        return self._arrived[id(parameter)] if gradient.any() else None

    def _move(self) -> None:
        """Move the points of all tensors with an average, if one was measured since last time."""
        if not self._measured:
            return
        self._measured = False
        names = list(self._averages)
        spent, increases = self._spent()
        benefits = np.array([self._averages[name].benefit for name in names])
        costs = np.array([increases[name] for name in names])
        levels = np.array([self._levels[name] for name in names])
        if self._energy is not None:
            self.price = price_of(self._energy - spent, benefits, costs, self._lr, levels)
        moved = levels + moves(benefits, costs, self.price, self._lr, levels)
        self._levels.update(zip(names, moved.tolist(), strict=True))

    def _spent(self) -> tuple[float, dict[str, float]]:
        """Energy at the present points and its derivatives, over that of the most reliable plan."""
        spent, reliable, increases = 0.0, 0.0, {}
        for placed in self.placement.placed:
            assert placed.traffic is not None
            reliable += float(
                placed.device.energy(placed.traffic, placed.device.knob.most_reliable)
            )
            level = torch.tensor(self._levels[placed.name], dtype=torch.float64, requires_grad=True)
            with torch.enable_grad():
                point = self._knobs[placed.name].points(level)
                joules = placed.device.energy(placed.traffic, point)
                (increase,) = torch.autograd.grad(joules, level)
            spent += float(joules.detach())
            increases[placed.name] = float(increase)
        return spent / reliable, {name: joules / reliable for name, joules in increases.items()}

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs, as plain data."""
        return {
            **super().state_dict(),
            "levels": dict(self._levels),
            "first_plan": dict(self._first),
            "averages": {name: asdict(average) for name, average in self._averages.items()},
            "price": self.price,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from the state of another memory with the same options.

        Args:
            state_dict: From `state_dict`.

        Raises:
            InputError: if the state is that of a memory with another seed, or of other tensors.
        """
        levels = dict(state_dict["levels"])
        if list(levels) != list(self._levels):
            allowed = f"{list(self._levels)}, those of this memory"
            refuse("the tensors of the state", list(levels), allowed)
        super().load_state_dict(state_dict)
        self._levels, self._first = levels, dict(state_dict["first_plan"])
        averages = state_dict["averages"]
        self._averages = {name: Sensitivity(**average) for name, average in averages.items()}
        self.price = state_dict["price"]

    def describe(self) -> dict[str, Any]:
        """Plain data for records; ``last_plan`` is the learned one."""
        points = self._points(self.steps)
        return super().describe() | {
            "learned": "layer-wise noise maximisation",
            "energy": self._energy,
            "price": self.price,
            "lr": self._lr,
            "horizon": self._horizon,
            "every": self._every,
            "first_plan": {name: plain_point(point) for name, point in self._first.items()},
            "last_plan": {name: plain_point(point) for name, point in points.items()},
            "last_energy": energy_of(self.placement, at=self.plan_at(self.steps)).normalised,
        }


def _check_learnable(placement: Placement) -> None:
    """Refuse a placement whose points have no energy or no gradient.

    Raises:
        InputError: if the placement is not traced, no weight is placed, or one or its memory
            has no gradient.
    """
    if not placement.traced:
        refuse(
            "placement",
            "without access counts",
            "place(..., example_inputs=a batch), for the energy",
        )
    weights = _weights(placement)
    if not weights:
        refuse("placement", "of activations alone", "one of weights; activations keep their points")
    for placed, parameters in weights:
        if not placed.device.smooth:
            got = "one whose moments have no gradient (measured faults, listed points, estimates)"
            refuse(f"the memory of {placed.name}", got, "one whose moments have a gradient")
        if not any(parameter.requires_grad for parameter in parameters):
            refuse(f"requires_grad of {placed.name}", False, "True; or exclude the tensor")


def _weights(placement: Placement) -> list[tuple[Placed, list[Tensor]]]:
    """The placed weights and their parameters, each parameter once."""
    modules = dict(placement.model.named_modules())
    return [
        (placed, list({id(p): p for p in placed.parameters(modules)}.values()))
        for placed in placement.placed
        if placed.role == "weight"
    ]
