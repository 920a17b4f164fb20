"""``joulewise simulate`` and ``predict``: one network at given operating points."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import arguments, console
from joulewise.cli.case import Case
from joulewise.units import format_percent, format_si

if TYPE_CHECKING:
    from joulewise.placement import Energy
    from joulewise.prediction import Fisher, Forecast, LossForecast, Method
    from joulewise.simulation import Simulation

__all__ = ["predict", "simulate"]

# As many tensors as fit on a screen.
_MOST_TENSORS = 20


def simulate(
    model: arguments.Model,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.PlansMemory = None,
    place: arguments.Place = None,
    at: arguments.At = None,
    plan: arguments.PlanFile = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 200,
    half_width: Annotated[
        float | None,
        typer.Option(
            help="stop at this half-width of the 95 % interval, in the unit of the metric"
        ),
    ] = None,
    limit: Annotated[
        float | None, typer.Option(help="report the yield: fraction of chips that reach this value")
    ] = None,
    seed: arguments.Seed = 0,
    workers: arguments.WorkerProcesses = None,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Simulate one network on many chips at given operating points.

    Example: joulewise simulate --model cnn=cnn.safetensors --at eta=0.5 --at eta=0.4

    Example: joulewise simulate --model cnn=cnn.safetensors --plan plan.json
    """
    case = Case.of(
        model=model,
        data=data,
        images=images,
        memory=memory,
        place=place,
        at=at,
        plan=plan,
        metric=metric,
        seed=seed,
        chips=chips,
        workers=workers,
    )
    from joulewise.errors import check_in_range

    if half_width is not None:
        check_in_range("half_width", half_width, 0.0, 1e6, open_low=True)
    with console.users_code():
        case.load(torch_device)
    found = case.simulate("simulate", chips, seed, half_width)
    if json:
        results = [
            {"at": n, **_plain(one, limit)} for n, one in zip(case.names, found, strict=True)
        ]
        _echo(case, results)
        return
    rows = [_row(name, one, limit) for name, one in zip(case.names, found, strict=True)]
    one = found[0]
    columns = ["point", "memory", "of reliable", "chips"]
    columns += [] if one.metric is None else [f"{one.metric.name} [95 %]", "5 % quantile"]
    columns += ["output error"] + ([] if limit is None else ["yield [95 %]"])
    title = f"{case.name} on {case.file.memories[0].name}, {one.samples} test samples"
    if one.metric is not None:
        given, ideal = (_text(one, value) for value in (one.original, one.ideal))
        title += f": {one.metric.name} {given} as given, {ideal} with a perfect memory"
    console.print_table(title, columns, rows)
    _print_converters(one.energy)


