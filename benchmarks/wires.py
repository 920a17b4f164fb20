"""IR drop of crossbars: the first-order correction against the nodal equations, error and time.

    python benchmarks/wires.py --out results/wires.json

Arrays of random conductances up to 40 uS and random inputs up to 0.2 V; segments of wire of 0.35,
1 and 2.5 ohm. The error is that of the column currents over the mean drop of the currents. With the
package badcrossbar (``pip install --no-deps badcrossbar sigfig pathvalidate``) its currents, too,
are compared with those of the nodal equations.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import markdown, origin, write_record

from joulewise.devices import solved_conductances, wire_factors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    logging.disable(logging.INFO)  # badcrossbar logs to the terminal when it is imported
    try:
        import badcrossbar
    except ImportError:
        badcrossbar = None
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
            found = conductances * wire_factors(torch.from_numpy(conductances), ohm).numpy()
            first_order_s = time.perf_counter() - begun
            other = None
            if badcrossbar is not None:
                found_by_it = badcrossbar.compute(volts[:, None], 1 / conductances, ohm)
                currents = np.asarray(found_by_it.currents.output).ravel()
                other = float(np.abs(volts @ exact / currents - 1).max())
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
                    "off_badcrossbar": other,
                    "solved_s": solved_s,
                    "first_order_s": first_order_s,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    record = {
        **origin(),
        "results": rows,
    }
    write_record(options.out, record)


def table(record: dict[str, Any]) -> str:
    """Drop, error and seconds of each array."""
    heads = ["array", "ohms a segment", "mean drop"]
    heads += ["error of the first-order model, relative to the drop", "nodal equations"]
    rows = [
        [
            f"{row['size']} x {row['size']}",
            f"{row['ohm']:g}",
            f"{100 * row['mean_drop']:.1f} %",
            f"{100 * row['error_over_drop']:.2f} %",
            f"{row['solved_s']:.2f} s",
            f"{1e3 * row['first_order_s']:.1f} ms",
        ]
        for row in record["results"]
    ]
    return markdown([*heads, "first order"], rows)


if __name__ == "__main__":
    main()
