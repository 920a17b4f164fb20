"""Training methods: the least energy at which each keeps what the first has without faults."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import Replicates, View
from joulewise.simulation import mean_interval
from joulewise.study.least_energy import least_energy
from joulewise.units import format_percent, format_si

__all__ = ["training_methods"]


def training_methods(view: View) -> Block | None:
    """The block; None for a single training method."""
    if len(view.file.training) < 2 or not view.networks:
        return None
    groups: dict[tuple[str, str], list[Replicates]] = {}
    for group in view.replicates:
        groups.setdefault((group.first.model, group.first.memory), []).append(group)
    rows, best = [], []
    drop = view.drop
    for (model, memory), methods in groups.items():
        # Networks of one seed begin alike, so each is held to the first method's of its seed.
        if methods[0].first.at.training != 0:
            continue  # the baseline is not computed yet
        baselines = {network.seed: network.original for network in methods[0].networks}
        first = _energies(methods[0], baselines, drop)
        baseline_s = _training_s(methods[0])
        for group in methods:
            energies = _energies(group, baselines, drop)
            cells = [model, memory, group.first.training, *_cells(view, group, energies)]
            saved = ""
            if first and energies and group is not methods[0]:
                fraction = float(1 - np.mean(energies) / np.mean(first))
                saved = format_percent(fraction, 1)
                best.append((fraction, f"{group.first.training} for {model} on {memory}"))
            seconds = _training_s(group)
            ratio = f"{seconds / baseline_s:.2f}x" if seconds and baseline_s else ""
            rows.append([*cells, saved, ratio])
    if not rows:
        return None
    metric = view.metric.name
    columns = ["model", "memory", "training", f"{metric} as trained", "memory energy", "95 %"]
    return Block(
        name="training-methods",
        title="Training methods",
        sentence=_sentence(view, best),
        tables=[
            Table(
                caption=(
                    "The least memory energy of an inference at which the mean is at most "
                    f"{view.metric.drop(drop)} worse than that of {view.file.training[0].name} "
                    "(same seed, no faults). Energy saved and training time are relative to it."
                ),
                columns=[*columns, "saved", "time"],
                rows=rows,
                words=3,
            )
        ],
        note=(
            "Intervals are over seeds (Student's t of logarithms); every network sees the same "
            "chips. At most: the cheapest point simulated still is within the drop."
        ),
    )


def _sentence(view: View, best: list[tuple[float, str]]) -> str:
    """The method that saves most against the first."""
    first = view.file.training[0].name
    if not best:
        return f"No method can be compared with {first}: one of them is not within the drop."
    fraction, who = max(best)
    if fraction <= 0:
        return f"None needs less memory energy than {first}."
    saved = format_percent(fraction, 1)
    return f"Most is saved against {first} by {who}: {saved} of its memory energy."


def _energies(group: Replicates, baselines: Mapping[int, float], drop: float) -> list[float]:
    """The least memory energy of each seed, J; empty if one of them is never within the drop."""
    found = []
    for network in group.networks:
        if network.seed not in baselines:
            return []
        energies = [point.memory_j for point in network.points]
        # A network that was trained with faults may lose more on a better memory: the least energy
        # at which it is within the drop counts.
        lost = network.losses(baselines[network.seed]).mean(0)
        limit = network.metric.lost_by(drop)
        within = [k for k in range(len(energies)) if lost[k] <= limit + 1e-9]
        if not within:
            return []
        last = within[-1]
        pair = [last, last + 1] if last + 1 < len(energies) else [last]
        least = least_energy([energies[k] for k in pair], lost[None, pair], limit)
        assert least.energy is not None
        found.append(least.energy)
    return found


def _training_s(group: Replicates) -> float | None:
    """Mean duration of the training of the seeds, s; None if one is not known."""
    known = [network.training_s for network in group.networks]
    found = [seconds for seconds in known if seconds is not None]
    return float(np.mean(found)) if found and len(found) == len(known) else None


def _cells(view: View, group: Replicates, energies: list[float]) -> list[str]:
    given = view.metric.text(float(np.mean([network.original for network in group.networks])))
    if not energies:
        return [given, "not reached", ""]
    interval = ""
    if len(energies) > 1:
        interval = " to ".join(
            format_si(end, "J") for end in mean_interval(energies, geometric=True)
        )
    cheapest = [network.points[-1].memory_j for network in group.networks]
    edge = "at most " if any(a == b for a, b in zip(energies, cheapest, strict=True)) else ""
    return [given, f"{edge}{format_si(float(np.mean(energies)), 'J')}", interval]
