"""Seconds and peak memory of a prediction and a simulation of a language model, in training steps.

    python benchmarks/language_cost.py --model FOLDER --out results/language-cost.json
    python benchmarks/language_cost.py --layers 16 --hidden 2048 --dtype bfloat16 --out ...

FOLDER holds a causal model, as transformers saves them; else a Llama of random weights is made.
Tokens are random. Each task runs in a process of its own, whose peak memory includes the
interpreter. A training step is a forward and a backward pass that keeps the gradients.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from records import markdown, origin, read_record, write_record
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from joulewise.devices import SRAM
from joulewise.metrics import KLDivergence
from joulewise.models import seeded
from joulewise.placement import place
from joulewise.prediction import Fisher, predict
from joulewise.simulation import simulate

TASKS = ("training", "prediction", "simulation")
AT = {"eta": 0.7}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--chips", type=int, default=2)
    parser.add_argument("--task", choices=TASKS, help="one of the three, in this process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, help="a record to print")
    return parser


def model_of(options: Any) -> torch.nn.Module:
    """The model of a folder, or one of random weights with heads of 64 features."""
    dtype = getattr(torch, options.dtype)
    if options.model is not None:
        return AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype).eval()
    heads = options.hidden // 64
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 8, 1),
        dtype=dtype,
    )
    with seeded(0):
        return LlamaForCausalLM(config).to(dtype).eval()


def measured(options: Any) -> dict[str, Any]:
    """Seconds and peak memory of one task in this process."""
    model = model_of(options)
    vocabulary = model.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    shape = (options.sequences, 1, options.length)
    ids = torch.randint(vocabulary, shape, generator=generator)
    data = [{"input_ids": one, "labels": one} for one in ids]
    found: dict[str, Any] = {"weights": sum(p.numel() for p in model.parameters())}
    start = time.perf_counter()
    if options.task == "training":
        for batch in data:
            model(**batch).loss.backward()
    else:
        memory = SRAM(bits=8, channel_dim=0)
        placement = place(model, weights=memory, example_inputs={"input_ids": ids[0]})
        found["placing_s"], start = time.perf_counter() - start, time.perf_counter()
        if options.task == "prediction":
            forecast = predict(placement, data, at=AT, method=Fisher())
            found |= {"draws": forecast.draws, "divergence": float(forecast.divergence)}
        else:
            metric, chips = KLDivergence(), options.chips
            result = simulate(placement, data, at=AT, chips=chips, metric=metric)
            found |= {"chips": options.chips, "divergence": result.mean}
    found["seconds"] = time.perf_counter() - start
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    if options.task is not None:
        print(json.dumps(measured(options)))
        return
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    if options.out is None:
        parser.error("--out is required")
    found: dict[str, Any] = {}
    for task in TASKS:
        command = [sys.executable, *sys.argv, "--task", task]
        process = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        found[task] = json.loads(process.stdout)
    record = {
        **origin(),
        "threads": torch.get_num_threads(),
        "results": found,
    }
    write_record(options.out, record)
    print(table(record))


def table(record: dict[str, Any]) -> str:
    """Time, of a simulation that of one chip, and peak memory, in Markdown."""
    training, prediction, simulation = (record["results"][task] for task in TASKS)
    tasks = [
        ("training step", training, 1),
        (f"prediction, {prediction['draws']} draws", prediction, 1),
        ("simulation, a chip", simulation, simulation["chips"]),
    ]
    rows = []
    for name, one, times in tasks:
        seconds, peak = one["seconds"] / times, one["peak_bytes"]
        steps, steps_peak = seconds / training["seconds"], peak / training["peak_bytes"]
        rows.append(
            [name, f"{steps:.2f}", f"{seconds:.1f}", f"{steps_peak:.2f}", f"{peak / 1e9:.1f}"]
        )
    columns = ["", "time, training steps", "seconds", "peak memory / training step", "GB"]
    return markdown(columns, rows)


if __name__ == "__main__":
    main()
