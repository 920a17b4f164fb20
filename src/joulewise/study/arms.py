"""Arms: ways to train, each with several seeds, compared by the energy that its networks need."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from joulewise.data import Split
from joulewise.devices import HOROWITZ_INT8
from joulewise.errors import InputError, check_in_range, refuse
from joulewise.placement import energy
from joulewise.simulation import Interval, mean_interval, simulate
from joulewise.study.comparison import Contender, named
from joulewise.study.crossing import Ladder
from joulewise.study.curve import Curve, energy_curve
from joulewise.study.environment import Environment
from joulewise.study.records import SimulationRecord
from joulewise.training import TrainingRecord

__all__ = ["Arm", "ArmComparison", "ArmRecord", "ArmSaving", "NetworkRecord", "compare_arms"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """Networks of one architecture on one memory, trained alike but for the seed.

    Args:
        name: What reports call it.
        networks: One for each seed. The points of the first, if it has any, are those of all.
        recipe: How they were trained, in words.
    """

    name: str
    networks: tuple[Contender, ...]
    recipe: str = ""


class NetworkRecord(BaseModel):
    """One network of an arm: one simulation for each point of the arm."""

    model_config = ConfigDict(frozen=True)

    name: str
    training: TrainingRecord | None
    simulations: tuple[SimulationRecord, ...]

    @property
    def clean(self) -> float:
        """Accuracy of the network as it is, not rounded to words."""
        return self.simulations[0].float_accuracy or 0.0


class ArmSaving(BaseModel):
    """The least energy at which an arm is within a drop of the first arm's clean accuracy.

    Args:
        drop: The accuracy given up; 0.01 is one point.
        point: The least reliable point at which the mean over networks is within the drop,
            interpolated; None if it is at none that was simulated.
        low: The less reliable end of the 95 % interval of ``point``, at most the device's own end,
            or the last point simulated where the knob is not the device's own; None without one,
            and where the mean over all networks, or over all but one, is at the edge.
        high: The more reliable end.
        at_edge: The least reliable point simulated is still within the drop: the network may go
            lower, and what is saved is at least what is said.
        memory_j: Joules of placed memory per inference there, mean over networks.
        saved: Share saved against the first arm with its memory at the most reliable point, whose
            energy is the same measure for all arms: on a memory whose energy depends on the
            weights, an arm's own would not be.
        saved_low: Lower end of its 95 % interval.
        saved_high: Upper end.
        against_first: Share saved against the first arm at its own point for this drop; None for
            the first itself, where one of the two has no point, or where the first is at the edge.
    """

    model_config = ConfigDict(frozen=True)

    drop: float
    point: float | None
    low: float | None
    high: float | None
    at_edge: bool
    memory_j: float | None
    saved: float | None
    saved_low: float | None
    saved_high: float | None
    against_first: float | None


class ArmRecord(BaseModel):
    """One arm's part in a comparison.

    Args:
        name: What reports call it.
        recipe: How its networks were trained, in words.
        points: Operating points, most reliable first.
        networks: One for each seed.
        savings: One for each accuracy drop.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    recipe: str
    points: tuple[float, ...]
    networks: tuple[NetworkRecord, ...]
    savings: tuple[ArmSaving, ...]

    @property
    def clean(self) -> float:
        """Mean over networks of the accuracy as they are, not rounded to words."""
        return float(np.mean([network.clean for network in self.networks]))

    @property
    def reliable_j(self) -> float:
        """Joules of placed memory per inference at its most reliable point, mean over networks."""
        reliable = [network.simulations[0].energy.memory_reliable_j for network in self.networks]
        return float(np.mean(reliable))

    @property
    def clean_interval(self) -> Interval:
        """Its 95 % interval over networks."""
        return mean_interval([network.clean for network in self.networks])

    def accuracies(self, index: int) -> list[float]:
        """Mean accuracy over chips of each network, at a point by its place in ``points``."""
        return [network.simulations[index].mean_accuracy for network in self.networks]


