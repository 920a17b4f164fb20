"""What came of comparing ways to train, as a sentence and as rows of text."""

from __future__ import annotations

from dataclasses import dataclass

from joulewise.report.knob import Knob, unit_of
from joulewise.report.summary import Answer, bounded, drop_in_words, percent, points
from joulewise.study import ArmComparison, ArmRecord, ArmSaving
from joulewise.units import format_percent, format_si

__all__ = ["ArmRow", "arm_rows", "arms_answer", "arms_knob"]

_NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """One way to train at one accuracy drop, ready to print; an empty string is "does not apply".

    Args:
        name: The way to train.
        drop: The accuracy given up, for instance ``"0.5 points"``.
        clean: Accuracy without a memory, mean over networks.
        clean_interval: Its 95 % interval over networks.
        point: The least reliable point within the drop, or ``"not reached"``.
        point_interval: Its 95 % interval over networks.
        saved: Share of the memory energy saved against the first way to train on reliable memory.
        saved_interval: Its 95 % interval over networks, in per cent.
        memory_energy: Of placed memory per inference there.
        against_first: Share saved against the first way to train, with its sign.
    """

    name: str
    drop: str
    clean: str
    clean_interval: str
    point: str
    point_interval: str
    saved: str
    saved_interval: str
    memory_energy: str
    against_first: str


def arms_knob(comparison: ArmComparison) -> Knob:
    """The knob of the memory."""
    unit = unit_of(comparison.knob, comparison.device)
    return Knob(name=comparison.knob, unit=unit, rising=comparison.rising)


def arm_rows(comparison: ArmComparison) -> list[ArmRow]:
    """For each way to train, one row for each accuracy drop."""
    knob = arms_knob(comparison)
    return [
        _row(arm, saving, knob, first=arm is comparison.first)
        for arm in comparison.arms
        for saving in arm.savings
    ]


def _row(arm: ArmRecord, saving: ArmSaving, knob: Knob, *, first: bool) -> ArmRow:
    point = _NOT_REACHED if saving.point is None else knob.text(saving.point)
    return ArmRow(
        name=arm.name,
        drop=points(saving.drop),
        clean=format_percent(arm.clean),
        clean_interval=_clean_interval(arm),
        point=knob.bounded(point) if saving.at_edge else point,
        point_interval=_between(saving, knob),
        saved=bounded(percent(saving.saved), saving.at_edge),
        saved_interval=_ends(saving),
        memory_energy=_joules(saving),
        against_first="" if first else bounded(_signed(saving.against_first), saving.at_edge),
    )


def _clean_interval(arm: ArmRecord) -> str:
    if len(arm.networks) < 2:
        return ""
    low, high = arm.clean_interval
    return f"{100 * max(low, 0.0):.2f} to {100 * min(high, 1.0):.2f}"


def _between(saving: ArmSaving, knob: Knob) -> str:
    if saving.low is None or saving.high is None or saving.at_edge:
        return ""
    return knob.between(saving.low, saving.high)


def _ends(saving: ArmSaving) -> str:
    if saving.saved_low is None or saving.saved_high is None or saving.at_edge:
        return ""
    return f"{100 * saving.saved_low:.1f} to {100 * saving.saved_high:.1f}"


def _joules(saving: ArmSaving) -> str:
    if saving.memory_j is None:
        return ""
    return f"{'at most ' if saving.at_edge else ''}{format_si(saving.memory_j, 'J')}"


def _signed(share: float | None) -> str:
    return "" if share is None else f"{100 * share:+.1f} %"


def arms_answer(comparison: ArmComparison) -> Answer:
    """The answer at the smallest accuracy drop that was asked for."""
    first = comparison.first
    drop = min(saving.drop for saving in first.savings)
    found = {
        arm.name: next(saving for saving in arm.savings if saving.drop == drop)
        for arm in comparison.arms
    }
    below = f"{drop_in_words(drop)} below the accuracy of {first.name}"
    details = tuple(
        f"{arm.name}: {_in_words(found[arm.name], first=arm is first)}." for arm in comparison.arms
    )
    reached = {name: s for name, s in found.items() if s.memory_j is not None}
    if not reached:
        sentence = f"No network reaches {below}, at any point simulated."
        return Answer(sentence=sentence, details=details)
    best = min(reached, key=lambda name: reached[name].memory_j or 0.0)
    edge = [name for name, saving in reached.items() if saving.at_edge]
    if set(edge) - {best}:
        sentence = (
            f"Even at the least reliable point simulated, {' and '.join(edge)} reach {below}: "
        )
        sentence += "which way to train needs the least memory energy is open."
        return Answer(sentence=sentence, details=details)
    saving = reached[best]
    sentence = f"At {below}, {best} needs the least memory energy: "
    sentence += f"{bounded(percent(saving.saved), saving.at_edge)} less than {first.name} on "
    sentence += "reliable memory"
    if best != first.name and saving.against_first is not None:
        less = bounded(percent(saving.against_first), saving.at_edge)
        sentence += f", {less} less than {first.name} at its own point"
    return Answer(sentence=f"{sentence}.", details=details)


def _in_words(saving: ArmSaving, *, first: bool) -> str:
    if saving.point is None:
        return "below that at all points simulated"
    said = f"saves {bounded(percent(saving.saved), saving.at_edge)}"
    if ends := _ends(saving):
        said += f" [{ends}]"
    if not first and saving.against_first is not None:
        less = saving.against_first >= 0
        bound = ("at least " if less else "at most ") if saving.at_edge else ""
        said += f", {bound}{percent(abs(saving.against_first))} {'less' if less else 'more'} "
        said += "than the first"
    return said
