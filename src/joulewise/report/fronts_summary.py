"""What fronts show, as sentences and as rows of text."""

from __future__ import annotations

from dataclasses import dataclass

from joulewise.report.allocation_figure import points_in_words
from joulewise.report.knob import Knob, unit_of
from joulewise.report.style import short_name
from joulewise.report.summary import Answer, drop_in_words, percent
from joulewise.study import FrontComparison, FrontPointRecord, FrontRecord, IsoAccuracy
from joulewise.units import format_percent, format_si

__all__ = [
    "FrontRow",
    "accuracy_words",
    "front_ideal",
    "front_knob",
    "front_rows",
    "fronts_answer",
    "has_accuracy",
    "one_baseline",
    "plan_in_words",
]

_NOT_REACHED = "not reached"
# Tensors of a plan that a few words can list.
_MOST_TENSORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontRow:
    """One front at one accuracy drop, ready to print; an empty string is "does not apply".

    Args:
        name: The front.
        drop: The accuracy given up.
        share: Memory energy there, of a reliable memory's; or ``"not reached"``.
        interval: Its 95 % interval over chips, in per cent.
        memory_energy: The same in joules per inference.
    """

    name: str
    drop: float
    share: str
    interval: str
    memory_energy: str


def has_accuracy(comparison: FrontComparison) -> bool:
    """Whether the data had targets."""
    return bool(comparison.fronts[0].front.points[0].simulation.accuracy)


def front_ideal(front: FrontRecord) -> float:
    """Accuracy with a perfect memory of the same words; 0 where it is not known."""
    return front.front.points[0].simulation.ideal_accuracy or 0.0


def front_knob(front: FrontRecord) -> Knob:
    """The knob of a front's memory."""
    return Knob(name=front.knob, unit=unit_of(front.knob, front.device))


def one_baseline(comparison: FrontComparison) -> bool:
    """Whether all fronts are of one network on one memory, so that shares of energy compare."""
    return len({(f.reliable_j, front_ideal(f), f.tensors) for f in comparison.fronts}) == 1


def front_rows(comparison: FrontComparison) -> list[FrontRow]:
    """For each front, one row for each accuracy drop; none without targets.

    Args:
        comparison: The record.
    """
    return [_row(front, found) for front in comparison.fronts for found in front.within]


def _row(front: FrontRecord, found: IsoAccuracy) -> FrontRow:
    if found.point is None:
        return FrontRow(
            name=front.name, drop=found.drop, share=_NOT_REACHED, interval="", memory_energy=""
        )
    most = "at most " if found.at_edge else ""
    known = found.low is not None and found.high is not None
    interval = f"{100 * (found.low or 0):.1f} to {100 * (found.high or 0):.1f}" if known else ""
    return FrontRow(
        name=front.name,
        drop=found.drop,
        share=f"{most}{percent(found.point)}",
        interval=interval,
        memory_energy=f"{most}{format_si(found.point * front.reliable_j, 'J')}",
    )


def fronts_answer(comparison: FrontComparison) -> Answer:
    """The answer at the smallest accuracy drop that was asked for.

    Args:
        comparison: The record.
    """
    if not has_accuracy(comparison):
        sentence = "The data have no targets: plans are compared by the error of the outputs."
        return Answer(sentence=sentence, details=())
    if not comparison.drops:
        return Answer(sentence="No accuracy drop was asked for; the fronts are below.", details=())
    drop = min(comparison.drops)
    rows = [row for row in front_rows(comparison) if row.drop == drop]
    least = {front.name: _least(front, drop) for front in comparison.fronts}
    reached = {name: share for name, share in least.items() if share is not None}
    details = tuple(_detail(row) for row in rows) if len(rows) > 1 else ()
    below = f"{drop_in_words(drop)} below the accuracy of a perfect memory"
    if not reached:
        sentence = f"No plan stays within {drop_in_words(drop)} of the accuracy of a perfect memory"
        return Answer(sentence=f"{sentence}.", details=())
    said = {row.name: row for row in rows}
    if one_baseline(comparison) or len(rows) == 1:
        best = said[min(reached, key=lambda name: reached[name])]
        sentence = f"At {below}, {best.name} needs {'least: ' if len(rows) > 1 else ''}"
        sentence += f"{_share(best)} of the memory energy of a reliable memory"
        first = said[comparison.fronts[0].name]
        if first is not best and first.name in reached:
            sentence += f", {first.name} {_share(first)}"
        return Answer(sentence=f"{sentence}.", details=details)
    low, high = percent(min(reached.values())), percent(max(reached.values()))
    sentence = f"At {below}, plans need from {low.removesuffix(' %')} to {high} of the memory "
    return Answer(sentence=f"{sentence}energy of their reliable memories.", details=details)


def _least(front: FrontRecord, drop: float) -> float | None:
    return next(found.point for found in front.within if found.drop == drop)


def _share(row: FrontRow) -> str:
    return f"{row.share} [{row.interval}]" if row.interval else row.share


def _detail(row: FrontRow) -> str:
    if not row.memory_energy:
        return f"{row.name}: {_NOT_REACHED}."
    return f"{row.name}: {_share(row)} of reliable, {row.memory_energy} an inference."


def plan_in_words(front: FrontRecord, point: FrontPointRecord) -> list[str]:
    """A plan in a few lines, one for each tensor, or one for all that are alike.

    Args:
        front: The front.
        point: One of its plans.
    """
    knob = front_knob(front)
    written = {}
    for tensor in front.tensors:
        written[tensor.name] = points_in_words(point.plan[tensor.name], knob)
    if len(written) > 1 and len(set(written.values())) == 1:
        return [f"All tensors: {next(iter(written.values()))}"]
    names = list(written)
    shown = names if len(names) <= _MOST_TENSORS else names[: _MOST_TENSORS - 1]
    lines = [f"{short_name(name)}: {written[name]}" for name in shown]
    if len(shown) < len(names):
        lines.append(f"and {len(names) - len(shown)} more tensors")
    return lines


def accuracy_words(point: FrontPointRecord) -> str:
    """Mean accuracy over chips with its 95 % interval; empty without targets.

    Args:
        point: A plan of a front.
    """
    simulation = point.simulation
    if not simulation.accuracy:
        return ""
    said = format_percent(simulation.mean_accuracy)
    if simulation.chips == 1:
        return said
    low, high = simulation.accuracy_interval()
    return f"{said} [{100 * low:.2f} to {100 * high:.2f}]"
