"""First order: the output error of any network for the cost of about one training step.

With ``wbar`` and ``v`` the mean and variance of what is read, and ``z`` the output of the model as
given,

    MSE = |f(wbar) - z|^2 + sum_i v_i (df/dw_i)^2 at wbar.

The first term is exact at the mean. The second needs squared gradients of each sample with respect
to every weight: one backward pass from a random +-1 probe of the outputs gives an unbiased estimate
of their sum over outputs, for all tensors at once. One backward pass for each class gives the
exact covariance of a sample's logits to first order, and with it a predicted accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from joulewise.devices import Chip
from joulewise.errors import check_in_range, refuse
from joulewise.prediction.accumulation import ForecastAccumulator
from joulewise.prediction.forecast import Forecast
from joulewise.prediction.linearisation import Linearisation, Piece
from joulewise.prediction.problem import Problem
from joulewise.prediction.second_order import SecondOrderCorrection, second_order_correction
from joulewise.prediction.single_faults import FaultRatio, single_fault_ratios

__all__ = ["FirstOrder"]

# Far from the seeds of simulated chips: a check by simulation must not use the same chips.
_SEED_OF_CHIPS, _SEED_OF_FAULTS, _SEED_OF_PAIRS = 1 << 40, 1 << 42, 1 << 43


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOrder:
    """First order in the noise, around the mean read; for networks of differentiable operations.

    Placed activations are noise sources like weights, each word of each sample with faults of its
    own. Left out are terms of higher order in the noise (large single faults, strong noise), and
    correlations between faults of different words (correlated fault maps; codewords of several
    words; words that pass through the same cells in two calls of one layer).

    Args:
        probes: Random +-1 probes of the outputs, 1 or more; more samples reduce the error more than
            more probes. Not used where every output is probed for the accuracy.
        subsample_channels: Estimate the sum over the input channels of a convolution with 16 or
            more from a subset that changes between blocks of samples: unbiased, and up to 8 times
            less work.
        accuracy: Predict the accuracy too, where the data has targets: one backward pass for each
            class instead of one for each probe.
        classes: Outputs to probe for the accuracy, 2 or more: where the model has more, the largest
            of each sample and its target.
        chips: Linearised chips for the spread of the accuracy between chips, or 0: reads of a chip,
            followed through the linearised network, at about the cost of a simulated chip.
        noise_pairs: Pairs of noisy passes, 2 or more, that correct mean and variance of the outputs
            for curvature, or 0; method ``second-order`` takes 8, which cost 25 forward passes.
        single_faults: Single faults to try, a forward pass each, that correct the variance of each
            weight for faults too large for the tangent, or 0; about 100 reduce the error of that to
            some per cent.
        seed: Seed of the probes, the first linearised chip, the pairs and the single faults.
        memory_bytes: Memory that one pass may take beside the model, roughly; decides the number of
            samples that run at a time, one at least.

    Raises:
        InputError: if a field is outside its range.

    References:
        M. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
        smoothing splines", Communications in Statistics 18(3), 1989 (the +-1 probes).
    """

    probes: int = 1
    subsample_channels: bool = True
    accuracy: bool = True
    classes: int = 16
    chips: int = 0
    noise_pairs: int = 0
    single_faults: int = 0
    seed: int = 0
    memory_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        check_in_range("probes", self.probes, 1, 10**6)
        check_in_range("classes", self.classes, 2, 10**6)
        check_in_range("chips", self.chips, 0, 10**6)
        check_in_range("noise_pairs", self.noise_pairs, 0, 10**4)
        if self.noise_pairs == 1:
            refuse("noise_pairs", 1, "0, or 2 or more: one pair has no standard error")
        check_in_range("single_faults", self.single_faults, 0, 10**6)
        check_in_range("seed", self.seed, 0, 2**62)
        check_in_range("memory_bytes", self.memory_bytes, 1, 1 << 60)

    @property
    def name(self) -> str:
        """The name in forecasts."""
        return "second-order" if self.noise_pairs else "first-order"

    def forecast(self, problem: Problem) -> Forecast:
        """See `joulewise.prediction.predict`."""
        network = self.linearised(problem)
        total = self.accumulated(network, self.ratios(network))
        with torch.set_grad_enabled(problem.differentiable):
            return total.forecast(self.name, problem)

    def ratios(self, network: Linearisation) -> Mapping[str, FaultRatio]:
        """Ratios of true to linear variance from single faults in the first batch, if wanted."""
        if not self.single_faults:
            return {}
        first = next(network.pieces(0))  # as many samples as fit in a forward pass
        return single_fault_ratios(network, first, self.single_faults, _SEED_OF_FAULTS + self.seed)

    def accumulated(
        self, network: Linearisation, ratios: Mapping[str, FaultRatio]
    ) -> ForecastAccumulator:
        """Figures of the batches that are to be processed; see `ratios`."""
        problem = network.problem
        wanted = self.accuracy and problem.has_classes
        outputs = problem.outputs
        scalars = min(outputs, self.classes) if wanted else 0
        exact = scalars == outputs and not network.differentiable
        total = ForecastAccumulator(estimates=network.estimates, noisy=network.noisy, ratios=ratios)
        chips = [Chip(seed=_SEED_OF_CHIPS + self.seed + k) for k in range(self.chips)]
        with torch.set_grad_enabled(network.differentiable):
            for piece, correction in self._pieces(network, scalars):
                if wanted:
                    logits = network.logits(piece, scalars, chips)
                    total.add_logits(piece, logits, exact, correction)
                if not exact:
                    found = network.probed_variance(piece, self.probes)
                    total.add_probed(piece, *found, correction)
                problem.progress(total.samples, problem.samples)
        return total

    def linearised(self, problem: Problem) -> Linearisation:
        """The linearisation that a forecast is made from."""
        return Linearisation(
            problem,
            seed=self.seed,
            memory_bytes=self.memory_bytes,
            subsample_channels=self.subsample_channels,
        )

    def _pieces(
        self, network: Linearisation, scalars: int
    ) -> Iterator[tuple[Piece, SecondOrderCorrection | None]]:
        """The data in pieces, each with its second-order correction if one is wanted."""
        if not self.noise_pairs:
            yield from ((piece, None) for piece in network.pieces(scalars))
            return
        # Drawing noise takes long, noisy passes take little memory: so they run in larger pieces.
        for wide in network.pieces(0):
            correction = second_order_correction(
                network, wide, self.noise_pairs, _SEED_OF_PAIRS + self.seed
            )
            for piece, samples in network.cut(wide, scalars):
                yield piece, correction.of_samples(samples)
