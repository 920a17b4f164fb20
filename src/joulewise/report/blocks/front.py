"""Pareto fronts: plans of least energy over the whole range of errors."""

from __future__ import annotations

import numpy as np

from joulewise.report import charts
from joulewise.report.blocks.block import Block
from joulewise.report.tables import Table
from joulewise.report.view import View
from joulewise.units import format_percent, format_si

__all__ = ["front"]


def front(view: View) -> Block | None:
    """The block; None without fronts."""
    rows, cells = [], []
    for network in view.networks:
        for record in network.fronts:
            name = f"{view.name(network)}, {record.ask.granularity.name}"
            for point in record.result["front"]["points"]:
                row = record.simulated_row(point["simulation"])
                values = np.array(point["simulation"]["values"], dtype=float)
                if row["mean"] is None:
                    continue
                known = values[np.isfinite(values)]
                single = len(known) == 1
                low, high = (row["mean" if single else end] for end in ("low", "high"))
                worst, best = np.quantile(known, [0.05, 0.95])
                interval = f"{view.metric.text(low)} to {view.metric.text(high)}"
                tooltip = f"{name}: {format_percent(row['energy'], 1)} of reliable memory, "
                rows.append(
                    {
                        "name": name,
                        "energy": row["energy"],
                        "y": row["mean"],
                        "low": low,
                        "high": high,
                        "worst": float(worst),
                        "best": float(best),
                        "tooltip": f"{tooltip}{view.metric.name} {interval}",
                    }
                )
                joules, mean = format_si(row["memory_j"], "J"), view.metric.text(row["mean"])
                cells.append([name, joules, format_percent(row["energy"], 1), mean, interval])
    if not rows:
        return None
    chart = charts.curves(
        rows,
        [],
        field="energy",
        x="memory energy over that of reliable memory",
        y=view.metric.name,
        x_format="%",
        y_format=view.metric.tick_format,
        y_domain=(min(row["low"] for row in rows), max(row["best"] for row in rows)),
        log=view.metric.geometric,
    )
    columns = ["plans", "memory energy", "of reliable", view.metric.name, "95 % interval"]
    return Block(
        name="front",
        title="Plans of least energy",
        sentence=f"Each point is a plan, simulated on {view.file.chips} chips, the same for all.",
        charts={"Front": chart},
        tables=[Table(caption="Every plan.", columns=columns, rows=cells)],
    )
