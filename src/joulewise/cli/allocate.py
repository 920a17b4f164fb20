"""``joulewise allocate`` and ``pareto``: plans of least energy, as studies of options."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import arguments
from joulewise.cli.running import run_options
from joulewise.files import write_atomically

if TYPE_CHECKING:
    from joulewise.study.record import Record
    from joulewise.study.study import Position

__all__ = ["allocate", "pareto"]

# Exit code where the goal was not shown to hold: the plan is the best that there is.
OUT_OF_REACH = 3


def allocate(
    model: arguments.Model,
    goal: arguments.Goal = "drop=0.5pp",
    granularity: Annotated[
        str,
        typer.Option(
            help="network, role, tensor or channel, with settings: tensor:bit_planes=true,rails=3 "
            "or tensor:levels=0.4+0.6+1"
        ),
    ] = "tensor",
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memory = "sram",
    place: arguments.Place = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 200,
    samples: arguments.Samples = 512,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Find the least energy at which a goal holds, with an operating point for each tensor.

    The plan is chosen by prediction and tuning chips, verified on held-out chips, and
    compared with one common point. With --out it is written to plan.json. Exit code 3: the
    goal was not shown to hold.

    Example: joulewise allocate --model cnn=cnn.safetensors --goal drop=0.5pp --out plan
    """
    arguments.check_trained([model])
    file = arguments.study_file(
        models=[model],
        memories=[memory],
        place=place,
        goals=[goal],
        granularities=[granularity],
        metric=metric,
    )
    (chosen,), (wanted,) = file.granularities, file.goals
    # Drops of a curve are fractions of a perplexity, and differences of other metrics.
    on_curve = wanted.relative == (metric == "perplexity")
    # One point for all beside it, of the same levels.
    common = [] if chosen.per == "network" else [{"per": "network", "levels": chosen.levels}]

    def keep(records: list[tuple[Position, Record]]) -> None:
        if out is not None:
            plan = _allocation(records).result["plan_file"]
            # With these, simulate and predict need the plan alone, from any folder.
            (own,), where = file.memories, file.place
            files = [*own.files, *([where.accesses] if where.accesses else [])]
            for name, entry in (("memory", own), ("place", where)):
                plan["note"][name] = _absolute(entry.model_dump(mode="json"), files)
            write_atomically(out / "plan.json", json_module.dumps(plan, indent=1))

    records = run_options(
        out,
        json,
        workers,
        torch_device,
        before_printing=keep,  # a pipe that is cut ends the command
        data={"source": data, "images": images},
        models=[model],
        memories=[memory],
        place=place,
        goals=[goal],
        granularities=[*common, granularity],
        drops=[wanted.drop] if wanted.drop is not None and on_curve else None,
        metric=metric,
        chips=chips,
        samples=samples,
        chip_seed=seed,
    )
    if out is not None:
        typer.echo(f"The plan: {out / 'plan.json'}", err=json)
    if _allocation(records).result["allocation"]["holds"] is False:
        raise typer.Exit(OUT_OF_REACH)


def _absolute(value: Any, files: Iterable[str | Path]) -> Any:
    """Plain data in which files are named by their absolute paths."""
    if isinstance(value, dict):
        return {key: _absolute(inner, files) for key, inner in value.items()}
    return str(Path(value).resolve()) if value in map(str, files) else value


def _allocation(records: list[tuple[Position, Record]]) -> Record:
    """The record of the granularity that was asked for, behind that of one common point."""
    return [record for _, record in records if record.kind == "allocate"][-1]


def pareto(
    model: arguments.Models,
    granularity: Annotated[
        list[str] | None,
        typer.Option(help="as in allocate; repeat it  \\[default: network, tensor]"),
    ] = None,
    plans: Annotated[int, typer.Option(help="plans in a front")] = 10,
    data: arguments.Data = "digits",
    images: arguments.Images = None,
    memory: arguments.Memories = None,
    place: arguments.Place = None,
    metric: arguments.Metric = None,
    chips: arguments.Chips = 50,
    samples: arguments.Samples = 512,
    seed: arguments.Seed = 0,
    out: arguments.Out = None,
    workers: arguments.Workers = 0,
    torch_device: arguments.TorchDevice = None,
    json: arguments.Json = False,
) -> None:
    """Pareto front of memory energy and error, for networks, memories and granularities.

    Example: joulewise pareto --model cnn=cnn.safetensors --granularity tensor:bit_planes=true
    """
    from joulewise.errors import check_count

    arguments.check_trained(model)
    check_count("plans", plans, 2, 1000)
    run_options(
        out,
        json,
        workers,
        torch_device,
        data={"source": data, "images": images},
        models=model,
        memories=memory or ["sram"],
        place=place,
        granularities=granularity or ["network", "tensor"],
        front=plans,
        metric=metric,
        chips=chips,
        samples=samples,
        chip_seed=seed,
    )