def predict(
    model: arguments.Model,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.PlansMemory = None,
    place: arguments.Place = None,
    at: arguments.At = None,
    plan: arguments.PlanFile = None,
    method: Annotated[
        str,
        typer.Option(
            help="first-order, second-order, corrected, full-covariance or fisher (loss and "
            "divergence), with settings: first-order:single_faults=8"
        ),
    ] = "first-order",
    check: Annotated[
        int | None, typer.Option(help="also simulate this many chips, 2 or more")
    ] = None,
    seed: arguments.Seed = 0,
    workers: arguments.WorkerProcesses = None,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Predict output error, accuracy and contributions of tensors, without simulating chips.

    Method fisher predicts the loss and the divergence of language models and classifiers.

    Example: joulewise predict --model cnn=cnn.safetensors --at eta=0.5 --check 100
    """
    if workers is not None and not method.startswith(("first-order", "second-order")):
        from joulewise.errors import refuse

        refuse("workers", f"given with {method}", "method first-order or second-order")
    chips = 2 if check is None else check
    case = Case.of(
        model=model,
        data=data,
        images=images,
        memory=memory,
        place=place,
        at=at,
        plan=plan,
        metric=None,
        seed=seed,
        chips=chips,
        workers=workers,
    )
    with console.users_code():
        case.load(torch_device)
    from joulewise.metrics import KLDivergence
    from joulewise.placement import energy
    from joulewise.prediction import LossForecast

    found = case.predict(_method(method, seed))
    simulated: list[Simulation | None] = [None] * len(found)
    if check is not None:
        if isinstance(found[0], LossForecast):
            case.metric = KLDivergence()  # the figure that is predicted
        simulated = [*case.simulate("simulate, to check", check, seed)]
    spent = [energy(case.placement, at=one) for one in case.plans]
    if json:
        results = [
            {
                "at": name,
                **forecast.to_dict(),
                "energy": joules.to_dict(),
                "simulation": None if one is None else _plain(one, None),
            }
            for name, forecast, joules, one in zip(case.names, found, spent, simulated, strict=True)
        ]
        _echo(case, results)
        return
    _print_forecasts(case, found, spent, simulated)
    _print_tensors(case, found)


def _method(text: str, seed: int) -> Method | Fisher:
    """A method with its settings.

    Raises:
        InputError: if there is none of that name, or no such setting.
    """
    from dataclasses import fields

    import joulewise.contrib  # noqa: F401  registers its methods
    from joulewise.errors import refuse
    from joulewise.prediction import METHODS, Fisher
    from joulewise.study.short_forms import short_form

    settings = short_form(text, "name")
    name = settings.pop("name")
    known: dict[str, Any] = {**METHODS, "fisher": Fisher}
    if name not in known:
        refuse("method", repr(name), ", ".join(known))
    method: Any = known[name]()
    options = {field.name for field in fields(method)}
    for setting in settings:
        if setting not in options:
            refuse(f"the setting of {name}", repr(setting), ", ".join(sorted(options)))
    if "seed" in options:
        settings = {"seed": seed, **settings}
    chosen: Method | Fisher = type(method)(**settings)
    return chosen


def _echo(case: Case, results: list[dict[str, Any]]) -> None:
    from joulewise.study.environment import Environment
    from joulewise.study.placed import placed_records

    record = {
        "command": shlex.join(["joulewise", *sys.argv[1:]]),
        "memory": case.file.memories[0].model_dump(mode="json"),
        "place": case.file.place.model_dump(mode="json"),
        "environment": Environment.now().model_dump(),
        "macs": case.placement.macs,
        "tensors": [tensor.model_dump() for tensor in placed_records(case.placement)],
        "results": results,
    }
    typer.echo(json_module.dumps(record, indent=2, allow_nan=False))


def _plain(one: Simulation, limit: float | None) -> dict[str, Any]:
    """A simulation with the figures that follow from its values."""
    found = one.to_dict()
    if one.metric is not None and one.failed < one.chips:
        low, high = one.interval() if one.chips - one.failed > 1 else (None, None)
        found |= {"mean": one.mean, "low": low, "high": high}
        if limit is not None:
            fraction, interval = one.yield_at(limit)
            found |= {"yield": fraction, "yield_interval": list(interval)}
    return found


def _text(one: Simulation, value: float | None) -> str:
    from joulewise.results import format_value

    assert one.metric is not None
    return format_value(value, one.metric.bounds)


def _row(name: str, one: Simulation, limit: float | None) -> list[str]:
    cells = [
        name,
        format_si(one.energy.memory_total_j, "J"),
        format_percent(one.energy.normalised, 1),
        str(one.chips),
    ]
    if one.metric is not None and one.failed == one.chips:
        cells += ["all chips failed", ""]
    elif one.metric is not None:
        mean = f"{_text(one, one.mean)} (one chip)"
        if one.chips - one.failed > 1:
            from joulewise.results import format_estimate

            mean = format_estimate(one.mean, one.interval(), one.metric.bounds)
        cells += [mean, _text(one, one.quantile(0.05))]
    cells.append(f"{one.mean_mse:.3g}" if one.mse else "")
    if limit is not None:
        fraction, interval_of = one.yield_at(limit)
        low, high = (100 * end for end in interval_of)
        cells.append(f"{format_percent(fraction, 1)} [{low:.1f}, {high:.1f}]")
    return cells


def _figures(forecast: Forecast | LossForecast) -> list[str]:
    """Predicted output error and accuracy; of a loss, divergence and perplexity."""
    from joulewise.prediction import LossForecast

    error = "" if forecast.standard_error is None else f" +- {forecast.standard_error:.2g}"
    if isinstance(forecast, LossForecast):
        perplexity = "" if forecast.perplexity is None else f"{forecast.perplexity:.4g}"
        return [f"{float(forecast.divergence):.3g}{error}", perplexity]
    accuracy = "" if forecast.accuracy is None else format_percent(forecast.accuracy.mean)
    return [f"{float(forecast.mse):.3g}{error}", accuracy]


def _interleaved(predicted: list[str], simulated: list[str]) -> list[str]:
    """Predicted cells, each followed by the simulated one if there is one."""
    pairs = zip_longest(predicted, simulated)
    return [cell for pair in pairs for cell in pair if cell is not None]


def _simulated(one: Simulation | None, loss: bool) -> list[str]:
    """Simulated figures beside predicted ones; of a loss, the divergence."""
    if one is None:
        return []
    if loss:
        return [f"{one.mean:.3g} [{', '.join(f'{end:.3g}' for end in one.interval())}]"]
    low, high = one.mse_interval()
    metric = "" if one.metric is None else _text(one, one.mean)
    return [f"{one.mean_mse:.3g} [{low:.3g}, {high:.3g}]", metric]


def _print_forecasts(
    case: Case,
    found: Sequence[Forecast | LossForecast],
    spent: Sequence[Energy],
    simulated: Sequence[Simulation | None],
) -> None:
    """Predictions, beside simulations if there are any."""
    from joulewise.prediction import LossForecast

    first = found[0]
    loss = isinstance(first, LossForecast)
    figures = ["divergence, nats", "perplexity"] if loss else ["output error", "accuracy"]
    checked = ["simulated [95 %]"] if loss else ["simulated [95 %]", "simulated"]
    beside = checked if simulated[0] is not None else []
    columns = ["point", "memory", "of reliable", *_interleaved(figures, beside)]
    rows = [
        [
            name,
            format_si(joules.memory_total_j, "J"),
            format_percent(joules.normalised, 1),
            *_interleaved(_figures(forecast), _simulated(one, loss)),
        ]
        for name, forecast, joules, one in zip(case.names, found, spent, simulated, strict=True)
    ]
    title = f"{case.name} on {case.file.memories[0].name}, predicted by {first.method}"
    console.print_table(title, columns, rows)
    _print_converters(spent[0])
    if not isinstance(first, LossForecast) and first.refusal is not None:
        typer.echo(f"The metric is not predicted: {first.refusal}")


def _print_converters(spent: Energy) -> None:
    """The part of the memory energy that is the same at all points, if there is any."""
    if spent.converters_j:
        joules = format_si(spent.converters_j, "J")
        typer.echo(f"Converters take {joules} of the memory energy at each point.")


def _print_tensors(case: Case, found: list[Forecast | LossForecast]) -> None:
    """Contributions at each point, of the tensors that contribute most at the last."""
    from joulewise.prediction import LossForecast

    last = found[-1].fractions
    listed = sorted(last, key=lambda name: -last[name])[:_MOST_TENSORS]
    order = [placed.name for placed in case.placement.placed if placed.name in listed]
    rows = [
        [name, *(format_percent(forecast.fractions[name], 1) for forecast in found)]
        for name in order
    ]
    rest = len(last) - len(listed)
    if rest:
        others = [sum(v for n, v in f.fractions.items() if n not in listed) for f in found]
        rows.append([f"{rest} others", *(format_percent(other, 1) for other in others)])
    shifts = [1 - sum(forecast.fractions.values()) for forecast in found]
    rows.append(["shift of the mean", *(format_percent(shift, 1) for shift in shifts)])
    figure = "divergence" if isinstance(found[0], LossForecast) else "output error"
    console.print_table(f"Contributions to the {figure}", ["tensor", *case.names], rows)
