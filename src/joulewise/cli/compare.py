"""``joulewise compare``: networks on memories, accuracy against energy."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing

if TYPE_CHECKING:
    from joulewise.data import Dataset
    from joulewise.study import Comparison, Contender, NetworkSpec, PlacementSpec

__all__ = ["compare", "network_of", "present", "ready", "run"]


@placing.places(several=True, without=("accesses",))
def compare(
    model: options.Models,
    data: options.Data = "digits",
    drop: options.Drops = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for report.html and comparison.json")
    ] = None,
    eta: options.Eta = None,
    v_dd: options.VDD = None,
    g_max: options.GMax = None,
    seconds: options.Seconds = None,
    chips: options.Chips = 200,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """Networks on one device or several: the lowest energy of each within an accuracy drop.

    Without --eta, --v-dd, --g-max or --seconds, operating points are chosen where accuracy begins
    to fall. Several devices are compared by what all of the network costs on them.

    Example: joulewise compare --model cnn=cnn.safetensors --model mlp=mlp.safetensors --out cmp

    Example: joulewise compare --model cnn=cnn.safetensors --device sram --device crossbar
    --sigma 1e-6 --out devices
    """
    console.start(threads)
    from joulewise.data import load_data

    specs = placing.placement_specs(placed)
    drops = options.accuracy_drops(drop)
    points = _points(specs, {"eta": eta, "v_dd": v_dd, "g_max": g_max, "seconds": seconds})
    networks = [network_of(text) for text in model]
    folder = ready(out)
    dataset = load_data(data)
    comparison = run(
        [
            network.place(dataset, spec, name=_name(network, spec, specs), knob=knob, points=chosen)
            for network in networks
            for spec, (knob, chosen) in zip(specs, points, strict=True)
        ],
        dataset,
        images=images,
        drops=drops,
        chips=chips,
        seed=seed,
    )
    present(comparison, folder, json)


def network_of(text: str) -> NetworkSpec:
    """A network as ``--model`` has it, MODEL=WEIGHTS or MODEL.

    Raises:
        ModelError: if it is one of joulewise's own, without weights.
    """
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


def _points(
    specs: Sequence[PlacementSpec], given: dict[str, list[float] | None]
) -> list[tuple[str | None, list[float] | None]]:
    """For each device its knob and the points on it; None where they are to be chosen."""
    from joulewise.errors import InputError

    used = {knob: points for knob, points in given.items() if points}
    allowed = [knob for spec in specs for knob in spec.memory.knobs]
    if idle := [knob for knob in used if knob not in allowed]:
        devices = " or ".join(spec.memory.device for spec in specs)
        named = ", ".join(f"--{knob.replace('_', '-')}" for knob in allowed)
        raise InputError(f"{idle[0]} is given, and is no knob of {devices}; allowed: {named}")
    own = [{k: used[k] for k in spec.memory.knobs if k in used} for spec in specs]
    return [options.operating_points(**mine) if mine else (None, None) for mine in own]


_LABELS = {"sram": "SRAM", "crossbar": "crossbar", "pcm": "PCM"}


def _name(network: NetworkSpec, spec: PlacementSpec, specs: Sequence[PlacementSpec]) -> str:
    """The network's own name, with its device where there are several."""
    return f"{network.name} on {_LABELS[spec.memory.device]}" if len(specs) > 1 else network.name


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
    chips: int,
    seed: int,
) -> Comparison:
    """Compare, with a progress bar."""
    from joulewise.study import compare as compare_networks

    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar("compare") as update:
        return compare_networks(
            contenders,
            test,
            data_name=dataset.name,
            drops=drops,
            chips=chips,
            seed=seed,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=console.one_after_another(update, [c.name for c in contenders]),
        )


def present(comparison: Comparison, folder: Path | None, json: bool) -> None:
    """Write the record and the report, and print the result."""
    from joulewise.files import write_atomically
    from joulewise.report import iso_rows, title_of, write_report

    if folder is not None:
        write_atomically(folder / "comparison.json", comparison.model_dump_json(indent=1))
        write_report(comparison, folder / "report.html")
    if json:
        typer.echo(comparison.model_dump_json(indent=2))
        return
    columns = ["network", "drop", "perfect memory", title_of(comparison), "memory energy saved"]
    columns += ["memory energy", "total energy", "total saved", "note"]
    rows = [
        [
            row.name,
            row.drop,
            row.ideal_accuracy,
            console.with_interval(row.point, row.point_interval),
            console.with_interval(row.memory_saved, row.memory_saved_interval),
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
