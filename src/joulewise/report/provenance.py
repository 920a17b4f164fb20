"""What was run, in words: devices, networks, training, machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joulewise.devices.reliability_laws import HOROWITZ_SRAM_BIT_J
from joulewise.study import ArmComparison, Comparison, ContenderRecord, Environment
from joulewise.training import TrainingRecord
from joulewise.units import format_percent, format_si, format_time

__all__ = [
    "Fact",
    "NetworkFacts",
    "about_device",
    "about_devices",
    "asked_facts",
    "chips_in_words",
    "device_facts",
    "devices",
    "machine_facts",
    "network_facts",
    "recipe_facts",
    "run_facts",
    "training_facts",
]

_FAULTS = {
    "mask": "mask: it is detected; a failing sign bit makes the word read 0, any other failing bit "
    "reads as the sign bit",
    "flip": "flip: it is not detected and reads the opposite of what it holds",
    "stuck": "stuck: it is not detected and always reads the same value, whatever was written",
}
_MAPS = {
    "independent": "independent: each cell fails on its own",
    "correlated": "correlated: weak rows, columns and neighbourhoods",
    "measured": "measured on silicon",
}
_EXPONENTIAL = (
    "exponential: bit error rate exp(-a eta), energy proportional to eta (Hacene et al., ISCAS "
    "2019, arXiv 1911.10287)"
)
_ABOUT = {
    "sram": "A chip of SRAM has weak cells of its own, the same at every read. Lowering the energy "
    "of an access makes more of them fail; eta is that energy over that of a reliable access.",
    "crossbar": "A crossbar holds each weight as the difference of two conductances, written with "
    "errors that a chip keeps. g_max is the largest conductance: the lower, the less power, and "
    "the larger the errors beside the weights. Its energy is that of computing the products with "
    "it, so they are not among the multiply-accumulates.",
    "pcm": "Phase-change memory holds each weight as the difference of two conductances, written "
    "with errors that a chip keeps, that drift from then on and flicker at every read. The longer "
    "until they are written again, the less energy writing takes. Its energy is that of computing "
    "the products with it, so they are not among the multiply-accumulates.",
}
_CACHE = "20 pJ for 64 bits of a 32 kB cache, 45 nm: Horowitz, ISSCC 2014, figure 1.1.9"


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and what is to be said."""

    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """One row about a network, ready to print; an empty string where a figure is not known."""

    name: str
    parameters: str
    weights: str
    activations: str
    macs: str
    trained_accuracy: str
    float_accuracy: str
    ideal_accuracy: str


def run_facts(comparison: Comparison | ArmComparison) -> list[Fact]:
    """Command, data, chips, versions and machine."""
    chips = chips_in_words(comparison.chips, comparison.seed)
    return [
        *asked_facts(comparison.command, comparison.data, comparison.images),
        Fact("Chips", f"{chips}; the same at all points, for all networks"),
        Fact("Multiply-accumulate", _arithmetic(comparison.arithmetic)),
        *machine_facts(comparison.environment, comparison.seconds),
    ]


def asked_facts(command: str, data: str, images: int) -> list[Fact]:
    """Command and data of a record."""
    return [
        Fact("Command", command or "not recorded"),
        Fact("Data", f"{data}, {images:,} image{'' if images == 1 else 's'}"),
    ]


def chips_in_words(chips: int, seed: int) -> str:
    """How many chips, and their seeds.

    Args:
        chips: 1 or more.
        seed: Of the first.

    Example:
        >>> chips_in_words(1, 3), chips_in_words(2000, 0)
        ('1, seed 3', '2,000, seeds 0 to 1999')
    """
    seeds = f"seeds {seed} to {seed + chips - 1}" if chips > 1 else f"seed {seed}"
    return f"{chips:,}, {seeds}"


def machine_facts(environment: Environment, seconds: float | None = None) -> list[Fact]:
    """Versions, machine and time of a record."""
    after = "" if seconds is None else f", after {duration(seconds)}"
    return [
        Fact(
            "Software",
            f"joulewise {environment.joulewise}, Python {environment.python}, "
            f"PyTorch {environment.torch}, NumPy {environment.numpy}",
        ),
        Fact("Machine", f"{environment.machine}; {_count(environment.threads, 'thread')}"),
        Fact("Finished", f"{_time(environment.finished)}{after}"),
    ]


