"""The computation of one trial, in any process: from a trial and weights to a result."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from joulewise.allocation import allocate, pareto
from joulewise.data import Batches, Dataset
from joulewise.errors import JoulewiseError
from joulewise.metrics import KLDivergence, Metric, is_loss
from joulewise.placement import Placement, Plan, energy, reference_energies
from joulewise.prediction import predict
from joulewise.progress import Report, silent
from joulewise.simulation import Simulation, sweep
from joulewise.study.energy_curve import energy_curve, losses
from joulewise.study.entries import Place
from joulewise.study.environment import Environment
from joulewise.study.least_energy import lost_by
from joulewise.study.networks import metric_of, place_network, test_split, train_network
from joulewise.study.placed import placed_records
from joulewise.study.sources import check_files, data_of, safetensors_of
from joulewise.study.tokens import token_result
from joulewise.study.trials import Allocate, Curve, Evaluate, Train

__all__ = ["Outcome", "compute"]

# Predictions beside a curve: at most this many, where no more than this is lost.
_FORECASTS, _MOST_LOST = 4, 0.11


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A computed trial.

    Args:
        result: Plain data; its fields depend on the kind of trial.
        weights: A safetensors file, of a training.
        seconds: Duration.
        environment: See `Environment`.
    """

    result: dict[str, Any]
    weights: bytes | None = None
    seconds: float
    environment: dict[str, Any]


