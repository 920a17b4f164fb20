"""MemSE's two figures, remade: noise and conductance against output error and accuracy.

    python benchmarks/memse_figures.py --weights WEIGHTS --data CIFAR10 --out results/memse-figures
    python benchmarks/memse_figures.py --draw results/memse-figures/figures.json.gz

(a) Predicted and simulated MSE and accuracy against sigma over g_max, 1e-3 to 1e-1.
(b) The same MSE against g_max over three decades, for three sigma.

Pairs of conductances with additive programming noise, clipped at 0 as physical ones are, and not,
as in the paper (J. Kern et al., AICAS 2022, arXiv 2205.01707). A range for each tensor. Predicted
by second order, on the same images that are simulated.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from records import origin, read_record, write_record
from torch import Tensor, nn

from joulewise.data import load_data
from joulewise.devices import Crossbar
from joulewise.models import build, host, load_weights
from joulewise.placement import place, prepare
from joulewise.prediction import predict
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory

G_MAX, G_RANGE = 25e-6, (1e-7, 1e-2)
RELATIVE = [float(f"{s:.3g}") for s in torch.logspace(-3, -1, 10).tolist()]
CONDUCTANCES = [float(f"{g:.3g}") for g in torch.logspace(-6, -3, 8).tolist()]
SIGMAS = (1e-6, 3e-7, 1e-7)
Data = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Input of a worker."""

    model: str
    weights: Path | None
    data: str
    images: int
    chips: int
    threads: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1, help="of each worker")
    parser.add_argument("--workers", type=int, default=1, help="processes; rows are the same")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--draw", type=Path, help="draw a record as HTML beside it, and no more")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.draw)
        return
    record: dict[str, Any] = {
        **origin(),
        "rows": [],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")  # a GPU does not survive a fork
    with ProcessPoolExecutor(arguments.workers, spawn, initializer=keep_freed_memory) as pool:
        options = Options(
            **{field.name: getattr(arguments, field.name) for field in fields(Options)}
        )
        for row in pool.map(partial(measured, options), cases()):
            print(json.dumps(row), flush=True)
            record["rows"].append(row)
            write_record(arguments.out / "figures.json", record)


@cache
def network(arguments: Options) -> tuple[nn.Module, Data]:
    torch.set_num_threads(arguments.threads)
    dataset = load_data(arguments.data)
    model = build(arguments.model, dataset.input_shape, dataset.classes, seed=0)
    load_weights(model, arguments.weights)
    model = host(model, dataset.input_shape).eval()
    split = dataset.test.subset(arguments.images, seed=0)
    (batch,) = prepare(split, model, len(split))
    return model, [(batch.inputs, batch.targets)]


def cases() -> list[dict[str, Any]]:
    noise = [
        {"figure": "a", "clip": clip, "sigma": relative * G_MAX, "g_max": G_MAX}
        for clip in (False, True)
        for relative in RELATIVE
    ]
    conductance = [
        {"figure": "b", "clip": False, "sigma": sigma, "g_max": g_max}
        for sigma in SIGMAS
        for g_max in CONDUCTANCES
    ]
    return noise + conductance


def measured(arguments: Options, case: dict[str, Any]) -> dict[str, Any]:
    (model, data), chips = network(arguments), arguments.chips
    memory = Crossbar(sigma=case["sigma"], clip=case["clip"], g_range=G_RANGE)
    placement = place(model, weights=memory, example_inputs=data[0][0][:8])
    sim = simulate(placement, data, at={"g_max": case["g_max"]}, chips=chips)
    forecast = predict(placement, data, at={"g_max": case["g_max"]}, method="second-order")
    assert forecast.accuracy is not None
    return {
        **case,
        "chips": chips,
        "ideal_accuracy": sim.ideal,
        "mse": sim.mean_mse,
        "mse_interval": list(sim.mse_interval()),
        "accuracy": sim.mean,
        "accuracy_interval": list(sim.interval()),
        "predicted_mse": float(forecast.mse),
        "predicted_accuracy": forecast.accuracy.mean,
    }


def draw(path: Path) -> None:
    """Three panels: MSE and accuracy against sigma, MSE against g_max."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    rows = read_record(path)["rows"]
    panels = [
        ("a", "sigma", "mse", "output MSE", "sigma / g_max"),
        ("a", "sigma", "accuracy", "accuracy", "sigma / g_max"),
        ("b", "g_max", "mse", "output MSE", "g_max, uS"),
    ]
    figure = make_subplots(cols=3, subplot_titles=[p[3] for p in panels], horizontal_spacing=0.08)
    colours = ("#0072B2", "#D55E00", "#009E73")
    for column, (name, x, y, _, title) in enumerate(panels, 1):
        for number, (label, found) in enumerate(series(rows, name).items()):
            across = [r[x] * (1e6 if x == "g_max" else 1 / G_MAX) for r in found]
            high = [r[f"{y}_interval"][1] - r[y] for r in found]
            low = [r[y] - r[f"{y}_interval"][0] for r in found]
            style = {"color": colours[number]}
            figure.add_trace(
                go.Scatter(
                    x=across, y=[r[y] for r in found], mode="markers", name=f"{label}, simulated",
                    marker=style, error_y={"array": high, "arrayminus": low},
                    legendgroup=name, showlegend=y == "mse",
                ), row=1, col=column,
            )  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=across, y=[r[f"predicted_{y}"] for r in found], mode="lines",
                    name=f"{label}, predicted", line=style, legendgroup=name,
                    showlegend=y == "mse",
                ), row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(type="log", title=title, dtick=1, row=1, col=column)
        if y == "mse":
            # Above, nothing is left of the network.
            top = min(math.log10(max(r["mse"] for r in rows if r["figure"] == name)), 4)
            low = math.log10(min(r["mse"] for r in rows if r["figure"] == name))
            span = {"range": [low - 0.3, top + 0.3], "dtick": 1, "exponentformat": "power"}
            figure.update_yaxes(type="log", **span, row=1, col=column)
    figure.update_layout(template="simple_white", width=1500, height=460)
    figure.write_html(
        path.with_suffix(".html"), include_plotlyjs=True, config={"displayModeBar": False}
    )
    print(path.with_suffix(".html"))


def series(rows: list[dict[str, Any]], figure: str) -> dict[str, list[dict[str, Any]]]:
    """Rows by curve: with and without clipping, or by sigma."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in (r for r in rows if r["figure"] == figure):
        label = "clipped" if row["clip"] else "unclipped"
        if figure == "b":
            label = f"sigma {1e6 * row['sigma']:g} uS"
        found.setdefault(label, []).append(row)
    return found


if __name__ == "__main__":
    main()