def duration(seconds: float) -> str:
    """A time span that a person can read.

    Args:
        seconds: 0 or more.

    Example:
        >>> duration(51.2), duration(151), duration(7260)
        ('51.2 s', '2 min 31 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def devices(comparison: Comparison) -> list[tuple[str, list[Fact]]]:
    """Every memory under a heading that says what lies on it."""
    alike: dict[str, tuple[ContenderRecord, list[str]]] = {}
    for contender in comparison.contenders:
        key = repr((contender.weights_device, contender.activations_device))
        alike.setdefault(key, (contender, []))[1].append(contender.name)
    return [
        (f"Memory of {role}{': ' + ', '.join(names) if len(alike) > 1 else ''}", facts)
        for contender, names in alike.values()
        for role, facts in _roles(contender)
    ]


def _roles(contender: ContenderRecord) -> list[tuple[str, list[Fact]]]:
    weights, activations = contender.weights_device, contender.activations_device
    if weights is not None and weights == activations:
        return [("weights and activations", device_facts(weights))]
    named = {"weights": weights, "activations": activations}
    return [
        (
            role,
            [Fact("Not placed", f"{role} are kept without faults")]
            if device is None
            else device_facts(device),
        )
        for role, device in named.items()
    ]


def about_devices(comparison: Comparison) -> list[str]:
    """What the memories are and what their knobs turn, a paragraph for each kind."""
    found = dict.fromkeys(about_device(contender.device) for contender in comparison.contenders)
    return [about for about in found if about]


def about_device(device: Mapping[str, Any]) -> str:
    """What a memory is and what its knob turns; empty for one of a user's own."""
    return _ABOUT.get(str(device.get("device")), "")


def device_facts(device: Mapping[str, Any]) -> list[Fact]:
    """Every parameter of a device's description, those that are known in words."""
    return [
        Fact(_LABELS.get(key, key.replace("_", " ").capitalize()), _value(key, value))
        for key, value in device.items()
    ]


def network_facts(contender: ContenderRecord) -> NetworkFacts:
    """Size and accuracies of a network."""
    reliable = contender.reliable
    training = contender.training
    return NetworkFacts(
        name=contender.name,
        parameters=f"{contender.parameters:,}",
        weights=f"{contender.placed_words.get('weight', 0):,}",
        activations=f"{contender.placed_words.get('activation', 0):,}",
        macs=f"{contender.macs:,.0f}",
        trained_accuracy="" if training is None else format_percent(training.test_accuracy),
        float_accuracy=_accuracy(reliable.float_accuracy),
        ideal_accuracy=_accuracy(reliable.ideal_accuracy),
    )


def training_facts(comparison: Comparison) -> list[Fact]:
    """How the networks were trained, those that were trained alike together."""
    names: dict[str, list[str]] = {}
    for contender in comparison.contenders:
        names.setdefault(_training(contender.training), []).append(contender.name)
    return [Fact(", ".join(alike), sentence) for sentence, alike in names.items()]


def recipe_facts(comparison: ArmComparison) -> list[Fact]:
    """How the networks of each arm were trained, and by which seeds."""
    facts = []
    for arm in comparison.arms:
        records = [network.training for network in arm.networks if network.training is not None]
        said = [arm.recipe] if arm.recipe else []
        if records:
            seeds = ", ".join(str(record.spec.seed) for record in records)
            said += [_training(records[0], without=("seed",)), f"seeds {seeds}"]
        else:
            said += [f"networks {', '.join(network.name for network in arm.networks)}"]
        facts.append(Fact(arm.name, "; ".join(said)))
    return facts