def compute(
    trial: Train | Evaluate,
    weights: Path | None = None,
    report: Report = silent,
    executor: Executor | None = None,
) -> Outcome:
    """Compute a trial with one thread, so that its figures are the same on any engine.

    Args:
        trial: The trial.
        weights: The weights of its network; None for a training, or those of the model's code.
        report: Called with the progress.
        executor: Workers that the chips and batches of an evaluation are spread over; None for
            none.

    Raises:
        JoulewiseError: as the functions of joulewise do that it calls.
    """
    began = time.perf_counter()
    content = None
    check_files(trial)
    with _one_thread():
        if isinstance(trial, Train):
            result, content = _train(trial, report)
        else:
            result = _evaluate(trial, weights, report, executor)
    return Outcome(
        result=result,
        weights=content,
        seconds=time.perf_counter() - began,
        environment=Environment.now().model_dump(),
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # NumPy's and SciPy's linear algebra
            yield
    finally:
        torch.set_num_threads(before)


def _train(trial: Train, report: Report) -> tuple[dict[str, Any], bytes]:
    """The record of a training, and its weights."""
    model, record, _ = train_network(
        trial.model.path,
        trial.training,
        data_of(trial.data),
        trial.memory,
        trial.place or Place(),
        seed=trial.seed,
        report=lambda epoch: report("training", epoch.epoch, trial.training.epochs),
    )
    return {"training": record.model_dump(mode="json")}, safetensors_of(model)


def _evaluate(
    trial: Evaluate, weights: Path | None, report: Report, executor: Executor | None
) -> dict[str, Any]:
    """Facts of the placement, and the answer to what is asked."""
    network = trial.network
    data = data_of(trial.data)
    placement = place_network(
        network.model.path, weights, network.seed, data, trial.memory, trial.place
    )
    test = test_split(data, trial.data.images)
    facts = {
        "knob": placement.placed[0].device.knob.name,
        "parameters": sum(parameter.numel() for parameter in placement.model.parameters()),
        "macs": placement.macs,
        "reliable": energy(placement, at=placement.most_reliable()).to_dict(),
        "reference_energies_j": reference_energies(placement),
        "tensors": [record.model_dump() for record in placed_records(placement)],
    }
    tokens = partial(_tokens, placement, data, trial)
    facts["tokens"] = tokens(None)
    metric = metric_of(trial.metric)
    ask = trial.ask
    if isinstance(ask, Curve):
        return facts | _curve(placement, test, trial, ask, metric, tokens, report, executor)
    common: dict[str, Any] = {
        "granularity": ask.granularity.build(),
        "samples": trial.samples,
        "seed": trial.chip_seed,
        "chips": trial.chips,
        "metric": metric,
        "progress": report,
        "executor": executor,
    }
    if isinstance(ask, Allocate):
        goal, confidence = ask.goal.build(), ask.confidence
        allocation = allocate(placement, test, goal=goal, confidence=confidence, **common)
        plan = allocation.plan
        facts |= {"plan_file": _file_of(plan), "tokens_at": [tokens(plan)]}
        return facts | {"allocation": allocation.to_dict()}
    return facts | {"front": pareto(placement, test, plans=ask.plans, **common).to_dict()}


def _tokens(
    placement: Placement, data: Dataset | Batches, trial: Evaluate, plan: Plan | None
) -> dict[str, Any] | None:
    """Energy and text of tokens at a plan; None for data that are not batches of mappings."""
    if not isinstance(data, Batches):
        return None
    ids = data.longest.get("input_ids")
    return token_result(
        placement,
        plan,
        # Models with learned positions may have none after the last token.
        context=None if ids is None else max(ids.shape[-1] - 1, 1),
        generation=trial.generation,
        chip=trial.chip_seed,
    )


def _file_of(plan: Plan) -> dict[str, Any]:
    """The content of a plan file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        plan.write(path)
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content


def _curve(
    placement: Placement,
    test: Any,
    trial: Evaluate,
    ask: Curve,
    metric: Metric | None,
    tokens: Callable[[Plan | None], Any],
    report: Report,
    executor: Executor | None,
) -> dict[str, Any]:
    """Simulations, and predictions, divergences and tokens beside some of them."""
    geometric = metric is not None and metric.geometric
    drops = tuple(lost_by(drop, geometric=geometric) for drop in ask.drops)
    chips: dict[str, Any] = {"chips": ask.chips, "seed": trial.chip_seed, "executor": executor}
    found = energy_curve(
        placement, test, points=ask.points, drops=drops, metric=metric, report=report, **chips
    )
    loss = is_loss(found[0].metric)
    chosen = _spread([float(losses(one).mean()) for one in found], drops)
    forecasts, refused = _predicted(placement, test, found, chosen, loss, report, executor)
    # All points that the study names are shown; of points on a grid, the predicted ones.
    shown = range(len(found)) if ask.points else chosen
    divergences: list[Any] = [None] * len(found)
    if loss and shown:
        at = [found[index].plan for index in shown]
        beside = sweep(placement, test, at=at, metric=KLDivergence(), progress=report, **chips)
        for index, one in zip(shown, beside, strict=True):
            divergences[index] = one.to_dict()
    return {
        "simulations": [one.to_dict() for one in found],
        "forecasts": forecasts,
        "not_predicted": refused,
        "divergences": divergences,
        "tokens_at": [tokens(one.plan) if k in shown else None for k, one in enumerate(found)],
    }


def _predicted(
    placement: Placement,
    test: Any,
    found: Sequence[Simulation],
    chosen: Sequence[int],
    loss: bool,
    report: Report,
    executor: Executor | None,
) -> tuple[list[Any], str]:
    """Forecasts at the chosen points, None at others, and the reason where there is none."""
    forecasts: list[Any] = [None] * len(found)
    options: dict[str, Any] = {"method": "fisher"}
    if not loss:
        options = {"method": "second-order", "executor": executor}
    for number, index in enumerate(chosen):
        report("predicting", number, _FORECASTS)
        try:
            forecast = predict(placement, test, at=found[index].plan, **options)
        except JoulewiseError as error:  # a curve is worth having without predictions
            return forecasts, str(error)
        forecasts[index] = forecast.to_dict()
    return forecasts, ""


def _spread(lost: list[float], drops: tuple[float, ...]) -> list[int]:
    """At most four points to predict: nearest to the drops, then far from each other, in order.

    Distances are between square roots: small losses are where networks are used.

    Example:
        >>> _spread([0.0, 0.0, 0.001, 0.004, 0.006, 0.009, 0.02, 0.1, 0.5], (0.005, 0.01))
        [1, 3, 5, 7]
    """
    most = max(_MOST_LOST, 10 * max(drops)) if max(drops) > _MOST_LOST else _MOST_LOST
    able = [index for index, loss in enumerate(lost) if loss <= most]
    chosen: list[int] = []
    for drop in sorted(drops):
        nearest = min(able, key=lambda index: abs(lost[index] - drop), default=None)
        if nearest is not None and nearest not in chosen:
            chosen.append(nearest)
    root = [max(loss, 0.0) ** 0.5 for loss in lost]
    while len(chosen) < min(_FORECASTS, len(able)):
        # Among points that lose the same, the least reliable: errors elsewhere are tiny.
        rest = [index for index in reversed(able) if index not in chosen]
        chosen.append(
            max(rest, key=lambda i: min((abs(root[i] - root[c]) for c in chosen), default=0.0))
        )
    return sorted(chosen[:_FORECASTS])
