"""The answer in a sentence, and the iso-accuracy table as rows of text.

The page and the terminal print the same strings, so that they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

from joulewise.report.knob import Knob
from joulewise.study import Comparison, ContenderRecord, IsoAccuracy
from joulewise.study.comparison import Saving
from joulewise.units import format_percent, format_si

__all__ = [
    "Answer",
    "IsoRow",
    "answer",
    "bounded",
    "drop_in_words",
    "iso_rows",
    "percent",
    "points",
    "several_devices",
]

_NOT_REACHED = "even the most reliable point simulated loses more"
_AT_EDGE = "the least reliable point simulated is still within it"


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoRow:
    """One network at one accuracy drop, ready to print; an empty string is "does not apply".

    Args:
        name: The network.
        drop: The accuracy given up, for instance ``"0.5 points"``.
        ideal_accuracy: With a perfect memory of the same words.
        point: The least reliable point within the drop, or ``"not reached"``.
        point_interval: Its 95 % interval.
        memory_energy: Of placed memory per inference there.
        memory_saved: Share of it saved against reliable memory.
        memory_saved_interval: The 95 % interval of that share, in per cent.
        total_energy: Per inference, unplaced memory and arithmetic included.
        total_saved: Share of it saved.
        note: What to know about this row, in words.
    """

    name: str
    drop: str
    ideal_accuracy: str
    point: str
    point_interval: str
    memory_energy: str
    memory_saved: str
    memory_saved_interval: str
    total_energy: str
    total_saved: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came out, for a reader who reads one sentence.

    Args:
        sentence: The answer.
        details: One sentence for each network where there are several; otherwise empty.
    """

    sentence: str
    details: tuple[str, ...]


def iso_rows(comparison: Comparison) -> list[IsoRow]:
    """The iso-accuracy table: for each network, one row for each accuracy drop."""
    return [
        _row(contender, saving, Knob.of(comparison, contender))
        for contender in comparison.contenders
        for saving in contender.savings
    ]


def several_devices(comparison: Comparison) -> bool:
    """Whether networks lie on memories of different kinds, whose energies count different things.

    A memory that computes spends what arithmetic spends elsewhere: there only totals compare.
    """
    kinds = {
        device.get("device")
        for contender in comparison.contenders
        for device in (contender.weights_device, contender.activations_device)
        if device is not None
    }
    return len(kinds) > 1


def answer(comparison: Comparison) -> Answer:
    """The answer at the smallest accuracy drop that was asked for."""
    savings = [
        (contender, min(contender.savings, key=lambda saving: saving.at.drop))
        for contender in comparison.contenders
        if contender.savings
    ]
    if not savings:
        return Answer(sentence="No accuracy drop was asked for; the curves are below.", details=())
    said = [
        (contender.name, saving, Knob.of(comparison, contender)) for contender, saving in savings
    ]
    if len(said) == 1:
        return Answer(sentence=_single(*said[0]), details=())
    if several_devices(comparison):
        details = tuple(f"{_detail(*found)}{_spent(found[1])}." for found in said)
        return Answer(sentence=_frugal(savings), details=details)
    details = tuple(f"{_detail(*found)}." for found in said)
    return Answer(sentence=_overall([saving for _, saving in savings]), details=details)


def drop_in_words(drop: float) -> str:
    """An accuracy drop in points.

    Args:
        drop: In [0, 1].

    Example:
        >>> drop_in_words(0.005), drop_in_words(0.01), drop_in_words(0.025)
        ('half a point', 'one point', '2.5 points')
    """
    return {0.005: "half a point", 0.01: "one point"}.get(drop, f"{100 * drop:.3g} points")


def _row(contender: ContenderRecord, saving: Saving, knob: Knob) -> IsoRow:
    at, edge = saving.at, saving.at.at_edge
    point = "not reached" if at.point is None else knob.text(at.point)
    return IsoRow(
        name=contender.name,
        drop=points(at.drop),
        ideal_accuracy=format_percent(contender.reliable.ideal_accuracy or 0.0),
        point=knob.bounded(point) if edge else point,
        point_interval=_point_interval(at, knob),
        memory_energy=_joules(saving.memory_j),
        memory_saved=bounded(percent(saving.memory_saved), edge),
        memory_saved_interval=_saved_interval(saving),
        total_energy=_joules(saving.total_j),
        total_saved=bounded(percent(saving.total_saved), edge),
        note=_NOT_REACHED if at.point is None else _AT_EDGE if edge else "",
    )


def points(drop: float) -> str:
    """An accuracy drop in a table."""
    return "1 point" if drop == 0.01 else f"{100 * drop:.3g} points"


