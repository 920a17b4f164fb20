"""SAMSON in Lightning, with its automatic and its manual optimization, and through a memory.

    pip install lightning
    python examples/lightning_samson.py

With automatic optimization nothing has to be written: Lightning hands `step` a closure, which
SAMSON calls at w and above. Accumulated batches and a memory to train through need a block, and
that needs manual optimization.
"""

from __future__ import annotations

import logging

import lightning
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

import joulewise as jw

CROSSBAR, AT = jw.Crossbar(sigma=4e-6), {"g_max": 25e-6}
EPOCHS = 6

Batch = tuple[Tensor, Tensor]


def optimizer_for(network: torch.nn.Module) -> jw.optim.SAMSON:
    """SAMSON around SGD."""
    parameters = network.parameters()
    return jw.optim.SAMSON(parameters, torch.optim.SGD, lr=0.05, momentum=0.9, rho=0.3)


class Digits(lightning.LightningModule):
    """Automatic optimization: SAMSON is an optimizer like any other."""

    def __init__(self) -> None:
        super().__init__()
        self.network = jw.load_model("mlp", (1, 8, 8), 10, seed=0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_for(self.network)

    def loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        return functional.cross_entropy(self.network(inputs), targets)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        return self.loss(batch)


class Accumulated(Digits):
    """Manual optimization: two batches in a step, and both of them above."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.batches: list[Batch] = []

    def training_step(self, batch: Batch, index: int) -> None:
        self.batches.append(batch)
        if len(self.batches) < 2:
            return
        batches, self.batches = self.batches, []
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.slopes(batches)
        with optimizer.ascent():
            self.slopes(batches)
        self.clip_gradients(optimizer, gradient_clip_val=1.0)
        optimizer.step()

    def slopes(self, batches: list[Batch]) -> None:
        for batch in batches:
            self.manual_backward(self.loss(batch) / len(batches))


class ThroughMemory(Digits):
    """Manual optimization: each step on another chip, the ascent too."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        placement = jw.place(self.network, weights=CROSSBAR)
        self.memory = jw.TrainingMemory(placement, at=AT, seed=0)

    def training_step(self, batch: Batch, index: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        with self.memory:
            self.manual_backward(self.loss(batch))
            with optimizer.ascent():
                self.manual_backward(self.loss(batch))
        optimizer.step()
        jw.clip_weights(self.network, deviations=2.0)  # noise is in proportion to the range


def fit(module: Digits, batches: list[Batch], **options: object) -> torch.nn.Module:
    """The network, trained by Lightning; no files, no progress bar."""
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "logger": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, enable_model_summary=False, **quiet, **options
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return module.network


def batches_of(data: jw.Dataset) -> list[Batch]:
    assert data.train is not None
    return list(data.train.batches(64))


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    digits = jw.load_data("digits")
    for kind in (Digits, Accumulated, ThroughMemory):
        network = fit(kind(), batches_of(digits))
        placement = jw.place(
            network.eval(), weights=CROSSBAR, example_inputs=digits.test.inputs[:8]
        )
        result = jw.simulate(placement, digits.test, at=AT, chips=50)
        low, high = result.interval()
        print(
            f"{kind.__name__}: {result.ideal:.4f} with a perfect memory, "
            f"{result.mean:.4f} [{low:.4f}, {high:.4f}] on 50 chips"
        )


if __name__ == "__main__":
    main()
