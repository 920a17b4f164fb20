"""IR drop of crossbars: the first-order correction against the nodal equations, error and time.

    python benchmarks/wires.py --out results/wires.json

Arrays of random conductances up to 40 uS and random inputs up to 0.2 V; segments of wire of 0.35,
1 and 2.5 ohm. The error is that of the column currents over the mean drop of the currents.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch

from joulewise.devices import effective_conductances, solved_conductances
from joulewise.files import write_atomically
from joulewise.study import Environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        generator = np.random.default_rng(size)
        conductances = generator.uniform(0, 40e-6, (size, size))
        volts = generator.uniform(0, 0.2, size)
        for ohm in (0.35, 1.0, 2.5):
            begun = time.perf_counter()
            exact = solved_conductances(conductances, ohm)
            solved_s = time.perf_counter() - begun
            begun = time.perf_counter()
            found = effective_conductances(torch.from_numpy(conductances), ohm).numpy()
            first_order_s = time.perf_counter() - begun
            ideal = volts @ conductances
            drop = ideal - volts @ exact
            error = volts @ found - volts @ exact
            rows.append(
                {
                    "size": size,
                    "ohm": ohm,
                    "mean_drop": float((drop / ideal).mean()),
                    "largest_drop": float((drop / ideal).max()),
                    "error_over_drop": float(np.abs(error).mean() / drop.mean()),
                    "largest_error_over_drop": float(np.abs(error / drop).max()),
                    "solved_s": solved_s,
                    "first_order_s": first_order_s,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": Environment.now().model_dump(),
        "results": rows,
    }
    write_atomically(options.out, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
