"""Contributions to the divergence of a language model, predicted and one at a time on chips.

    python benchmarks/language_groups.py --model FOLDER --text FILE --out results/OUT.json

All weights are stored in SRAM words of 8 bits whose faults are masked. The predictions of all
groups of tensors and of all bit planes come from one call; on chips, one group or plane is at the
point and the others are at their most reliable one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from language_model import simulated, tokens
from records import markdown, origin, plus_minus, read_record, write_record
from transformers import AutoModelForCausalLM

from joulewise.devices import SRAM
from joulewise.placement import Placement, Plan, place
from joulewise.prediction import Fisher, predict
from joulewise.study.malloc import keep_freed_memory

BITS, ETA = 8, 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--chips", type=int, default=40)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="a record to print")
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    keep_freed_memory()
    data = tokens(options.model, options.text, options.sequences, options.length)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    memory = SRAM(bits=BITS, channel_dim=0)
    placement = place(model, weights=memory, example_inputs={"input_ids": data[0]["input_ids"]})
    start = time.perf_counter()
    forecast = predict(placement, data, at={"eta": ETA}, method=Fisher())
    predicted_s = time.perf_counter() - start
    names = [placed.name for placed in placement.weights]
    groups = {kind: [n for n in names if kind_of(n) == kind] for kind in map(kind_of, names)}
    rows = [
        {
            "part": group,
            "predicted": sum(float(forecast.contributions[name]) for name in tensors),
            **divergences(placement, plan_of(placement, tensors), data, options.chips),
        }
        for group, tensors in groups.items()
    ]
    for plane in range(BITS):
        predicted = sum(float(planes[plane]) for planes in forecast.by_plane.values())
        found = divergences(placement, plan_of(placement, names, plane), data, options.chips)
        rows.append({"part": f"plane {plane}", "predicted": predicted, **found})
        print(rows[-1]["part"], predicted, statistics.mean(rows[-1]["divergences"]), flush=True)
    reliable = simulated(placement, data, placement.most_reliable(), options.chips)
    record = {
        **origin(),
        "at": {"eta": ETA},
        "predicted_s": predicted_s,
        "standard_error": forecast.standard_error,
        "reliable_divergences": reliable["divergences"],
        "results": rows,
    }
    write_record(options.out, record)


def table(record: dict[str, Any]) -> str:
    """Contributions in Markdown; on chips, less the same chips at their most reliable point."""
    rows = []
    for row in record["results"]:
        pairs = zip(row["divergences"], record["reliable_divergences"], strict=True)
        found = plus_minus([one - reliable for one, reliable in pairs], digits=5)
        rows.append([row["part"], f"{row['predicted']:.5f}", found])
    return markdown(["disturbed", "predicted, nats", "on chips"], rows)


def kind_of(name: str) -> str:
    """Kind of the layer of a weight, such as ``q_proj``."""
    return name.removesuffix(".weight").rpartition(".")[2]


def plan_of(placement: Placement, names: Sequence[str], plane: int | None = None) -> Plan:
    """A plan with some tensors at the point, or one bit plane of them; the rest reliable."""
    reliable = placement.plan(placement.most_reliable())
    point: Any = ETA
    if plane is not None:
        point = torch.full((BITS,), float(SRAM(bits=BITS).knob.most_reliable))
        point[plane] = ETA
    return Plan({**reliable, **{name: {"eta": point} for name in names}})


def divergences(placement: Placement, at: Plan, data: Any, chips: int) -> dict[str, Any]:
    """Divergence of each chip, and seconds."""
    start = time.perf_counter()
    found = simulated(placement, data, at, chips)
    return {"divergences": found["divergences"], "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    main()
