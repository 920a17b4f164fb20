"""Options that several commands share. Nothing here imports torch: ``--help`` must be quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from joulewise.placement import Plan
    from joulewise.study import NetworkSpec

_MODELS = (
    "mlp, cnn, vgg, resnet8, resnet20, mobilenetv2, transformer, package.module:function, "
    "or file.py:name"
)

Model = Annotated[str, typer.Option("--model", help=_MODELS, show_default=False)]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help=f"a network, as MODEL=WEIGHTS or MODEL; repeat it. MODEL: {_MODELS}",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, a folder with CIFAR-10 or IDX (MNIST) files, package.module:function, "
        "or file.py:function",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="weights: .safetensors, or a state dict (.pt)"),
]
Images = Annotated[
    int | None, typer.Option("--images", min=1, help="a random subset of the test images")
]
Chips = Annotated[int, typer.Option("--chips", min=1, help="manufactured instances to simulate")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="the same seed, the same result")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON and nothing else")]
Drops = Annotated[
    list[float] | None,
    typer.Option("--drop", help="accuracy to give up, in points; repeat it  [default: 0.5, 1]"),
]
Threads = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves the choice to torch")
]
_POINTS = "What has a point of its own"
Per = Annotated[
    str,
    typer.Option(
        help="network, role (weights, activations), tensor or channel", rich_help_panel=_POINTS
    ),
]
BitPlanes = Annotated[
    bool, typer.Option("--bit-planes", help="each bit plane, too", rich_help_panel=_POINTS)
]
Rails = Annotated[
    int | None, typer.Option(help="points in use, to be chosen", rich_help_panel=_POINTS)
]
Points = Annotated[
    list[float] | None,
    typer.Option(help="a point that may be used; repeat it", rich_help_panel=_POINTS),
]
Confidence = Annotated[float, typer.Option(help="that the goal holds, percent")]
Samples = Annotated[int, typer.Option(help="images to predict with")]
FreshChips = Annotated[int, typer.Option(min=0, help="fresh chips that a plan is shown to hold on")]
Eta = Annotated[
    list[float] | None,
    typer.Option("--eta", help="energy of an access over a reliable one; repeat it"),
]
VDD = Annotated[
    list[float] | None,
    typer.Option("--v-dd", help="supply voltage, with a profile that has one; repeat it"),
]
GMax = Annotated[
    list[float] | None,
    typer.Option("--g-max", help="crossbar: the largest conductance, siemens; repeat it"),
]
Seconds = Annotated[
    list[float] | None,
    typer.Option("--seconds", help="pcm: time after programming, seconds; repeat it"),
]


PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="a plan.json of joulewise allocate, in place of a point for all"),
]


def accuracy_drops(points: list[float] | None) -> list[float]:
    """The drops that a command was given in points, as shares; without any, the default ones.

    Raises:
        InputError: if one is outside (0, 100] points.
    """
    from joulewise.errors import check_in_range

    chosen = points or [0.5, 1.0]
    for lost in chosen:
        check_in_range("drop", lost, 0.0, 100.0, open_low=True)
    return [lost / 100 for lost in chosen]


def operating_points(**knobs: list[float] | None) -> tuple[str, list[float]]:
    """The knob that was used on the command line, and its values.

    Args:
        **knobs: What each knob's option was given.

    Raises:
        InputError: if none was used, or several.
    """
    from joulewise.errors import InputError

    used = {name: values for name, values in knobs.items() if values}
    if len(used) != 1:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in knobs)
        raise InputError(
            f"no operating point, or several kinds; allowed: one of {options}, repeated"
        )
    ((name, values),) = used.items()
    return name, values


def plan_file(path: Path | None, knobs: Mapping[str, list[float] | None]) -> Plan | None:
    """The plan that a command was given in place of operating points; None for these.

    Args:
        path: Of the file.
        knobs: What each knob's option was given.

    Raises:
        InputError: if both were given, or several kinds of points, or neither.
    """
    from joulewise.errors import InputError
    from joulewise.placement import Plan

    used = [name for name, values in knobs.items() if values]
    if path is None:
        operating_points(**knobs)
        return None
    if used:
        raise InputError(f"plan is given beside {used[0]}; allowed: one of the two")
    return Plan.read(path)


def trained_network(model: str, weights: Path | None, seed: int) -> NetworkSpec:
    """The network that a command was given.

    Raises:
        InputError: if it is one of joulewise's own, without weights.
    """
    from joulewise.errors import InputError
    from joulewise.models import ZOO
    from joulewise.study import NetworkSpec

    if weights is None and model in ZOO:
        raise InputError(
            f"weights of {model} are not given, and an untrained network says nothing; allowed: "
            f"--weights FILE, made for instance by: joulewise train --model {model} --out FILE"
        )
    return NetworkSpec(model=model, weights=weights, seed=seed)
