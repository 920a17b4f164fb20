"""``joulewise allocate``: an operating point for each tensor, shown to hold on fresh chips."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joulewise.cli import console, options, placing
from joulewise.cli.compare import ready
from joulewise.units import format_percent, format_point, format_si

if TYPE_CHECKING:
    from joulewise.allocation import Goal, Granularity
    from joulewise.devices import PlainPoint
    from joulewise.placement import Placement
    from joulewise.study import AllocationEvidence, AllocationRecord

__all__ = ["OUT_OF_REACH", "allocate", "asked", "granularity", "present"]

# What a shell sees where the goal was not shown to hold: the plan is the best that there is.
OUT_OF_REACH = 3
_GOAL = "Goal, one of these  [default: --drop 0.5]"


def _goal(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=_GOAL, show_default=False)


@placing.places()
def allocate(
    model: options.Model,
    weights: options.Weights = None,
    data: options.Data = "digits",
    drop: Annotated[float | None, _goal("mean accuracy lost against a perfect memory, points")] = (
        None
    ),
    min_accuracy: Annotated[float | None, _goal("mean accuracy, percent")] = None,
    max_mse: Annotated[float | None, _goal("mean squared error of the outputs")] = None,
    max_energy: Annotated[
        float | None, _goal("memory energy, percent of a reliable one; the error is least")
    ] = None,
    min_yield: Annotated[
        float | None, _goal("with an accuracy or a drop: percent of the chips, not the mean")
    ] = None,
    per: options.Per = "tensor",
    bit_planes: options.BitPlanes = False,
    rails: options.Rails = None,
    point: options.Points = None,
    common: Annotated[
        bool, typer.Option(help="allocate one point for all as well, to compare with")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="folder for plan.json, allocation.json and report.html")
    ] = None,
    confidence: options.Confidence = 95.0,
    samples: options.Samples = 512,
    chips: options.FreshChips = 200,
    images: options.Images = None,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    json: options.Json = False,
    *,
    placed: dict[str, Any],
) -> None:
    """The least energy that holds an accuracy, an operating point for each tensor.

    The plan is chosen by prediction and a few chips, and shown to hold on fresh ones. Exit code 3:
    it was not shown, and the plan is the best that there is.

    Example: joulewise allocate --model cnn --weights cnn.safetensors --drop 0.5 --out plan

    Example: joulewise allocate --model cnn --weights cnn.safetensors --bit-planes --rails 3
    """
    console.start(threads)
    from joulewise.allocation import Granularity
    from joulewise.data import load_data
    from joulewise.study import allocate_each

    spec = placing.placement_spec(placed)
    goal = asked(drop, min_accuracy, min_yield, max_mse, max_energy)
    chosen = granularity(per, bit_planes, rails, point)
    all_alike = Granularity(per="network")
    folder = ready(out)
    network = options.trained_network(model, weights, seed)
    dataset = load_data(data)
    contender = network.place(dataset, spec)
    test = dataset.test if images is None else dataset.test.subset(images, seed=0)
    with console.bar("allocate") as update:
        record = allocate_each(
            contender.placement,
            test,
            [all_alike, chosen] if common and chosen != all_alike else [chosen],
            network=contender.name,
            data_name=dataset.name,
            command=shlex.join(["joulewise", *sys.argv[1:]]),
            progress=lambda what, done, expected: update(done, expected, what),
            chips=chips,
            confidence=confidence / 100,
            samples=samples,
            seed=seed,
            goal=goal,
        )
    present(record, contender.placement, folder, json)
    if record.allocations[-1].holds is False:
        raise typer.Exit(OUT_OF_REACH)


def granularity(
    per: str, bit_planes: bool, rails: int | None, points: list[float] | None
) -> Granularity:
    """What has a point of its own, from the options."""
    from joulewise.allocation import Granularity

    return Granularity(
        per=per,  # type: ignore[arg-type]
        bit_planes=bit_planes,
        rails=rails,
        levels=tuple(points or ()),
    )


def asked(
    drop: float | None,
    min_accuracy: float | None,
    min_yield: float | None,
    max_mse: float | None = None,
    max_energy: float | None = None,
) -> Goal:
    """The goal as `joulewise.allocation.allocate` takes it.

    Raises:
        InputError: if a percentage is none, or not exactly one goal is given.
    """
    from joulewise.allocation import EnergyBudget, MetricDrop, MetricTarget, OutputError, Yield
    from joulewise.errors import check_in_range, refuse

    if drop is min_accuracy is max_mse is max_energy is None:
        drop = 0.5
    percents = {
        "drop": drop,
        "min_accuracy": min_accuracy,
        "max_energy": max_energy,
        "min_yield": min_yield,
    }
    given = {name: value for name, value in percents.items() if value is not None}
    for name, value in given.items():
        check_in_range(name, value, 0.0, 100.0, open_low=True)
    goals: dict[str, Goal] = {}
    if drop is not None:
        goals["drop"] = MetricDrop(drop / 100)
    if min_accuracy is not None:
        goals["min_accuracy"] = MetricTarget(min_accuracy / 100)
    if max_mse is not None:
        check_in_range("max_mse", max_mse, 0.0, 1e30, open_low=True)
        goals["max_mse"] = OutputError(max_mse)
    if max_energy is not None:
        goals["max_energy"] = EnergyBudget(max_energy / 100)
    if len(goals) > 1:
        allowed = "one of drop, min_accuracy, max_mse, max_energy"
        refuse("the goal", " and ".join(goals), allowed)
    ((name, goal),) = goals.items()
    if min_yield is None:
        return goal
    if not isinstance(goal, (MetricDrop, MetricTarget)):
        refuse("min_yield", f"given with {name}", "with an accuracy or a drop of it")
    check_in_range("min_yield", min_yield, 0.0, 100.0 - 1e-7, open_low=True)
    return Yield(min_yield / 100, of=goal)


def present(
    record: AllocationRecord,
    placement: Placement,
    folder: Path | None,
    json: bool,
    name: str = "allocation",
    against: str = "one point",
) -> None:
    """Write the plan, the record and the report, and print the result.

    Args:
        record: What was found; the last allocation is the result.
        placement: That it is of.
        folder: Where to write to; None for nowhere.
        json: Print the record as it is.
        name: Of the record's file.
        against: What the first allocation is.
    """
    from joulewise.files import write_atomically
    from joulewise.placement import Plan
    from joulewise.report import write_allocation_report
    from joulewise.study import plan_of

    last = record.allocations[-1]
    if folder is not None:
        note = {
            "command": record.command,
            "goal": last.goal,
            "holds": last.holds,
            "confidence": last.confidence,
            "memory_energy_normalised": last.energy.normalised,
        }
        points = placement.points(plan_of(placement, last.plan))
        Plan.chosen_for(placement, points, note).write(folder / "plan.json")
        write_atomically(folder / f"{name}.json", record.model_dump_json(indent=1))
        write_allocation_report(record, folder / "report.html")
    if json:
        typer.echo(record.model_dump_json(indent=2))
        return
    _print_allocations(record, against)
    _print_plan(record, last)
    if folder is not None:
        typer.echo(f"The plan: {folder / 'plan.json'}")
        typer.echo(f"The report, for a browser: {folder / 'report.html'}")


def _print_allocations(record: AllocationRecord, against: str) -> None:
    from joulewise.report import allocation_name

    columns = ["a point for each", "memory energy", "of reliable", f"against {against}"]
    columns += ["where both just meet the goal", "holds"]
    columns += ["accuracy, 95 % interval", "output MSE, predicted", "simulated"]
    rows = []
    for number, found in enumerate(record.allocations):
        rows.append(
            [
                allocation_name(record, number),
                format_si(found.energy.memory_total_j, "J"),
                format_percent(found.energy.normalised, 1),
                format_percent(-record.saved_against_first(number), 1) if number else "",
                _at_goal(record, number) if number else "",
                {True: "yes", False: "NOT SHOWN", None: "not simulated"}[found.holds],
                _accuracy(found),
                f"{found.predicted_mse:.3g}",
                "" if found.simulation is None else f"{found.simulation.mean_mse:.3g}",
            ]
        )
    console.print_table(f"{record.network}, {record.images} images: {_said(record)}", columns, rows)


def _at_goal(record: AllocationRecord, number: int) -> str:
    saving = record.saving_at_goal(number)
    if saving is None:
        return ""
    share, low, high = (-100 * s for s in (saving.share, saving.high, saving.low))
    return f"{share:.1f} % [{low:.1f}, {high:.1f}]"


def _print_plan(record: AllocationRecord, found: AllocationEvidence) -> None:
    rows = []
    for tensor in record.tensors:
        spent = found.energy.memory_j[tensor.name]
        rows.append(
            [
                tensor.name,
                str(tensor.words),
                _point(record.knob, found.plan[tensor.name]),
                format_percent(spent / tensor.reliable_j, 1),
                format_percent(spent / found.energy.memory_total_j, 1),
                format_percent(found.predicted_variance[tensor.name] / found.predicted_mse, 1),
            ]
        )
    shift = format_percent(found.predicted_shift / found.predicted_mse, 1)
    rows.append(["shift of the mean", "", "", "", "", shift])
    planes = ", low bits first" if found.granularity.bit_planes else ""
    columns = ["tensor", "words", record.knob + planes, "of reliable", "of energy", "of error"]
    console.print_table("The plan", columns, rows)


def _point(knob: str, point: PlainPoint) -> str:
    """An operating point; of those of many channels, the lowest and the highest."""
    points = point if isinstance(point, tuple) else (point,)
    flat = [p for row in points for p in (row if isinstance(row, tuple) else (row,))]
    if not isinstance(points[0], tuple):
        return " ".join(format_point(knob, p) for p in flat)
    low, high = (format_point(knob, end(flat)) for end in (min, max))
    return f"{low} to {high}, {len(points)} channels"


def _accuracy(found: AllocationEvidence) -> str:
    simulation = found.simulation
    if simulation is None or not simulation.accuracy:
        return ""
    low, high = simulation.accuracy_interval()
    reach = f"[{100 * low:.2f}, {100 * high:.2f}]" if simulation.chips > 1 else "(one chip)"
    return f"{100 * simulation.mean_accuracy:.2f} % {reach}"


def _said(record: AllocationRecord) -> str:
    """The goal, and on how many chips it was shown."""
    from joulewise.report import goal_in_words

    found = record.allocations[-1]
    sentence = goal_in_words(found.goal)
    if found.simulation is None:
        return sentence
    sure = "" if found.goal["goal"] == "EnergyGoal" else f", {100 * found.confidence:g} % sure"
    return f"{sentence}, {found.simulation.chips} fresh chips{sure}"
