"""``joulewise compare``: several networks on one device, accuracy against energy."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing

if TYPE_CHECKING:
    from joulewise.data import Dataset
    from joulewise.study import Comparison, Contender, NetworkSpec

__all__ = ["compare", "present", "ready", "run"]


@placing.places(store="both", without=("accesses",))
def compare(
    model: options.Models,
    data: options.Data = "digits",
    drop: Annotated[
        list[float] | None,
        typer.Option(help="accuracy to give up, in points; repeat it  [default: 0.5, 1]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for report.html and comparison.json")
    ] = None,
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    chips: options.Chips = 200,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Several networks on one device: the lowest energy of each within an accuracy drop.

    Without --eta, --v-dd or --g-max, operating points are chosen where accuracy begins to fall.

    Example: joulewise compare --model cnn=cnn.safetensors --model mlp=mlp.safetensors --out cmp
    """
    console.start(threads)
    from joulewise.data import load_data

    spec = placing.placement_spec(placed)
    chosen = eta or v_dd or g_max
    given = options.operating_points(eta=eta, v_dd=v_dd, g_max=g_max) if chosen else None
    networks = [_network(text) for text in model]
    folder = ready(out)
    dataset = load_data(data)
    contenders = [network.place(dataset, spec) for network in networks]
    knob, points = given or (contenders[0].placement.placed[0].device.knob, None)
    comparison = run(
        contenders,
        dataset,
        images=images,
        drops=[percent / 100 for percent in drop or (0.5, 1.0)],
        points=points,
        knob=knob,
        chips=chips,
        seed=seed,
    )
    present(comparison, folder, json)


def _network(text: str) -> NetworkSpec:
    from joulewise.errors import ModelError
    from joulewise.models import ZOO
    from joulewise.study import NetworkSpec

    model, separator, weights = text.partition("=")
    if not separator and model in ZOO:
        raise ModelError(
            f"model is {text!r}, an untrained network; allowed: {model}=WEIGHTS, made for instance "
            f"by: joulewise train --model {model} --out {model}.safetensors"
        )
    return NetworkSpec(model=model, weights=Path(weights) if separator else None)


def ready(out: Path | None) -> Path | None:
    """Make the folder before computing what goes into it."""
    from joulewise.errors import InputError

    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out is {out}, which cannot be made a folder: {error}") from error
    return out


def run(
    contenders: list[Contender],
    dataset: Dataset,
    *,
    images: int | None,
    drops: list[float],
    points: list[float] | None,
    knob: str,
    chips: int,
    seed: int,
) -> Comparison:
    """Compare, with a progress bar."""
    from joulewise.study import compare as compare_networks

    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar("compare") as update:
        order = {contender.name: number for number, contender in enumerate(contenders)}

        def report(name: str, done: int, total: int) -> None:
            update(order[name] + done / total, len(contenders), name)

        return compare_networks(
            contenders,
            test,
            data_name=dataset.name,
            drops=drops,
            points=points,
            knob=knob,
            chips=chips,
            seed=seed,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=report,
        )


def present(comparison: Comparison, folder: Path | None, json: bool) -> None:
    """Write the record and the report, and print the result."""
    from joulewise.files import write_atomically
    from joulewise.report import iso_rows, write_report

    if folder is not None:
        write_atomically(folder / "comparison.json", comparison.model_dump_json(indent=1))
        write_report(comparison, folder / "report.html")
    if json:
        typer.echo(comparison.model_dump_json(indent=2))
        return
    columns = ["network", "drop", "perfect memory", comparison.knob, "memory energy saved"]
    columns += ["memory energy", "total energy", "total saved", "note"]
    rows = [
        [
            row.name,
            row.drop,
            row.ideal_accuracy,
            _with_interval(row.point, row.point_interval),
            _with_interval(row.memory_saved, row.memory_saved_interval),
            row.memory_energy,
            row.total_energy,
            row.total_saved,
            row.note,
        ]
        for row in iso_rows(comparison)
    ]
    title = f"Lowest energy within an accuracy drop: {comparison.data}, {comparison.images} images"
    title += f", {comparison.chips} chips, 95 % intervals over chips"
    console.print_table(title, columns, rows)
    if folder is not None:
        typer.echo(f"The report, for a browser: {folder / 'report.html'}")


def _with_interval(figure: str, interval: str) -> str:
    return f"{figure} [{interval}]" if interval else figure
