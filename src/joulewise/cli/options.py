"""Options that several commands share. Nothing here imports torch: ``--help`` must be quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from joulewise.study import NetworkSpec, PlacementSpec

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
Threads = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves the choice to torch")
]
Eta = Annotated[
    list[float] | None,
    typer.Option("--eta", help="energy of an access over a reliable one; repeat it"),
]
VDD = Annotated[
    list[float] | None,
    typer.Option("--v-dd", help="supply voltage, with a profile that has one; repeat it"),
]

_MEMORY = "Memory"
Device = Annotated[str, typer.Option("--device", help="sram", rich_help_panel=_MEMORY)]
Bits = Annotated[
    int, typer.Option("--bits", help="bits in a word, 2 to 16", rich_help_panel=_MEMORY)
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help="exponential, stutz2021-14nm, or a CSV table v_dd,energy_per_bit_j,bit_error_rate",
        rich_help_panel=_MEMORY,
    ),
]
Fault = Annotated[str, typer.Option("--fault", help="mask, flip or stuck", rich_help_panel=_MEMORY)]
ZeroToOne = Annotated[
    float,
    typer.Option(
        "--zero-to-one", help="flip: rate of a stored 0, relative", rich_help_panel=_MEMORY
    ),
]
OneToZero = Annotated[
    float,
    typer.Option(
        "--one-to-zero", help="flip: rate of a stored 1, relative", rich_help_panel=_MEMORY
    ),
]
StuckAtOne = Annotated[
    float,
    typer.Option("--stuck-at-one", help="stuck: share stuck at 1", rich_help_panel=_MEMORY),
]
Row = Annotated[
    float, typer.Option("--row", help="correlation of faults in a row", rich_help_panel=_MEMORY)
]
Column = Annotated[
    float, typer.Option("--column", help="the same in a column", rich_help_panel=_MEMORY)
]
Cluster = Annotated[
    float,
    typer.Option(
        "--cluster", help="the same in a block of 2 words by 16 rows", rich_help_panel=_MEMORY
    ),
]
FaultMap = Annotated[
    Path | None,
    typer.Option(
        "--fault-map",
        help="measured map: CSV row,column,bit_error_rate",
        rich_help_panel=_MEMORY,
    ),
]
MapRows = Annotated[
    int, typer.Option("--map-rows", help="rows of the measured array", rich_help_panel=_MEMORY)
]
MapColumns = Annotated[
    int, typer.Option("--map-columns", help="columns of it", rich_help_panel=_MEMORY)
]
PerChannel = Annotated[
    bool,
    typer.Option(
        "--per-channel", help="weights: one scale per output channel", rich_help_panel=_MEMORY
    ),
]

_PLACEMENT = "Placement"
Store = Annotated[
    str,
    typer.Option("--store", help="weights, activations or both", rich_help_panel=_PLACEMENT),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        help="only tensors that match, such as 'conv*.weight'; repeat it",
        rich_help_panel=_PLACEMENT,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", help="leave these in reliable memory; repeat it", rich_help_panel=_PLACEMENT
    ),
]
Fold = Annotated[
    bool,
    typer.Option(
        "--fold-batchnorm", help="fold batch normalisation first", rich_help_panel=_PLACEMENT
    ),
]
Accesses = Annotated[
    Path | None,
    typer.Option(
        "--accesses",
        help="CSV name,reads,writes per inference, as a mapper counts them",
        rich_help_panel=_PLACEMENT,
    ),
]


def placement_spec(given: Mapping[str, Any]) -> PlacementSpec:
    """The placement that a command was given.

    Args:
        given: The command's arguments by name; those of the Memory and Placement panels are named
            as the fields of the specs.
    """
    from joulewise.study import MemorySpec, PlacementSpec

    memory = MemorySpec(**{field: given[field] for field in MemorySpec.model_fields})
    fields = [field for field in PlacementSpec.model_fields if field != "memory"]
    return PlacementSpec(memory=memory, **{f: given[f] for f in fields if given.get(f) is not None})


def operating_points(eta: list[float] | None, v_dd: list[float] | None) -> tuple[str, list[float]]:
    """The knob that was used on the command line, and its values.

    Raises:
        InputError: if none or both were used.
    """
    from joulewise.errors import InputError

    if bool(eta) == bool(v_dd):
        raise InputError("no operating point, or two kinds; allowed: --eta or --v-dd, repeated")
    return ("eta", eta) if eta else ("v_dd", v_dd or [])


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
