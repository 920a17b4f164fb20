"""SAM in the Trainer of Hugging Face, with accumulated batches and clipping.

    pip install transformers accelerate
    python examples/huggingface_sam.py

The Trainer calls `step()` after one backward pass, which SAM refuses. Its `training_step` runs once
for each batch; after the last one of a step the same batches run again in the block. The Trainer
clips and steps after that, as it would by itself.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer, TrainingArguments

import joulewise as jw

EPOCHS = 4


class SharpnessAwareTrainer(Trainer):
    """A Trainer for SAM, ASAM and SAMSON, in one process or several."""

    batches: list[Any]

    def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> Tensor:
        self.batches = [*getattr(self, "batches", []), inputs]
        loss = super().training_step(model, inputs, *rest)
        if self.accelerator.sync_gradients:  # the last batch of this step
            batches, self.batches = self.batches, []
            with self.optimizer.optimizer.ascent():  # accelerate has wrapped it
                for batch in batches:
                    super().training_step(model, batch, *rest)
        return loss


def optimizer_for(network: nn.Module) -> jw.optim.SAM:
    """SAM around SGD."""
    return jw.optim.SAM(network.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9, rho=0.05)


class Classifier(nn.Module):
    """Any module whose outputs have a loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(inputs)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def fit(
    trainer: type[Trainer], network: nn.Module, inputs: Tensor, labels: Tensor, **options: Any
) -> dict[str, float]:
    """Train a network by a Trainer; no files are left. Gives what the Trainer has to say."""
    optimizer = optimizer_for(network)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    samples = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=EPOCHS,
            per_device_train_batch_size=64,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            **options,
        )
        own = trainer(
            model=Classifier(network),
            args=arguments,
            train_dataset=samples,
            optimizers=(optimizer, schedule),
        )
        return own.train().metrics


def main() -> None:
    digits = jw.load_data("digits")
    assert digits.train is not None
    ((inputs, labels),) = digits.train.batches(len(digits.train))
    for batches in (1, 2):
        network = jw.load_model("mlp", digits.input_shape, digits.classes, seed=0)
        fit(
            SharpnessAwareTrainer,
            network,
            inputs,
            labels,
            gradient_accumulation_steps=batches,
            max_grad_norm=1.0,
        )
        placement = jw.place(network.eval(), weights=jw.SRAM(bits=8), example_inputs=inputs[:8])
        result = jw.simulate(placement, digits.test, at={"eta": 0.4}, chips=50)
        print(
            f"{batches} batches in a step: {result.ideal:.4f} with a perfect memory, "
            f"{result.mean:.4f} on 50 chips"
        )


if __name__ == "__main__":
    main()
