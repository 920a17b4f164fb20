"""The layer that gives the logits: its curvature exactly, and its large single faults.

The Fisher information of its weight ``w_kd`` is ``sum p_k (1 - p_k) h_d^2`` over rows, ``h`` its
inputs and ``p`` the probabilities: nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from joulewise.devices import Point, WordMemory
from joulewise.devices.operating_point import as_point
from joulewise.errors import refuse
from joulewise.prediction.error_parts import Part
from joulewise.prediction.head_faults import HeadFaults
from joulewise.prediction.moment_curves import MomentCurves
from joulewise.prediction.problem import Problem

__all__ = ["HeadCurvature"]


class HeadCurvature:
    """Sums over rows of outputs for the head.

    Args:
        part: Its placed weight.
        problem: The problem.
        variable: True if points change after rows are added.

    Raises:
        InputError: for points by output channel that change: costs are summed over classes.

    Attributes:
        part: As given.
        faults: Its large faults; None for memories without words of independent faults.
    """

    def __init__(self, part: Part, problem: Problem, *, variable: bool = False) -> None:
        self.part, self._rows = part, 0.0
        self._squares: Tensor | None = None
        self.faults: HeadFaults | None = None
        if part.has_single_faults:
            if variable and part.by_channel:
                got = f"by output channel for {part.placed.name}, which gives the logits"
                refuse("the granularity", got, "one point there, or one for each bit plane")
            memory = part.placed.device
            assert isinstance(memory, WordMemory)
            stored = problem.memory.stored[part.placed.name]
            self.faults = HeadFaults(memory, stored, self._shares() if part.by_channel else None)

    def add(self, inputs: Tensor, log_p: Tensor, weight: float = 1.0) -> None:
        """Add rows; see `HeadFaults.add`, for which ``weight`` is 1."""
        spread = log_p.exp()
        spread.addcmul_(spread, spread, value=-1)  # p (1 - p), in place: logits are large
        information = spread.mT @ inputs.float().square()
        squares = self.part.classes.summed(information, by_channel=self.part.by_channel)
        addend = weight * squares.cpu()
        self._squares = addend if self._squares is None else self._squares + addend
        self._rows += weight * len(log_p)
        if self.faults is not None:
            self.faults.add(inputs, log_p)

    def squares(self) -> Tensor:
        """Information summed over the words of each class, mean over rows; see `Part`."""
        assert self._squares is not None
        return self._squares / self._rows

    def contribution(self) -> Tensor:
        """Contribution to the divergence at the plan, nats; differentiable."""
        found = (self.part.variance() * self.squares()).sum() / 2
        return found if self.faults is None else found + self._excess(self.part.rows)

    def by_plane(self) -> Tensor:
        """Contribution of faults in each bit plane alone, ``[bits]``."""
        found = self.part.plane_sums(self.squares()) / 2
        if self.faults is None:
            return found
        rates = self._rates(self.part.rows.detach())
        alone = [rates * plane for plane in torch.eye(rates.shape[1], dtype=rates.dtype)]
        return found + torch.stack([self.faults.excess(some) for some in alone])

    def random_part(self) -> float:
        """Divergence from large faults, which quantiles take as random events; see `HeadFaults`."""
        if self.faults is None:
            return 0.0
        return self.faults.random_part(self._rates(self.part.rows.detach()))

    def deviations(self, levels: Sequence[float]) -> list[float]:
        """Quantiles of the divergence over chips, less its mean; see `HeadFaults.deviations`."""
        assert self.faults is not None
        return self.faults.deviations(self._rates(self.part.rows.detach()), levels)

    def beyond(self) -> dict[str, Callable[[Point], Tensor]]:
        """Divergence beyond second order as a function of the point, by name of the head."""
        if self.faults is None:
            return {}
        scalar = self.part.rows.shape == (1,)
        return {self.part.placed.name: self._curve() if scalar else self._at}

    def _curve(self) -> Callable[[Point], Tensor]:
        """The excess from a table over the knob: a plan costs one interpolation."""
        assert self.faults is not None

        def sums(point: Tensor) -> Tensor:
            return self._excess(point[None])[None]

        curve = MomentCurves.tabulate(self.part.placed.device.knob, sums, self.faults.numbers)
        none = torch.zeros((), dtype=torch.long)
        return lambda point: curve.at(as_point(point), none)

    def _at(self, point: Point) -> Tensor:
        return self._excess(as_point(point)[None])

    def _excess(self, rows: Tensor) -> Tensor:
        assert self.faults is not None
        return self.faults.excess(self._rates(rows))

    def _rates(self, rows: Tensor) -> Tensor:
        """Rates of wrong reads, mean over the rows of points, ``[2, bits]``."""
        return self._rates_by_row(rows).mean(0)

    def _rates_by_row(self, rows: Tensor) -> Tensor:
        memory = self.part.placed.device
        assert isinstance(memory, WordMemory)
        return torch.stack([memory.wrong_rates(row) for row in rows])

    def _shares(self) -> Tensor:
        """Rates of each class over their mean, ``[kinds, classes]``."""
        rates = self._rates_by_row(self.part.rows.detach()).double().flatten(1)
        return (rates / rates.mean(0).clamp(min=1e-300)).mT.contiguous()
