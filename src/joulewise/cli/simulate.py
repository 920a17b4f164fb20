"""``joulewise simulate``: one network over many chips at given operating points."""

from __future__ import annotations

import json as json_module
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.settings import Setting, settings_of
from joulewise.units import format_percent, format_si

if TYPE_CHECKING:
    from joulewise.placement import Placed
    from joulewise.study import SimulationRecord

__all__ = ["simulate"]


@placing.places()
def simulate(
    model: options.Model,
    weights: options.Weights = None,
    data: options.Data = "digits",
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    seconds: options.Seconds = None,
    plan: options.PlanFile = None,
    chips: options.Chips = 200,
    half_width: Annotated[
        float | None,
        typer.Option(help="stop when the 95 % interval reaches this far to either side, in points"),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="yield: share of chips at or above this accuracy, in percent"),
    ] = None,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Accuracy of one network over many chips, at the operating points you name.

    Example: joulewise simulate --model cnn --weights cnn.safetensors --eta 0.5 --eta 0.4

    Example: joulewise simulate --model cnn --weights cnn.safetensors --plan plan/plan.json
    """
    console.start(threads)
    from joulewise.data import load_data
    from joulewise.errors import check_in_range
    from joulewise.simulation import sweep
    from joulewise.study import Environment, SimulationRecord

    spec = placing.placement_spec(placed)
    knobs = {"eta": eta, "v_dd": v_dd, "g_max": g_max, "seconds": seconds}
    file = options.plan_file(plan, knobs)
    if target is not None:
        check_in_range("target", target, 0.0, 100.0)
    network = options.trained_network(model, weights, seed)
    dataset = load_data(data)
    contender = network.place(dataset, spec)
    placement = contender.placement
    settings = settings_of(placement, knobs, file)
    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar(f"simulate {contender.name}") as update:
        found = sweep(
            placement,
            test,
            at=[setting.at for setting in settings],
            chips=chips,
            seed=seed,
            half_width=None if half_width is None else half_width / 100,
            progress=lambda _, done, expected: update(done, expected, ""),
        )
    results = [SimulationRecord.of(placement, one) for one in found]
    goal = None if target is None else target / 100
    if json:
        record = {
            "command": shlex.join(["joulewise", *sys.argv[1:]]),
            "placement": spec.model_dump(mode="json"),
            "environment": Environment.now().model_dump(),
            "macs": placement.macs,
            "tensors": [_accesses(tensor) for tensor in placement.placed],
            "results": [
                s.said | {"summary": r.summary(goal), "simulation": r.model_dump(mode="json")}
                for s, r in zip(settings, results, strict=True)
            ],
        }
        typer.echo(json_module.dumps(record, indent=2))
    else:
        _print(contender.name, settings, results, goal)


def _accesses(tensor: Placed) -> dict[str, str | float]:
    """A placed tensor with what one inference does to it, under the names of ``--accesses``."""
    traffic = tensor.traffic
    assert traffic is not None
    figures = {"words": tensor.words, "reads": traffic.reads, "writes": traffic.writes}
    return {"name": tensor.name, "role": tensor.role, **figures}


def _print(
    name: str,
    settings: Sequence[Setting],
    results: Sequence[SimulationRecord],
    target: float | None,
) -> None:
    first = results[0]
    known = first.ideal_accuracy is not None
    columns = [settings[0].title, "memory energy", "of reliable", "chips"]
    columns += ["accuracy, 95 % interval", "5 % quantile"] if known else []
    columns += ["output MSE"] + ([f"yield at {100 * target:g} %"] if target is not None else [])
    title = f"{name}, {first.images} images"
    if first.float_accuracy is not None and first.ideal_accuracy is not None:
        title += (
            f": accuracy {100 * first.float_accuracy:.2f} % as given, "
            f"{100 * first.ideal_accuracy:.2f} % with a perfect memory"
        )
    rows = [_row(s.name, r, target) for s, r in zip(settings, results, strict=True)]
    console.print_table(title, columns, rows)


def _row(point: str, result: SimulationRecord, target: float | None) -> list[str]:
    cells: list[Any] = [
        point,
        format_si(result.energy.memory_total_j, "J"),
        format_percent(result.energy.normalised, 1),
        str(result.chips),
    ]
    if result.accuracy:
        low, high = result.accuracy_interval()
        reach = f"[{100 * low:.2f}, {100 * high:.2f}]" if result.chips > 1 else "(one chip)"
        cells += [f"{100 * result.mean_accuracy:.2f} % {reach}"]
        cells += [format_percent(result.accuracy_quantile(0.05))]
    cells += [f"{result.mean_mse:.3g}"]
    if target is not None:
        share, interval = result.yield_at(target)
        cells += [f"{100 * share:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"]
    return cells
