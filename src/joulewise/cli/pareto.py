"""``joulewise pareto``: accuracy against energy over the whole range, plans of least energy."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.compare import network_of, ready
from joulewise.units import format_percent, format_si

if TYPE_CHECKING:
    from joulewise.study import FrontComparison, FrontRecord

__all__ = ["pareto"]


@placing.places(several=True, without=("accesses",))
def pareto(
    model: options.Models,
    data: options.Data = "digits",
    per: Annotated[
        list[str] | None,
        typer.Option(
            help="network, role, tensor or channel; repeat it  [default: network, tensor]"
        ),
    ] = None,
    bit_planes: Annotated[
        bool, typer.Option("--bit-planes", help="a point for each bit plane as well, in fronts")
    ] = False,
    drop: options.Drops = None,
    plans: Annotated[int, typer.Option(help="plans in a front")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="folder for pareto.json, with every plan, and report.html")
    ] = None,
    samples: options.Samples = 512,
    chips: options.Chips = 50,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Plans of least energy for every error: several networks, memories and kinds of points.

    Example: joulewise pareto --model cnn=cnn.safetensors --bit-planes --out front

    Example: joulewise pareto --model cnn=sgd.safetensors --model cnn=masks.safetensors
    """
    console.start(threads)
    from joulewise.allocation import Granularity
    from joulewise.data import load_data
    from joulewise.report import granularity_name
    from joulewise.study import Runner, compare_fronts

    specs = placing.placement_specs(placed)
    drops = options.accuracy_drops(drop)
    kinds = [Granularity(per=one) for one in per or ("network", "tensor")]  # type: ignore[arg-type]
    if bit_planes:
        kinds.append(Granularity(per=kinds[-1].per, bit_planes=True))
    networks = [network_of(text) for text in model]
    folder = ready(out)
    dataset = load_data(data)
    runners = []
    for network in networks:
        for spec in specs:
            contender = network.place(dataset, spec)
            where = f" on {spec.memory.device}" if len(specs) > 1 else ""
            for kind in kinds:
                name = f"{contender.name}{where}, {granularity_name(kind)}"
                runners.append(Runner(name=name, placement=contender.placement, granularity=kind))
    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar("pareto") as update:
        comparison = compare_fronts(
            runners,
            test,
            data_name=dataset.name,
            drops=drops,
            plans=plans,
            chips=chips,
            samples=samples,
            seed=seed,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=lambda what, done, expected: update(done, expected, what),
        )
    if folder is not None:
        from joulewise.files import write_atomically
        from joulewise.report import write_fronts_report

        write_atomically(folder / "pareto.json", comparison.model_dump_json(indent=1))
        write_fronts_report(comparison, folder / "report.html")
    if json:
        typer.echo(comparison.model_dump_json(indent=2))
        return
    _print_within(comparison)
    for front in comparison.fronts:
        _print_front(front)
    if folder is not None:
        typer.echo(f"The report, for a browser: {folder / 'report.html'}")


def _print_within(comparison: FrontComparison) -> None:
    columns = ["front", *(f"{100 * drop:g} points lost" for drop in comparison.drops)]
    rows = []
    for front in comparison.fronts:
        cells = []
        for found in front.within:
            if found.point is None:
                cells.append("not reached")
                continue
            edge = "at most " if found.at_edge else ""
            interval = ""
            if found.low is not None and found.high is not None:
                interval = f"{100 * found.low:.1f}, {100 * found.high:.1f}"
            share = f"{edge}{format_percent(found.point, 1)}"
            cells.append(console.with_interval(share, interval))
        rows.append([front.name, *cells])
    title = f"Memory energy of reliable: {comparison.data}, {comparison.images} images, "
    title += f"{comparison.chips} chips, 95 % intervals over chips"
    console.print_table(title, columns, rows)


def _print_front(front: FrontRecord) -> None:
    rows = []
    for point in front.front.points:
        simulation = point.simulation
        accuracy = ""
        if simulation.accuracy:
            accuracy = format_percent(simulation.mean_accuracy)
            if simulation.chips > 1:
                low, high = simulation.accuracy_interval()
                accuracy += f" [{100 * low:.2f}, {100 * high:.2f}]"
        rows.append(
            [
                format_percent(point.energy, 1),
                format_si(simulation.energy.memory_total_j, "J"),
                accuracy,
                f"{point.predicted_mse:.3g}",
                f"{simulation.mean_mse:.3g}",
            ]
        )
    columns = ["of reliable", "memory energy", "accuracy, 95 % interval"]
    console.print_table(front.name, [*columns, "output MSE, predicted", "simulated"], rows)
