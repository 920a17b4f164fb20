"""Predicted beside simulated loss of a language model whose weights lie in unreliable memory.

    python benchmarks/language_model.py --model FOLDER --text FILE --out results/language-model.json

FOLDER holds a causal model and its tokenizer, as transformers saves them; FILE a text, perhaps
compressed by xz. All weights are placed, embeddings and head included, but on PCM. All points are
simulated, then predicted; what OUT already has is not computed again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import markdown, opened, plus_minus, point_text, read_record, write_record
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from joulewise.devices import PCM, SRAM, Chip, Crossbar, Flip
from joulewise.metrics import Compared, KLDivergence, NegativeLogLikelihood
from joulewise.placement import Placement, place, private_memory
from joulewise.prediction import Fisher, predict
from joulewise.study.malloc import keep_freed_memory

ROWS: dict[str, tuple[Any, list[dict[str, float]]]] = {
    "SRAM, masked": (
        SRAM(bits=8, channel_dim=0),
        [{"eta": eta} for eta in (0.9, 0.8, 0.7, 0.6, 0.5)],
    ),
    "SRAM, flipped": (
        SRAM(bits=8, channel_dim=0, fault=Flip()),
        [{"eta": eta} for eta in (1.0, 0.95, 0.9)],
    ),
    "crossbar, not clipped": (
        Crossbar(sigma=1e-6, clip=False, channel_dim=0),
        [{"g_max": g} for g in (4e-4, 2e-4, 1e-4, 6e-5)],
    ),
    "crossbar, clipped": (
        Crossbar(sigma=1e-6, channel_dim=0),
        [{"g_max": g} for g in (2e-4, 1e-4, 6e-5)],
    ),
    "PCM, 4 devices, table reliable": (
        PCM(channel_dim=0, devices=4),
        [{"seconds": s} for s in (3600.0, 86400.0)],
    ),
}
# Layers on one device a side lose all; so does the table, which is also the head, on four.
RELIABLE = {"PCM, 4 devices, table reliable": ["*embed_tokens.weight"]}
COLUMNS = [
    "memory",
    "at",
    "KL on chips, nats",
    "predicted",
    "increase of the loss on chips",
    "predicted",
]
# Models after a transform, as tables name them.
MODELS = {
    "as it is": "as it is",
    "center_head": "mean row of the head subtracted",
    "rotate_head": "head rotated",
    "rotate_residual": "residual stream rotated",
}


def tokens(folder: str, text: Path, sequences: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of a text, one a batch, labels included; the first words are left out."""
    content = text.read_bytes()
    words = (lzma.decompress(content) if text.suffix == ".xz" else content).decode()
    words = words[: 40 * (sequences + 1) * length]
    ids = AutoTokenizer.from_pretrained(folder)(words, return_tensors="pt").input_ids[0]
    ids = ids[length : length * (sequences + 1)].reshape(sequences, 1, length)
    return [{"input_ids": one, "labels": one} for one in ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=list(ROWS), help="memories")
    kinds = ("simulated", "predicted")
    parser.add_argument("--what", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="a record to print")
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    keep_freed_memory()
    data = tokens(options.model, options.text, options.sequences, options.length)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    record = opened(options.out)
    rows = {(row["memory"], json.dumps(row["at"])): row for row in record["results"]}
    whole = [{name: torch.cat([one[name] for one in data]) for name in data[0]}]
    computations = {"simulated": partial(simulated, chips=options.chips), "predicted": predicted}
    for what in options.what:
        for name in options.only:
            memory, points = ROWS[name]
            placement = place(
                model,
                weights=memory,
                exclude=RELIABLE.get(name, []),
                example_inputs={"input_ids": data[0]["input_ids"]},
            )
            for at in points:
                row = rows.setdefault((name, json.dumps(at)), {"memory": name, "at": at})
                if f"{what}_s" in row:
                    continue
                # Read noise is drawn anew for each batch, which takes most of the time.
                joined = what == "simulated" and memory.fresh
                start = time.perf_counter()
                row |= computations[what](placement, whole if joined else data, at)
                row[f"{what}_s"] = time.perf_counter() - start
                record["results"] = list(rows.values())
                write_record(options.out, record)
                print(what, json.dumps({k: v for k, v in row.items() if k != "contributions"}))


def table(record: dict[str, Any]) -> str:
    """Divergence and increase of the loss, on chips and predicted, in Markdown."""
    complete = [row for row in record["results"] if {"losses", "predicted_loss"} <= row.keys()]
    return markdown(COLUMNS, map(cells, complete))


def cells(row: dict[str, Any]) -> list[str]:
    increases = [loss - row["given_loss"] for loss in row["losses"]]
    return [
        row["memory"],
        point_text(row["at"]),
        plus_minus(row["divergences"], 4),
        f"{row['predicted_divergence']:.4f}",
        plus_minus(increases, 4),
        f"{row['predicted_loss'] - row['given_loss']:.4f}",
    ]


def predicted(
    placement: Placement, data: Any, at: dict[str, float], most_draws: int = 8
) -> dict[str, Any]:
    """Predicted divergence and loss at one point."""
    forecast = predict(placement, data, at=at, method=Fisher(most_draws=most_draws))
    return {
        "predicted_divergence": float(forecast.divergence),
        "standard_error": forecast.standard_error,
        "mean_divergence": float(forecast.mean_divergence),
        "predicted_loss": forecast.loss,
        "given_loss": forecast.given,
        "loss_standard_error": forecast.loss_standard_error,
        "draws": forecast.draws,
        "large_faults": dict(forecast.large_faults),
        "quantiles": forecast.to_dict()["quantiles"],
        "contributions": {n: float(c) for n, c in forecast.contributions.items()},
    }


def next_tokens(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Logits of the tokens that have a next one, and the next tokens."""
    logits = model(input_ids=batch["input_ids"]).logits
    return logits[:, :-1], batch["labels"][:, 1:]


@torch.no_grad()
def simulated(
    placement: Placement,
    data: Any,
    at: dict[str, float],
    chips: int,
    outputs: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] = next_tokens,
) -> dict[str, list[float]]:
    """Loss and divergence of each chip, from the same passes."""
    given = [outputs(placement.model, batch)[0] for batch in data]
    found: list[tuple[float, float]] = []
    with private_memory(placement) as memory:
        for chip in range(chips):
            memory.read(placement.points(at), Chip(seed=chip))
            passes = NegativeLogLikelihood().new(), KLDivergence().new()
            for batch, reference in zip(data, given, strict=True):
                logits, targets = outputs(memory.placement.model, batch)
                passes[0].update(logits, targets)
                passes[1].update(logits, Compared(reference, None))
            found.append(tuple(one.compute() for one in passes))
    losses, divergences = zip(*found, strict=True)
    return {"losses": list(losses), "divergences": list(divergences)}


if __name__ == "__main__":
    main()