def percent(share: float | None) -> str:
    """A share in per cent; empty for None."""
    return "" if share is None else format_percent(share, 1)


def _joules(value: float | None) -> str:
    return "" if value is None else format_si(value, "J")


def bounded(text: str, edge: bool) -> str:
    """A figure, already written, that is a bound where the last point simulated is within."""
    return f"at least {text}" if edge and text else text


def _point_interval(at: IsoAccuracy, knob: Knob) -> str:
    """The interval in words; open to one side where resampled chips did not reach the drop."""
    if at.point is None or at.low is None or (at.at_edge and at.high is None):
        return ""
    if at.high is None:
        return f"{knob.text(at.low)} or {'more' if knob.rising else 'less'}"
    if at.at_edge:
        to = "up" if knob.rising else "down"
        return f"{to} to {knob.text(at.high)}" if at.high != at.point else ""
    return knob.between(at.low, at.high)


def _saved_interval(saving: Saving) -> str:
    """The same for the share saved: a more reliable point saves less."""
    low, high = saving.memory_saved_low, saving.memory_saved_high
    if saving.memory_saved is None or high is None or (saving.at.at_edge and low is None):
        return ""
    if low is None:
        return f"{percent(high)} or less"
    if saving.at.at_edge:
        return f"down to {percent(low)}" if low < saving.memory_saved else ""
    return f"{100 * low:.1f} to {percent(high)}"


def _detail(name: str, saving: Saving, knob: Knob) -> str:
    if saving.at.point is None:
        words = drop_in_words(saving.at.drop)
        return f"{name} is never within {words} of its accuracy with a perfect memory"
    interval = _saved_interval(saving)
    lower = (" or lower" if knob.rising else " or longer") if saving.at.at_edge else ""
    least = "at least " if saving.at.at_edge else ""
    return (
        f"{name} runs at {knob.named(saving.at.point, 2)}{lower} and saves {least}"
        f"{percent(saving.memory_saved)}{f' [{interval}]' if interval else ''} of its memory "
        f"energy, {least}{percent(saving.total_saved)} of all the energy counted"
    )


def _single(name: str, saving: Saving, knob: Knob) -> str:
    detail = _detail(name, saving, knob)
    if saving.at.point is None:
        return f"{detail}: {_NOT_REACHED}."
    words = drop_in_words(saving.at.drop)
    return f"At most {words} below its accuracy with a perfect memory, {detail}."


def _spent(saving: Saving) -> str:
    return "" if saving.total_j is None else f": {_joules(saving.total_j)} an inference"


def _frugal(savings: list[tuple[ContenderRecord, Saving]]) -> str:
    """On which memory each network needs least in all, where memories are of different kinds."""
    words = drop_in_words(savings[0][1].at.drop)
    networks: dict[int, list[tuple[float, str]]] = {}  # told apart by their size
    for contender, saving in savings:
        if saving.total_j is not None:
            found = networks.setdefault(contender.parameters, [])
            found.append((saving.total_j, contender.name))
    if not networks:
        return f"Nothing stays within {words} of its accuracy at any point simulated."
    least = "; ".join(_least(sorted(found)) for found in networks.values())
    return f"At most {words} below its accuracy with a perfect memory, {least}."


def _least(totals: list[tuple[float, str]]) -> str:
    joules, name = totals[0]
    most, other = totals[-1]
    less = f", {most / joules:.3g} times less than {other}" if len(totals) > 1 else ""
    return f"{name} needs least: {_joules(joules)} an inference{less}"


def _overall(savings: list[Saving]) -> str:
    words = drop_in_words(savings[0].at.drop)
    found = [saving for saving in savings if saving.memory_saved is not None]
    if not found:
        return f"No network stays within {words} of its accuracy at any point simulated."
    who = _who(len(found), len(savings))
    return (
        f"At most {words} below their accuracy with a perfect memory, {who} save {_range(found)}."
    )


def _who(found: int, asked: int) -> str:
    if found < asked:
        return f"{found} of the {asked} networks"
    return {2: "both networks", 3: "all three networks"}.get(found, f"all {found} networks")


def _range(savings: list[Saving]) -> str:
    shares = [saving.memory_saved or 0.0 for saving in savings]
    low, high = (percent(share) for share in (min(shares), max(shares)))
    if any(saving.at.at_edge for saving in savings):
        return f"at least {low} of their memory energy"
    if low == high:
        return f"{low} of their memory energy"
    return f"{low.removesuffix(' %')} to {high} of their memory energy"
