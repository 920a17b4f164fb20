"""Measured, clustered and independent fault maps of equal rates: accuracy and yield of a network.

    python benchmarks/measured_maps.py --maps FOLDER --data CIFAR10 --out results/measured-maps.json

Weights of a ResNet-20 on CIFAR-10 lie in 8-bit words of undervolted FPGA block RAMs (Salami et al.,
MICRO 2018), whose cells read 0 where they fail. FOLDER holds the published files, one for each
supply (``xz -d`` first). The clustered map is fitted to the columns of the RAMs at the lowest
supply, and the independent one has the same rate. The yield is the fraction of chips within one
point of accuracy of a memory without faults; a chip below one half has collapsed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from records import bracketed, markdown, origin, write_record

from joulewise.data import load_data
from joulewise.devices import (
    SRAM,
    Flip,
    IndependentMap,
    Stuck,
    fit_correlated_map,
    read_salami2018,
)
from joulewise.devices.fault_clustering import neighbour_correlation
from joulewise.models import build, load_weights
from joulewise.placement import place
from joulewise.prediction import FirstOrder, predict
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory

FAULTS = {"reads 0": Stuck(at_one=0.0), "flips": Flip()}
POINT = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", required=True, help="folder with the published files")
    parser.add_argument("--floorplan", help="the published spreadsheet")
    parser.add_argument("--data", required=True, help="folder with CIFAR-10")
    parser.add_argument("--weights", default="trained/resnet20-cifar10.safetensors")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=100)
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=["reads 0"])
    parser.add_argument("--volts", type=float, nargs="+", help="supplies; all by default")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()

    measured = read_salami2018(options.maps, floorplan=options.floorplan)
    fit, lowest = fit_correlated_map(measured), measured.supplies_v[:4]
    record: dict[str, Any] = {
        **origin(),
        "measurement": measured.describe(),
        "fits": [asdict(fit_correlated_map(measured, v_dd)) for v_dd in lowest],
        "at_the_share_of_the_lowest": [
            asdict(fit_correlated_map(measured, v_dd, column=fit.column))
            for v_dd in measured.supplies_v[:4]
        ],
        "results": [],
    }
    if options.floorplan:
        record["neighbours"] = neighbour_correlation(measured, measured.supplies_v[0])
    law = measured.law(v_nominal=1.0)
    maps = {
        "measured": measured.fault_map(),
        "clustered": fit.fault_map(measured),
        "independent": IndependentMap(),
    }
    data = load_data(options.data)
    model = build("resnet20", data.input_shape, data.classes, seed=0)
    load_weights(model, options.weights)
    few = data.test.subset(options.images, seed=0)
    for fault_name in options.faults:
        for map_name, fault_map in maps.items():
            memory = SRAM(law=law, fault=FAULTS[fault_name], fault_map=fault_map, knob="v_dd")
            placement = place(model, weights=memory, example_inputs=next(iter(few.batches(64)))[0])
            for v_dd in options.volts or measured.supplies_v:
                begun = time.perf_counter()
                found = simulate(placement, few, at={"v_dd": v_dd}, chips=options.chips)
                method = FirstOrder(chips=options.chips)
                forecast = predict(placement, few, at={"v_dd": v_dd}, method=method)
                limit = found.ideal - POINT
                share, interval = found.yield_at(limit)
                low, high = found.interval()
                row = {
                    "fault": fault_name,
                    "map": map_name,
                    "v_dd": v_dd,
                    "bit_error_rate": measured.counts[v_dd] / measured.num_cells,
                    "chips": found.chips,
                    "ideal": found.ideal,
                    "mean": found.mean,
                    "low": low,
                    "high": high,
                    "quantile_5": found.quantile(0.05),
                    "chip_std": float(np.std([v for v in found.values if v is not None], ddof=1)),
                    "worst": min(v for v in found.values if v is not None),
                    "collapsed": sum(v is None or v < 0.5 for v in found.values),
                    "yield": share,
                    "yield_interval": list(interval),
                    "mse": found.mean_mse,
                    "mse_interval": list(found.mse_interval()),
                    "predicted_mse": float(forecast.mse),
                    "predicted_accuracy": forecast.accuracy and asdict(forecast.accuracy),
                    "seconds": time.perf_counter() - begun,
                }
                record["results"].append(row)
                write_record(options.out, record)
                print(json.dumps({k: v for k, v in row.items() if k != "seconds"}), flush=True)


def faults_in_columns(record: dict[str, Any]) -> str:
    """Columns of cells by their faults at the lowest supply: as fitted, and as measured."""
    fit = record["fits"][0]
    classes = [
        str(first) if after == first + 1 else f"{first} to {after - 1}"
        for first, after in pairwise(fit["classes"])
    ]
    return markdown(
        ["faults in a column", *classes, "more"],
        [
            ["expected columns", *(f"{count:,.1f}" for count in fit["expected"])],
            ["observed columns", *(f"{count:,}" for count in fit["observed"])],
        ],
    )


def accuracies(record: dict[str, Any]) -> str:
    """Accuracy, yield and output error at each supply with each map."""
    rows = []
    for row in sorted(record["results"], key=lambda row: row["v_dd"]):
        low, high = row["mse_interval"]
        rows.append(
            [
                f"{row['v_dd']:g} V",
                row["map"],
                bracketed(100 * row["mean"], (100 * row["low"], 100 * row["high"]), 2),
                f"{100 * row['quantile_5']:.1f}",
                f"{100 * row['worst']:.1f}",
                bracketed(100 * row["yield"], [100 * end for end in row["yield_interval"]]),
                bracketed(row["mse"], (max(low, 0), high), 3),
            ]
        )
    heads = ["supply", "map", "mean accuracy, %", "5th percentile of chips, %"]
    heads += ["worst chip, %", "chips within 1 pp of a perfect memory, %", "output error"]
    return markdown(heads, rows)


if __name__ == "__main__":
    main()
