"""What an allocation found, as sentences and as rows of text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from joulewise.allocation import Granularity
from joulewise.devices import PlainPoint
from joulewise.report.knob import Knob, unit_of
from joulewise.report.summary import Answer, percent
from joulewise.study import (
    AllocationEvidence,
    AllocationRecord,
    AttemptRecord,
    CoDesignRecord,
    PlacedRecord,
    SimulationRecord,
)
from joulewise.units import format_percent, format_si

__all__ = [
    "AllocationRow",
    "TensorShare",
    "allocation_answer",
    "allocation_knob",
    "allocation_name",
    "allocation_rows",
    "allocation_words",
    "attempt_cells",
    "flat_points",
    "goal_in_words",
    "granularity_name",
    "granularity_words",
    "round_cells",
    "tensor_shares",
]

_HOLDS = {True: "yes", False: "NOT SHOWN", None: "not simulated"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRow:
    """One allocation, ready to print; an empty string is "does not apply" or "not known".

    Args:
        granularity: What has a point of its own.
        memory_energy: Of placed memory per inference.
        of_reliable: Its share of that of the memory at its most reliable point.
        against_first: Share saved against the first allocation, both as planned, with its sign.
        at_goal: The same where both just meet their goal.
        at_goal_interval: Its 95 % interval, in per cent.
        holds: Whether the goal was shown to hold.
        accuracy: Mean over fresh chips.
        accuracy_interval: Its 95 % interval, or how few chips there are.
        chips: How many fresh chips there were.
        predicted_mse: The output error that was predicted.
        simulated_mse: The output error, mean over fresh chips.
    """

    granularity: str
    memory_energy: str
    of_reliable: str
    against_first: str
    at_goal: str
    at_goal_interval: str
    holds: str
    accuracy: str
    accuracy_interval: str
    chips: str
    predicted_mse: str
    simulated_mse: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShare:
    """What one placed tensor is given, and what it answers for.

    Args:
        placed: Name, role and size.
        point: Its operating point; or one for each bit plane, low bits first and the sign last; or
            a row for each output channel.
        memory_j: Joules of its accesses.
        of_reliable: These over those at the device's most reliable point.
        energy_share: These over those of all placed tensors, under this plan.
        error_share: Of the predicted output error.
    """

    placed: PlacedRecord
    point: PlainPoint
    memory_j: float
    of_reliable: float
    energy_share: float
    error_share: float

    @property
    def points(self) -> tuple[float, ...]:
        """All its points in a row."""
        return flat_points(self.point)

    @property
    def planes(self) -> int:
        """How many bit planes have a point of their own; 1 for none."""
        several = isinstance(self.point, tuple) and not isinstance(self.point[0], tuple)
        return len(self.points) if several else 1


def flat_points(point: PlainPoint) -> tuple[float, ...]:
    """The points of a tensor in a row, whether it has one, one for each bit plane or each channel.

    Args:
        point: As records have it.
    """
    rows = point if isinstance(point, tuple) else (point,)
    return tuple(p for row in rows for p in (row if isinstance(row, tuple) else (row,)))


def allocation_knob(record: AllocationRecord) -> Knob:
    """The knob of the memory."""
    return Knob(name=record.knob, unit=unit_of(record.knob, record.device))


def granularity_name(granularity: Granularity) -> str:
    """What has a point of its own, as tables and names have it.

    Args:
        granularity: Of an allocation or a front.

    Example:
        >>> granularity_name(Granularity(bit_planes=True, rails=3))
        'tensor and bit plane, 3 rails'
    """
    each: str = "one point" if granularity.per == "network" else granularity.per
    if granularity.bit_planes:
        each = "bit plane" if granularity.per == "network" else f"{each} and bit plane"
    parts = [each]
    if granularity.rails is not None:
        parts.append(f"{granularity.rails} rail{'' if granularity.rails == 1 else 's'}")
    if granularity.levels:
        count = len(granularity.levels)
        parts.append(f"of {count} level{'' if count == 1 else 's'}")
    return ", ".join(parts)


def granularity_words(granularity: Granularity) -> str:
    """The same for a sentence.

    Args:
        granularity: Of an allocation or a front.

    Example:
        >>> granularity_words(Granularity(bit_planes=True, rails=3))
        'a point for each tensor and bit plane, on 3 rails'
        >>> granularity_words(Granularity(per="network"))
        'one common point'
    """
    name, comma, rest = granularity_name(granularity).partition(", ")
    words = "one common point" if name == "one point" else f"a point for each {name}"
    if granularity.rails is not None:
        rest = f"on {rest}"
    return words + comma + rest


def goal_in_words(goal: Mapping[str, Any]) -> str:
    """What was to hold.

    Args:
        goal: As `joulewise.study.AllocationEvidence` has it.

    Example:
        >>> goal_in_words({"goal": "YieldGoal", "accuracy": 0.98, "share": 0.9})
        '90 % of chips with an accuracy of 98.00 % or more'
    """
    kind = goal["goal"]
    if kind == "MeanGoal":
        return f"mean accuracy {format_percent(goal['accuracy'])} or more"
    if kind == "YieldGoal":
        least = format_percent(goal["accuracy"])
        return f"{100 * goal['share']:g} % of chips with an accuracy of {least} or more"
    if kind == "ErrorGoal":
        return f"output MSE {goal['mse']:.3g} or less"
    return f"{100 * goal['energy']:g} % of the energy of a reliable memory or less"


def allocation_name(record: AllocationRecord, index: int) -> str:
    """What an allocation differs from the others by: what has a point, or how it was trained.

    Args:
        record: The record.
        index: Of the allocation.
    """
    if isinstance(record, CoDesignRecord):
        return "co-designed" if index else "as given"
    return granularity_name(record.allocations[index].granularity)


def allocation_words(record: AllocationRecord, index: int) -> str:
    """The same, in a sentence.

    Args:
        record: The record.
        index: Of the allocation.
    """
    words = granularity_words(record.allocations[index].granularity)
    if isinstance(record, CoDesignRecord):
        return f"{words}, trained for it" if index else "the network as it was given"
    return words


def round_cells(record: AllocationRecord) -> list[list[str]]:
    """The rounds of a co-design as rows: energy trained through, epochs, energy, holds, kept.

    Args:
        record: The record; without rows unless it is that of a co-design.
    """
    if not isinstance(record, CoDesignRecord):
        return []
    return [
        [
            str(number) if number else "as given",
            "" if turn.training_energy is None else percent(turn.training_energy),
            "" if turn.training is None else str(turn.training.spec.epochs),
            percent(turn.allocation.energy.normalised),
            _HOLDS[turn.allocation.holds],
            "yes" if turn.kept else "no",
        ]
        for number, turn in enumerate(record.design.rounds)
    ]


def allocation_rows(record: AllocationRecord) -> list[AllocationRow]:
    """One row for each allocation, the first in front.

    Args:
        record: The record.
    """
    return [_row(record, index) for index in range(len(record.allocations))]


def _row(record: AllocationRecord, index: int) -> AllocationRow:
    found = record.allocations[index]
    simulation, saving = found.simulation, record.saving_at_goal(index)
    accuracy, interval = _accuracy(simulation)
    compared = index > 0
    return AllocationRow(
        granularity=allocation_name(record, index),
        memory_energy=format_si(found.energy.memory_total_j, "J"),
        of_reliable=percent(found.energy.normalised),
        against_first=_signed(record.saved_against_first(index)) if compared else "",
        at_goal=_signed(saving.share) if compared and saving else "",
        at_goal_interval=(
            f"{100 * saving.low:+.1f} to {100 * saving.high:+.1f}" if compared and saving else ""
        ),
        holds=_HOLDS[found.holds],
        accuracy=accuracy,
        accuracy_interval=interval,
        chips="" if simulation is None else f"{simulation.chips:,}",
        predicted_mse=f"{found.predicted_mse:.3g}",
        simulated_mse="" if simulation is None else f"{simulation.mean_mse:.3g}",
    )


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"


def _accuracy(simulation: SimulationRecord | None) -> tuple[str, str]:
    if simulation is None or not simulation.accuracy:
        return "", ""
    if simulation.chips == 1:
        return format_percent(simulation.mean_accuracy), "one chip"
    low, high = simulation.accuracy_interval()
    return format_percent(simulation.mean_accuracy), f"{100 * low:.2f} to {100 * high:.2f}"


def tensor_shares(record: AllocationRecord, found: AllocationEvidence) -> list[TensorShare]:
    """What each placed tensor is given under a plan, from input to output.

    Args:
        record: The record.
        found: One of its allocations.
    """
    total, error = found.energy.memory_total_j, found.predicted_mse
    shares = []
    for placed in record.tensors:
        joules = found.energy.memory_j[placed.name]
        shares.append(
            TensorShare(
                placed=placed,
                point=found.plan[placed.name],
                memory_j=joules,
                of_reliable=_over(joules, placed.reliable_j),
                energy_share=_over(joules, total),
                error_share=_over(found.predicted_variance[placed.name], error),
            )
        )
    return shares


def _over(part: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole else 0.0


def attempt_cells(found: AllocationEvidence, attempt: AttemptRecord) -> list[str]:
    """One plan on fresh chips as a row: energy, chips, bound, confidence, whether it holds, taken.

    Args:
        found: The allocation that it was tried for.
        attempt: One of its attempts.
    """
    kind = found.goal["goal"]
    last = attempt.seed + attempt.chips - 1
    bound = f"{'at most' if kind == 'ErrorGoal' else 'at least'} {attempt.bound:.3g}"
    if kind != "ErrorGoal":
        bound = f"at least {format_percent(attempt.bound)}"
    return [
        percent(attempt.energy),
        f"{attempt.chips:,}, seeds {attempt.seed} to {last}",
        bound,
        format_percent(attempt.confidence),
        _HOLDS[attempt.holds],
        "this plan" if found.chosen == found.attempts.index(attempt) else "",
    ]


def allocation_answer(record: AllocationRecord) -> Answer:
    """What the last allocation saves, and whether its goal was shown to hold.

    Args:
        record: The record.
    """
    found = record.allocations[-1]
    shift = _over(found.predicted_shift, found.predicted_mse)
    details = _who(tensor_shares(record, found), shift)
    if len(found.attempts) > 1:
        details.append(
            f"{len(found.attempts)} plans were tried, each on fresh chips of its own; this is the "
            f"{'cheapest that held' if found.holds else 'last'}."
        )
    if found.goal["goal"] == "EnergyGoal":
        return Answer(sentence=_within_energy(record), details=tuple(details))
    return Answer(sentence=_within_goal(record), details=tuple(details))


def _within_goal(record: AllocationRecord) -> str:
    found = record.allocations[-1]
    goal, evidence = goal_in_words(found.goal), _evidence(found)
    if found.holds is False:
        return (
            f"NOT SHOWN to hold: {goal}, {evidence}. The best plan that was found, with "
            f"{granularity_words(found.granularity)}, needs {percent(found.energy.normalised)} of "
            "the energy of a reliable memory."
        )
    saved = _saved(record)
    if found.holds is None:
        return f"{saved}. {_capital(goal)} is predicted, not simulated."
    return f"{saved}. {_capital(goal)} was shown to hold {evidence}."


def _evidence(found: AllocationEvidence) -> str:
    if found.simulation is None:
        return "by prediction alone"
    sure = f"with {100 * found.confidence:g} % confidence"
    return f"on {found.simulation.chips:,} fresh chips, {sure}"


def _saved(record: AllocationRecord) -> str:
    """What the last allocation saves against a reliable memory, and against the first."""
    found, index = record.allocations[-1], len(record.allocations) - 1
    words = allocation_words(record, index)
    comma = "," if "," in words else ""
    said = (
        f"{_capital(words)}{comma} saves {percent(found.saved)} of the memory energy of "
        f"{record.network} against a reliable memory"
    )
    return f"{said}, {_against_first(record, index)}" if index else said


def _against_first(record: AllocationRecord, index: int) -> str:
    first = allocation_words(record, 0)
    saving = record.saving_at_goal(index)
    if saving is None:
        share, interval, at = record.saved_against_first(index), "", ""
    else:
        share, at = saving.share, " where both just meet the goal"
        low, high = (saving.low, saving.high) if share >= 0 else (-saving.high, -saving.low)
        interval = f" [{100 * low:.1f} to {100 * high:.1f}]"
    if share >= 0:
        return f"and {percent(share)}{interval} against {first}{at}"
    return f"but needs {percent(-share)}{interval} more than {first}{at}"


def _within_energy(record: AllocationRecord) -> str:
    found, first = record.allocations[-1], record.allocations[0]
    if found.holds is False:
        return (
            f"NOT SHOWN to hold: {goal_in_words(found.goal)}. The plan needs "
            f"{percent(found.energy.normalised)}."
        )
    said = (
        f"With {percent(found.energy.normalised)} of the energy of a reliable memory, "
        f"{granularity_words(found.granularity)} gives {record.network} {_reached(found)}"
    )
    if first is not found:
        said += f"; {granularity_words(first.granularity)} {_reached(first)}"
    return f"{said}."


def _reached(found: AllocationEvidence) -> str:
    """How well a plan does, by the best that is known of it."""
    simulation = found.simulation
    if simulation is None:
        return f"a predicted output MSE of {found.predicted_mse:.3g}"
    chips = f"{simulation.chips:,} chip{'' if simulation.chips == 1 else 's'}"
    accuracy, interval = _accuracy(simulation)
    if accuracy:
        reach = f" [{interval}]" if simulation.chips > 1 else ""
        return f"a mean accuracy of {accuracy}{reach} over {chips}"
    return f"a mean output MSE of {simulation.mean_mse:.3g} over {chips}"


def _who(shares: list[TensorShare], shift: float) -> list[str]:
    """Who is given most of what it could have, who pays, and who hurts."""
    most = max(shares, key=lambda share: share.of_reliable)
    least = min(shares, key=lambda share: share.of_reliable)
    pays = max(shares, key=lambda share: share.energy_share)
    hurts = max(shares, key=lambda share: share.error_share)
    said = [
        f"{pays.placed.name} takes {percent(pays.energy_share)} of the energy that is spent. Of "
        f"the predicted output error {hurts.placed.name} adds {percent(hurts.error_share)}; "
        f"{percent(shift)} is a shift of the mean by all together."
    ]
    if percent(most.of_reliable) != percent(least.of_reliable):
        said.insert(
            0,
            f"Most is given to {most.placed.name}, {percent(most.of_reliable)} of its energy with "
            f"a reliable memory; least to {least.placed.name}, {percent(least.of_reliable)}.",
        )
    return said


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
