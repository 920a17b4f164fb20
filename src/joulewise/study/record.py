"""Records: a finished trial as plain data, and the rows of a table that it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from joulewise.simulation import mean_interval, mean_value
from joulewise.study.trials import Evaluate, Train, Trial, kind_of

__all__ = ["Record"]

_TRIAL: TypeAdapter[Train | Evaluate] = TypeAdapter(Trial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A finished trial.

    Args:
        trial: What was asked.
        result: Plain data. ``training`` of a training, a `TrainingRecord`; facts of the placement
            of an evaluation (``knob``, ``parameters``, ``macs``, ``reliable``, ``tensors``,
            ``reference_energies_j``, and ``tokens`` of a language model, see `token_result`), and
            ``simulations``, ``forecasts`` and ``not_predicted`` of a curve, the ``allocation``, or
            the ``front``, as the ``to_dict`` of these results gives them. Of a curve of a loss,
            ``divergences`` are simulations of the KL divergence at some of its points.
            ``tokens_at`` are results of tokens at some points, or at the allocation's plan.
        weights: Digest of the weights, of a training; empty for others.
        seconds: Duration with one thread.
        environment: Versions and machine; see `Environment`.
    """

    trial: Train | Evaluate
    result: Mapping[str, Any]
    weights: str
    seconds: float
    environment: Mapping[str, Any]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Record:
        """The record of what a store keeps."""
        return cls(
            trial=_TRIAL.validate_python(plain["trial"]),
            result=plain["result"],
            weights=plain.get("weights", ""),
            seconds=plain["seconds"],
            environment=plain["environment"],
        )

    @property
    def ask(self) -> Any:
        """The question of an evaluation: a `Curve`, `Allocate` or `Front`."""
        assert isinstance(self.trial, Evaluate)
        return self.trial.ask

    @property
    def kind(self) -> str:
        """``train``, ``curve``, ``allocate`` or ``front``."""
        return kind_of(self.trial)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each simulated plan, or one for a training; equal fields for equal kinds.

        ``plan`` of an allocation is JSON: the operating point of each tensor.
        """
        result = self.result
        if isinstance(self.trial, Train):
            accuracy = result["training"]["test_accuracy"]
            return [{"kind": self.kind, "mean": accuracy, "seconds": self.seconds}]
        if self.kind == "curve":
            missing = [None] * len(result["forecasts"])  # records of 0.2
            beside = (result.get(key, missing) for key in ("divergences", "tokens_at"))
            points = zip(result["simulations"], result["forecasts"], *beside, strict=True)
            return [
                self.simulated_row(one) | _predicted(forecast) | _divergence(kl) | _of_tokens(at)
                for one, forecast, kl, at in points
            ]
        if self.kind == "front":
            return [self.simulated_row(point["simulation"]) for point in result["front"]["points"]]
        found, tokens = result["allocation"], _of_tokens(result.get("tokens_at", [None])[0])
        asked = {
            "goal": self.ask.goal.name,
            "granularity": self.ask.granularity.name,
            "holds": found["holds"],
            "plan": json.dumps(found["plan"]),
            **_at_goal(found.get("at_goal")),
        }
        if found["simulation"] is not None:
            return [asked | self.simulated_row(found["simulation"]) | tokens]
        return [asked | {"kind": self.kind} | _spent(found["energy"]) | tokens]

    def simulated_row(self, simulation: Mapping[str, Any]) -> dict[str, Any]:
        """The row of a simulated plan; ``point`` is None where tensors differ."""
        points = list(simulation["plan"].values())
        common = points[0] if all(point == points[0] for point in points) else {}
        values = [value for value in simulation["values"] if value is not None]
        several = len(values) > 1
        metric = simulation["metric"] or {}
        geometric = metric.get("geometric", False)  # records of 0.2 do not say
        low, high = mean_interval(values, geometric=geometric) if several else (None, None)
        known = [mse for mse in simulation["mse"] if mse is not None]
        return {
            "kind": self.kind,
            **{"knob": next(iter(common), None), "point": next(iter(common.values()), None)},
            **_spent(simulation["energy"]),
            "chips": simulation["chips"],
            "failed": simulation["chips"] - len(values) if simulation["values"] else 0,
            "metric": metric.get("name"),
            "ideal": simulation["ideal"],
            "mean": mean_value(values, geometric=geometric) if values else None,
            "low": low,
            "high": high,
            "output_error": sum(known) / len(known) if known else None,
        }


def _spent(energy: Mapping[str, Any]) -> dict[str, Any]:
    memory = sum(energy["memory_j"].values())
    return {
        "energy": memory / energy["memory_reliable_j"],
        "memory_j": memory,
        "total_j": memory + energy["unplaced_j"] + energy["arithmetic_j"],
    }


def _at_goal(found: Mapping[str, float] | None) -> dict[str, Any]:
    """Energy at which the goal is just met, and its 95 % interval; see `EnergyAtGoal`."""
    ends = {"energy": "", "low": "_low", "high": "_high"}
    return {f"energy_at_goal{end}": (found or {}).get(key) for key, end in ends.items()}


def _divergence(simulation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Mean simulated divergence, nats."""
    known = [value for value in (simulation or {}).get("values", ()) if value is not None]
    return {"divergence": sum(known) / len(known) if known else None}


def _of_tokens(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """All energy of a token of the prompt and of a generated one, J."""
    spent = (found or {}).get("energy")
    return {
        f"{kind}_token_j": None if spent is None else _spent(spent[kind])["total_j"]
        for kind in ("prompt", "generated")
    }


def _predicted(forecast: Mapping[str, Any] | None) -> dict[str, Any]:
    """Figures of a forecast of the output error, or of one of the loss."""
    found = forecast or {}
    return {
        "predicted_error": found.get("mse"),
        "predicted_accuracy": (found.get("accuracy") or {}).get("mean"),
        "predicted_divergence": found.get("divergence"),
        "predicted_perplexity": found.get("perplexity"),
    }
