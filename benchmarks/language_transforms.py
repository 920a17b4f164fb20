"""Transforms of a language model on many chips: divergence, perplexity and collapse.

    python benchmarks/language_transforms.py --model FOLDER --text FILE --out results/OUT.json

All weights are stored in SRAM words of 8 bits, all transforms on the same chips. Rows that OUT
already has are not computed again; `--table OUT` prints them.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from language_model import MODELS, simulated, tokens
from records import markdown, opened, plus_minus, point_text, read_record, write_record
from torch import nn
from transformers import AutoModelForCausalLM

from joulewise.devices import SRAM, Flip, Mask
from joulewise.placement import place
from joulewise.prediction import Fisher, predict
from joulewise.study.malloc import keep_freed_memory
from joulewise.transforms import center_head, rotate_head, rotate_residual
from joulewise.units import format_percent

FAULTS = {"masked": (Mask(), 0.7), "flipped": (Flip(), 0.9)}
COLLAPSE = 10.0  # times the perplexity of the model as given
LEVELS = (0.05, 0.5, 0.95, 0.99)  # of quantiles over chips


def transformed(model: nn.Module, name: str, ids: torch.Tensor) -> nn.Module:
    """The model after one of the transforms."""
    if name == "rotate_residual":
        return rotate_residual(model, ids)
    transforms = {"center_head": center_head, "rotate_head": rotate_head}
    return transforms[name](model) if name in transforms else model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--chips", type=int, default=200)
    parser.add_argument("--faults", nargs="*", default=list(FAULTS))
    parser.add_argument("--transforms", nargs="*", default=list(MODELS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    keep_freed_memory()
    data = tokens(options.model, options.text, options.sequences, options.length)
    record = opened(options.out)
    known = {(row["faults"], row["transform"]) for row in record["results"]}
    given = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    for faults in options.faults:
        fault, eta = FAULTS[faults]
        memory, at = SRAM(bits=8, channel_dim=0, fault=fault), {"eta": eta}
        for name in options.transforms:
            if (faults, name) in known:
                continue
            start, ids = time.perf_counter(), data[0]["input_ids"]
            model = transformed(given, name, ids)
            placement = place(model, weights=memory, example_inputs={"input_ids": ids})
            forecast = predict(placement, data, at=at, method=Fisher())
            row = {"faults": faults, "at": at, "transform": name}
            row |= {"predicted_divergence": float(forecast.divergence), "given": forecast.given}
            row |= {"quantiles": forecast.to_dict()["quantiles"]}
            row |= simulated(placement, data, at, options.chips)
            row["seconds"] = time.perf_counter() - start
            record["results"].append(row)
            write_record(options.out, record)
            print(table({"results": [row]}), flush=True)


def table(record: dict[str, Any]) -> str:
    """Divergence and perplexity of every model, faults after faults, in Markdown."""
    faults, models = list(FAULTS), list(MODELS)
    rows = sorted(
        record["results"],
        key=lambda row: (faults.index(row["faults"]), models.index(row["transform"])),
    )
    levels = ", ".join(f"{100 * level:.0f} %" for level in LEVELS)
    columns = ["faults", "model", "KL on chips, nats", "predicted", f"{levels} of chips"]
    return markdown([*columns, "perplexity", "collapsed"], map(cells, rows))


def cells(row: dict[str, Any]) -> list[str]:
    found, losses = row["divergences"], np.array(row["losses"])
    collapsed = losses > row["given"] + math.log(COLLAPSE)
    return [
        f"{row['faults']}, {point_text(row['at'])}",
        MODELS[row["transform"]],
        plus_minus(found, 4),
        f"{row['predicted_divergence']:.4f}",
        ", ".join(f"{quantile:.3f}" for quantile in np.quantile(found, LEVELS)),
        f"x {np.exp(losses.mean() - row['given']):.3f}",
        format_percent(collapsed.mean(), 1),
    ]


if __name__ == "__main__":
    main()
