"""Tables of studies, from the rows that `joulewise results STUDY --csv` prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from records import bracketed, markdown, plus_minus

from joulewise.devices import Traffic
from joulewise.simulation import mean_interval
from joulewise.study import StudyFile, least_energy
from joulewise.units import format_si

Row = Mapping[str, str]
DROPS = {0.005: "0.5", 0.01: "1"}
REFERENCES = Path(__file__).parents[1] / "studies/references.yaml"


def digits(rows: Sequence[Row]) -> str:
    """The least memory energy of each network within each drop, in per cent of reliable memory."""
    cells = []
    for (model,), points in grouped(rows, "model", kind="curve").items():
        found = [percent(least(points, drop)) for drop in DROPS]
        cells.append([model, f"{100 * float(points[0]['ideal']):.2f} %", *found])
    return markdown(["network", "perfect memory", "0.5 points lost", "1 point lost"], cells)


def memories(rows: Sequence[Row]) -> str:
    """The least energy of each memory within each drop."""
    cells = []
    for (memory,), points in grouped(rows, "memory", kind="curve").items():
        reliable, total = (float(points[0][name]) for name in ("memory_j", "total_j"))
        for drop, lost in DROPS.items():
            found = least(points, drop)
            joules = reliable * found[0]
            spent = [format_si(one, "J") for one in (joules, total - reliable + joules)]
            if math.isinf(joules):
                spent = ["-", "-"]
            cells.append([memory, lost, spent[0], percent(found), spent[1]])
    header = ["memory", "points lost", "memory energy", "% of reliable", "all energy"]
    return markdown(header, cells)


def resnet20(rows: Sequence[Row]) -> str:
    """Energy saved by the least eta within each drop."""
    etas = [float(row["eta"]) for row in rows]
    original = float(rows[0]["ideal"])
    losses = original - np.array([accuracies(row) for row in rows]).T
    memory, total = (float(rows[0][name]) for name in ("memory_j", "total_j"))
    reliable = memory / etas[0]
    cells = []
    for drop, lost in DROPS.items():
        found = least_energy(etas, losses, drop)
        eta, low, high = found.energy, found.low, found.high
        share = (1 - eta) * reliable / (total - memory + reliable)
        saved = bracketed(100 * (1 - eta), [100 * (1 - end) for end in (high, low)])
        bounds = bracketed(eta, (low, high), 3)
        cells.append([f"{100 * original:.2f} %", lost, bounds, saved, f"{100 * share:.1f}"])
    header = [
        "perfect memory",
        "points lost",
        "eta",
        "memory energy saved, %",
        "all energy saved, %",
    ]
    return markdown(header, cells)


def best_by_energy(rows: Sequence[Row]) -> str:
    """The network of the best accuracy at each energy, mean over seeds."""
    seeds = len({row["seed"] for row in rows})
    cells = []
    for (memory,), placed in grouped(rows, "memory").items():
        curves = grouped(placed, "model", "training", "point", kind="curve")
        plans = grouped(placed, "model", "training", kind="allocate", holds="True")
        found = sorted(
            (mean(same, "total_j"), -mean(same, "mean"), model)
            for (model, *_), same in [*curves.items(), *plans.items()]
            if len(same) == seeds
        )
        lowest = np.minimum.accumulate([0.0, *(one[1] for one in found)])
        best = [one for one, before in zip(found, lowest, strict=False) if one[1] < before]
        for model, group in groupby(best, lambda one: one[2]):
            points = list(group)
            span = (f"{-100 * one[1]:.1f}" for one in (points[0], points[-1]))
            cells.append([memory, format_si(points[0][0], "J"), model, distinct(span, " to ")])
    return markdown(["memory", "from", "network", "accuracy, %"], cells)


def references(rows: Sequence[Row]) -> str:
    """Memory energy saved by a common and by per-tensor operating points, in per cent."""
    # Weights are read once an inference: ratios of one word are those of a network.
    word = Traffic(words=1, reads=1, writes=0)
    devices = {memory.name: memory.build() for memory in StudyFile.read(REFERENCES).memories}
    cells = []
    for (model, memory), plans in grouped(rows, "model", "memory", kind="allocate").items():
        device = devices[memory]
        if device.protection is not None:
            continue
        reliable = float(device.energy(word, device.knob.most_reliable))
        common, tensor = (float(plan["energy"]) * reliable for plan in plans)
        against = device.reference_energies(word) | {"reliable": reliable}
        saved = [
            distinct(f"{100 * (1 - one / against[name]):.1f}" for one in (common, tensor))
            if name in against
            else "not stated"
            for name in ("nominal supply", "V_min", "reliable")
        ]
        cells.append([model, memory, *saved, f"{100 * (1 - tensor / common):.1f}"])
    header = ["network", "memory", "vs nominal", "vs V_min", "vs most reliable measured"]
    return markdown([*header, "per-tensor vs common point"], cells)


def training_methods(rows: Sequence[Row]) -> str:
    """Training time, accuracy and least energy of each training."""
    trained = grouped(rows, "training", "memory", kind="train")
    first = next(iter(trained.values()))
    plain = {row["seed"]: float(row["mean"]) for row in first}
    cells = []
    for (training,), points in grouped(rows, "training", kind="curve").items():
        own = [found for key, found in trained.items() if key[0] == training]
        times = (f"{seconds(found) / seconds(first):.2f}" for found in own)
        original = (f"{100 * mean(found, 'mean'):.2f}" for found in own)
        at = [
            [100 * float(row["mean"]) for row in points if (row["knob"], row["point"]) == point]
            for point in (("eta", "0.25"), ("g_max", "1.2e-05"))
        ]
        sram, crossbar = (plus_minus(found) if found else "-" for found in at)
        joules = least_joules(points, plain)
        cells.append([training, distinct(times), distinct(original), sram, joules, crossbar])
    header = ["trained by", "time", "not placed", "SRAM, masking, eta 0.25"]
    header += ["least SRAM energy, nJ, 1 point lost", "crossbar, 1 uS, g_max 12 uS"]
    return markdown(header, cells)


def robust_accuracies(sram: Sequence[Row], crossbar: Sequence[Row], test: Any) -> str:
    """Accuracy of each training on each memory, in per cent."""
    proportional = {
        Path(row["weights"]).stem: 100 * float(np.mean(row["accuracy"]["0.3"]))
        for row in test["rows"]
    }
    cells = []
    for (method,), found in grouped(sram, "method", eta="0.4").items():
        additive = grouped(crossbar, "method", g_max="3.5e-05")[method,]
        value = found[0]["network"].split("-")[-2]
        values = [
            [100 * float(row["perfect_accuracy"]) for row in found],
            [100 * np.mean(accuracies(row)) for row in found],
            [100 * np.mean(accuracies(row)) for row in additive],
            [proportional[row["network"]] for row in found],
        ]
        cells.append([method, "-" if value == "0" else value, *map(plus_minus, values)])
    header = ["trained by", "value", "not placed", "masking", "additive", "proportional"]
    return markdown(header, cells)


def robust_energies(sram: Sequence[Row], crossbar: Sequence[Row]) -> str:
    """The least operating points half a point below SGD, of trainings that are within on SRAM."""
    points = [robust_points(sram, "eta"), robust_points(crossbar, "g_max")]
    cells = []
    for method, etas in points[0].items():
        saved = [100 * (1 - eta) for eta in (etas[0], *reversed(etas[1:]))]
        micro = [1e6 * one for one in points[1].get(method, ())]
        g_max = with_ends(micro, 0) if micro else "not reached"
        cells.append([method, with_ends(etas, 3), with_ends(saved), g_max])
    header = ["trained by", "SRAM: eta", "memory energy saved, %", "crossbar, 1 uS: g_max, uS"]
    return markdown(header, cells)


def with_ends(found: Sequence[float], digits: int = 1) -> str:
    """A value, with its interval if there is one."""
    value, *ends = found
    return bracketed(value, ends, digits) if ends else f"{value:.{digits}f}"


def robust_points(rows: Sequence[Row], knob: str) -> dict[str, list[float]]:
    """The least operating point of each training, with a jackknife interval over seeds."""
    first = [row for row in rows if row["method"] == rows[0]["method"]]
    limit = mean(first, "perfect_accuracy")
    found = {}
    for (method,), own in grouped(rows, "method").items():
        at = grouped(own, knob)
        points = [float(point) for (point,) in at]
        losses = np.array([[limit - np.mean(accuracies(row)) for row in s] for s in at.values()])
        place = least_energy(points, [losses.mean(1)], 0.005).energy
        if place is None:
            continue
        found[method] = [place]
        seeds = range(losses.shape[1])
        without = [
            least_energy(points, [np.delete(losses, k, 1).mean(1)], 0.005).energy for k in seeds
        ]
        if None not in without:
            low, high = mean_interval([place + (len(seeds) - 1) * (place - w) for w in without])
            reach = (high - low) / 2
            found[method] += [max(place - reach, 0.0), place + reach]
    return found


def grouped(rows: Iterable[Row], *columns: str, **given: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows with the given cells, by the cells of these columns."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if all(row[name] == cell for name, cell in given.items()):
            found.setdefault(tuple(row[name] for name in columns), []).append(row)
    return found


def least(points: Sequence[Row], drop: float) -> list[float]:
    """Least energy over that of reliable memory, and where the ends of the interval cross."""
    energies = [float(row["energy"]) for row in points]
    found = []
    for column in ("mean", "high", "low"):
        losses = [float(row["ideal"]) - float(row[column]) for row in points]
        energy = least_energy(energies, [losses], drop).energy
        found.append(math.inf if energy is None else energy)
    return found


def least_joules(points: Sequence[Row], plain: Mapping[str, float]) -> str:
    """Least SRAM energy a point below plain, nJ, with its interval over seeds."""
    found = []
    for (seed,), own in grouped(points, "seed", knob="eta").items():
        losses = [plain[seed] - float(row["mean"]) for row in own]
        energies = [1e9 * float(row["memory_j"]) for row in own]
        found.append(least_energy(energies, [losses], 0.01).energy)
    if None in found:
        return "not reached"
    return bracketed(float(np.mean(found)), mean_interval(found, geometric=True))


def accuracies(row: Row) -> list[float]:
    """Accuracy of each chip."""
    return [float(cell) for name, cell in row.items() if name.startswith("accuracy_")]


def mean(rows: Sequence[Row], column: str) -> float:
    """Mean of a column."""
    return float(np.mean([float(row[column]) for row in rows]))


def seconds(rows: Sequence[Row]) -> float:
    """Median duration over seeds: the first training of a process is slower."""
    return median(float(row["seconds"]) for row in rows)


def percent(found: Sequence[float]) -> str:
    """A share and its interval in per cent."""
    value, *ends = (100 * one for one in found)
    return "not reached" if math.isinf(value) else bracketed(value, ends)


def distinct(cells: Iterable[str], between: str = ", ") -> str:
    """Cells, equal ones once."""
    return between.join(dict.fromkeys(cells))
