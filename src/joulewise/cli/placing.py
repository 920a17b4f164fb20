"""The options of the Memory and Placement panels, for every command that places a network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from joulewise.study import PlacementSpec

__all__ = ["placement_spec", "placement_specs", "places"]


def _memory(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Memory")


def _sram(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Memory: SRAM")


def _analog(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Memory: crossbar and pcm")


def _placement(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Placement")


_PROFILES = "exponential, stutz2021-14nm, or a CSV table v_dd,energy_per_bit_j,bit_error_rate"


def _panels(
    device: Annotated[str, _memory("sram, crossbar or pcm")] = "sram",
    per_channel: Annotated[
        bool, _memory("weights: one range per output channel", "--per-channel")
    ] = False,
    common_range: Annotated[
        bool, _memory("weights: one range for the whole network", "--common-range")
    ] = False,
    bits: Annotated[int, _sram("bits in a word, 2 to 16")] = 8,
    profile: Annotated[str, _sram(_PROFILES)] = "exponential",
    fault: Annotated[str, _sram("mask, flip or stuck")] = "mask",
    zero_to_one: Annotated[float, _sram("flip: rate of a stored 0, relative")] = 1.0,
    one_to_zero: Annotated[float, _sram("flip: rate of a stored 1, relative")] = 1.0,
    stuck_at_one: Annotated[float, _sram("stuck: share stuck at 1")] = 0.5,
    row: Annotated[float, _sram("correlation of faults in a row")] = 0.0,
    column: Annotated[float, _sram("the same in a column")] = 0.0,
    cluster: Annotated[float, _sram("the same in a block of 2 words by 16 rows")] = 0.0,
    fault_map: Annotated[Path | None, _sram("measured map: CSV row,column,bit_error_rate")] = None,
    map_rows: Annotated[int, _sram("rows of the measured array")] = 512,
    map_columns: Annotated[int, _sram("columns of it")] = 256,
    sigma: Annotated[float, _analog("crossbar: programming noise of a device, siemens")] = 0.0,
    variability: Annotated[
        float, _analog("crossbar: programming noise over the conductance")
    ] = 0.0,
    read_noise: Annotated[
        float, _analog("crossbar: noise of a device at each read, siemens")
    ] = 0.0,
    levels: Annotated[int | None, _analog("levels of conductance above 0")] = None,
    rounding: Annotated[str, _analog("to levels: nearest or floor")] = "nearest",
    clip: Annotated[bool, _analog("crossbar: conductances stop at 0")] = True,
    array_rows: Annotated[
        int | None, _analog("crossbar: rows of an array; sums of several add up")
    ] = None,
    array_columns: Annotated[
        int | None, _analog("crossbar: columns of an array; only its energy depends on them")
    ] = None,
    input_bits: Annotated[int | None, _analog("crossbar: bits of the input converters")] = None,
    output_bits: Annotated[int | None, _analog("crossbar: bits of the output converters")] = None,
    devices: Annotated[int, _analog("pcm: devices in parallel on each side of a pair")] = 1,
    compensate: Annotated[bool, _analog("pcm: drift by one factor for each tensor")] = True,
    store: Annotated[str, _placement("weights, activations or both")] = "weights",
    include: Annotated[
        list[str] | None,
        _placement("only tensors that match, such as 'conv*.weight'; repeat it"),
    ] = None,
    exclude: Annotated[
        list[str] | None, _placement("leave these in reliable memory; repeat it")
    ] = None,
    fold_batchnorm: Annotated[
        bool, _placement("fold batch normalisation first", "--fold-batchnorm")
    ] = False,
    accesses: Annotated[
        Path | None, _placement("CSV name,reads,writes per inference, as a mapper counts them")
    ] = None,
) -> None:
    """The options themselves; `places` reads them from this signature."""


def _side_by_side(
    device: Annotated[
        list[str] | None, _memory("sram, crossbar or pcm; repeat it to compare  [default: sram]")
    ] = None,
    store: Annotated[
        str | None,
        _placement("weights, activations or both  [default: both on sram, else weights]"),
    ] = None,
) -> None:
    """The options that differ where several devices are compared."""


def places(
    *, several: bool = False, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of both panels, which reach it as the mapping ``placed``.

    Args:
        several: Whether the command compares devices; for `placement_specs`.
        without: Options to leave out.
    """
    panels = dict(inspect.signature(_panels, eval_str=True).parameters)
    if several:
        panels |= inspect.signature(_side_by_side, eval_str=True).parameters
    shared = {
        name: parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for name, parameter in panels.items()
        if name not in without
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            placed = {name: given.pop(name) for name in shared}
            command(**given, placed=placed)

        own = inspect.signature(command, eval_str=True).parameters
        kept = [p.replace(kind=Parameter.KEYWORD_ONLY) for n, p in own.items() if n != "placed"]
        parameters = [*kept, *shared.values()]
        # What Typer reads: the signature, and the hints again.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def placement_spec(placed: Mapping[str, Any]) -> PlacementSpec:
    """The placement that a command was given.

    Args:
        placed: As a command that `places` gets it; options are named as the fields of the specs.
    """
    (spec,) = placement_specs({**placed, "device": [placed["device"]]})
    return spec


def placement_specs(placed: Mapping[str, Any]) -> tuple[PlacementSpec, ...]:
    """The placements that a command was given, one for each device.

    Args:
        placed: As a command that `places` several gets it.
    """
    from joulewise.study import MemorySpec, PlacementSpec, memory_specs

    devices = placed["device"] or ["sram"]
    settings = {field: placed[field] for field in MemorySpec.model_fields if field != "device"}
    given = {field: placed.get(field) for field in PlacementSpec.model_fields if field != "memory"}
    given["store"] = given["store"] or ("both" if devices == ["sram"] else "weights")
    chosen = {field: value for field, value in given.items() if value is not None}
    return tuple(
        PlacementSpec(memory=memory, **chosen) for memory in memory_specs(devices, settings)
    )