def _training(record: TrainingRecord | None, without: tuple[str, ...] = ()) -> str:
    if record is None:
        return "not recorded"
    spec = ", ".join(
        f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in record.spec.model_dump().items()
        if name not in without
    )
    return f"{record.data}, {record.train_images:,} images to train on; {spec}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _accuracy(value: float | None) -> str:
    return "" if value is None else format_percent(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _time(moment: str) -> str:
    """An ISO 8601 moment as people write it."""
    return moment.replace("T", " ").replace("+00:00", " UTC")


def _arithmetic(arithmetic: Mapping[str, Any]) -> str:
    energy = format_si(arithmetic["mac_j"], "J") if "mac_j" in arithmetic else "not recorded"
    rest = "; ".join(str(value) for key, value in arithmetic.items() if key != "mac_j")
    return f"{energy}; {rest}" if rest else energy


def _value(key: str, value: Any) -> str:
    if key in _VALUES:
        return _VALUES[key](value)
    return "none" if value is None else _plain(value)


def _energy_per_bit(value: float) -> str:
    source = f"; {_CACHE}" if value == HOROWITZ_SRAM_BIT_J else ""
    return f"{format_si(value, 'J', 4)}{source}"


def _rows(rows: list[tuple[float, float, float]]) -> str:
    return "; ".join(
        f"{supply:g}: {format_si(joules, 'J')}, {rate:.3g}" for supply, joules, rate in rows
    )


def _times(ends: tuple[float, float]) -> str:
    return " to ".join(format_time(end) for end in ends)


def _in(unit: str) -> Callable[[float], str]:
    return lambda value: format_si(value, unit)


def _converter(bits: int | None) -> str:
    return "exact" if bits is None else f"{bits} bits"


def _size(number: int | None) -> str:
    return "as many as needed" if number is None else str(number)


_LABELS = {
    "device": "Memory",
    "bits": "Words",
    "channel_dim": "Scales",
    "limit": "Largest magnitude",
    "fault": "A failing cell",
    "fault_map": "Which cells fail",
    "a": "Decay constant a",
    "nominal_energy_per_bit_j": "Access to one bit at eta 1",
    "voltage_unit": "Unit of supply",
    "rows": "Supply: access to one bit, bit error rate",
    "sigma": "Programming noise of a device",
    "variability": "Programming noise over conductance",
    "read_noise": "Noise at each read",
    "clip": "Conductances stop at 0",
    "levels": "Levels above 0",
    "g_range": "Range of g_max",
    "g_max": "Largest conductance",
    "array_rows": "Rows of an array",
    "array_columns": "Columns of an array",
    "input_bits": "Input converters",
    "output_bits": "Output converters",
    "headroom": "Converters' range over the largest seen",
    "v_read": "Voltage of the largest input",
    "t_read": "A read takes",
    "r_amplifier": "Resistance of an amplifier",
    "input_j": "Conversion of an input, 8 bits",
    "output_j": "Conversion of a sum, 8 bits",
    "read_out_source": "Read-out",
    "programming": "Programming noise",
    "compensate": "Drift is compensated",
    "devices": "Devices on each side of a pair",
    "time_range": "Range of seconds",
    "program_j": "Programming a device",
    "program_source": "Programming",
    "inferences_per_second": "Inferences in a second, which share it",
}
_VALUES: dict[str, Callable[[Any], str]] = {
    "device": lambda value: {
        "sram": "SRAM",
        "crossbar": "crossbar of pairs of memristors",
        "pcm": "crossbar of pairs of phase-change devices",
    }.get(value, str(value)),
    "bits": lambda value: f"{value} bits, two's complement",
    "channel_dim": lambda value: (
        "one for each tensor" if value is None else f"one for each index of axis {value}"
    ),
    "limit": lambda value: "the largest present" if value is None else f"{value:g}",
    "fault": lambda value: _FAULTS.get(value, str(value)),
    "fault_map": lambda value: _MAPS.get(value, str(value)),
    "law": lambda value: _EXPONENTIAL if value == "exponential" else str(value),
    "nominal_energy_per_bit_j": _energy_per_bit,
    "rows": _rows,
    "sigma": _in("S"),
    # Of a crossbar a conductance; phase-change memory has a law of its own, on or off.
    "read_noise": lambda v: _plain(v) if isinstance(v, bool) else format_si(v, "S"),
    "levels": lambda value: "not rounded" if value is None else str(value),
    "g_range": lambda ends: " to ".join(format_si(end, "S") for end in ends),
    "g_max": _in("S"),
    "array_rows": _size,
    "array_columns": _size,
    "input_bits": _converter,
    "output_bits": _converter,
    "v_read": _in("V"),
    "t_read": _in("s"),
    "r_amplifier": _in("ohm"),
    "input_j": _in("J"),
    "output_j": _in("J"),
    "time_range": _times,
    "program_j": _in("J"),
}
