"""Fine-tuning through a memory in the Trainer of Hugging Face: all weights, or adapters alone.

    pip install transformers accelerate
    python examples/huggingface_finetuning.py

A small Llama is trained for seconds on the source of Python's ``argparse``, letter by letter. Then
three copies go on: by plain steps, to compare with; through the memory with all weights; and
through the memory with low-rank adapters (LoRA, E. J. Hu et al., ICLR 2022), where the weights stay
as they are in the memory, and the adapters are in a reliable one. Each is put on chips that
training has not seen, and reads text that it has not seen.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import joulewise as jw
from joulewise.models import seeded
from joulewise.simulation import Simulation

MEMORY, AT = jw.SRAM(bits=8, channel_dim=0), {"eta": 0.2}
CHIPS, LENGTH, RANK = 20, 64, 4
STEPS, MORE_STEPS = 250, 80  # before the memory, and through it


class MemoryTrainer(Trainer):
    """A Trainer whose passes compute with what another chip reads of the weights each time."""

    memory: jw.TrainingMemory | None = None

    def training_step(self, model: nn.Module, inputs: Any, *rest: Any) -> Tensor:
        if self.memory is None:
            return super().training_step(model, inputs, *rest)
        with self.memory:  # forward and backward pass; the Trainer clips and steps after them
            return super().training_step(model, inputs, *rest)


class LoRA(nn.Module):
    """A linear layer that stays as it is, and a product of low rank that is trained beside it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.mT @ self.up.mT


def with_adapters(model: nn.Module) -> nn.Module:
    """Freeze a model and add adapters; the head, tied to the input table, has none."""
    model.requires_grad_(False)
    with seeded(0):
        for module in list(model.model.layers.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, LoRA(child))
    return model


def letters() -> tuple[Tensor, Tensor]:
    """Sequences of ASCII letters to train on, and to test on."""
    ids = torch.tensor([min(ord(letter), 127) for letter in inspect.getsource(argparse)])
    ids = ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)
    order = torch.randperm(len(ids) - 32, generator=torch.Generator().manual_seed(0))
    return ids[order], ids[-32:]


def small_llama() -> nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LENGTH}
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = LlamaConfig(vocab_size=128, tie_word_embeddings=True, **sizes, **heads, **tokens)
    with seeded(0):
        return LlamaForCausalLM(config)


def placed(model: nn.Module) -> jw.Placement:
    """All weights in the memory; adapters, if any, in a reliable one."""
    adapted = any(isinstance(module, LoRA) for module in model.modules())
    exclude = ["*.down", "*.up"] if adapted else []
    example = {"input_ids": torch.zeros(1, LENGTH, dtype=torch.long)}
    return jw.place(model, weights=MEMORY, exclude=exclude, example_inputs=example)


def fit(model: nn.Module, ids: Tensor, *, steps: int, rate: float, memory: bool = False) -> None:
    """Train the parameters that require gradients, leaving no files."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            learning_rate=rate,
            per_device_train_batch_size=16,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        samples = [{"input_ids": row, "labels": row} for row in ids]
        trainer = MemoryTrainer(model=model, args=arguments, train_dataset=samples)
        trainer.remove_callback(PrinterCallback)
        if memory:
            trainer.memory = jw.TrainingMemory(placed(model), at=AT, seed=0)
        trainer.train()
    model.eval()


def on_chips(title: str, model: nn.Module, data: list[dict[str, Tensor]]) -> Simulation:
    """Simulate a model, and print its perplexity."""
    perplexity = jw.metrics.Perplexity()
    result = jw.simulate(placed(model), data, at=AT, chips=CHIPS, metric=perplexity)
    low, high = result.interval()
    print(
        f"{title}: perplexity {result.ideal:.2f} with a perfect memory, {result.mean:.2f} "
        f"[{low:.2f}, {high:.2f}] on {CHIPS} chips at eta {AT['eta']}"
    )
    return result


def main() -> None:
    train, test = letters()
    data = [{"input_ids": rows, "labels": rows} for rows in test.split(16)]
    model = small_llama()
    fit(model, train, steps=STEPS, rate=3e-3)
    on_chips("before", model, data)

    plain = copy.deepcopy(model)
    fit(plain, train, steps=MORE_STEPS, rate=1e-3)
    control = on_chips("all weights, plain steps", plain, data).interval().low

    through = copy.deepcopy(model)
    fit(through, train, steps=MORE_STEPS, rate=1e-3, memory=True)
    adapted = with_adapters(copy.deepcopy(model))
    fit(adapted, train, steps=MORE_STEPS, rate=3e-3, memory=True)
    for what, made in {"all weights": through, "adapters": adapted}.items():
        result = on_chips(f"{what}, through the memory", made, data)
        verdict = "helps" if result.interval().high < control else "does not help"
        trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
        total = sum(p.numel() for p in made.parameters())
        print(f"  {verdict} beside plain steps; {trained / total:.0%} of the parameters trained")


if __name__ == "__main__":
    main()
