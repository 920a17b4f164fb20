"""Results of a prediction, as differentiable tensors and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from joulewise.devices import PlainPoint, Point, plain_point

__all__ = ["AccuracyForecast", "Forecast", "ForecastRecord"]


class AccuracyForecast(BaseModel):
    """Predicted accuracy of the chips at one plan, for the given samples.

    Args:
        mean: Expected accuracy over chips, in [0, 1].
        chip_std: Predicted standard deviation of the accuracy between chips; None where the method
            does not follow how the errors of different samples are correlated.
        quantiles: The 5, 50 and 95 % quantiles of the accuracy over predicted chips; None as above.
        chips: Chips that ``chip_std`` and ``quantiles`` were estimated from; 0 for none.
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    chip_std: float | None = None
    quantiles: tuple[float, float, float] | None = None
    chips: int = 0


class ForecastRecord(BaseModel):
    """A `Forecast` as plain data that can be stored as JSON and read again."""

    model_config = ConfigDict(frozen=True)

    method: str
    plan: dict[str, PlainPoint]
    images: int
    mse: float
    standard_error: float | None
    mean_shift: float
    variance: dict[str, float]
    shares: dict[str, float]
    accuracy: AccuracyForecast | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """The output error of a network at one plan, without simulating chips.

    Errors are squared differences from the outputs ``z`` of the model as given (not rounded to
    words), mean over outputs and samples, as in `joulewise.simulation.Simulation.mse`:
    ``MSE = |E f - z|^2 + Var f``, expectation and variance over chips.

    Args:
        method: Name of the method; says if the moments of a memory were estimated from its reads.
        plan: The operating point of each placed tensor.
        images: Samples that the figures are a mean over.
        mean_shift: ``|E f - z|^2``; a float64 scalar, differentiable in the points of the plan.
        variance: Contribution of each placed tensor to ``Var f``; float64 scalars, differentiable
            in the points, whose sum is the whole variance.
        standard_error: Standard error of ``mse`` over samples, which covers random probes and the
            choice of samples (over chips with ``corrected``), and the error of estimated moments;
            None for a single sample.
        per_sample: The error of each sample, float64 ``[images]``.
        per_output: The error of each output, float64, in the shape of one output; None where random
            probes mixed the outputs.
        accuracy: Predicted accuracy; None without targets, or where it was not requested.
    """

    method: str
    plan: Mapping[str, Point]
    images: int
    mean_shift: Tensor
    variance: Mapping[str, Tensor]
    standard_error: float | None
    per_sample: Tensor
    per_output: Tensor | None
    accuracy: AccuracyForecast | None

    @property
    def mse(self) -> Tensor:
        """The whole error; a float64 scalar, differentiable in the points of the plan."""
        return self.mean_shift + self.total_variance

    @property
    def total_variance(self) -> Tensor:
        """``Var f``, the sum over placed tensors."""
        return torch.stack(list(self.variance.values())).sum()

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of the error from each placed tensor, in [0, 1]; the mean shift is the rest."""
        mse = float(self.mse)
        return {n: float(part) / mse if mse else 0.0 for n, part in self.variance.items()}

    def record(self) -> ForecastRecord:
        """The figures as plain data."""
        return ForecastRecord(
            method=self.method,
            plan={name: plain_point(point) for name, point in self.plan.items()},
            images=self.images,
            mse=float(self.mse),
            standard_error=self.standard_error,
            mean_shift=float(self.mean_shift),
            variance={name: float(part) for name, part in self.variance.items()},
            shares=self.shares,
            accuracy=self.accuracy,
        )
