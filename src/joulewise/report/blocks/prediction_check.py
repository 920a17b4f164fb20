"""Predictions beside simulations: output errors, and the metric."""

from __future__ import annotations

import math

import numpy as np

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import CurvePoint, Network, View
from joulewise.simulation import mean_interval
from joulewise.units import format_point

__all__ = ["prediction_check"]


def prediction_check(view: View) -> Block | None:
    """The block; None where nothing was predicted."""
    rows, cells, ratios = [], [], []
    for network in view.networks:
        for point in network.points:
            finite = np.isfinite(point.errors).all() and len(point.errors) > 1
            simulated = float(np.mean(point.errors)) if finite else 0.0
            if point.predicted_error is None or not simulated:
                continue
            low, high = mean_interval(point.errors.tolist())
            ratios.append(point.predicted_error / simulated)
            where = _name(view, network, point)
            rows.append(
                {
                    "name": view.name(network),
                    "x": simulated,
                    "low": max(low, simulated / 10),
                    "high": high,
                    "y": point.predicted_error,
                    "tooltip": f"{where}: predicted {point.predicted_error:.3g}, simulated "
                    f"{simulated:.3g} [{low:.3g}, {high:.3g}]",
                }
            )
            metric = ["", ""]
            if point.predicted is not None:
                metric = [view.metric.text(point.predicted), view.metric.text(point.mean)]
            errors = [f"{point.predicted_error:.3g}", f"{simulated:.3g}"]
            least = point.predicted_error / high
            most = point.predicted_error / low if low > 0 else math.inf
            cells.append([where, *errors, f"{ratios[-1]:.2f} [{least:.2f}, {most:.2f}]", *metric])
    if not rows:
        return None
    columns = ["network and point", "error", "simulated", "ratio [95 %]"]
    name = view.metric.name
    return Block(
        name="prediction-check",
        title="Prediction against simulation",
        sentence=(
            f"Predicted over simulated output error is {min(ratios):.2f} to {max(ratios):.2f} at "
            f"{len(ratios)} points."
        ),
        charts={"Output error": charts.pairs(rows, x="simulated", y="predicted")},
        tables=[
            Table(
                caption="Predicted output errors (mean squared differences to the model as given) "
                f"and {name}, beside those of simulated chips.",
                columns=[*columns, name, "simulated"],
                rows=cells,
            )
        ],
        note="Predictions are of second order and use no simulated chip.",
    )


def _name(view: View, network: Network, point: CurvePoint) -> str:
    """The name of a network and a point; with the seed, if there are several."""
    seed = f"seed {network.seed}, " if len(view.file.seeds) > 1 else ""
    return f"{view.name(network)}, {seed}{point.knob} {format_point(point.knob, point.point)}"