class ArmComparison(BaseModel):
    """Several ways to train, and what energy each needs. The first is what others are held to."""

    model_config = ConfigDict(frozen=True)

    command: str
    data: str
    model: str
    arithmetic: dict[str, Any]
    chips: int
    seed: int
    images: int
    knob: str
    rising: bool
    device: dict[str, Any]
    stored: tuple[str, ...]
    arms: tuple[ArmRecord, ...]
    environment: Environment
    seconds: float

    @property
    def first(self) -> ArmRecord:
        """What the others are held to."""
        return self.arms[0]


def compare_arms(
    arms: Sequence[Arm],
    data: Split,
    *,
    data_name: str,
    model_name: str,
    drops: Sequence[float] = (0.005, 0.01),
    chips: int = 100,
    seed: int = 0,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> ArmComparison:
    """Simulate every network of every arm on the same chips, from reliable memory down.

    An arm's point for a drop is the least reliable one at which the mean accuracy over its
    networks is at most that far below the clean accuracy of the first arm, mean over networks; at
    more reliable ones it may be further below, where a network was trained for a faulty memory.
    Its interval is a jackknife over networks (Student's t, one degree of freedom less than there
    are networks), with chips that are the same for all; it takes the first arm's accuracy as given.

    Args:
        arms: Ways to train, names all different; each with one network or more.
        data: The samples that accuracy is measured on, the same for all.
        data_name: What reports call them.
        model_name: What reports call the architecture.
        drops: Accuracies to give up; 0.01 is one point.
        chips: Chips at each point, the same for all points and networks.
        seed: Of the first chip.
        command: The command line that asked, for the record.
        progress: Called with the name of an arm, passes done and passes expected of it.

    Returns:
        The record.

    Raises:
        InputError: if there is no arm, two share a name, one has no network, there is no drop or
            one outside (0, 1], or not all lie on one kind of memory.
        OperatingPointError: if a point is not one of the memory.
    """
    _check(arms, drops)
    began = time.perf_counter()
    records: list[ArmRecord] = []
    for arm in arms:
        told = named(progress, arm.name)
        reference = records[0].clean if records else math.nan
        curves = _curves(arm, data, reference, drops, chips, seed, told)
        networks = tuple(
            NetworkRecord(name=n.name, training=n.training, simulations=curve.simulations)
            for n, curve in zip(arm.networks, curves, strict=True)
        )
        record = ArmRecord(
            name=arm.name,
            recipe=arm.recipe,
            points=curves[0].points,
            networks=networks,
            savings=(),
        )
        first = records[0] if records else record
        savings = tuple(_saving(arm, curves, first, drop) for drop in sorted(set(drops)))
        records.append(record.model_copy(update={"savings": savings}))
    network = arms[0].networks[0]
    return ArmComparison(
        command=command,
        data=data_name,
        model=model_name,
        arithmetic=HOROWITZ_INT8.describe(),
        chips=chips,
        seed=seed,
        images=len(data),
        knob=network.setting,
        rising=curves[0].rising,
        device=network.placement.placed[0].device.describe(),
        stored=tuple(sorted({tensor.role for tensor in network.placement.placed})),
        arms=tuple(records),
        environment=Environment.now(),
        seconds=time.perf_counter() - began,
    )


def _check(arms: Sequence[Arm], drops: Sequence[float]) -> None:
    """Refuse what cannot be compared, before the first simulation.

    Raises:
        InputError: see `compare_arms`.
    """
    names = [arm.name for arm in arms]
    if not names or len(set(names)) < len(names):
        raise InputError(f"the arms are {names}; allowed: at least one, names all different")
    for arm in arms:
        if not arm.networks:
            refuse(f"the networks of {arm.name}", "none", "one for each seed, at least one")
    if not drops:
        refuse("drops", "empty", "at least one")
    for drop in drops:
        check_in_range("drop", drop, 0.0, 1.0, open_low=True)
    networks = [network for arm in arms for network in arm.networks]
    placed = [tensor for network in networks for tensor in network.placement.placed]
    kinds = {tensor.device.describe()["device"] for tensor in placed}
    knobs = {network.setting for network in networks}
    if len(kinds) > 1 or len(knobs) > 1:
        got = f"{', '.join(sorted(kinds))}, set by {', '.join(sorted(knobs))}"
        refuse("the memories", got, "one kind of memory and one knob for all arms")


def _curves(
    arm: Arm,
    data: Split,
    reference: float,
    drops: Sequence[float],
    chips: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[Curve]:
    """One for each network, all over the points of the first."""
    found: list[Curve] = []
    points = arm.networks[0].points
    for number, network in enumerate(arm.networks):

        def report(done: int, total: int, before: int = number) -> None:
            progress(done + before * total, total * len(arm.networks))

        found.append(
            energy_curve(
                network.placement,
                data,
                points=points,
                knob=network.setting,
                drops=drops if points else _own_drops(network, data, reference, drops),
                chips=chips,
                seed=seed,
                progress=report,
            )
        )
        points = found[0].points
    return found


def _own_drops(
    network: Contender, data: Split, reference: float, drops: Sequence[float]
) -> list[float]:
    """Drops as seen from the network's own accuracy, where its points are to be chosen."""
    if math.isnan(reference):
        return list(drops)
    reliable = network.placement.most_reliable()
    own = simulate(network.placement, data, at=reliable, chips=1).original or 0.0
    # One image or more: a network that starts below the line has no place on it to look for.
    return [max(drop - reference + own, 1 / len(data)) for drop in drops]


def _saving(arm: Arm, curves: Sequence[Curve], first: ArmRecord, drop: float) -> ArmSaving:
    ladder = Ladder(curves[0].points, rising=curves[0].rising)
    lost = np.array(
        [
            [first.clean - curve.simulations[i].mean_accuracy for i in ladder.order]
            for curve in curves
        ]
    )
    place = float(ladder.last_within(lost.mean(0)[None], drop)[0])
    low, high = _jackknife(ladder, lost, drop, place)
    point = ladder.setting(place)
    joules = _spent(arm, point)
    against = None
    for other in first.savings:  # none yet where the arm is the first itself
        if other.drop == drop and other.memory_j and joules is not None and not other.at_edge:
            against = 1 - joules / other.memory_j
    ends = [_inside(arm, curves[0], ladder.setting(end)) for end in (low, high)]
    saved = [_share_saved(j, first.reliable_j) for j in (joules, *(_spent(arm, e) for e in ends))]
    return ArmSaving(
        drop=drop,
        point=point,
        low=ends[0],
        high=ends[1],
        at_edge=bool(place == ladder.places[-1]),
        memory_j=joules,
        saved=saved[0],
        saved_low=saved[2],
        saved_high=saved[1],
        against_first=against,
    )


def _jackknife(ladder: Ladder, lost: Floats, drop: float, place: float) -> tuple[float, float]:
    """Places of the ends of the 95 % interval over networks; infinite where there is none.

    Where the last point is still within, nothing is known of how far the place lies beyond it.
    """
    networks, edge = len(lost), ladder.places[-1]
    if networks < 2 or not math.isfinite(place) or place == edge:
        return math.inf, math.inf
    without = np.stack([np.delete(lost, i, axis=0).mean(0) for i in range(networks)])
    places = ladder.last_within(without, drop)
    if not np.isfinite(places).all() or (places == edge).any():
        return math.inf, math.inf
    pseudo = networks * place - (networks - 1) * places
    reach = mean_interval(pseudo.tolist()).half_width
    return place - reach, place + reach


def _inside(arm: Arm, curve: Curve, point: float | None) -> float | None:
    """The nearest point that the device can be set to, or one of those simulated.

    Of a knob that is not the device's own only the points that were given are known to be allowed.
    """
    if point is None:
        return None
    device = arm.networks[0].placement.placed[0].device
    ends: Sequence[float] = (device.knob.least_reliable, device.knob.most_reliable)
    if arm.networks[0].setting != device.knob.name:
        ends = curve.points
    return min(max(point, min(ends)), max(ends))


def _spent(arm: Arm, point: float | None) -> float | None:
    """Joules of placed memory at a point, mean over networks."""
    if point is None:
        return None
    found = [energy(n.placement, at={n.setting: point}) for n in arm.networks]
    return float(np.mean([spent.memory_total_j for spent in found]))


def _share_saved(joules: float | None, of: float) -> float | None:
    return None if joules is None else 1 - joules / of
