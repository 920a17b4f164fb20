"""Cost of full covariances of a 13-convolution network, in plain forward passes of one process.

    python benchmarks/moments_cost.py [--width 1.0] [--size 32] [--threads 2] [--dtype float32]
                                      [--gib 8] [--json]

The network is the largest of the MemSE repository: convolutions of 16, 16, A, 32, 32, A, 64 x 3, A,
128 x 3, A, 256 x 3, A channels with batch normalisation and ReLU, A an average pool, then linear
layers 256 -> 256 -> 10, on one random 3 x 32 x 32 image. Its first covariances are 16384 x 16384.
``--width`` multiplies the channels; 2.4 is about the widest that stays within 8 GiB. Weights are
random: neither time nor memory depends on them. Peak memory is the process's resident set, PyTorch
included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn

from joulewise.contrib import FullCovariance
from joulewise.devices import SRAM
from joulewise.placement import place
from joulewise.prediction import predict

STAGES = ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (256, 256, 256))
ETA = 0.6
PLAIN_PASSES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=float, default=1.0, help="times the channels")
    parser.add_argument("--size", type=int, default=32, help="pixels to a side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--gib", type=float, default=8.0, help="what covariances may take")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    row = measure(arguments)
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, **vars(arguments), **row}, indent=2))
        return
    print(f"torch {torch.__version__}, {arguments.threads} thread(s), {arguments.dtype}")
    print(
        f"width {arguments.width:g}: largest covariance {row['largest']} x {row['largest']}, "
        f"{row['seconds']:.1f} s = {row['plain_passes']:.0f} plain passes of one image "
        f"({row['plain_ms']:.2f} ms), peak {row['peak_gib']:.2f} GiB"
    )


def network(width: float, size: int) -> nn.Module:
    """The network, its channels times ``width``."""
    layers: list[nn.Module] = []
    channels_in = 3
    for stage in STAGES:
        for channels in (round(c * width) for c in stage):
            layers += [
                nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            channels_in = channels
        layers.append(nn.AvgPool2d(2))
    left = size // 2 ** len(STAGES)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels_in * left**2, channels_in, bias=False),
        nn.ReLU(),
        nn.Linear(channels_in, 10, bias=False),
    ).eval()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    dtype = getattr(torch, arguments.dtype)
    model = network(arguments.width, arguments.size).to(dtype)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, arguments.size, arguments.size, generator=generator).to(dtype)
    with torch.no_grad():
        plain = [seconds(lambda: model(image)) for _ in range(PLAIN_PASSES + 3)][3:]
    placement = place(model, weights=SRAM(bits=8), example_inputs=image)
    method = FullCovariance(dtype=dtype, memory_bytes=int(arguments.gib * 2**30))
    taken = seconds(lambda: predict(placement, [image], method=method, at={"eta": ETA}))
    return {
        "largest": round(STAGES[0][0] * arguments.width) * arguments.size**2,
        "seconds": taken,
        "plain_ms": 1e3 * statistics.median(plain),
        "plain_passes": taken / statistics.median(plain),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def seconds(work: object) -> float:
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
