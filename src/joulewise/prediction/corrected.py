"""First order as a control variate for a few simulated chips.

The error of a simulated chip and that of the linearised network on the same chip are correlated,
and the mean of the second is known in closed form:

    MSE = E lin + mean over chips of (sim - lin).

This is unbiased at any strength of the noise, states its standard error, and needs far fewer chips
than simulation alone wherever the two are well correlated. Where the differences vary more than the
simulated errors do (a model that clamps its weights, say, bounds an error that is large to first
order), the simulated chips alone are the estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from joulewise.devices import Chip
from joulewise.errors import InputError, check_in_range, refuse
from joulewise.prediction.accumulation import ForecastAccumulator
from joulewise.prediction.accuracy import AccuracyAccumulator, over_chips
from joulewise.prediction.forecast import Forecast
from joulewise.prediction.linearisation import Linearisation, LinearLogits, Piece
from joulewise.prediction.problem import Problem

__all__ = ["Corrected"]

_SEED_OF_CHIPS = 1 << 41


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """First order, corrected by a few simulated chips; for strong noise.

    Every output is probed, so this is for networks of few outputs, such as classifiers. The
    gradients in the points of the plan are those of first order, scaled. Where first order would
    add more noise than it removes, the estimate is the mean of the simulated chips.

    The standard error is estimated from the drawn chips. Where a few rare faults cause most of the
    error (eight-bit masking in a stem with nine weights a filter), thirty chips may show none of
    them, and the estimate and its error rest on first order. Use
    ``FirstOrder(single_faults=100)`` there, or hundreds of chips.

    Args:
        chips: Simulated chips, 4 or more.
        outputs: Outputs that are probed at most.
        seed: Seed of the probes and the first chip.
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
        check_in_range("chips", self.chips, 4, 10**6)
        check_in_range("outputs", self.outputs, 1, 10**6)
        check_in_range("seed", self.seed, 0, 2**62)
        check_in_range("memory_bytes", self.memory_bytes, 1, 1 << 60)

    def forecast(self, problem: Problem) -> Forecast:
        """See `joulewise.prediction.predict`.

        Raises:
            InputError: if the model has more than ``outputs`` outputs, or a memory states no
                moments, or has words that do not fail independently: the mean of the control
                variate is not known then.
        """
        for tensor in problem.placement.placed:
            if not tensor.device.independent_words:
                raise InputError(
                    f"the words of {tensor.name} do not fail independently of each other, which "
                    'method corrected assumes; allowed: method="first-order", or simulate'
                )
        outputs = problem.outputs
        if outputs > self.outputs:
            raise InputError(
                f"the model has {outputs} outputs, and method corrected probes each; allowed: "
                f'Corrected(outputs={outputs}), a backward pass for each, or method="first-order"'
            )
        network = Linearisation(problem, seed=self.seed, memory_bytes=self.memory_bytes)
        for name in network.estimates:
            got = "one that states no moments, whose estimates are no known mean"
            refuse(f"the memory of {name}", got, 'method="first-order", or simulate')
        chips = [Chip(seed=_SEED_OF_CHIPS + self.seed + k) for k in range(self.chips)]
        total = ForecastAccumulator(noisy=network.noisy)
        paired = _PairedChips(self.chips)
        with torch.set_grad_enabled(network.differentiable):
            for piece in network.pieces(outputs):
                logits = network.logits(piece, outputs, chips)
                total.add_logits(piece, logits, exact=not network.differentiable)
                if network.differentiable:
                    total.add_probed(piece, *network.probed_variance(piece, 1))
                simulated = []
                with torch.no_grad():
                    for chip in chips:
                        problem.memory.read(problem.points, chip)
                        output = problem.memory.call(piece.inputs).reshape(piece.samples, -1)
                        simulated.append(output.gather(1, logits.classes).double())
                    paired.add(piece, logits, torch.stack(simulated, 2))
                problem.progress(total.samples, problem.samples)
            linear = total.forecast("corrected", problem)
            return paired.correct(linear, total.accuracy)


