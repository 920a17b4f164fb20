"""Accumulation of shift, variance and accuracy over pieces of the data, whatever the method."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from joulewise.devices import MomentEstimate
from joulewise.prediction.accuracy import AccuracyAccumulator
from joulewise.prediction.forecast import Forecast
from joulewise.prediction.linearisation import LinearLogits, Piece
from joulewise.prediction.problem import Problem
from joulewise.prediction.second_order import SecondOrderCorrection
from joulewise.prediction.single_faults import FaultRatio

__all__ = ["ForecastAccumulator"]


@dataclass(slots=True, eq=False)
class ForecastAccumulator:
    """Figures of all samples so far.

    Attributes:
        samples: Number of samples.
        shift: Squared mean shift of each sample, piece by piece.
        variance: The same of the variance, by placed tensor.
        outputs: The same of the error of each output, where it is known.
        shift_error: Standard error of the squared shift of each sample from estimated means.
        ratios: Ratio of true to linear variance, by placed tensor; 1 where there is none.
        estimates: Origin of the moments of each placed tensor whose device states none.
        noisy: The placed weights that have any variance.
        accuracy: Accuracy.
    """

    samples: int = 0
    shift: list[Tensor] = field(default_factory=list)
    variance: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    shift_error: list[Tensor] = field(default_factory=list)
    ratios: Mapping[str, FaultRatio] = field(default_factory=dict)
    estimates: Mapping[str, MomentEstimate] = field(default_factory=dict)
    noisy: tuple[str, ...] = ()
    accuracy: AccuracyAccumulator = field(default_factory=AccuracyAccumulator)

    def add(
        self, shift: Tensor, variance: Mapping[str, Tensor], outputs: Tensor | None = None
    ) -> None:
        """Add some samples.

        Args:
            shift: Squared mean shift, mean over outputs, float64 ``[samples]``.
            variance: Variance by placed tensor, likewise; tensors without any may be absent.
            outputs: Error of each output, ``[samples, *output]``, where it is known.
        """
        self.shift.append(shift)
        for name, part in variance.items():
            self.variance.setdefault(name, []).append(part)
        self.outputs += [] if outputs is None else [outputs]
        self.samples += len(shift)

    def add_probed(
        self,
        piece: Piece,
        output: Tensor,
        variance: Mapping[str, Tensor],
        correction: SecondOrderCorrection | None = None,
    ) -> None:
        """Add shift and variance from random probes."""
        error = (output.double() - piece.reference.double()).reshape(piece.samples, -1)
        scaled = {name: part * self._ratio(name) for name, part in variance.items()}
        if correction is not None and scaled:
            factor = correction.variance_ratio(torch.stack(list(scaled.values())).sum(0))
            scaled = {name: part * factor for name, part in scaled.items()}
        shift = _squared(error, correction).mean(1)
        if (spread := self._mean_error(scaled)) is not None:
            # Gradients of probes do not tell the direction of the error of the mean.
            self.shift_error.append(2 * (shift.clamp(min=0) * spread).sqrt())
            shift = shift - spread
        self.add(shift, scaled)

    def add_logits(
        self,
        piece: Piece,
        logits: LinearLogits,
        exact: bool,
        correction: SecondOrderCorrection | None = None,
    ) -> None:
        """Add accuracies; with ``exact``, every output being probed, shift and variance too."""
        cov = {name: part.double() * self._ratio(name) for name, part in logits.cov.items()}
        whole = torch.stack(list(cov.values())).sum(0)
        if correction is not None:
            correction = correction.of_outputs(logits.classes)
            linear = whole.diagonal(dim1=1, dim2=2).mean(1)
            factor = correction.variance_ratio(linear).detach()[:, None, None]
            cov = {name: part * factor for name, part in cov.items()}
            whole = whole * factor
        if logits.has_target:
            # The target is the first of the chosen classes.
            first = torch.zeros(piece.samples, dtype=torch.int64, device=whole.device)
            mean = logits.mean
            if correction is not None:
                mean = mean.double() + correction.mean.detach()
            self.accuracy.add(mean, whole, first, logits.chips)
        if not exact:
            return
        ideal = piece.reference.reshape(piece.samples, -1).double().gather(1, logits.classes)
        error = logits.mean.double() - ideal
        shift = _squared(error, correction)
        if (spread := self._mean_error(cov)) is not None:
            along = error if correction is None else error + correction.mean
            spent = torch.einsum("so,sop,sp->s", along, spread, along).clamp(min=0)
            self.shift_error.append(2 * spent.sqrt() / error.shape[1])
            shift = shift - spread.diagonal(dim1=1, dim2=2)
        errors = shift + whole.diagonal(dim1=1, dim2=2)
        self.add(
            shift.mean(1),
            {name: part.diagonal(dim1=1, dim2=2).mean(1) for name, part in cov.items()},
            torch.zeros_like(errors).scatter_(1, logits.classes, errors),
        )

    def _mean_error(self, variance: Mapping[str, Tensor]) -> Tensor | None:
        """Variance of the outputs at estimated means, by which their squared shift is too large."""
        parts = [variance[n] / e.chips for n, e in self.estimates.items() if n in variance]
        return torch.stack(parts).sum(0) if parts else None

    def _ratio(self, name: str) -> float:
        return self.ratios[name].mean if name in self.ratios else 1.0

    def _standard_error(self, per_sample: Tensor, variance: Mapping[str, Tensor]) -> float | None:
        """Standard error of the mean over samples, of single faults and of estimated moments.

        Errors of estimated means are taken as common to all samples, which overstates them; those
        of variances are as if all words mattered alike.
        """
        if len(per_sample) < 2:
            return None
        squared = float(per_sample.var()) / len(per_sample)
        for name, ratio in self.ratios.items():
            part = float(variance[name].detach().mean())
            squared += (part * ratio.standard_error / max(ratio.mean, 1e-12)) ** 2
        for name, estimate in self.estimates.items():
            squared += (float(variance[name].detach().mean()) * estimate.relative_error) ** 2
        if (spread := self._mean_error(variance)) is not None:
            squared += float(torch.cat(self.shift_error).detach().mean()) ** 2
            squared += 2 * float(spread.detach().mean()) ** 2
        return float(squared**0.5)

    def append(self, other: ForecastAccumulator) -> None:
        """Append the samples of another accumulator."""
        self.samples += other.samples
        self.shift += other.shift
        for name, parts in other.variance.items():
            self.variance.setdefault(name, []).extend(parts)
        self.outputs += other.outputs
        self.shift_error += other.shift_error
        self.accuracy.append(other.accuracy)

    def forecast(self, method: str, problem: Problem) -> Forecast:
        """The forecast for all samples; warns of weights whose noise moves no output."""
        if self.estimates:
            chips = max(estimate.chips for estimate in self.estimates.values())
            method = f"{method}, moments estimated from {chips} chips"
        shift = torch.cat(self.shift)
        none = torch.zeros_like(shift)
        found = {name: torch.cat(parts) for name, parts in self.variance.items()}
        variance = {p.name: found.get(p.name, none) for p in problem.placement.placed}
        if still := [name for name in self.noisy if not bool(variance[name].any())]:
            warnings.warn(
                f"faults in {', '.join(still)} move no output to first order: does the output "
                "depend differentiably on it? If it does not, simulate",
                stacklevel=5,
            )
        per_sample = (shift + torch.stack(list(variance.values())).sum(0)).detach()
        return Forecast(
            method=method,
            plan=problem.plan,
            samples=len(per_sample),
            mean_shift=shift.mean(),
            variance={name: part.mean() for name, part in variance.items()},
            standard_error=self._standard_error(per_sample, variance),
            per_sample=per_sample,
            per_output=torch.cat(self.outputs).mean(0) if self.outputs else None,
            accuracy=self.accuracy.result(),
            refusal=problem.refusal,
        )


def _squared(error: Tensor, correction: SecondOrderCorrection | None) -> Tensor:
    """``|E f - z|^2`` for each output, without the bias of an estimated mean's square."""
    if correction is None:
        return error.square()
    return (error + correction.mean).square() - correction.even_var / correction.pairs
