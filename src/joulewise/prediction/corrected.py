"""Corrected: first order, and what it gets wrong on a few simulated chips.

The error of a chip and the error that the linearised network has on the same chip go up and down
together. The mean of the second is known in closed form, so it serves as a control variate:

    MSE = E lin + mean over chips of (sim - lin),

without bias at any strength of the noise, with a standard error of its own, and with far fewer
chips than simulation alone wherever the two agree at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from joulewise.devices import Chip
from joulewise.errors import InputError, check_in_range
from joulewise.placement import Placement
from joulewise.placement.execution import call
from joulewise.prediction.accuracy import Ballot, over_chips
from joulewise.prediction.forecast import AccuracyForecast, Forecast
from joulewise.prediction.linear import Linearisation, LinearLogits, Piece
from joulewise.prediction.problem import Problem
from joulewise.prediction.total import Total

__all__ = ["Corrected"]

_SEED_OF_CHIPS = 1 << 41


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """First order, corrected by a few simulated chips; for strong noise.

    Every output is probed, so this is for networks of few outputs, such as classifiers. The
    gradients in the points of the plan are those of the first order, scaled.

    The standard error is what the drawn chips show. Where a few rare faults make most of the error
    (eight-bit masking in a stem of nine weights to a filter), thirty chips may show none of them,
    and both the estimate and its error lean on the first order. Try ``FirstOrder(secants=100)``
    there, or hundreds of chips.

    Args:
        chips: Simulated chips, 4 or more.
        outputs: The most outputs that will be probed.
        seed: Of the probes and the first chip.
        memory_bytes: See `FirstOrder`.

    Raises:
        InputError: if a field is outside its range.

    References:
        P. Glasserman, "Monte Carlo Methods in Financial Engineering", Springer 2003, section 4.1
        (control variates).
    """

    chips: int = 30
    outputs: int = 64
    seed: int = 0
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        """Check the fields once."""
        check_in_range("chips", self.chips, 4, 10**6)
        check_in_range("outputs", self.outputs, 1, 10**6)
        check_in_range("seed", self.seed, 0, 2**62)
        check_in_range("memory_bytes", self.memory_bytes, 1, 1 << 60)

    def forecast(self, problem: Problem) -> Forecast:
        """See `joulewise.prediction.predict`.

        Raises:
            InputError: if the model has more outputs than will be probed.
        """
        check_independent(problem.placement)
        outputs = problem.outputs
        if outputs > self.outputs:
            raise InputError(
                f"the model has {outputs} outputs, and method corrected probes each; allowed: "
                f'Corrected(outputs={outputs}), which takes as long, or method="first-order"'
            )
        network = Linearisation(
            problem,
            memory_bytes=self.memory_bytes,
            thinned=False,
            generator=torch.Generator().manual_seed(self.seed),
        )
        chips = [Chip(seed=_SEED_OF_CHIPS + self.seed + k) for k in range(self.chips)]
        total, trial = Total(), _Trial(self.chips)
        with torch.set_grad_enabled(network.differentiable):
            for piece in network.pieces(outputs):
                logits = network.logits(piece, outputs, chips)
                total.add_logits(piece, logits, exact=not network.differentiable)
                if network.differentiable:
                    total.add_squares(piece, *network.squares(piece, 1))
                with torch.no_grad():
                    trial.add(piece, logits, _simulated(problem, piece, logits, chips))
                problem.progress(total.samples, problem.images)
            linear = total.forecast("corrected", problem)
            network.warn_of_no_effect(linear.variance)
            return trial.correct(linear, total.ballot)


def _simulated(
    problem: Problem, piece: Piece, logits: LinearLogits, chips: Sequence[Chip]
) -> Tensor:
    """The outputs of each chip, in the order of ``logits``: ``[samples, outputs, chips]``."""
    found = []
    for chip in chips:
        problem.memory.read(problem.plan, chip)
        output = call(problem.placement.model, piece.inputs).reshape(piece.samples, -1)
        found.append(output.to(logits.mean.dtype).gather(1, logits.classes))
    return torch.stack(found, 2)


def check_independent(placement: Placement) -> None:
    """Refuse memories whose words fail together: the mean of the control variate is not known.

    Raises:
        InputError: naming the first tensor on such a memory.
    """
    for tensor in placement.placed:
        if not tensor.device.independent_words:
            raise InputError(
                f"the words of {tensor.name} do not fail independently of each other, which method "
                'corrected takes for granted; allowed: method="first-order", or simulate'
            )


class _Trial:
    """Simulated and linearised chips side by side, over all pieces of the data."""

    def __init__(self, chips: int) -> None:
        self._simulated = torch.zeros(chips, dtype=torch.float64)
        self._linear = torch.zeros(chips, dtype=torch.float64)
        self._right = torch.zeros(chips, dtype=torch.float64)
        self._shift, self._known, self._numbers = 0.0, 0.0, 0
        self._per_sample: list[Tensor] = []

    def add(self, piece: Piece, logits: LinearLogits, simulated: Tensor) -> None:
        """Some samples: what the chips gave, and what the linearised chips give."""
        assert logits.chips is not None
        ideal = piece.reference.reshape(piece.samples, -1).double().gather(1, logits.classes)
        linear = logits.mean.double()[:, :, None] + logits.chips.double()
        simulated = simulated.double()
        errors = [(found - ideal[:, :, None]).square() for found in (simulated, linear)]
        self._simulated += errors[0].sum((0, 1)).cpu()
        self._linear += errors[1].sum((0, 1)).cpu()
        self._per_sample.append((errors[0] - errors[1]).mean((1, 2)))
        rest = simulated - linear
        centre = logits.mean.double() + rest.mean(2) - ideal
        # The square of an estimate is too large by the variance of the estimate.
        too_much = rest.var(2) / rest.shape[2]
        self._shift += float((centre.square() - too_much).sum())
        whole = torch.stack([part.double() for part in logits.cov.values()]).sum(0)
        bias = (logits.mean.double() - ideal).square().sum()
        self._known += float(bias + whole.diagonal(dim1=1, dim2=2).sum())
        self._numbers += ideal.numel()
        if logits.has_target:
            self._right += (simulated.argmax(1) == 0).sum(0).cpu()

    def correct(self, linear: Forecast, ballot: Ballot) -> Forecast:
        """The forecast of the linear network, corrected.

        Args:
            linear: The forecast.
            ballot: How the linearised chips voted.
        """
        mse, error = control(
            self._simulated / self._numbers,
            self._linear / self._numbers,
            self._known / self._numbers,
        )
        mse = max(mse, 0.0)
        shift = min(max(self._shift / self._numbers, 0.0), mse)
        spread = float(linear.total_variance.detach())
        scale = (mse - shift) / spread if spread else 0.0
        return Forecast(
            method=linear.method,
            plan=linear.plan,
            images=linear.images,
            mean_shift=linear.mean_shift + (shift - linear.mean_shift.detach()),
            variance={name: part * scale for name, part in linear.variance.items()},
            standard_error=error,
            per_sample=linear.per_sample + torch.cat(self._per_sample),
            per_output=None,
            accuracy=None if linear.accuracy is None else self._accuracy(linear, ballot),
        )

    def _accuracy(self, linear: Forecast, ballot: Ballot) -> AccuracyForecast:
        assert linear.accuracy is not None
        simulated = self._right / linear.images
        mean, _ = control(simulated, ballot.chip_accuracies(), linear.accuracy.mean)
        return over_chips(min(max(mean, 0.0), 1.0), simulated)


def control(found: Tensor, beside: Tensor, known: float) -> tuple[float, float]:
    """The mean of ``found``, helped by a quantity beside it whose mean is known.

    The slope is 1 and not fitted: a fit to few chips of which none shows a large fault would be
    biased, and without any fault at all has nothing to fit.

    Args:
        found: One number for each chip, float64.
        beside: The control variate on the same chips.
        known: Its mean over all chips.

    Returns:
        ``known + mean(found - beside)``, and its standard error.

    Example:
        >>> beside = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
        >>> mean, error = control(beside + 1, beside, known=2.0)
        >>> mean, error
        (3.0, 0.0)
    """
    rest = found - beside
    return known + float(rest.mean()), float(rest.std()) / len(rest) ** 0.5
