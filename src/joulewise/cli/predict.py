"""``joulewise predict``: output error, accuracy and the share of each layer, without simulation."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.settings import Setting, settings_of
from joulewise.units import format_percent, format_si

if TYPE_CHECKING:
    from joulewise.data import Split
    from joulewise.placement import Placement
    from joulewise.prediction import Method
    from joulewise.study import EnergyRecord, ForecastRecord, PlacedRecord, SimulationRecord

__all__ = ["predict"]

# As many layers as fit on a screen, and shares of the error as fit beside them.
_MOST_LAYERS, _MOST_SHARES = 20, 4
_PROBES = 1
_OPTIONS = {"single_faults": "secants"}


@placing.places()
def predict(
    model: options.Model,
    weights: options.Weights = None,
    data: options.Data = "digits",
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    seconds: options.Seconds = None,
    plan: options.PlanFile = None,
    method: Annotated[
        str,
        typer.Option(
            help="first-order, second-order (strong noise), corrected (by some chips) or moments "
            "(small networks)"
        ),
    ] = "first-order",
    accuracy: Annotated[
        bool, typer.Option(help="first-order: predict it, one pass back for each class")
    ] = True,
    probes: Annotated[
        int, typer.Option(help="first-order: random probes, where not every output is probed")
    ] = _PROBES,
    secants: Annotated[
        int, typer.Option(help="first-order: single faults to try, for faults that are large")
    ] = 0,
    chips: Annotated[
        int,
        typer.Option(
            help="first-order: linearised chips, for the spread of the accuracy; corrected: "
            "simulated chips  [default: 30]"
        ),
    ] = 0,
    check: Annotated[
        int | None, typer.Option(help="simulate this many chips beside the prediction, 2 or more")
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Output error, accuracy and the share of each layer at the operating points you name.

    No chip is simulated, unless --check asks for some beside the prediction.

    Example: joulewise predict --model cnn --weights cnn.safetensors --eta 0.5 --check 100

    Example: joulewise predict --model cnn --weights cnn.safetensors --plan plan/plan.json
    """
    console.start(threads)
    from joulewise.data import load_data
    from joulewise.errors import check_in_range
    from joulewise.study import Environment, placed_records

    spec = placing.placement_spec(placed)
    knobs = {"eta": eta, "v_dd": v_dd, "g_max": g_max, "seconds": seconds}
    file = options.plan_file(plan, knobs)
    if check is not None:
        check_in_range("check", check, 2, 10**7)
    chosen = _method(
        method, {"accuracy": accuracy, "probes": probes, "secants": secants, "chips": chips}, seed
    )
    network = options.trained_network(model, weights, seed)
    dataset = load_data(data)
    contender = network.place(dataset, spec)
    placement = contender.placement
    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    settings = settings_of(placement, knobs, file)
    forecasts = _forecasts(placement, test, settings, chosen)
    simulations = _simulations(placement, test, settings, check, seed)
    ideal = _ideal_accuracy(placement, test, forecasts, simulations)
    results = [
        _Result.of(placement, setting, ideal, forecast, simulation)
        for setting, forecast, simulation in zip(settings, forecasts, simulations, strict=True)
    ]
    tensors = placed_records(placement)
    if json:
        record = {
            "command": shlex.join(["joulewise", *sys.argv[1:]]),
            "placement": spec.model_dump(mode="json"),
            "environment": Environment.now().model_dump(),
            "macs": placement.macs,
            "tensors": [tensor.model_dump() for tensor in tensors],
            "ideal_accuracy": ideal,
            "results": [result.plain() for result in results],
        }
        typer.echo(json_module.dumps(record, indent=2))
    else:
        _print_points(contender.name, results)
        _print_layers(contender.name, results, tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """What is said of one operating point."""

    setting: Setting
    ideal_accuracy: float | None
    forecast: ForecastRecord
    energy: EnergyRecord
    simulation: SimulationRecord | None

    @classmethod
    def of(
        cls,
        placement: Placement,
        setting: Setting,
        ideal_accuracy: float | None,
        forecast: ForecastRecord,
        simulation: SimulationRecord | None,
    ) -> _Result:
        from joulewise.placement import energy
        from joulewise.study import EnergyRecord

        return cls(
            setting=setting,
            ideal_accuracy=ideal_accuracy,
            forecast=forecast,
            energy=EnergyRecord.of(energy(placement, at=setting.at)),
            simulation=simulation,
        )

    @property
    def accuracy_loss(self) -> float | None:
        """Predicted, against a perfect memory of the same words."""
        if self.forecast.accuracy is None or self.ideal_accuracy is None:
            return None
        return self.ideal_accuracy - self.forecast.accuracy.mean

    def plain(self) -> dict[str, Any]:
        """For ``--json``."""
        energy = self.energy
        return {
            **self.setting.said,
            "forecast": self.forecast.model_dump(mode="json"),
            "accuracy_loss": self.accuracy_loss,
            "energy": {
                **energy.model_dump(),
                "memory_total_j": energy.memory_total_j,
                "total_j": energy.total_j,
                "normalised": energy.normalised,
            },
            "check": self._check(),
        }

    def _check(self) -> dict[str, Any] | None:
        from joulewise.study import agreement

        if self.simulation is None:
            return None
        return {
            "summary": self.simulation.summary(),
            "mse_ratio": agreement(self.forecast, self.simulation).model_dump(),
            "simulation": self.simulation.model_dump(mode="json"),
        }


def _method(name: str, given: dict[str, Any], seed: int) -> str | Method:
    """The method with its options; an unknown name is left to `predict`, which knows them all.

    Raises:
        InputError: if an option would do nothing.
    """
    from dataclasses import fields, replace

    import joulewise.contrib  # noqa: F401  registers its methods
    from joulewise.errors import InputError
    from joulewise.prediction import METHODS

    # Options and records keep their names until they are rebuilt.
    key = {"moments": "full-covariance"}.get(name, name)
    if key not in METHODS or name == "full-covariance":
        return name
    method: Any = METHODS[key]()
    known = {_OPTIONS.get(f.name, f.name): f.default for f in fields(method)}
    defaults = {"accuracy": True, "probes": _PROBES, "secants": 0, "chips": 0}
    for option, value in given.items():
        if option not in known and value != defaults[option]:
            raise InputError(f"{option} is {value}, and does nothing with method {name}")
    named = {option: field for field, option in _OPTIONS.items()}
    used = {named.get(o, o): value for o, value in given.items() if value != defaults[o]}
    chosen: Method = replace(method, **used, **({"seed": seed} if "seed" in known else {}))
    return chosen


def _forecasts(
    placement: Placement, test: Split, settings: Sequence[Setting], method: str | Method
) -> list[ForecastRecord]:
    from joulewise.prediction import predict as predict_one
    from joulewise.study import ForecastRecord

    found = []
    with console.bar("predict") as update:
        for number, setting in enumerate(settings):

            def report(_: str, done: float, expected: float, number: int = number) -> None:
                update(number + done / expected, len(settings), "")

            found.append(
                predict_one(placement, test, at=setting.at, method=method, progress=report)
            )
    return [ForecastRecord.of(placement, forecast) for forecast in found]


def _simulations(
    placement: Placement,
    test: Split,
    settings: Sequence[Setting],
    chips: int | None,
    seed: int,
) -> Sequence[SimulationRecord | None]:
    from joulewise.simulation import sweep
    from joulewise.study import SimulationRecord

    if chips is None:
        return [None] * len(settings)
    with console.bar("simulate, to check") as update:
        found = sweep(
            placement,
            test,
            at=[setting.at for setting in settings],
            chips=chips,
            seed=seed,
            progress=lambda _, done, expected: update(done, expected, ""),
        )
    return [SimulationRecord.of(placement, one) for one in found]


def _ideal_accuracy(
    placement: Placement,
    test: Split,
    forecasts: Sequence[ForecastRecord],
    simulations: Sequence[SimulationRecord | None],
) -> float | None:
    """With a perfect memory of the same words: from the check, or for three passes."""
    from joulewise.simulation import simulate

    if all(forecast.accuracy is None for forecast in forecasts):
        return None
    if (known := simulations[0]) is not None:
        return known.ideal_accuracy
    return simulate(placement, test, at=placement.most_reliable(), chips=1).ideal


def _print_points(name: str, results: Sequence[_Result]) -> None:
    first = results[0]
    title = f"{name}, {first.forecast.images} images, predicted by {first.forecast.method}"
    if first.ideal_accuracy is not None:
        title += f": accuracy {100 * first.ideal_accuracy:.2f} % with a perfect memory"
    columns = [
        first.setting.title,
        "memory energy",
        "of reliable",
        "output MSE ± error",
        "of it mean shift",
    ]
    columns += [] if first.accuracy_loss is None else ["accuracy", "loss in points"]
    predicted = first.forecast.accuracy
    if predicted is not None and predicted.quantiles is not None:
        columns += ["5 % to 95 % of chips"]
    console.print_table(title, columns, [_row(result) for result in results])
    if first.simulation is not None:
        title = f"beside {first.simulation.chips} simulated chips, with 95 % intervals"
        columns = [first.setting.title, "predicted MSE", "simulated MSE", "predicted / simulated"]
        columns += ["predicted accuracy"] if first.forecast.accuracy is not None else []
        columns += ["simulated accuracy"] if first.simulation.accuracy else []
        console.print_table(title, columns, [_check_row(result) for result in results])


def _row(result: _Result) -> list[str]:
    forecast = result.forecast
    error = "" if forecast.standard_error is None else f" ± {forecast.standard_error:.2g}"
    cells = [
        result.setting.name,
        _joules(result.energy.memory_total_j),
        format_percent(result.energy.normalised, 1),
        f"{forecast.mse:.3g}{error}",
        _share(forecast.mean_shift, forecast.mse),
    ]
    if forecast.accuracy is not None and result.accuracy_loss is not None:
        cells += [format_percent(forecast.accuracy.mean), f"{100 * result.accuracy_loss:.2f}"]
        if forecast.accuracy.quantiles is not None:
            low, _, high = forecast.accuracy.quantiles
            cells += [f"{100 * low:.2f} to {format_percent(high)}"]
    return cells


def _check_row(result: _Result) -> list[str]:
    from joulewise.study import agreement

    forecast, simulation = result.forecast, result.simulation
    assert simulation is not None
    low, high = simulation.mse_interval()
    ratio = agreement(forecast, simulation)
    ends = f"[{_number(ratio.low)}, {_number(ratio.high)}]"
    cells = [
        result.setting.name,
        f"{forecast.mse:.3g}",
        f"{simulation.mean_mse:.3g} [{low:.3g}, {high:.3g}]",
        "" if ratio.ratio is None else f"{ratio.ratio:.3f} {ends}",
    ]
    if forecast.accuracy is not None:
        cells.append(format_percent(forecast.accuracy.mean))
    if simulation.accuracy:
        low, high = simulation.accuracy_interval()
        mean = 100 * simulation.mean_accuracy
        cells.append(f"{mean:.2f} % [{100 * low:.2f}, {100 * high:.2f}]")
    return cells


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3f}"


