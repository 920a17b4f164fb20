"""Predicted loss and divergence at one plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from joulewise.placement import Plan
from joulewise.results import Result, finite, plotted
from joulewise.units import format_percent

__all__ = ["LossForecast"]

# Tensors listed in the text summary.
_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class LossForecast(Result):
    """Predicted loss of a network with a cross-entropy, and its divergence from the model as given.

    Figures are means over rows, that is samples or tokens, and expectations over chips, in nats.
    ``E[KL] = KL(mean) + sum of contributions``; see `Fisher`.

    Args:
        method: Name of the method.
        plan: The operating point of each placed tensor.
        rows: Number of rows that count.
        mean_divergence: Divergence at the mean that is read, a float64 scalar; and by noise, if no
            weight has a derivative, as where they decide choices alone.
        contributions: Contribution of the noise of each placed tensor, float64 scalars.
        by_plane: The same for each bit plane alone, ``[bits]``, of memories of words.
        by_channel: The same for each output channel, ``[channels]``; without that of a head by its
            use as such. Empty if not requested.
        standard_error: Standard error of ``divergence`` over draws, for these rows; None for one
            draw.
        loss_standard_error: The same of ``loss``; None without targets.
        draws: Draws of noise, those of all batches together; see `Fisher`.
        large_faults: Part of the contributions from words whose single faults cost more than 0.1
            nats by their curvature, by tensor; these are tried one by one. Empty where they are
            negligible. Those of a head are not among them.
        quantiles: Quantiles of the divergence over chips, by level, where large faults of a head
            cause at least half of it: their sum is random, the rest is taken to be at its mean.
            Empty elsewhere.
        given: Negative log-likelihood of the targets by the model as given; None without targets.
        mean_loss: The same at the mean that is read; see ``mean_divergence``.
        loss_excess: Increase of the loss by noise less that of the divergence: 0 for targets that
            are distributed as the model says. Large faults of a head are taken to have none.
    """

    method: str
    plan: Plan
    rows: int
    mean_divergence: Tensor
    contributions: Mapping[str, Tensor]
    by_plane: Mapping[str, Tensor]
    by_channel: Mapping[str, Tensor]
    standard_error: float | None
    loss_standard_error: float | None
    draws: int
    large_faults: Mapping[str, float]
    quantiles: Mapping[float, float]
    given: float | None
    mean_loss: float | None
    loss_excess: float

    @property
    def divergence(self) -> Tensor:
        """Divergence from the model as given, a float64 scalar."""
        return self.mean_divergence + self.total_contribution

    @property
    def total_contribution(self) -> Tensor:
        """Sum of the contributions of all placed tensors."""
        return torch.stack(list(self.contributions.values())).sum()

    @property
    def loss(self) -> float | None:
        """Negative log-likelihood of the targets; None without targets."""
        if self.mean_loss is None:
            return None
        return self.mean_loss + float(self.total_contribution) + self.loss_excess

    @property
    def perplexity(self) -> float | None:
        """Exponential of the loss, as the geometric mean over chips; None without targets."""
        return None if self.loss is None else math.exp(min(self.loss, 700.0))

    @property
    def fractions(self) -> dict[str, float]:
        """Fraction of the divergence from each placed tensor; the mean read is the rest."""
        whole = float(self.divergence)
        return {
            name: float(part) / whole if whole else 0.0 for name, part in self.contributions.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """See `Result`; figures that are not finite are None."""
        plain = {
            "method": self.method,
            "plan": self.plan.to_dict(),
            "rows": self.rows,
            "divergence": float(self.divergence),
            "standard_error": self.standard_error,
            "loss_standard_error": self.loss_standard_error,
            "draws": self.draws,
            "large_faults": dict(self.large_faults),
            "quantiles": {str(level): value for level, value in self.quantiles.items()},
            "mean_divergence": float(self.mean_divergence),
            "contributions": {n: float(c) for n, c in self.contributions.items()},
            "by_plane": {n: c.tolist() for n, c in self.by_plane.items()},
            "by_channel": {n: c.tolist() for n, c in self.by_channel.items()},
            "given": self.given,
            "loss": self.loss,
            "perplexity": self.perplexity,
        }
        found: dict[str, Any] = finite(plain)
        return found

    def plot(self) -> Any:
        """Contribution of each placed tensor to the divergence (an Altair chart)."""
        return plotted("bar", "tensor", "fraction of the divergence", self.fractions.items())

    def _rows(self) -> Sequence[Mapping[str, Any]]:
        fractions = self.fractions
        return [
            {"tensor": name, "contribution": float(part), "fraction": fractions[name]}
            for name, part in self.contributions.items()
        ]

    def _overview(self) -> tuple[str, Mapping[str, str]]:
        error = "" if self.standard_error is None else f", standard error {self.standard_error:.2g}"
        figures = {"divergence": f"{float(self.divergence):.4g} nats{error}"}
        if self.loss is not None and self.given is not None:
            away = self.loss_standard_error
            off = "" if away is None else f", standard error {away:.2g}"
            figures["loss"] = f"{self.loss:.4g} nats{off}; {self.given:.4g} as given"
            given = math.exp(min(self.given, 700.0))
            figures["perplexity"] = f"{self.perplexity:.4g}; {given:.4g} as given"
        if self.quantiles:
            levels = ", ".join(format_percent(level, 0) for level in self.quantiles)
            values = ", ".join(f"{value:.3g}" for value in self.quantiles.values())
            figures["quantiles over chips"] = f"{values} nats ({levels})"
        if self.large_faults:
            large = sum(self.large_faults.values()) / float(self.divergence)
            figures["large single faults"] = format_percent(large, 0)
        largest = sorted(self.fractions.items(), key=lambda item: -item[1])
        figures["from"] = ", ".join(f"{n} {format_percent(s, 0)}" for n, s in largest[:_SHOWN])
        return f"{self.method}, {self.rows} rows, {self.draws} draws", figures
