"""Surveying: one pass of the network around some shares, and a planner that knows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from joulewise.allocation.energy_model import Spending, common_share
from joulewise.allocation.granularity import Granularity, Variables
from joulewise.allocation.plan_optimiser import Planner
from joulewise.data import Split
from joulewise.errors import refuse
from joulewise.placement import Placement
from joulewise.prediction import error_model

__all__ = ["Progress", "Surveyor"]

Progress = Callable[[str, float, float], None]
"""Told what is done, how much of it, and how much there is."""


@dataclass(slots=True, kw_only=True, eq=False)
class Surveyor:
    """Makes planners for one placement.

    Args:
        placement: What is stored where; traced.
        few: Samples to predict with.
        granularity: What has an operating point of its own.
        seed: Of the probes.
        batch_size: As for `joulewise.simulation.simulate`.
        progress: See `Progress`.

    Attributes:
        variables: What may be chosen.
        passes: Planners that were made.
    """

    placement: Placement
    few: Split | list[Any]
    granularity: Granularity
    seed: int
    batch_size: int | None
    progress: Progress
    passes: int = 0
    variables: Variables = field(init=False)
    _spending: Spending = field(init=False)
    _levels: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be allocated, before the network runs.

        Raises:
            InputError: if errors change by steps, and there are no levels.
        """
        self.variables = Variables.of(self.placement, self.granularity)
        self._levels = self.granularity.shares(self.placement)
        for placed in self.placement.placed:
            if not placed.device.smooth and not self._levels:
                refuse(
                    f"the memory of {placed.name}",
                    "one whose errors change with its point by steps (a measured fault map)",
                    "a list of levels to choose from, or another fault map",
                )
        self._spending = Spending(self.placement)

    @property
    def reliable(self) -> Tensor:
        """The most reliable shares that may be chosen."""
        most = max(self._levels, default=1.0)
        return torch.full((self.variables.count,), most, dtype=torch.float64)

    def common_within(self, budget: float) -> Tensor:
        """The largest common share within an energy, without a pass of the network."""

        def of(share: float) -> float:
            plan = self.variables.plan(torch.full_like(self.reliable, share))
            return float(self._spending.normalised(plan))

        return torch.full_like(self.reliable, common_share(of, budget, self._levels))

    def around(self, shares: Tensor | None = None) -> Planner:
        """A planner whose gradients are those at some shares.

        Args:
            shares: float64 ``[variables]``; None for the most reliable ones.
        """
        self.passes += 1
        if shares is None:
            shares = torch.ones(self.variables.count, dtype=torch.float64)
        errors = error_model(
            self.placement,
            self.few,
            self.variables.exact_plan(shares),
            seed=self.seed,
            batch_size=self.batch_size,
            progress=lambda done, expected: self.progress("predicting", done, expected),
        )
        return Planner(
            errors=errors,
            spending=self._spending,
            variables=self.variables,
            levels=self._levels,
            rails=self.granularity.rails,
            smooth=all(placed.device.smooth for placed in self.placement.placed),
        )

    def near(self, limit: float) -> Planner:
        """A planner whose gradients are those about where a predicted error is a limit.

        Gradients of one plan can be wrong about another, far off: common points come first.
        """
        planner = self.around()
        planner = self.around(torch.full_like(planner.reliable, planner.common(limit)))
        return self.around(planner.cheapest(limit))
