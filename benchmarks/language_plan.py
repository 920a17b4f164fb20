"""Plans for a language model at 2 % more perplexity: granularity, transforms, energy per token.

    python benchmarks/language_plan.py --model FOLDER --text FILE --out results/language-plan.json

FOLDER holds a causal model and its tokenizer, as transformers saves them; FILE a text, perhaps
compressed by xz. All weight matrices are stored in SRAM words. Each plan is chosen and verified by
`allocate`, then simulated on text and chips that had no part in it. Rows that OUT already has are
not computed again; `--table OUT` prints them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from language_model import MODELS, tokens
from records import markdown, opened, plus_minus, read_record, write_record
from torch import nn
from transformers import AutoModelForCausalLM

from joulewise.allocation import Allocation, Granularity, MetricDrop, allocate
from joulewise.devices import SRAM
from joulewise.metrics import Perplexity
from joulewise.placement import Plan, place, token_energy
from joulewise.simulation import simulate
from joulewise.study.malloc import keep_freed_memory
from joulewise.transforms import center_head, rotate_head
from joulewise.units import format_percent


class Choice(NamedTuple):
    """Tensors that are placed, and the granularity of their plan."""

    granularity: Granularity
    head: bool = True
    cache: bool = False


_BY_PLANE = Granularity(per="tensor", bit_planes=True)
TRANSFORMS = {"as it is": None, "center_head": center_head, "rotate_head": rotate_head}
CHOICES = {
    "common point": Choice(Granularity(per="network")),
    "head reliable, common point": Choice(Granularity(per="network"), head=False),
    "tensor": Choice(Granularity(per="tensor")),
    "tensor and plane": Choice(_BY_PLANE),
    "tensor and plane, cache too": Choice(_BY_PLANE, cache=True),
}
# Seed of the first chip of the last simulation, far from those of allocate.
HELD_OUT = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--chips", type=int, default=20)
    parser.add_argument("--drop", type=float, default=0.02)
    parser.add_argument("--transforms", nargs="*", default=list(TRANSFORMS))
    parser.add_argument("--granularities", nargs="*", default=list(CHOICES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table is not None:
        print(table(read_record(options.table)))
        return
    keep_freed_memory()
    data = tokens(options.model, options.text, 2 * options.sequences, options.length)
    record = opened(options.out)
    known = {(row["transform"], row["granularity"]) for row in record["results"]}
    given = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    for name in options.transforms:
        transform = TRANSFORMS[name]
        model = given if transform is None else transform(given)
        for granularity in options.granularities:
            if (name, granularity) in known:
                continue
            row = {"transform": name, "granularity": granularity}
            row |= planned(model, data, CHOICES[granularity], options)
            record["results"].append(row)
            write_record(options.out, record)
            print(json.dumps(row), flush=True)


def planned(model: nn.Module, data: list[Any], choice: Choice, options: Any) -> dict[str, Any]:
    """Energy of one plan, and its losses on held-out text and chips."""
    memory = SRAM(bits=8, channel_dim=0)
    head = [name for name, _ in model.named_parameters() if "embed_tokens" in name]
    arguments = {
        "weights": memory,
        "kv_cache": memory if choice.cache else None,
        "example_inputs": {"input_ids": data[0]["input_ids"]},
    }
    whole = place(model, **arguments)
    placement = whole if choice.head else place(model, **arguments, exclude=head)
    start = time.perf_counter()
    found = allocate(
        placement,
        data[: options.sequences],
        goal=MetricDrop(options.drop, relative=True),
        metric=Perplexity(),
        granularity=choice.granularity,
        chips=options.chips,
    )
    spent = time.perf_counter() - start
    held_out = simulate(
        placement,
        data[options.sequences :],
        at=found.plan,
        chips=options.chips,
        seed=HELD_OUT,
        metric=Perplexity(),
    )
    # Of the whole model, so that energies of a reliable head are counted too.
    plan = Plan({**whole.plan(whole.most_reliable()), **found.plan})
    joules = token_energy(whole, at=plan, context=options.length - 1).generated
    reliable = token_energy(whole, at=whole.most_reliable(), context=options.length - 1).generated
    losses = [math.log(value) for value in held_out.values if value is not None]
    return {
        "holds": found.holds,
        "common": found.common,
        "memory_j_a_token": joules.memory_total_j,
        "reliable_j_a_token": reliable.memory_total_j,
        "energy_at_goal": None if found.at_goal is None else found.at_goal.energy,
        "ideal": held_out.ideal,
        "held_out_losses": losses,
        "attempts": len(found.attempts),
        "trials": len(found.trials),
        "allocate_s": spent,
        "plan": points_of(found),
    }


def table(record: dict[str, Any]) -> str:
    """Energy and held-out loss of every plan, in Markdown."""
    models, choices = list(MODELS), list(CHOICES)
    rows = sorted(
        record["results"],
        key=lambda row: (models.index(row["transform"]), choices.index(row["granularity"])),
    )
    columns = ["model", "points", "shown to hold", "memory, mJ a token", "of eta 1"]
    return markdown([*columns, "increase of the loss, held out"], map(cells, rows))


def cells(row: dict[str, Any]) -> list[str]:
    energy = row["memory_j_a_token"]
    found = ": a common point" if row["common"] else ""  # cheaper than the plan of many points
    return [
        MODELS[row["transform"]],
        row["granularity"] + found,
        "yes" if row["holds"] else "no",
        f"{1e3 * energy:.3f}",
        format_percent(energy / row["reliable_j_a_token"], 1),
        plus_minus([loss - math.log(row["ideal"]) for loss in row["held_out_losses"]], 4),
    ]


def points_of(found: Allocation) -> dict[str, Any]:
    """Operating points that JSON can hold."""
    return {
        name: torch.as_tensor(point).tolist()
        for name, one in found.plan.items()
        for point in one.values()
    }


if __name__ == "__main__":
    main()