class _PairedChips:
    """Errors of the same chips simulated and linearised, summed over pieces of the data."""

    def __init__(self, chips: int) -> None:
        self._simulated, self._linear = torch.zeros(2, chips, dtype=torch.float64)
        self._right = torch.zeros(chips, dtype=torch.float64)
        self._expected, self._numbers = 0.0, 0
        # With the control variate and without it: which of them is known at the end.
        self._shift = {True: 0.0, False: 0.0}
        self._per_sample: dict[bool, list[Tensor]] = {True: [], False: []}

    def add(self, piece: Piece, logits: LinearLogits, simulated: Tensor) -> None:
        """Add some samples, simulated in the order of ``logits``: ``[samples, outputs, chips]``."""
        assert logits.chips is not None
        ideal = piece.reference.reshape(piece.samples, -1).double().gather(1, logits.classes)
        linear = logits.mean.double()[:, :, None] + logits.chips.double()
        errors = [(found - ideal[:, :, None]).square() for found in (simulated, linear)]
        self._simulated += errors[0].sum((0, 1)).cpu()
        self._linear += errors[1].sum((0, 1)).cpu()
        self._per_sample[True].append((errors[0] - errors[1]).mean((1, 2)))
        self._per_sample[False].append(errors[0].mean((1, 2)))
        rest = simulated - linear
        for controlled, known, drawn in ((True, logits.mean, rest), (False, 0.0, simulated)):
            # E y = E linear, known in closed form, + E (y - linear), over chips; or E y over chips.
            centre = known + drawn.mean(2) - ideal
            # The square of an estimate is biased by the variance of the estimate.
            bias = drawn.var(2) / drawn.shape[2]
            self._shift[controlled] += float((centre.square() - bias).sum())
        whole = torch.stack([part.double() for part in logits.cov.values()]).sum(0)
        shift = (logits.mean.double() - ideal).square().sum()
        self._expected += float(shift + whole.diagonal(dim1=1, dim2=2).sum())
        self._numbers += ideal.numel()
        if logits.has_target:
            self._right += (simulated.argmax(1) == 0).sum(0).cpu()

    def correct(self, linear: Forecast, linearised: AccuracyAccumulator) -> Forecast:
        """The forecast of the linearised network, corrected; ``linearised`` has its chips."""
        mse, error, controlled = control(
            self._simulated / self._numbers,
            self._linear / self._numbers,
            self._expected / self._numbers,
        )
        shift = min(max(self._shift[controlled] / self._numbers, 0.0), mse)
        spread = float(linear.total_variance.detach())
        scale = (mse - shift) / spread if spread else 0.0
        # Equal parts where first order sees none.
        rest = 0.0 if spread else (mse - shift) / len(linear.variance)
        per_sample = torch.cat(self._per_sample[controlled])
        accuracy = linear.accuracy
        if accuracy is not None:
            simulated = self._right / linear.samples
            variate = linearised.chip_accuracies()
            mean, _, _ = control(simulated, variate, accuracy.mean, high=1.0)
            accuracy = over_chips(mean, simulated)
        return replace(
            linear,
            mean_shift=linear.mean_shift + (shift - linear.mean_shift.detach()),
            variance={name: part * scale + rest for name, part in linear.variance.items()},
            standard_error=error,
            per_sample=linear.per_sample + per_sample if controlled else per_sample,
            per_output=None,
            accuracy=accuracy,
        )


def control(
    found: Tensor, variate: Tensor, expected: float, high: float = math.inf
) -> tuple[float, float, bool]:
    """Mean of ``found`` with a control variate of known mean, where that helps.

    The slope is 1 instead of fitted: a fit to few chips of which none shows a large fault would be
    biased, and without any fault the slope is not defined. It is 0 where ``found`` varies less than
    its difference from the variate, and where the mean would be outside the range of ``found``.

    Args:
        found: One number for each chip, 0 to ``high``, float64.
        variate: The control variate on the same chips.
        expected: Its mean over all chips.
        high: Upper end of the range of ``found``.

    Returns:
        ``expected + mean(found - variate)``, its standard error and True; or the mean of ``found``,
        its standard error and False.

    Example:
        >>> variate = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
        >>> control(variate + 1, variate, expected=2.0)
        (3.0, 0.0, True)
        >>> control(variate / 4, variate, expected=2.0)[2]
        False
    """
    rest = found - variate
    mean, rounding = expected + float(rest.mean()), 1e-9 * float(found.mean())
    if 0.0 <= mean <= high and rest.std() <= found.std() + rounding:
        return mean, float(rest.std()) / len(rest) ** 0.5, True
    return float(found.mean()), float(found.std()) / len(found) ** 0.5, False
