"""Results of a prediction, differentiable in the operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.placement import Plan
from joulewise.results import Result, finite, format_value, plotted
from joulewise.units import format_percent

__all__ = ["AccuracyForecast", "Forecast"]

# Tensors listed in the text summary.
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyForecast:
    """Predicted accuracy of the chips at one plan, for the given samples.

    Args:
        mean: Expected accuracy over chips, in [0, 1].
        chip_std: Predicted standard deviation of the accuracy between chips; None where the method
            does not follow how the errors of different samples are correlated.
        quantiles: The 5, 50 and 95 % quantiles of the accuracy over predicted chips; None as above.
        chips: Chips that ``chip_std`` and ``quantiles`` were estimated from; 0 for none.
    """

    mean: float
    chip_std: float | None = None
    quantiles: tuple[float, float, float] | None = None
    chips: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Forecast(Result):
    """Predicted output error of a network at one plan.

    Errors are squared differences from the outputs ``z`` of the model as given (not rounded to
    words), mean over outputs and samples, as in `joulewise.simulation.Simulation.mse`:
    ``MSE = |E f - z|^2 + Var f``, expectation and variance over chips.

    Args:
        method: Name of the method, and if moments of a memory were estimated from its reads.
        plan: The operating point of each placed tensor.
        samples: Samples that the figures are a mean over.
        mean_shift: ``|E f - z|^2``; a float64 scalar, differentiable in the points of the plan.
        variance: Contribution of each placed tensor to ``Var f``; float64 scalars, differentiable
            in the points, whose sum is the whole variance.
        standard_error: Standard error of ``mse`` over samples, which covers random probes and the
            choice of samples (over chips with ``corrected``), and the error of estimated moments;
            None for a single sample.
        per_sample: The error of each sample, float64 ``[samples]``.
        per_output: The error of each output, float64, in the shape of one output; None where random
            probes mixed the outputs.
        accuracy: Predicted accuracy; None where it is not predicted, or was not requested.
        refusal: Reason why the metric of the targets is not predicted; None if it is, or if there
            are no targets.
    """

    method: str
    plan: Plan
    samples: int
    mean_shift: Tensor
    variance: Mapping[str, Tensor]
    standard_error: float | None
    per_sample: Tensor
    per_output: Tensor | None
    accuracy: AccuracyForecast | None
    refusal: str | None = None

    @property
    def mse(self) -> Tensor:
        """The whole error; a float64 scalar, differentiable in the points of the plan."""
        return self.mean_shift + self.total_variance

    @property
    def total_variance(self) -> Tensor:
        """``Var f``, the sum over placed tensors."""
        return torch.stack(list(self.variance.values())).sum()

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of the error from each placed tensor, in [0, 1]; the mean shift is the rest."""
        mse = _number(self.mse)
        return {n: _number(part) / mse if mse else 0.0 for n, part in self.variance.items()}

    def to_dict(self) -> dict[str, Any]:
        """See `Result`; figures that are not finite are None."""
        plain = {
            "method": self.method,
            "plan": self.plan.to_dict(),
            "samples": self.samples,
            "mse": _number(self.mse),
            "standard_error": self.standard_error,
            "mean_shift": _number(self.mean_shift),
            "variance": {name: _number(part) for name, part in self.variance.items()},
            "accuracy": None if self.accuracy is None else asdict(self.accuracy),
            "refusal": self.refusal,
        }
        found: dict[str, Any] = finite(plain)
        return found

    def plot(self) -> Any:
        """Contribution of each placed tensor to the output error (an Altair chart)."""
        return plotted("bar", "tensor", "fraction of the output error", self.fractions.items())

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        fractions = self.fractions
        return [
            {"tensor": name, "variance": _number(part), "fraction": fractions[name]}
            for name, part in self.variance.items()
        ]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        error = "" if self.standard_error is None else f", standard error {self.standard_error:.2g}"
        figures = {"output error": f"{_number(self.mse):.4g}{error}"}
        if self.accuracy is not None:
            figures["accuracy"] = format_value(self.accuracy.mean, (0.0, 1.0))
        if self.refusal is not None:
            figures["not predicted"] = self.refusal
        largest = sorted(self.fractions.items(), key=lambda item: -item[1])
        shift = _number(self.mean_shift) / max(_number(self.mse), 1e-300)
        figures["shift of the mean"] = f"{format_percent(shift, 0)} of the error"
        parts = (f"{name} {format_percent(part, 0)}" for name, part in largest[:_SHOWN])
        figures["variance from"] = ", ".join(parts)
        return f"{self.method}, {self.samples} samples", figures


def _number(value: Tensor) -> float:
    return float(value.detach())
