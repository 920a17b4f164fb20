"""Predictions beside simulations: output errors, and the metric."""

from __future__ import annotations

import numpy as np

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import View
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
            ratio = point.predicted_error / simulated
            ratios.append(ratio)
            where = f"{view.name(network)}, seed {network.seed}, {point.knob} "
            where += format_point(point.knob, point.point)
            rows.append(
                {
                    "name": view.name(network),
                    "x": simulated,
                    "low": max(low, simulated / 10),
                    "high": high,
                    "y": point.predicted_error,
                    "said": f"{where}: predicted {point.predicted_error:.3g}, simulated "
                    f"{simulated:.3g} [{low:.3g}, {high:.3g}]",
                }
            )
            metric = ["", ""]
            if point.predicted is not None:
                metric = [view.metric.text(point.predicted), view.metric.text(point.mean)]
            errors = [f"{point.predicted_error:.3g}", f"{simulated:.3g} [{low:.3g}, {high:.3g}]"]
            cells.append([where, *errors, f"{ratio:.2f}", *metric])
    if not rows:
        return None
    columns = ["network and point", "error", "simulated [95 %]", "ratio"]
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