def _share(part: float, whole: float) -> str:
    return format_percent(part / whole, 1) if whole else ""


def _print_layers(name: str, results: Sequence[_Result], tensors: Sequence[PlacedRecord]) -> None:
    """Who pays and who hurts, from input to output; the largest share of each column is marked."""
    last, shown = results[-1], results[-_MOST_SHARES:]
    errors = [[result.forecast.variance[tensor.name] for tensor in tensors] for result in shown]
    joules = [last.energy.memory_j[tensor.name] for tensor in tensors]
    hurting = sorted(range(len(tensors)), key=lambda k: errors[-1][k], reverse=True)
    listed = sorted(hurting[:_MOST_LAYERS])
    rest = [k for k in range(len(tensors)) if k not in listed]
    shares = [_Shares(joules, last.energy.memory_total_j)]
    shares += [_Shares(e, r.forecast.mse) for e, r in zip(errors, shown, strict=True)]
    rows = [
        [
            tensor.name,
            tensor.role,
            f"{tensor.words:,}",
            "" if tensor.bits is None else str(tensor.bits),
            _joules(joules[k]),
            *(column.cell(k) for column in shares),
        ]
        for k, tensor in ((k, tensors[k]) for k in listed)
    ]
    if rest:
        words = sum(tensors[k].words for k in rest)
        summed = [column.sum(rest) for column in shares]
        energy = _joules(sum(joules[k] for k in rest))
        rows.append([f"{len(rest)} others, each less", "", f"{words:,}", "", energy, *summed])
    shift = [_share(result.forecast.mean_shift, result.forecast.mse) for result in shown]
    rows.append(["mean shift, of all together", "", "", "", "", "", *shift])
    title = f"{name}, tensor by tensor: memory energy at {last.setting.label}, "
    title += "and shares of the predicted output MSE; * the largest"
    columns = ["tensor", "role", "words", "bits", "memory energy", "share of it"]
    columns += [f"MSE at {result.setting.label}" for result in shown]
    console.print_table(title, columns, rows)


@dataclass(frozen=True, slots=True)
class _Shares:
    """A column of shares."""

    parts: list[float]
    whole: float

    def cell(self, index: int) -> str:
        mark = "* " if self.whole and self.parts[index] == max(self.parts) else ""
        return mark + _share(self.parts[index], self.whole)

    def sum(self, indices: Sequence[int]) -> str:
        return _share(sum(self.parts[k] for k in indices), self.whole)


def _joules(value: float) -> str:
    return format_si(value, "J")
