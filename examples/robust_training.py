"""Training for robustness, in a plain PyTorch loop: SAMSON, and a memory to train through.

    python examples/robust_training.py

The same small network three times: by SGD, by SAMSON around SGD, and by SGD through a crossbar,
each step on another chip. Then each is put on the same fifty chips.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

import joulewise as jw

CROSSBAR, AT = jw.Crossbar(sigma=4e-6), {"g_max": 25e-6}
EPOCHS = 10


def by_sgd(model: nn.Module, data: jw.Dataset) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for inputs, targets in batches(data):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def by_samson(model: nn.Module, data: jw.Dataset) -> None:
    optimizer = jw.optim.SAMSON(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9, rho=0.5)
    for inputs, targets in batches(data):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        with optimizer.ascent():  # at the worst point nearby
            functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()


def through_a_memory(model: nn.Module, data: jw.Dataset) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    memory = jw.TrainingMemory(jw.place(model, weights=CROSSBAR), at=AT, seed=0)
    for inputs, targets in batches(data):
        optimizer.zero_grad()
        with memory:  # what another chip reads of the weights
            functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        jw.clip_weights(model, deviations=2.0)  # a small range: noise is in proportion to it


def batches(data: jw.Dataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
    assert data.train is not None
    return [batch for _ in range(EPOCHS) for batch in data.train.batches(64)]


def main() -> None:
    digits = jw.load_data("digits")
    train: Callable[[nn.Module, jw.Dataset], None]
    for train in (by_sgd, by_samson, through_a_memory):
        model = jw.load_model("mlp", digits.input_shape, digits.classes, seed=0)
        train(model, digits)
        placement = jw.place(model.eval(), weights=CROSSBAR, example_inputs=digits.test.inputs[:8])
        result = jw.simulate(placement, digits.test, at=AT, chips=50)
        low, high = result.interval()
        print(
            f"{train.__name__}: {result.ideal:.4f} with a perfect memory, "
            f"{result.mean:.4f} [{low:.4f}, {high:.4f}] on 50 chips"
        )


if __name__ == "__main__":
    main()
