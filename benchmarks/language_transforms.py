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

import torch
from language_model import simulated, tokens
from records import opened, read_record, write_record
from torch import nn
from transformers import AutoModelForCausalLM

from joulewise.devices import SRAM, Flip, Mask
from joulewise.placement import place
from joulewise.prediction import Fisher, predict
from joulewise.study.malloc import keep_freed_memory
from joulewise.transforms import center_head, rotate_head, rotate_residual

FAULTS = {"masked": (Mask(), 0.7), "flipped": (Flip(), 0.9)}
COLLAPSE = 10.0  # times the perplexity of the model as given


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
    names = ("as it is", "center_head", "rotate_head", "rotate_residual")
    parser.add_argument("--transforms", nargs="*", default=names)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)["results"]))
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
            print(table([row]), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """One line for each transform."""
    lines = []
    for row in rows:
        found = torch.tensor(row["divergences"], dtype=torch.float64)
        losses = torch.tensor(row["losses"], dtype=torch.float64)
        half = 1.97 * float(found.std()) / len(found) ** 0.5
        collapsed = float((losses > row["given"] + math.log(COLLAPSE)).double().mean())
        levels = torch.tensor([0.05, 0.5, 0.95, 0.99], dtype=torch.float64)
        quantiles = " / ".join(f"{q:.4f}" for q in found.quantile(levels).tolist())
        lines.append(
            f"{row['faults']:8} {row['transform']:16} {float(found.mean()):.4f} +- {half:.4f} "
            f"(predicted {row['predicted_divergence']:.4f}; {quantiles}), perplexity "
            f"x {math.exp(float(losses.mean()) - row['given']):.4f}, collapsed {collapsed:.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
