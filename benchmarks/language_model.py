"""Predicted beside simulated loss of a language model whose weights lie in unreliable memory.

    python benchmarks/language_model.py --model FOLDER --text FILE --out results/language-model.json

FOLDER holds a causal model and its tokenizer, as transformers saves them; FILE a text, perhaps
compressed by xz. All weight matrices are placed, embeddings and head included. Rows that OUT
already has are not computed again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from joulewise.devices import PCM, SRAM, Crossbar, Flip
from joulewise.files import write_atomically
from joulewise.metrics import Compared, KLDivergence, NegativeLogLikelihood
from joulewise.placement import Placement, loaded, place
from joulewise.prediction import Fisher, predict
from joulewise.study import Environment
from joulewise.study.malloc import keep_freed_memory

ROWS: dict[str, tuple[Any, list[dict[str, float]]]] = {
    "SRAM, masked": (
        SRAM(bits=8, channel_dim=0),
        [{"eta": eta} for eta in (0.9, 0.8, 0.7, 0.6, 0.5)],
    ),
    "SRAM, flipped": (
        SRAM(bits=8, channel_dim=0, fault=Flip()),
        [{"eta": eta} for eta in (1.1, 1.0, 0.95)],
    ),
    "crossbar, not clipped": (
        Crossbar(sigma=1e-6, clip=False, channel_dim=0),
        [{"g_max": g} for g in (4e-4, 2e-4, 1e-4, 6e-5)],
    ),
    "crossbar, clipped": (
        Crossbar(sigma=1e-6, channel_dim=0),
        [{"g_max": g} for g in (2e-4, 1e-4, 6e-5)],
    ),
    "PCM": (PCM(channel_dim=0), [{"seconds": 86400.0}]),
}


def tokens(folder: str, text: Path, sequences: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Sequences of a text, one a batch, labels included; the first words are left out."""
    content = text.read_bytes()
    words = (lzma.decompress(content) if text.suffix == ".xz" else content).decode()
    words = words[: 40 * (sequences + 1) * length]
    ids = AutoTokenizer.from_pretrained(folder)(words, return_tensors="pt").input_ids[0]
    ids = ids[length : length * (sequences + 1)].reshape(sequences, 1, length)
    return [{"input_ids": one, "labels": one} for one in ids]


def training_step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of a forward and a backward pass, the second of two."""
    for _ in range(2):
        start = time.perf_counter()
        model(**batch).loss.backward()
        seconds = time.perf_counter() - start
        model.zero_grad(set_to_none=True)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=list(ROWS), help="memories")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    data = tokens(options.model, options.text, options.sequences, options.length)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    record: dict[str, Any] = {"results": []}
    if options.out.exists():
        record = json.loads(options.out.read_text())
    step = training_step(model, data[0]) * len(data)
    record |= {
        "command": shlex.join(["python", *sys.argv]),
        "environment": Environment.now().model_dump(),
    }
    known = {(row["memory"], json.dumps(row["at"])) for row in record["results"]}
    for name in options.only:
        memory, points = ROWS[name]
        placement = place(model, weights=memory, example_inputs={"input_ids": data[0]["input_ids"]})
        for at in points:
            if (name, json.dumps(at)) in known:
                continue
            row = compared(placement, data, at, options.chips)
            row = {"memory": name, "at": at, **row, "training_step_s": step}
            record["results"].append(row)
            write_atomically(options.out, json.dumps(record, indent=1))
            print(json.dumps({k: v for k, v in row.items() if k != "contributions"}), flush=True)


def compared(placement: Placement, data: Any, at: dict[str, float], chips: int) -> dict[str, Any]:
    """Predicted and simulated divergence and loss at one point."""
    start = time.perf_counter()
    forecast = predict(placement, data, at=at, method=Fisher())
    predicted = time.perf_counter() - start
    start = time.perf_counter()
    losses, divergences = simulated(placement, data, at, chips)
    spent = time.perf_counter() - start
    head = next(iter(forecast.contributions))
    return {
        "predicted_divergence": float(forecast.divergence),
        "standard_error": forecast.standard_error,
        "mean_divergence": float(forecast.mean_divergence),
        "head": float(forecast.contributions[head]),
        "predicted_loss": forecast.loss,
        "given_loss": forecast.given,
        "draws": forecast.draws,
        "predicted_s": predicted,
        "divergences": divergences,
        "losses": losses,
        "simulated_s": spent,
        "contributions": {n: float(c) for n, c in forecast.contributions.items()},
    }


@torch.no_grad()
def simulated(
    placement: Placement, data: Any, at: dict[str, float], chips: int
) -> tuple[list[float], list[float]]:
    """Loss and divergence of each chip, from the same passes."""
    given = [placement.model(input_ids=one["input_ids"]).logits for one in data]
    found: list[tuple[float, float]] = []
    for chip in range(chips):
        with loaded(placement, at=at, chip=chip) as faulty:
            passes = NegativeLogLikelihood().new(), KLDivergence().new()
            for one, reference in zip(data, given, strict=True):
                logits = faulty(input_ids=one["input_ids"]).logits[:, :-1]
                passes[0].update(logits, one["labels"][:, 1:])
                passes[1].update(logits, Compared(reference[:, :-1], None))
        found.append(tuple(one.compute() for one in passes))
    losses, divergences = zip(*found, strict=True)
    return list(losses), list(divergences)


if __name__ == "__main__":
    main()
